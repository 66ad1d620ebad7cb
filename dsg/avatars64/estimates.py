"""Estimates of faces by a prior, as the guidance networks see them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dsg.files import temporary_name
from dsg.priors.base import Prior
from dsg.types import to_tensor, to_uint8

HIGHEST = 900  # t; above, an estimate shows next to nothing of the face
BATCH = 64


@torch.no_grad()
def estimates(prior: Prior, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x0 [B, C, H, W], clamped, of images x noised to t [B] with noise [B, C, H, W]: a call of the prior for each t."""
    x0 = torch.empty_like(x)
    for step in t.unique().tolist():
        chosen, ab = t == step, prior.schedule.alpha_bar[step].float()
        x_t = ab.sqrt() * x[chosen] + (1 - ab).sqrt() * noise[chosen]
        x0[chosen] = (x_t - (1 - ab).sqrt() * prior.predict(x_t, step).eps) / ab.sqrt()
    return x0.clamp(-1, 1)


def estimate_shard(prior: Prior, shard: Path, out: Path, seed: int) -> None:
    """Write `images` uint8 [N, H, W, 3] and `t` int64 [N], for the faces in `shard`, to `out`.

    Faces of a batch of 64 share a t with three others, since the prior sees four images at a time on a CPU.
    """
    images = np.load(shard)["images"]
    first = int(shard.stem.split("_")[1])
    made, times = [], []
    for start in tqdm(range(0, len(images), BATCH), desc=out.stem, unit="batch", leave=False):
        part = to_tensor(images[start : start + BATCH])
        g = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, first + start]).generate_state(1)[0]))
        t = torch.randint(HIGHEST, (-(-len(part) // 4),), generator=g).repeat_interleave(4)[: len(part)]
        made.append(to_uint8(estimates(prior, part, t, torch.randn(part.shape, generator=g))))
        times.append(t.numpy())
    temporary = temporary_name(out)
    with open(temporary, "wb") as file:
        np.savez(file, images=np.concatenate(made), t=np.concatenate(times))
    temporary.replace(out)
