"""A sampler against the truth, on a prior whose posterior is known."""

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from dsg.metrics.sample_distances import (
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
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.priors.mixture_posterior import task_posterior
from dsg.samplers import Noise, Sampler, StepState, sample

METRICS = (
    "sliced_wasserstein", "energy", "mean_error", "covariance_error", "spread",
    "mode_error", "in_region", "coverage", "to_truth",
)  # fmt: skip
EXACT = 4  # exact samples to compare with for each sample, so that there is less chance in the distances


class GroundTruth:
    """Truths, what is observed of them, and the posteriors.

    Args:
        prior: draws the truths, and is sampled.
        task: a linear task with Gaussian noise.
        observations: number of truths x0, each with its y and its posterior.
        samples: number of samples of each posterior.
        seed: of truths, observations and noise. Every sampler gets the same noise.

    Attributes:
        truths: [Y, *prior.shape]. condition: what the task made of them.
        posteriors: p(x0 | y) of each observation. exact: samples of each, [EXACT samples, d], to compare with.

    Raises:
        ValueError: the task does not suit the prior, or has no noise.
    """

    def __init__(self, prior: GaussianMixture, task, observations: int, samples: int, seed: int = 0):
        self.prior, self.task, self.samples, self.seed = prior, task, samples, seed
        task.check(prior.shape)
        if task.sigma == 0:
            raise ValueError("task.sigma=0: a posterior without noise has no density to compare with")
        self.truths = prior.sample(observations, torch.Generator().manual_seed(seed)).float()
        self.condition = task.degrade(self.truths, [f"truth{i}" for i in range(observations)], seed)
        self.posteriors = [
            task_posterior(prior, task, {k: v[i : i + 1] for k, v in self.condition.items()})
            for i in range(observations)
        ]
        self.moments = [(p.mean(), p.dense_covariance()) for p in self.posteriors]
        self.exact = [self._exact(i, "compared with", EXACT * samples) for i in range(observations)]

    def _exact(self, i: int, purpose: str, count: int) -> Tensor:
        seed = int(rng(self.seed, "ground truth", i, purpose).integers(2**62))
        return self.posteriors[i].sample(count, torch.Generator().manual_seed(seed)).flatten(1)

    def noise(self, first: int = 0, last: int | None = None) -> Noise:
        """For observations first..last-1, keyed by (seed, observation, purpose, step, repeat)."""
        numbers = range(len(self.truths))[first:last]

        def draw(step_index: int, repeat: int = 0, purpose: str = "step") -> Tensor:
            shape, key = (self.samples, *self.prior.shape), (purpose, step_index, repeat)
            return torch.cat([standard_normal(shape, self.seed, "ground truth", i, *key) for i in numbers])

        return draw

    def condition_of(self, i: int) -> dict[str, Tensor]:
        """The condition of observation i, repeated for each of its samples."""
        return {k: v[i : i + 1].expand(self.samples, *v.shape[1:]) for k, v in self.condition.items()}

    def run(self, sampler: Sampler, callback: Callable[[StepState], None] | None = None) -> Tensor:
        """`samples` restorations of every observation by a sampler, [Y, N, d]."""
        noise = self.noise()
        repeated = {k: v.repeat_interleave(self.samples, 0) for k, v in self.condition.items()}
        x_T = sampler.start(self.prior, self.task, repeated, noise(0, purpose="start"))
        return self._arrange(sample(self.prior, self.task, repeated, sampler, x_T, noise, callback))

    def oracle(self, sampler: Sampler, callback: Callable[[StepState], None] | None = None) -> Tensor:
        """The same by an unconditional sampler under the true conditional score: each posterior is the prior."""
        out = []
        for i, posterior in enumerate(self.posteriors):
            noise = self.noise(i, i + 1)
            out.append(sample(posterior, None, None, sampler, noise(0, purpose="start"), noise, callback))
        return self._arrange(torch.cat(out))

    def floor(self) -> Tensor:
        """Further exact samples, [Y, N, d]: their distances are those of a perfect sampler."""
        return torch.stack([self._exact(i, "floor", self.samples) for i in range(len(self.posteriors))])

    def _arrange(self, x: Tensor) -> Tensor:
        return x.flatten(1).unflatten(0, (len(self.truths), self.samples)).double()

    def compare(self, points: Tensor) -> pd.DataFrame:
        """`METRICS` of points [Y, N, d], a row per observation; NaN where a point is not finite.

        sliced_wasserstein: in units of the posterior's standard deviation per dimension.
        energy: in units of the mean distance between two posterior samples.
        in_region: share of points in the exact 90 % highest-density region.
        coverage: of the truth by central 90 % intervals.
        The others are explained in `dsg.metrics.sample_distances` (to_truth: `error_to_truth`).
        """
        return pd.DataFrame([self._compare_one(i, x) for i, x in enumerate(points)], columns=list(METRICS))

    def _compare_one(self, i: int, x: Tensor) -> dict[str, float]:
        if not torch.isfinite(x).all():
            return {}
        posterior, exact = self.posteriors[i], self.exact[i]
        mean, covariance = self.moments[i]
        scale = (covariance.trace() / posterior.dimension).sqrt().item()
        return {
            "sliced_wasserstein": sliced_wasserstein(x, exact) / scale,
            "energy": energy_distance(x, exact) / mean_distance(exact).item(),
            **moments(x, mean, covariance),
            "mode_error": mode_error(x, self.prior, posterior),
            "in_region": in_credible_region(x, posterior, exact),
            "coverage": interval_coverage(x, self.truths[i]),
            "to_truth": error_to_truth(x, self.truths[i], covariance),
        }
