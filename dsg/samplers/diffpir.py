"""DiffPIR: "Denoising Diffusion Models for Plug-and-Play Image Restoration", arXiv 2305.08995,
code yuanzhi-zhu/DiffPIR. The released settings: `configs/sampler/diffpir.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Draw, Noise, StepState, Tunable, check_range, check_switch
from dsg.samplers.inverse import InverseSampler, predicted_x0
from dsg.schedule import NoiseSchedule, Step, signal_to_noise
from tasks.inverse import LinearInverseProblem

LEAST_SIGMA = 0.001  # of the noise in y, in units of [0, 1]


@dataclass
class DiffPIR(InverseSampler):
    """The network denoises, a proximal step fits y, and the noise of the next level is partly the old one.

    The proximal step is x0' = argmin_v |A v - y|^2 + rho |v - x0|^2 with rho = data_weight (sigma/2)^2 ab/(1-ab). The
    released code takes sigma in units of [0, 1] here, hence its half, but the noise level in those of [-1, 1]: its
    lambda, kept, is a quarter of the paper's. The result is the state at t = 0, with that level's little noise.

    Args:
        steps: S noise levels, t = T-1 - T sqrt(i/(S-1)): dense at low noise. The last is not evaluated.
        clip_denoised: clamp x0 to [-1, 1] before the proximal step.
        data_weight: lambda; a larger one trusts the prior more.
        zeta: share of fresh noise, in [0, 1].

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "diffpir"
    steps: int = 100
    clip_denoised: bool = True
    data_weight: float = 1.0
    zeta: float = 0.25

    title = "DiffPIR"

    def __post_init__(self):
        super().__post_init__()
        check_switch("clip_denoised", self.clip_denoised)
        check_range("steps", self.steps, 2, kind=int)
        check_range("data_weight", self.data_weight, 1e-6)
        check_range("zeta", self.zeta, 0, 1)

    def start(self, prior: Prior, task, condition, z: Tensor) -> Tensor:
        """What one has without a prior, whose noise is the task's, with the noise that T-1 has beyond it."""
        alpha_bar = prior.schedule.alpha_bar
        nearest = ((1 / alpha_bar - 1).sqrt() - task.sigma).abs().argmin()
        last, own = alpha_bar[-1].item(), alpha_bar[nearest].item()
        signal = last / own
        return math.sqrt(signal) * task.baseline(condition, z.shape) + math.sqrt(1 - last - signal * (1 - own)) * z

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x = x_T.detach()
        for step in self.reverse_steps(prior.schedule):
            ab, ab_prev = step.alpha_bar, step.alpha_bar_prev
            # 1. the prior's x0
            with torch.no_grad():
                x0 = predicted_x0(x, prior.predict(x, step.t), ab, self.clip_denoised)
            # 2. the data's
            rho = self.data_weight * max(task.sigma / 2, LEAST_SIGMA) ** 2 * signal_to_noise(ab)
            found = task.proximal(x0, condition, rho)
            # 3. the next level's noise, from the one that goes with it and a fresh one
            eps = math.sqrt(1 - self.zeta) * (x - math.sqrt(ab) * found) / math.sqrt(1 - ab)
            if self.zeta:
                eps = eps + math.sqrt(self.zeta) * noise(step.index)
            x_prev = math.sqrt(ab_prev) * found + math.sqrt(1 - ab_prev) * eps
            if callback is not None:
                # the draws are numbered with the level at t = 0, from which no step goes; the steps end at 0
                callback(StepState(step.index - 1, step.t, 0, x, x0, x_prev, None))
            x = x_prev
        return x

    def reverse_steps(self, schedule: NoiseSchedule) -> list[Step]:
        """Those that end at t = 0, not those from it."""
        total = len(schedule)
        passed = np.sqrt(np.linspace(0, total**2, self.steps)).astype(int)
        passed[-1] = total - 1
        return [step for step in schedule.steps_at((total - 1 - passed[::-1]).tolist()) if step.t > 0]

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if not isinstance(task, LinearInverseProblem):
            raise ValueError(f"sampler=diffpir needs a linear operator, which task={task.name} has not")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        return [Draw("step", step.index, 0) for step in self.reverse_steps(schedule)] if self.zeta else []

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(len(self.reverse_steps(schedule)), 0)

    @property
    def tunable(self) -> Tunable:
        return Tunable("data_weight", 1.0, direction=-1)
