"""A prior of photographs: a small U-Net of natural image patches, for images of any size.

GroupNorm and attention take statistics of the whole image, so that a tile would not agree with the image that it is
cut from. Here every output depends on a bounded neighbourhood, and the network is translation-equivariant up to its
stride of 16 px.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle, silu
from torch.utils.checkpoint import checkpoint as recompute

from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.batching import in_fixed_batches
from dsg.priors.prediction import to_eps
from dsg.schedule import NoiseSchedule, linear_betas
from dsg.weights import load_into, read_weights, require

SIGMA_DATA = 0.5


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x) * (1 + scale) + shift)), scale and shift from the noise level's embedding."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        for layer in (self.second, self.modulation):  # every block starts as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return x + self.second(silu(self.first(silu(x)) * (1 + scale) + shift))


class PatchUNet(nn.Module):
    """F(x, c): residual blocks between a pixel-unshuffle and a pixel-shuffle by 2, halved between levels.

    Args:
        widths: channels of each level; the first works at half the image's resolution.
        blocks: residual blocks of each level, on the way down and again on the way up.
        embedding: width of the noise level's embedding.
    """

    def __init__(self, widths: Sequence[int] = (96, 128, 192, 256), blocks: int = 2, embedding: int = 128):
        super().__init__()
        self.stride = 2 ** len(widths)
        self.embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(12, widths[0], 3, padding=1)
        self.leave = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

        def level(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, embedding) for _ in range(blocks))

        self.down, self.up = nn.ModuleList(map(level, widths)), nn.ModuleList(map(level, widths[:-1]))
        pairs = list(zip(widths, widths[1:]))
        self.reduce = nn.ModuleList(nn.Conv2d(high, low, 2, stride=2) for high, low in pairs)
        self.enlarge = nn.ModuleList(nn.Conv2d(low, 4 * high, 1) for high, low in pairs)

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """Args: x [B, 3, H, W], H and W multiples of `stride`; noise_level [B], ln(sigma)/4. Returns [B, 3, H, W]."""
        angles = noise_level[:, None] * math.pi * 2.0 ** torch.linspace(-2, 4, 16, device=x.device)
        embedding = self.embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        x = self.enter(pixel_unshuffle(x, 2))
        skips = []
        for depth, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, embedding)
            if depth < len(self.reduce):
                skips.append(x)
                x = self.reduce[depth](x)
        for depth in reversed(range(len(self.up))):
            x = skips[depth] + pixel_shuffle(self.enlarge[depth](x), 2)
            for block in self.up[depth]:
                x = block(x, embedding)
        return pixel_shuffle(self.leave(silu(x)), 2)


def denoise(net: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The clean image of noisy = x0 + sigma eps, preconditioned as in EDM (Karras et al. 2022, table 1).

    Args:
        net: F(x, ln(sigma)/4).
        noisy: [B, 3, H, W].
        sigma: [B] or [1], in units of images in [-1, 1].
    """
    s = sigma.reshape(-1, 1, 1, 1)
    total = (s**2 + SIGMA_DATA**2).sqrt()
    out = net(noisy / total, (sigma.log() / 4).expand(len(noisy)))
    return noisy * (SIGMA_DATA / total) ** 2 + out * s * SIGMA_DATA / total


class PhotoPrior(Prior):
    """Photographs of any size, on DDPM's linear schedule.

    The network sees x_t as x0 + sigma eps. Images are padded to a multiple of its stride by reflection. Large ones go
    through it in overlapping tiles of one noise field, blended with smooth weights as in MultiDiffusion
    (arXiv 2302.08113); guidance and noise see the whole image.

    Args:
        name: names the checkpoint in messages.
        checkpoint: .safetensors file of `PatchUNet`, fp16 or float32.
        tile: side of the tiles in px, a multiple of 16, at least 96; images of no larger sides are not cut. 0: never.
        overlap: of neighbouring tiles, in px.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: an option that is out of range; on `load`, an unreadable checkpoint, or one of another network.
    """

    def __init__(self, name: str, checkpoint: str, tile: int = 512, overlap: int = 64):
        super().__init__()
        self.name, self.checkpoint, self.tile, self.overlap = name, require(checkpoint, name), tile, overlap
        self.schedule, self.shape = NoiseSchedule(linear_betas()), (3, None, None)
        with torch.device("meta"):
            self.net = PatchUNet().eval().requires_grad_(False)
        if tile and (tile < 96 or tile % self.net.stride):
            raise ValueError(f"model.tile={tile}: 0, or a multiple of {self.net.stride} from 96 on")
        if not 0 <= overlap <= tile // 2 and tile:
            raise ValueError(f"model.overlap={overlap}: 0 to half of model.tile={tile}")
        self._weights_hash: str | None = None

    def load(self) -> "PhotoPrior":
        if self._weights_hash is None:
            state, weights_hash = read_weights(self.checkpoint, self.name)
            load_into(self.net, state, self.checkpoint, assign=True)
            self.net.float().to(memory_format=torch.channels_last)
            self._weights_hash = weights_hash
        return self

    @property
    def weights_hash(self) -> str:
        return self.load()._weights_hash

    def predict(self, x_t: Tensor, t: float, prompts: Prompts | None = None) -> Prediction:
        """eps: float32 [B, 3, H, W], for any H and W."""
        self.load()
        ab = self.schedule.alpha_bar_at(t)
        noisy, sigma = x_t / math.sqrt(ab), x_t.new_tensor([math.sqrt((1 - ab) / ab)])
        x0 = self.tiled(noisy, sigma) if self.tile and max(x_t.shape[-2:]) > self.tile else self.whole(noisy, sigma)
        return Prediction(to_eps(x0, x_t, ab, "x0"))

    def whole(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """x0 of all images at once, one after the other where a batch would round differently on a CPU."""
        height, width = noisy.shape[-2:]
        padded = reflect(noisy, -height % self.net.stride, -width % self.net.stride)
        denoised = in_fixed_batches(lambda part: denoise(self.net, part, sigma), padded, 1)
        return denoised[..., :height, :width]

    def tiled(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """x0 by overlapping tiles. Where a gradient is asked for, a tile's activations are computed again for it."""
        rows, columns = (starts(side, self.tile, self.overlap) for side in noisy.shape[-2:])
        total, weights = torch.zeros_like(noisy), noisy.new_zeros(noisy.shape[-2:])
        for top in rows:
            for left in columns:
                place = slice(top, top + self.tile), slice(left, left + self.tile)
                tile = noisy[(..., *place)]
                window = (ramp(tile.shape[-2], self.overlap)[:, None] * ramp(tile.shape[-1], self.overlap)).to(noisy)
                total[(..., *place)] += window * recompute(self.whole, tile, sigma, use_reentrant=False)
                weights[place] += window
        return total / weights


def reflect(images: Tensor, bottom: int, right: int) -> Tensor:
    """Pad by reflection; by repetition where an image is smaller than what it is padded by."""
    enough = bottom < images.shape[-2] and right < images.shape[-1]
    return pad(images, (0, right, 0, bottom), mode="reflect" if enough else "replicate")


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: at multiples of 16, so that they have one phase; the last reaches the end."""
    if side <= tile:
        return [0]
    step = (tile - overlap) // 16 * 16
    count = math.ceil((side - tile) / step)
    return [k * step for k in range(count + 1)]


def ramp(size: int, overlap: int) -> Tensor:
    """Weights [size] that fall smoothly to the ends over `overlap`, and are never 0."""
    distance = torch.arange(size, dtype=torch.float32) + 0.5
    return (torch.minimum(distance, size - distance) / max(overlap, 1)).clamp(max=1).mul(math.pi / 2).sin().square()
