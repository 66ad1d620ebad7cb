"""The ADM U-Net of Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis" (arXiv 2105.05233).

Module names follow openai/guided-diffusion, so that its checkpoints load with `strict=True`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ADMUNet(nn.Module):
    """U-Net that predicts the noise of a diffusion step (and, with `learn_sigma`, its variance).

    Hyper-parameters carry guided-diffusion's names. `channel_mult` and `attention_resolutions` are lists or, as in
    its flags, comma-separated strings; `attention_resolutions` are feature-map sizes in pixels ("16" of a 256-px
    network is its 16x16 level).

    Args:
        image_size: side of the square training images in pixels; other sizes run if every level halves evenly.
        num_channels: base width; level i has `int(channel_mult[i] * num_channels)` channels.
        num_head_channels: width of an attention head; -1 uses `num_heads` heads instead.
        learn_sigma: twice the output channels, the second half being v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15).
        resblock_updown: residual blocks change the resolution; else pooling/nearest, followed by a convolution
            if `conv_resample`.
        norm_groups: groups of every GroupNorm; 32 in all released networks, fewer for narrow ones.
        use_checkpoint: recompute blocks in the backward pass instead of storing their activations.

    Raises:
        ValueError: if the hyper-parameters contradict each other, or ask for class conditioning.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Sequence[float] | str,
        attention_resolutions: Sequence[int] | str | int,
        num_head_channels: int = -1,
        num_heads: int = 4,
        learn_sigma: bool = True,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        conv_resample: bool = True,
        dropout: float = 0.0,
        in_channels: int = 3,
        norm_groups: int = 32,
        class_cond: bool = False,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        if class_cond:
            raise ValueError("class_cond=true: class-conditional networks are not supported, use an unconditional one")
        mult = _numbers(channel_mult, float)
        attention = {image_size // size for size in _numbers(attention_resolutions, int)}
        _check(image_size, num_channels, mult, norm_groups)
        self.in_channels, self.image_size = in_channels, image_size
        self.num_channels, self.learn_sigma = num_channels, learn_sigma
        emb = 4 * num_channels

        def res(cin: int, cout: int, resample: str | None = None) -> ResBlock:
            return ResBlock(cin, cout, emb, norm_groups, dropout, use_scale_shift_norm, resample, use_checkpoint)

        def att(ch: int) -> AttentionBlock:
            heads = num_heads if num_head_channels == -1 else ch // num_head_channels
            if heads == 0 or ch % heads:
                raise ValueError(f"num_head_channels={num_head_channels} does not divide the {ch} channels of a level")
            return AttentionBlock(ch, heads, norm_groups, use_checkpoint)

        def resample(ch: int, kind: str) -> nn.Module:
            return res(ch, ch, kind) if resblock_updown else Resample(ch, kind, conv_resample)

        self.time_embed = nn.Sequential(nn.Linear(num_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        ch = int(mult[0] * num_channels)
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(in_channels, ch, 3, padding=1))])
        skips, ds = [ch], 1
        for level, m in enumerate(mult):
            for _ in range(num_res_blocks):
                layers = [res(ch, int(m * num_channels))]
                ch = int(m * num_channels)
                self.input_blocks.append(Block(*layers, *([att(ch)] if ds in attention else [])))
                skips.append(ch)
            if level < len(mult) - 1:
                self.input_blocks.append(Block(resample(ch, "down")))
                skips.append(ch)
                ds *= 2
        self.middle_block = Block(res(ch, ch), att(ch), res(ch, ch))
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(num_res_blocks + 1):
                layers = [res(ch + skips.pop(), int(m * num_channels))]
                ch = int(m * num_channels)
                layers += [att(ch)] if ds in attention else []
                if level > 0 and i == num_res_blocks:
                    layers.append(resample(ch, "up"))
                    ds //= 2
                self.output_blocks.append(Block(*layers))
        out_channels = in_channels * (2 if learn_sigma else 1)
        self.out = nn.Sequential(
            nn.GroupNorm(norm_groups, ch), nn.SiLU(), _zero(nn.Conv2d(ch, out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, C, H, W] in [-1, 1] plus noise, t [B] or [1] in 0..999 -> [B, C, H, W], or [B, 2C, H, W] if `learn_sigma`."""
        emb = self.time_embed(timestep_embedding(t, self.num_channels))
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x).float()


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding [B, dim], cosines first, wavelengths from 2 pi to 2 pi * 10^4."""
    half = dim // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    args = t.float()[:, None] * freqs
    return torch.cat([args.cos(), args.sin()], dim=-1)


class Block(nn.Sequential):
    """Layers of one resolution; the time embedding reaches those that take it."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    def __init__(self, cin, cout, emb, groups, dropout, scale_shift, resample, use_checkpoint):
        super().__init__()
        self.scale_shift, self.resample, self.use_checkpoint = scale_shift, resample, use_checkpoint
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout if scale_shift else cout))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, cout), nn.SiLU(), nn.Dropout(dropout), _zero(nn.Conv2d(cout, cout, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return _recompute(self._forward, self.use_checkpoint, x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(_resample(act(norm(x)), self.resample))
        emb = self.emb_layers(emb)[..., None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(_resample(x, self.resample)) + h


class AttentionBlock(nn.Module):
    """Self-attention over positions; q, k, v interleaved per head as in guided-diffusion's `QKVAttentionLegacy`."""

    def __init__(self, ch: int, heads: int, groups: int, use_checkpoint: bool):
        super().__init__()
        self.heads, self.use_checkpoint = heads, use_checkpoint
        self.norm = nn.GroupNorm(groups, ch)
        self.qkv = nn.Conv1d(ch, 3 * ch, 1)
        self.proj_out = _zero(nn.Conv1d(ch, ch, 1))

    def forward(self, x: Tensor) -> Tensor:
        return _recompute(self._forward, self.use_checkpoint, x)

    def _forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x).reshape(b, c, -1))
        q, k, v = qkv.reshape(b, self.heads, 3, c // self.heads, -1).transpose(-1, -2).unbind(2)
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, -1)
        return x + self.proj_out(h).reshape(b, c, height, width)


class Resample(nn.Module):
    """Halve ("down") or double ("up") the resolution; the convolution is optional."""

    def __init__(self, ch: int, kind: str, conv: bool):
        super().__init__()
        self.kind, self.has_conv = kind, conv
        if conv and kind == "down":
            self.op = nn.Conv2d(ch, ch, 3, stride=2, padding=1)
        elif conv:
            self.conv = nn.Conv2d(ch, ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.has_conv and self.kind == "down":
            return self.op(x)
        x = _resample(x, self.kind)
        return self.conv(x) if self.has_conv else x


def _resample(x: Tensor, kind: str | None) -> Tensor:
    if kind == "down":
        return F.avg_pool2d(x, 2)
    if kind == "up":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return x


def _recompute(function, enabled: bool, *args: Tensor) -> Tensor:
    if enabled and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)


def _zero(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def _numbers(value: Sequence | str | int, kind: type) -> list:
    if isinstance(value, str):
        value = value.split(",")
    return [kind(v) for v in ([value] if isinstance(value, (int, float)) else value) if str(v).strip()]


def _check(image_size: int, num_channels: int, mult: list[float], groups: int) -> None:
    if not mult:
        raise ValueError("channel_mult is empty: give one multiplier per resolution level")
    if image_size % 2 ** (len(mult) - 1):
        raise ValueError(f"image_size={image_size} cannot be halved {len(mult) - 1} times (channel_mult={mult})")
    for m in mult:
        if int(m * num_channels) % groups:
            raise ValueError(
                f"{int(m * num_channels)} channels (channel_mult={mult}) do not divide into {groups} groups"
            )
