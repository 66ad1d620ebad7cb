"""Several tries of one image, of which the best is kept: by what was measured, never by the truth."""

from collections.abc import Callable

import torch
from torch import Tensor

from dsg.priors.base import Prior
from tasks.base import Condition, Task


def best_try(task: Task, prior: Prior, condition: Condition, sample: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """x0 [B, ...] of `sample(k)`, k = 0 .. task.tries-1, with the least loss, image by image; and which k that is, [B].

    A try that is not finite loses to every other.
    """
    best = sample(0)
    kept = torch.zeros(len(best), dtype=torch.long, device=best.device)
    if task.tries == 1:
        return best, kept
    least = finite_loss(task, prior, condition, best)
    for k in range(1, task.tries):
        x0 = sample(k)
        loss = finite_loss(task, prior, condition, x0)
        better = loss < least
        best = torch.where(better.reshape(-1, *[1] * (x0.ndim - 1)), x0, best)
        kept[better] = k
        least = torch.where(better, loss, least)
    return best, kept


def finite_loss(task: Task, prior: Prior, condition: Condition, x0: Tensor) -> Tensor:
    """[B], of the image as it would be saved; infinite where x0 is not finite."""
    with torch.no_grad():
        loss = task.loss(prior.decode(x0).clamp(-1, 1), condition)
    return torch.where(torch.isfinite(x0).flatten(1).all(1), loss, torch.inf).nan_to_num(nan=torch.inf)
