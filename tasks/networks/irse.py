"""ArcFace's network: IR-SE, an improved residual network with squeeze and excitation.

Deng et al., "ArcFace", arXiv 1801.07698. The names of the parameters are those of InsightFace_Pytorch, whose
`model_ir_se50.pth` loads strictly.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dsg.weights import load_into, read_state_dict, require
from tasks.networks.base import GuidanceNetwork


class SqueezeExcitation(nn.Module):
    """Scale each channel by a function of all channels' means (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(channels // reduction, 1), 1, bias=False)
        self.fc2 = nn.Conv2d(max(channels // reduction, 1), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Unit(nn.Module):
    """Residual unit: norm, conv, PReLU, conv (with the stride), norm, squeeze and excitation."""

    def __init__(self, channels: int, depth: int, stride: int):
        super().__init__()
        if channels == depth:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, depth, 3, 1, 1, bias=False),
            nn.PReLU(depth),
            nn.Conv2d(depth, depth, 3, stride, 1, bias=False),
            nn.BatchNorm2d(depth),
            SqueezeExcitation(depth),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRSE(nn.Module):
    """Images [B, 3, input_size, input_size] in [-1, 1] -> features [B, features] of length 1.

    The defaults are IR-SE50's.

    Args:
        input_size: side of the images; divided by 2 in each block.
        channels: of the input layer, then of each block.
        units: per block; the first has the stride.
        features: of the embedding.
    """

    def __init__(
        self,
        input_size: int = 112,
        channels: Sequence[int] = (64, 64, 128, 256, 512),
        units: Sequence[int] = (3, 4, 14, 3),
        features: int = 512,
    ):
        super().__init__()
        first, last = channels[0], channels[-1]
        self.input_size = input_size
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        body = []
        for channel, depth, count in zip(channels, channels[1:], units):
            body += [Unit(channel, depth, 2)] + [Unit(depth, depth, 1) for _ in range(count - 1)]
        self.body = nn.Sequential(*body)
        side = input_size // 2 ** len(units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(last * side * side, features),
            nn.BatchNorm1d(features),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.output_layer(self.body(self.input_layer(x))))


def load_irse(
    checkpoint: str,
    input_size: int = 112,
    channels: Sequence[int] = (64, 64, 128, 256, 512),
    units: Sequence[int] = (3, 4, 14, 3),
    features: int = 512,
) -> GuidanceNetwork:
    """The guidance network of `tasks.faceid.FaceID`: an IRSE of this layout, read when it is first needed."""
    layout = dict(input_size=input_size, channels=tuple(channels), units=tuple(units), features=features)
    return GuidanceNetwork(read_irse, checkpoint, "arcface", **layout)


def read_irse(checkpoint: str, **layout) -> IRSE:
    """An IRSE of the given layout with the checkpoint's weights, for evaluation.

    Raises:
        FileNotFoundError: with the command that brings the file.
        ValueError: another network's checkpoint, or none.
    """
    path = require(checkpoint, "arcface")
    network = IRSE(**layout)
    load_into(network, read_state_dict(path, "arcface"), path)
    return network.float().eval().requires_grad_(False)
