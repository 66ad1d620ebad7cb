"""The posterior of denoising under the prior itself: the reverse process, started where its noise is that of y."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Draw, Noise, StepState, check_range, check_switch
from dsg.samplers.inverse import InverseSampler, predicted_x0
from dsg.schedule import NoiseSchedule, Step, noise_to_signal, reverse_kernel
from tasks.denoise import Denoising


@dataclass
class DenoiseOracle(InverseSampler):
    """y = x0 + sigma n is a state of the forward process: sqrt(ab) y is distributed as x_t with ab = 1/(1 + sigma^2).

    So ancestral sampling from there draws from p(x0 | y) under the prior, learned or not, as nearly as the prior's own
    samples are from p(x0). Nothing is guided or tuned: other samplers can be checked against it.

    Args:
        steps: reverse steps from that t to 0, evenly spaced.
        clip_denoised: clamp x0 to [-1, 1], as for the prior's own samples; exact only where images keep to it.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "denoise_oracle"
    steps: int = 200
    clip_denoised: bool = True

    guided = False
    title = "posterior of the prior itself"

    def __post_init__(self):
        super().__post_init__()
        check_switch("clip_denoised", self.clip_denoised)
        check_range("steps", self.steps, 2, kind=int)

    def start(self, prior: Prior, task, condition: Mapping[str, Tensor], z: Tensor) -> Tensor:
        return math.sqrt(matched(task.sigma)) * condition["y"]

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x = x_T.detach()
        for step in self.reverse_steps(prior, task):
            with torch.no_grad():
                x0 = predicted_x0(x, prior.predict(x, step.t), step.alpha_bar, self.clip_denoised)
            eps = (x - math.sqrt(step.alpha_bar) * x0) / math.sqrt(1 - step.alpha_bar)
            mean, sigma = reverse_kernel("ddim", 1.0, "", step, x, x0, eps, None)
            x_prev = mean + sigma * noise(step.index) if sigma else mean
            if callback is not None:
                callback(StepState(step.index, step.t, 0, x, x0, x_prev, None))
            x = x_prev
        return x

    def reverse_steps(self, prior: Prior, task) -> list[Step]:
        """From the noise of y."""
        schedule = prior.schedule
        start = schedule.time_of(matched(task.sigma))
        ts = [start * k / (self.steps - 1) for k in range(self.steps)]
        levels = [schedule.final_alpha_bar, *map(schedule.alpha_bar_at, ts[:-1]), matched(task.sigma)]
        return [Step(k, t, levels[k + 1], levels[k]) for k, t in reversed(list(enumerate(ts)))]

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if not isinstance(task, Denoising):
            raise ValueError(f"sampler={self.name} knows the posterior of task=denoise only, not of task={task.name}")
        low, high = noise_to_signal(prior.schedule.alpha_bar[1].item()), prior.schedule.ratios[1]
        if not low <= task.sigma <= high:
            raise ValueError(f"task.sigma={task.sigma}: sampler={self.name} needs {low:.3g} to {high:.3g}")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        return [Draw("step", index, 0) for index in reversed(range(1, self.steps))]

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(self.steps, 0)


def matched(sigma: float) -> float:
    """alpha_bar of the state whose noise, over its signal, is sigma."""
    return 1 / (1 + sigma**2)
