"""What a step draws is a function of (seed, step), so that a resumed run sees what it would have seen."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


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


def generator(seed: int, step: int) -> torch.Generator:
    """Of what a step draws; negative steps are the epochs' orders."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step % 2**32]).generate_state(1)[0]))


def timesteps(batch: int, g: torch.Generator) -> Tensor:
    """t [batch] in 0..999, one from each of `batch` equal strata: steadier than independent draws."""
    return ((torch.arange(batch) + torch.rand(batch, generator=g)) / batch * 1000).long().clamp_max(999)
