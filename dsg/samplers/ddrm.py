"""DDRM: "Denoising Diffusion Restoration Models", arXiv 2201.11793, code bahjat-kawar/ddrm. The released settings:
`configs/sampler/ddrm.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Noise, StepState, Tunable, check_range
from dsg.samplers.inverse import SpectralSampler, divisible, predicted_x0
from dsg.schedule import NoiseSchedule, noise_to_signal
from tasks.solvers import SVD


@dataclass
class DDRM(SpectralSampler):
    """Diffusion in the coordinates of A = U diag(d) V^T, where every component is observed by itself, or not at all.

    Args:
        steps: S noise levels, at the multiples of T//S from 0; more than S where S does not divide T.
        eta: share of fresh noise, in [0, 1], in components that y does not tell more of than the state does.
        eta_b: weight of y, in [0, 1], in those that it does.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "ddrm"
    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0

    title = "DDRM"

    def __post_init__(self):
        super().__post_init__()
        check_range("steps", self.steps, 2, kind=int)
        check_range("eta", self.eta, 0, 1)
        check_range("eta_b", self.eta_b, 0, 1)

    def start(self, prior: Prior, task, condition, z: Tensor) -> Tensor:
        svd = self.svd(task, condition, z.shape)
        s = noise_to_signal(self.reverse_steps(prior.schedule)[0].alpha_bar)
        known = svd.values * s > task.sigma
        told = svd.pseudo_data(condition["y"])
        spread = (s**2 - (task.sigma / divisible(svd.values)) ** 2).clamp_min(0).sqrt()
        return svd.replaced(s * z, torch.where(known, told + spread * svd.into(z), s * svd.into(z))) / s

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x, svd = x_T.detach(), self.svd(task, condition, x_T.shape)
        for step in self.reverse_steps(prior.schedule):
            # 1. the prior's x0 and eps
            with torch.no_grad():
                prediction = prior.predict(x, step.t)
            x0, eps = predicted_x0(x, prediction, step.alpha_bar), prediction.eps
            x_prev = x0
            if step.index > 0:
                # 2. the next level, component by component
                z, s = noise(step.index), noise_to_signal(step.alpha_bar_prev)
                unobserved = x0 + s * (math.sqrt(1 - self.eta**2) * eps + self.eta * z)
                observed = self.observed(svd, condition["y"], task.sigma, svd.into(x0), svd.into(z), s)
                # 3. back to pixels
                x_prev = math.sqrt(step.alpha_bar_prev) * svd.replaced(unobserved, observed)
            if callback is not None:
                callback(StepState(step.index, step.t, 0, x, x0, x_prev, None))
            x = x_prev
        return x

    def observed(self, svd: SVD, y: Tensor, sigma: float, x0: Tensor, z: Tensor, s: float) -> Tensor:
        """Components at noise level s, from those of x0 and z. Those whose noise in y is below s follow y; the others
        take what y and x0 differ by for their noise."""
        d = divisible(svd.values)
        spread = (s**2 - (self.eta_b * sigma / d) ** 2).clamp_min(0).sqrt()
        near = self.eta_b * svd.pseudo_data(y) + (1 - self.eta_b) * x0 + spread * z
        if sigma == 0:
            return near
        data_noise = (svd.left(y) - svd.values * x0) / sigma
        far = x0 + s * (math.sqrt(1 - self.eta**2) * data_noise + self.eta * z)
        return torch.where(svd.values * s < sigma, far, near)

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(len(self.reverse_steps(schedule)), 0)

    @property
    def tunable(self) -> Tunable:
        return Tunable("eta", 0.85, high=1.0, direction=-1)
