"""The layers of the ADM U-Net, named as in openai/guided-diffusion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
            nn.GroupNorm(groups, cout), nn.SiLU(), nn.Dropout(dropout), zeroed(nn.Conv2d(cout, cout, 3, padding=1))
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
        self.proj_out = zeroed(nn.Conv1d(ch, ch, 1))

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


def zeroed(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.zeros_(p)
    return module
