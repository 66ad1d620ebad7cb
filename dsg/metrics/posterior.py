"""How far the samples of a run are from the posterior, where the prior is one whose posterior is known."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dsg.metrics.base import EvaluatedRun, SetMetric
from dsg.metrics.sample_distances import sliced_wasserstein
from dsg.noise import rng
from dsg.priors.base import Prior
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.priors.mixture_posterior import task_draws
from dsg.statistics import mean_interval
from dsg.types import Column, to_uint8
from tasks.inverse import LinearInverseProblem


class SlicedWasserstein(SetMetric):
    """Sliced 2-Wasserstein distance to the exact posterior p(x0 | y), mean over conditions.

    Of every condition as many exact samples are drawn as there are samples, brought to 8 bits as these were, and
    compared along 200 random directions (`sliced_wasserstein`). The unit is the posterior's standard deviation
    per dimension. A perfect sampler does not reach 0 but the `floor`: the same number of two
    independent sets of exact samples. It is known for a Gaussian mixture and a linear task with Gaussian noise.

    Args:
        least_samples: of a condition; with fewer there is none, as it would say more about how few they are.
    """

    column = Column("sliced_wasserstein", "sliced W2 to the posterior [std]", 3, False)
    run: EvaluatedRun | None = None

    def __init__(self, least_samples: int = 16):
        if least_samples < 2:
            raise ValueError(f"sliced_wasserstein.least_samples={least_samples}: an integer, 2 or more")
        self.least_samples = least_samples

    def of(self, run: EvaluatedRun) -> "SlicedWasserstein":
        bound = super().of(run)
        bound.run = run
        return bound

    def missing(self) -> str | None:
        if self.run is None:
            return "it belongs to a run"
        task = self.run.task
        if not isinstance(self.prior, GaussianMixture):
            return f"the posterior of model={self.run.config.model.name} is not known"
        if not isinstance(task, LinearInverseProblem) or task.sigma == 0:
            return f"the posterior of task={task.name} is not known: it takes a linear operator, and noise"
        if self.run.samples < self.least_samples:
            return f"samples={self.run.samples}: it takes {self.least_samples} or more of each condition"
        return None

    def settings(self) -> dict:
        return {"unit": "standard deviation of the posterior", "reference": "as many exact samples, in 8 bits"}

    def __call__(self, images: np.ndarray) -> float:
        return float(np.mean(self.distances(images)))

    def beside(self, images: np.ndarray) -> dict[str, float]:
        """The floor, and the distance's 95 % bootstrap interval over conditions where there are several."""
        found = {"floor": float(np.mean([sliced_wasserstein(a, b) / unit for a, b, unit in self.exact]))}
        if len(self.exact) > 1:
            _, found["low"], found["high"] = mean_interval(np.array(self.distances(images)))
        return found

    def distances(self, images: np.ndarray) -> list[float]:
        """The distances of each condition; its images follow each other."""
        parts = images.reshape(len(self.exact), -1, *images.shape[1:])
        return [sliced_wasserstein(flat(part), exact) / unit for part, (exact, _, unit) in zip(parts, self.exact)]

    @property
    def prior(self) -> Prior:
        return self.run.known_prior()

    @cached_property
    def exact(self) -> list[tuple[Tensor, Tensor, float]]:
        """For each condition two sets of exact samples [N, d], as they would be saved, and the posterior's standard
        deviation."""
        found = []
        for one in self.run.inputs:
            draws = task_draws(self.prior, self.run.task, self.run.task.condition([one], self.run.seed))
            seeds = (int(rng(self.run.seed, "exact posterior", one.id, k).integers(2**62)) for k in range(2))
            sets = (saved(draws.sample, self.run.samples, seed, self.prior.shape) for seed in seeds)
            found.append((*sets, draws.deviation))
        return found


def saved(sample: Callable, count: int, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Draws as a run would save and read them: [count, d] in [-1, 1]."""
    points = sample(count, torch.Generator().manual_seed(seed))
    return flat(to_uint8(points.reshape(count, *shape).float()))


def flat(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float64 [N, d] in [-1, 1]."""
    return torch.from_numpy(images.reshape(len(images), -1)).double() / 127.5 - 1
