"""Guidance networks that label every pixel of an image: torchvision's at full size, and the embedded one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsg.weights import load_into, read_state_dict, require
from tasks.networks.base import GuidanceNetwork

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PartsUNet(nn.Module):
    """A small U-Net: images [B, 3, H, W] in [-1, 1] -> logits [B, classes, H, W]; sides divisible by 8."""

    def __init__(self, classes: int = 4, channels: tuple[int, ...] = (16, 32, 48, 64)):
        super().__init__()
        self.classes = classes
        pairs = list(zip((3, *channels), channels))
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in pairs)
        self.up = nn.ModuleList(_convolutions(b + a, a) for a, b in reversed(list(zip(channels, channels[1:]))))
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(F.avg_pool2d(x, 2) if kept else x)
            kept.append(x)
        kept.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), kept.pop()], 1))
        return self.head(x)


def _convolutions(channels: int, depth: int) -> nn.Sequential:
    layers = []
    for before in (channels, depth):
        layers += [nn.Conv2d(before, depth, 3, 1, 1, bias=False), nn.BatchNorm2d(depth), nn.ReLU()]
    return nn.Sequential(*layers)


class LRASPP(nn.Module):
    """torchvision's `lraspp_mobilenet_v3_large` (Howard et al., arXiv 1905.02244) with 21 classes of VOC.

    Its normalisation is ImageNet's; it sees the image at the size it has.
    """

    def __init__(self):
        super().__init__()
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large

        self.classes = 21
        self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=self.classes)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None] * 2 - 1, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None] * 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)["out"]


def load_parts(checkpoint: str) -> GuidanceNetwork:
    """The embedded guidance network of `tasks.segmentation.Segmentation`, read when it is first needed."""
    return GuidanceNetwork(read_parts, checkpoint, "avatars64")


def load_lraspp(checkpoint: str) -> GuidanceNetwork:
    """The full-size guidance network of `tasks.segmentation.Segmentation`, read when it is first needed."""
    return GuidanceNetwork(read_lraspp, checkpoint, "lraspp")


def read_parts(checkpoint: str) -> PartsUNet:
    """The embedded network with the checkpoint's weights, for evaluation."""
    path = require(checkpoint, "avatars64")
    network = PartsUNet()
    load_into(network, read_state_dict(path, "avatars64"), path)
    return network.float().eval().requires_grad_(False)


def read_lraspp(checkpoint: str) -> LRASPP:
    """torchvision's network with the weights that `scripts/fetch_checkpoints.py lraspp` brings, for evaluation."""
    path = require(checkpoint, "lraspp")
    network = LRASPP()
    state = {k: v for k, v in read_state_dict(path, "lraspp").items() if not k.startswith("aux_classifier")}
    load_into(network.net, state, path)
    return network.float().eval().requires_grad_(False)
