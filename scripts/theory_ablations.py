"""What of the bias is direction, and what is length: guidance with one of them exact.

Kept out of `dsg/`: they need the posterior, which no one has in practice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.ground_truth import GroundTruth
from dsg.samplers import DPS, Sampler
from dsg.schedule import Step, reverse_kernel


class ExactLikelihood:
    """Prior and task in one: the loss is -log p(y | x_t) itself, so that a gradient at x_t is the exact direction."""

    latent = False

    def __init__(self, known: GroundTruth):
        self.known, self.schedule = known, known.prior.schedule

    def predict(self, x_t: Tensor, t: int):
        self.x_t, self.ab = x_t, self.schedule.alpha_bar[t].item()
        return self.known.prior.predict(x_t, t)

    def decode(self, x0: Tensor) -> Tensor:
        return self.x_t

    def loss(self, x_t: Tensor, condition) -> Tensor:
        parts = zip(x_t.split(self.known.samples), self.known.posteriors)
        prior = self.known.prior
        return torch.cat([prior.log_density(x, self.ab) - p.log_density(x, self.ab) for x, p in parts])


class Recorder:
    """The prior, which remembers the x_t it was asked about."""

    latent = False

    def __init__(self, prior):
        self.prior, self.schedule, self.decode = prior, prior.schedule, prior.decode

    def predict(self, x_t: Tensor, t: int):
        self.x_t = x_t.detach()
        return self.prior.predict(x_t, t)


@dataclass
class ExactLength(DPS):
    """DPS's direction, and the length by which the exact guidance moves the kernel's mean. Kernel ddim."""

    known: GroundTruth = None
    recorder: Recorder = None

    def combine(self, step: Step, mean: Tensor, plain: Tensor, gradient: Tensor, sigma) -> Tensor:
        parts = zip(self.recorder.x_t.split(self.known.samples), self.known.posteriors)
        exact = torch.cat([self.exact_mean(x, p, step) for x, p in parts])
        length = (exact - mean).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        return plain - length[:, None, None, None] * gradient

    def exact_mean(self, x_t: Tensor, posterior, step: Step) -> Tensor:
        eps, _ = posterior.predict(x_t, step.t)
        x0 = posterior.denoise(x_t, step.alpha_bar)
        return reverse_kernel("ddim", self.eta, "", step, x_t, x0, eps, None)[0]


def exact_direction(known: GroundTruth, sampler: Sampler, callback=None) -> Tensor:
    """Like `known.run`, guided along grad log p(y | x_t)."""
    both = ExactLikelihood(known)
    return known.run(sampler, callback, prior=both, task=both)


def exact_length(known: GroundTruth, steps: int, callback=None) -> Tensor:
    """Like `known.run` with DPS, every step as long as the exact one."""
    recorder = Recorder(known.prior)
    sampler = ExactLength(steps=steps, clip_denoised=False, known=known, recorder=recorder)
    return known.run(sampler, callback, prior=recorder)
