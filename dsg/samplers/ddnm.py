"""DDNM: Wang et al., "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR 2023,
arXiv 2212.00490, code wyhuai/DDNM; with noise in y, its DDNM+. The released settings: `configs/sampler/ddnm.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Noise, StepState, Tunable, check_range
from dsg.samplers.inverse import SpectralSampler, divisible, predicted_x0
from dsg.schedule import NoiseSchedule, Step
from tasks.solvers import SVD


@dataclass
class DDNM(SpectralSampler):
    """What A sees of x0 is taken from y, the rest, in A's null space, from the prior.

    With a = sqrt(ab_prev), s = sqrt(1-ab_prev) and the component y_i = (U^T y)_i/d_i, a step gives the components

        a (x0 + l (y_i - x0)) + n z + e eps,

    where A sees nothing l = 0, n = eta s, e = sqrt(1-eta^2) s. Elsewhere, in y without noise, l = 1 and the same n and
    e. With noise: where it is below that of the state, a sigma_y/d_i < s, l = 1 and the rest of s^2 is n^2; where it
    is above, l = sqrt(1-eta^2) s d_i/(a sigma_y) and n = eta s; e = 0. The code's time travel is left out.

    Args:
        steps: S noise levels, at the multiples of T//S from 0; more than S where S does not divide T.
        eta: share of fresh noise, in [0, 1].

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "ddnm"
    steps: int = 100
    eta: float = 0.85

    title = "DDNM"

    def __post_init__(self):
        super().__post_init__()
        check_range("steps", self.steps, 2, kind=int)
        check_range("eta", self.eta, 0, 1)

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x, svd = x_T.detach(), self.svd(task, condition, x_T.shape)
        told = svd.pseudo_data(condition["y"])
        for step in self.reverse_steps(prior.schedule):
            # 1. the prior's x0 and eps
            with torch.no_grad():
                prediction = prior.predict(x, step.t)
            x0, eps = predicted_x0(x, prediction, step.alpha_bar), prediction.eps
            # 2. the next level: of the null space, and of what is seen
            z = noise(step.index) if step.index > 0 else torch.zeros_like(x)
            a, s = math.sqrt(step.alpha_bar_prev), math.sqrt(1 - step.alpha_bar_prev)
            unseen = a * x0 + s * (self.eta * z + math.sqrt(1 - self.eta**2) * eps)
            share, of_z, of_eps = self.weights(svd, task.sigma, step)
            seen = svd.into(x0)
            seen = a * (seen + share * (told - seen)) + of_z * svd.into(z) + of_eps * svd.into(eps)
            x_prev = svd.replaced(unseen, seen)
            if callback is not None:
                callback(StepState(step.index, step.t, 0, x, x0, x_prev, None))
            x = x_prev
        return x

    def weights(self, svd: SVD, sigma: float, step: Step) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
        """l, n and e of the components that A sees."""
        a, s = math.sqrt(step.alpha_bar_prev), math.sqrt(1 - step.alpha_bar_prev)
        kept = math.sqrt(1 - self.eta**2)
        if sigma == 0:
            return 1.0, s * self.eta, s * kept
        noise_of_y = a * sigma / divisible(svd.values)
        is_less = noise_of_y < s
        spread = (s**2 - noise_of_y**2).clamp_min(0).sqrt()
        share = torch.where(is_less, 1.0, kept * s / noise_of_y)
        return share, torch.where(is_less, spread, s * self.eta), 0.0

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(len(self.reverse_steps(schedule)), 0)

    @property
    def tunable(self) -> Tunable:
        return Tunable("eta", 0.85, high=1.0, direction=-1)
