"""The evaluator's networks on avatars64: they guide nothing, have other architectures than the guidance networks, and
were trained on other draws."""

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import DenseNet


class AttributeNet(nn.Module):
    """A small DenseNet (Huang et al., arXiv 1608.06993) with a head for every attribute.

    Args:
        classes: attribute -> its number of values.
    """

    def __init__(self, classes: Mapping[str, int]):
        super().__init__()
        self.classes = dict(classes)
        net = DenseNet(growth_rate=16, block_config=(4, 6, 8, 6), num_init_features=24, num_classes=1)
        # 64 px: the first layers keep the resolution that the details of a face need
        net.features.conv0 = nn.Conv2d(3, 24, 5, 2, 2, bias=False)
        net.features.pool0 = nn.Identity()
        self.features_net = net.features
        self.width = net.classifier.in_features
        self.heads = nn.ModuleDict({name: nn.Linear(self.width, count) for name, count in self.classes.items()})

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, 64, 64] in [-1, 1] -> [B, width], after the last pooling."""
        return self.features_net(x).relu().mean((2, 3))

    def style(self, x: Tensor) -> Tensor:
        """Gram matrix over the positions of the maps after the first block: [B, C, C]."""
        for name, layer in self.features_net.named_children():
            x = layer(x)
            if name == "denseblock1":
                break
        flat = x.flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits [B, values] of every attribute."""
        pooled = self.features(x)
        return {name: head(pooled) for name, head in self.heads.items()}


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
