"""A prior that is not quite the one that it was trained to be: noise on its weights."""

import os
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file

from dsg.files import resolve, temporary_name
from dsg.noise import standard_normal
from dsg.weights import read_weights


def degraded_weights(checkpoint: str, share: float, folder: Path) -> Path:
    """A checkpoint whose weights (tensors of two and more dimensions) have noise of `share` times their RMS.

    The noise depends on the tensor's name alone, so that a larger share is more of the same. The file is written where
    it is not there yet, which takes a second: a plan needs it, since a run is known by its weights.

    Raises:
        ValueError, OSError: the checkpoint cannot be read.
    """
    source = resolve(checkpoint)
    state, digest = read_weights(source, source.name)
    name = sha256(f"{digest} {share}".encode()).hexdigest()[:10]
    target = folder.resolve() / f"{source.stem}-{share:g}-{name}.safetensors"
    if target.exists():
        return target
    changed = {
        key: noisy(key, weights, share) if weights.ndim > 1 and weights.is_floating_point() else weights.contiguous()
        for key, weights in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    save_file(changed, temporary)
    os.replace(temporary, target)
    return target


def noisy(key: str, weights: torch.Tensor, share: float) -> torch.Tensor:
    scale = share * weights.float().square().mean().sqrt()
    return (weights + scale * standard_normal(weights.shape, "degraded weights", key)).to(weights.dtype).contiguous()
