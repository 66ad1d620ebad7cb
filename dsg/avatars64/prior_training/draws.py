"""What a step draws is a function of (seed, step, kind of device): a resumed run sees what it would have seen."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dsg.schedule import linear_betas


def faces_of_step(step: int, batch: int, count: int, seed: int) -> Tensor:
    """Indices [batch] of the faces of a step: each epoch is a permutation of its own, and no face is left out."""
    places = torch.arange(step * batch, (step + 1) * batch)
    return torch.cat(
        [permutation(int(e), count, seed)[places[places // count == e] % count] for e in (places // count).unique()]
    )


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(epoch: int, count: int, seed: int) -> Tensor:
    """The order [count] of the faces of an epoch."""
    return torch.randperm(count, generator=generator(seed, -1 - epoch))


def generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Of what a step draws, on this device; negative steps are the epochs' orders."""
    key = int(np.random.SeedSequence([seed, step % 2**32]).generate_state(1)[0])
    return torch.Generator(device).manual_seed(key)


def time_density() -> Tensor:
    """Probability [1000] of each t: half uniform, half EDM's log-normal of sigma = sqrt((1-ab)/ab), where images have
    most to learn. Uniform draws alone were 1 dB worse at t = 100 after equal time (checkpoints/avatars64/study.md)."""
    ab = (1 - linear_betas()).cumprod(0)
    place = ((1 - ab) / ab).log() / 2
    lognormal = torch.exp(-0.5 * ((place + 1.2) / 1.2) ** 2) * torch.gradient(place)[0]
    return 0.5 / 1000 + 0.5 * lognormal / lognormal.sum()


def timesteps(batch: int, density: Tensor, g: torch.Generator) -> Tensor:
    """t [batch] in 0..999, one from each of `batch` equally likely strata: steadier than independent draws."""
    u = (torch.arange(batch, device=g.device) + torch.rand(batch, generator=g, device=g.device)) / batch
    return torch.searchsorted(density.cumsum(0), u.double()).clamp_max(999)
