"""Networks on avatars64 that guide nothing: two that find attributes, two that label pixels.

The evaluator is a DenseNet and dilated convolutions; what chooses step sizes is a ShuffleNet and ConvNeXt blocks. No
architecture is a guidance network's, and each network was trained from its own seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import DenseNet, ShuffleNetV2
from torchvision.models.convnext import CNBlock


class AttributeNet(nn.Module, ABC):
    """A head for every attribute on the features of a network.

    Args:
        classes: attribute -> its number of values.
    """

    classes: dict[str, int]
    width: int  # of the features
    heads: nn.ModuleDict

    @abstractmethod
    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, 64, 64] in [-1, 1] -> an early layer's maps and the last layer's, [B, C, H, W]."""

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, 64, 64] in [-1, 1] -> [B, width], after the last pooling."""
        return self.maps(x)[1].mean((2, 3))

    def style(self, x: Tensor) -> Tensor:
        """Gram matrix over the positions of the early maps: [B, C, C]."""
        flat = self.maps(x)[0].flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits [B, values] of every attribute."""
        pooled = self.features(x)
        return {name: head(pooled) for name, head in self.heads.items()}


def heads(width: int, classes: Mapping[str, int]) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})


class DenseAttributeNet(AttributeNet):
    """A small DenseNet (Huang et al., arXiv 1608.06993)."""

    def __init__(self, classes: Mapping[str, int]):
        super().__init__()
        self.classes = dict(classes)
        net = DenseNet(growth_rate=16, block_config=(4, 6, 8, 6), num_init_features=24, num_classes=1)
        # 64 px: the first layers keep the resolution that the details of a face need
        net.features.conv0 = nn.Conv2d(3, 24, 5, 2, 2, bias=False)
        net.features.pool0 = nn.Identity()
        self.features_net = net.features
        self.width = net.classifier.in_features
        self.heads = heads(self.width, classes)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """After the first block, and after the last."""
        net = self.features_net
        first = list(dict(net.named_children())).index("denseblock1") + 1
        early = net[:first](x)
        return early, net[first:](early).relu()


class ShuffleAttributeNet(AttributeNet):
    """A small ShuffleNet V2 (Ma et al., arXiv 1807.11164), without the first pooling, which 64 px cannot spare."""

    def __init__(self, classes: Mapping[str, int]):
        super().__init__()
        self.classes = dict(classes)
        net = ShuffleNetV2([3, 5, 3], [32, 96, 192, 320, 384], num_classes=1)
        self.start = nn.Sequential(net.conv1, net.stage2)
        self.rest = nn.Sequential(net.stage3, net.stage4, net.conv5)
        self.width = net.fc.in_features
        self.heads = heads(self.width, classes)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """After the first stage, and after the last convolution."""
        early = self.start(x)
        return early, self.rest(early)


class DilatedNet(nn.Module):
    """Labels of pixels by dilated convolutions without pooling (Yu & Koltun, arXiv 1511.07122), on 2x2 pixels.

    Images [B, 3, H, W] in [-1, 1] -> logits [B, classes, H, W]; sides even.
    """

    def __init__(self, classes: int = 4, channels: int = 48, dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 1)):
        super().__init__()
        layers, before = [nn.PixelUnshuffle(2)], 12
        for dilation in dilations:
            layers += [
                nn.Conv2d(before, channels, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(0.1),
            ]
            before = channels
        self.net = nn.Sequential(*layers, nn.Conv2d(channels, 4 * classes, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ConvNeXtNet(nn.Module):
    """Labels of pixels by ConvNeXt blocks (Liu et al., arXiv 2201.03545) without pooling, on 2x2 pixels.

    Images [B, 3, H, W] in [-1, 1] -> logits [B, classes, H, W]; sides even.
    """

    def __init__(self, classes: int = 4, channels: int = 40, blocks: int = 5):
        super().__init__()
        self.net = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels, 3, padding=1),
            *(CNBlock(channels, layer_scale=0.1, stochastic_depth_prob=0.0) for _ in range(blocks)),
            nn.Conv2d(channels, 4 * classes, 1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
