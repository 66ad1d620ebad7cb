"""Fixed batches on a CPU, so that an image comes out the same, bit for bit, whatever it shares its batch with."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_fixed_batches(network: Callable[..., Tensor], x: Tensor, size: int, *along: Tensor) -> Tensor:
    """network(x, *along) for x [B, C, H, W], on a CPU `size` images at a time (0, or another device: all at once).

    CPU kernels round differently for different batch sizes; the last batch is filled with repeats, which are dropped.

    Args:
        along: tensors [B, ...] that are split with x.
    """
    if not size or x.device.type != "cpu":
        return network(x, *along)
    missing = -len(x) % size
    parts = (_filled(tensor, missing).split(size) for tensor in (x, *along))
    return torch.cat([network(*part) for part in zip(*parts)])[: len(x)]


def _filled(x: Tensor, missing: int) -> Tensor:
    return torch.cat([x, x[-1:].detach().expand(missing, *x.shape[1:])]) if missing else x
