"""A sampler against the truth: measurements of a prior whose posterior is known, and how far its samples are from that posterior."""

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from dsg.distances import (
    energy_distance,
    error_to_truth,
    in_credible_region,
    interval_coverage,
    mean_distance,
    mode_error,
    moments,
    sliced_wasserstein,
)
from dsg.noise import rng, standard_normal
from dsg.posterior import task_posterior
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.samplers import Sampler, StepState, sample

MEASURES = (
    "sliced_wasserstein", "energy", "mean_error", "covariance_error", "spread", "mode_error", "in_region", "coverage", "to_truth"
)  # fmt: skip
EXACT = 4  # exact samples to compare with, for each that is measured: less chance in the distances


class GroundTruth:
    """Args:
    prior: draws the truths, and is sampled.
    task: a linear task with Gaussian noise.
    observations: how many truths x0, each with its y and its posterior.
    samples: of each posterior.
    seed: of truths, measurements, noise. Every sampler gets the same noise.
    """

    def __init__(self, prior: GaussianMixture, task, observations: int, samples: int, seed: int = 0):
        self.prior, self.task, self.samples, self.seed = prior, task, samples, seed
        task.check(prior.shape)
        if task.sigma == 0:
            raise ValueError("task.sigma=0: a posterior without noise has no density to compare with")
        self.truths = prior.sample(observations, torch.Generator().manual_seed(seed)).float()
        self.condition = task.measure(self.truths, [f"truth{i}" for i in range(observations)], seed)
        self.posteriors = [
            task_posterior(prior, task, {k: v[i : i + 1] for k, v in self.condition.items()})
            for i in range(observations)
        ]
        self.moments = [(p.mean(), p.dense_covariance()) for p in self.posteriors]
        self.exact = [self._exact(i, "compared with", EXACT * samples) for i in range(observations)]

    def _exact(self, i: int, purpose: str, count: int) -> Tensor:
        seed = int(rng(self.seed, "ground truth", i, purpose).integers(2**62))
        return self.posteriors[i].sample(count, torch.Generator().manual_seed(seed)).flatten(1)

    def noise(self, first: int = 0, last: int | None = None) -> Callable[..., Tensor]:
        """For observations first..last-1, keyed by (seed, observation, purpose, step, repeat)."""
        numbers = range(len(self.truths))[first:last]

        def draw(step_index: int, repeat: int = 0, purpose: str = "step") -> Tensor:
            shape, key = (self.samples, *self.prior.shape), (purpose, step_index, repeat)
            return torch.cat([standard_normal(shape, self.seed, "ground truth", i, *key) for i in numbers])

        return draw

    def run(
        self, sampler: Sampler, callback: Callable[[StepState], None] | None = None, prior=None, task=None
    ) -> Tensor:
        """`samples` restorations of every observation by a guided sampler, [Y, N, d]; another prior or task may stand in."""
        noise = self.noise()
        repeated = {k: v.repeat_interleave(self.samples, 0) for k, v in self.condition.items()}
        x_T = noise(0, purpose="start")
        return self._arrange(sample(prior or self.prior, task or self.task, repeated, sampler, x_T, noise, callback))

    def oracle(self, sampler: Sampler, callback: Callable[[StepState], None] | None = None) -> Tensor:
        """The same by an unconditional sampler under the true conditional score: each posterior as the prior."""
        out = []
        for i, posterior in enumerate(self.posteriors):
            noise = self.noise(i, i + 1)
            out.append(sample(posterior, None, None, sampler, noise(0, purpose="start"), noise, callback))
        return self._arrange(torch.cat(out))

    def floor(self) -> Tensor:
        """Further exact samples, [Y, N, d]: what the measures give for a perfect sampler."""
        return torch.stack([self._exact(i, "floor", self.samples) for i in range(len(self.posteriors))])

    def _arrange(self, x: Tensor) -> Tensor:
        return x.flatten(1).unflatten(0, (len(self.truths), self.samples)).double()

    def measure(self, points: Tensor) -> pd.DataFrame:
        """`MEASURES` of points [Y, N, d], a row per observation; NaN where a point is not finite.

        sliced_wasserstein is in units of the posterior's standard deviation per dimension, energy in units of the mean
        distance of two posterior samples; coverage is that of the truth by central 90 % intervals, in_region the share of
        points in the exact 90 % highest-density region; the others as in `dsg.distances` (to_truth: `error_to_truth`).
        """
        return pd.DataFrame([self._measure_one(i, x) for i, x in enumerate(points)], columns=list(MEASURES))

    def _measure_one(self, i: int, x: Tensor) -> dict[str, float]:
        if not torch.isfinite(x).all():
            return {}
        exact, y = self.posteriors[i], self.exact[i]
        mean, covariance = self.moments[i]
        scale = (covariance.trace() / exact.dimension).sqrt().item()
        return {
            "sliced_wasserstein": sliced_wasserstein(x, y) / scale,
            "energy": energy_distance(x, y) / mean_distance(y).item(),
            **moments(x, mean, covariance),
            "mode_error": mode_error(x, self.prior, exact),
            "in_region": in_credible_region(x, exact, y),
            "coverage": interval_coverage(x, self.truths[i]),
            "to_truth": error_to_truth(x, self.truths[i], covariance),
        }
