"""BiSeNet: what each pixel of a face belongs to.

Yu et al., "BiSeNet", arXiv 1808.00897, as zllrunning/face-parsing.PyTorch has it: ResNet-18's features at an eighth
take the place of the spatial path. The names of the parameters are that repository's, whose `79999_iter.pth` loads
strictly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsg.weights import load_into, read_state_dict, require
from tasks.networks.base import GuidanceNetwork
from tasks.networks.parts import IMAGENET_MEAN, IMAGENET_STD

# of CelebAMask-HQ, in the order of the network's outputs
CLASSES = (
    "background", "skin", "left eyebrow", "right eyebrow", "left eye", "right eye", "glasses", "left ear", "right ear",
    "earring", "nose", "mouth", "upper lip", "lower lip", "neck", "necklace", "clothes", "hair", "hat",
)  # fmt: skip


class ConvNorm(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, channels: int, depth: int, size: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(channels, depth, size, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class AttentionRefinement(nn.Module):
    """Each channel times a function of all channels' means."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.conv = ConvNorm(channels, depth)
        self.conv_atten = nn.Conv2d(depth, depth, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(depth)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))).sigmoid()


class ContextPath(nn.Module):
    """Images [B, 3, H, W] -> ResNet-18's features [B, 128, H/8, W/8], and those with their context, of that shape."""

    def __init__(self):
        super().__init__()
        from torchvision.models import resnet18

        self.resnet = resnet18(weights=None)
        self.resnet.fc = nn.Identity()  # it classifies nothing here, and has no parameters in the checkpoint
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvNorm(128, 128)
        self.conv_head16 = ConvNorm(128, 128)
        self.conv_avg = ConvNorm(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        net = self.resnet
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        at8 = net.layer2(x)
        at16 = net.layer3(at8)
        at32 = net.layer4(at16)
        whole = self.conv_avg(at32.mean((2, 3), keepdim=True))
        up32 = self.conv_head32(F.interpolate(self.arm32(at32) + whole, size=at16.shape[2:]))
        up16 = self.conv_head16(F.interpolate(self.arm16(at16) + up32, size=at8.shape[2:]))
        return at8, up16


class FeatureFusion(nn.Module):
    """Both features together, each channel times 1 + a function of all channels' means."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.convblk = ConvNorm(channels, depth, 1)
        self.conv1 = nn.Conv2d(depth, depth // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(depth // 4, depth, 1, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        x = self.convblk(torch.cat([first, second], 1))
        return x + x * self.conv2(self.conv1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Head(nn.Module):
    def __init__(self, channels: int, hidden: int, classes: int):
        super().__init__()
        self.conv = ConvNorm(channels, hidden)
        self.conv_out = nn.Conv2d(hidden, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] -> logits [B, 19, input_size, input_size] of CelebAMask-HQ's classes.

    Images of another size are brought to `input_size` by plain bicubic interpolation, as FreeDoM does. Two more heads
    of the checkpoint served its training; they are not computed.

    Args:
        input_size: side of what the network sees, in pixels; the released code has 512.
    """

    def __init__(self, input_size: int = 512):
        super().__init__()
        self.classes, self.input_size = len(CLASSES), input_size
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256, 256)
        self.conv_out = Head(256, 256, self.classes)
        self.conv_out16 = Head(128, 64, self.classes)
        self.conv_out32 = Head(128, 64, self.classes)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None] * 2 - 1, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None] * 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        if x.shape[2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
        logits = self.conv_out(self.ffm(*self.cp((x - self.mean) / self.std)))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def load_bisenet(checkpoint: str, input_size: int = 512) -> GuidanceNetwork:
    """The guidance network of `tasks.face_parsing.FaceParsing`, read when it is first needed."""
    return GuidanceNetwork(read_bisenet, checkpoint, "bisenet", input_size=input_size)


def read_bisenet(checkpoint: str, input_size: int = 512) -> BiSeNet:
    """The network with the weights that `scripts/fetch_checkpoints.py bisenet` brings, for evaluation.

    Raises:
        FileNotFoundError: with the command that brings the file.
        ValueError: another network's checkpoint, or none.
    """
    path = require(checkpoint, "bisenet")
    network = BiSeNet(input_size)
    load_into(network, read_state_dict(path, "bisenet"), path)
    return network.float().eval().requires_grad_(False)
