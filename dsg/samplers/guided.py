"""One loop, in which DPS, FreeDoM, MPGD and the proximal methods, each with or without DSG, differ in two rules.

Every reverse step predicts x0, takes a gradient of the task's loss, computes the reverse kernel's mean and sigma, draws
noise, and combines. The methods differ in where the gradient is taken (at x_t, through the network, or at x0, beside
it) and in `combine` (subtracted, or under the spherical constraint). Interval, window and time travel belong to the
loop.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dsg.constraint import norm, spherical_gaussian_step
from dsg.priors.base import Prediction, Prior
from dsg.samplers.ablations import SubtractingSampler, Window
from dsg.samplers.base import (
    Callback,
    Cost,
    Draw,
    GuidedState,
    Noise,
    Tunable,
    check_choice,
    check_range,
    check_switch,
    check_window,
)
from dsg.samplers.moments import moments_of
from dsg.schedule import KERNELS, SPACINGS, VARIANCES, NoiseSchedule, Step, is_noiseless, reverse_kernel
from tasks.base import Task
from tasks.inverse import LinearInverseProblem


@dataclass
class Travel:
    """Time travel (FreeDoM, algorithm 2): a step with lo <= t <= hi is taken `repeats` times."""

    repeats: int = 1
    window: Window = (400, 700)


@dataclass
class GuidedSampler(SubtractingSampler):
    """Settings of the loop, and the two rules of a method.

    Args:
        name, base_method, label, control: see `Sampler`; the label says whether the method is DSG or a control.
        steps: S >= 2 reverse steps.
        kernel: ddim, ddpm or freedom (`dsg.schedule.reverse_kernel`).
        eta: noise of the ddim and freedom kernels, in [0, 1]; ddpm has none to choose.
        spacing: linspace, leading, trailing, karras or log_snr (`NoiseSchedule.timesteps`).
        variance: of kernel ddpm: learned_range or fixed_small; null takes the learned one where the prior has it.
        clip_denoised: clamp x0 to [-1, 1] (the gradient flows through the clamp) and recompute eps from it.
        spherical: DSG, the spherical Gaussian constraint, instead of a subtraction. Steps without noise, such as the
            last, have no sphere and are not guided; subtracted gradients guide them too, as in the released codes.
        guidance_rate: g_r of DSG, in [0, 1].
        interval: guided where step index % interval == 0, not elsewhere.
        radius: factor of DSG's radius: x_prev = mean + radius r d_m/|d_m|; 1 is the paper's.
        window: guided for lo < t <= hi only; null is everywhere.
        start_t: begin at the first level at or below this t, from the task's baseline (what one has without a prior)
            or another image, with noise: for restoration and editing. null: from noise alone.
        travel: time travel.
        moment: adam puts the gradient's moments over the steps in its place (`dsg.samplers.moments`); null: nothing.
        step_size, scaling, projected, keeps_noise, boost: see `SubtractingSampler`.

    Raises:
        ValueError: naming the option that is out of range.
    """

    kernel: str = "ddim"
    eta: float = 1.0
    spacing: str = "linspace"
    variance: str | None = None
    clip_denoised: bool = True
    spherical: bool = False
    guidance_rate: float = 0.2
    interval: int = 1
    radius: float = 1.0
    window: Window | None = None
    start_t: float | None = None
    travel: Travel = field(default_factory=Travel)
    moment: str | None = None

    through_network = False  # where the gradient is taken: at x_t, through the network, or at x0, beside it

    def __post_init__(self):
        if self.label is None and self.title is not None:
            self.label = self.title + (" + DSG" if self.spherical else ", additive" if self.is_control else "")
        super().__post_init__()
        self.travel = self.travel if isinstance(self.travel, Travel) else Travel(**(self.travel or {}))
        check_choice("kernel", self.kernel, KERNELS)
        check_choice("spacing", self.spacing, SPACINGS)
        moments_of(self.moment)
        if self.variance is not None:
            check_choice("variance", self.variance, VARIANCES)
        check_range("steps", self.steps, 2, kind=int)
        check_range("eta", self.eta, 0, 1)
        check_range("guidance_rate", self.guidance_rate, 0, 1)
        check_range("interval", self.interval, 1, kind=int)
        check_range("radius", self.radius, 1e-3)
        check_range("travel.repeats", self.travel.repeats, 1, kind=int)
        if self.start_t is not None:
            check_range("start_t", self.start_t, 0)
        for option in ("clip_denoised", "spherical"):
            check_switch(option, getattr(self, option))
        check_window("travel.window", self.travel.window)
        if self.window is not None:
            check_window("window", self.window)

    # --- the two rules

    def gradient(self, prior: Prior, task, condition, step: Step, x_t: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The task's loss [B], and its gradient per image, like x_t. x0 hangs on x_t if it is taken through the
        network."""
        at = x_t if self.through_network else x0.detach().requires_grad_()
        loss = task.loss(prior.decode(x0 if self.through_network else at), condition)
        (gradient,) = torch.autograd.grad(loss.sum(), at)
        return loss.detach(), gradient

    def combine(self, state: GuidedState) -> Tensor:
        """x_prev of a guided step."""
        if not self.spherical:
            return self.subtract(state)
        mean, deviation = state.mean, state.unguided - state.mean
        x_prev = spherical_gaussian_step(mean, deviation, state.gradient, state.sigma, self.guidance_rate)
        if self.radius == 1:
            return x_prev
        return torch.where(norm(state.gradient) == 0, x_prev, mean + self.radius * (x_prev - mean))

    # --- when

    def wants_guidance(self, step: Step) -> bool:
        """Whether interval and window choose the step."""
        in_window = self.window is None or self.window[0] < step.t <= self.window[1]
        return in_window and step.index % self.interval == 0

    def guides(self, step: Step) -> bool:
        """Whether the step's gradient is used: a step without noise has no sphere."""
        needs_sphere = self.spherical or self.needs_sphere
        return self.wants_guidance(step) and not (needs_sphere and is_noiseless(self.kernel, self.eta, step))

    def repeats(self, step: Step) -> int:
        lo, hi = self.travel.window
        return self.travel.repeats if lo <= step.t <= hi else 1

    # --- the loop

    def reverse_steps(self, schedule: NoiseSchedule) -> list[Step]:
        """From `start_t`, or from the highest level."""
        steps = schedule.steps(self.steps, self.spacing)
        return [step for step in steps if self.start_t is None or step.t <= self.start_t]

    def start(self, prior: Prior, task, condition, z: Tensor) -> Tensor:
        if self.start_t is None:
            return z
        with torch.no_grad():
            image = task.baseline(condition, (len(z), *prior.image_shape)).to(z)
            return self.noised(prior, image, z)

    def noised(self, prior: Prior, image: Tensor, z: Tensor) -> Tensor:
        """The state that the first step begins with, like z, from images [B, *prior.image_shape] in [-1, 1]."""
        alpha_bar = self.reverse_steps(prior.schedule)[0].alpha_bar
        return math.sqrt(alpha_bar) * prior.encode(image) + math.sqrt(1 - alpha_bar) * z

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x, moments = x_T.detach(), moments_of(self.moment)
        for step in self.reverse_steps(prior.schedule):
            repeats = self.repeats(step)
            for repeat in range(repeats):
                state = self.reverse_step(prior, task, condition, x, step, repeat, noise, moments)
                if callback is not None:
                    callback(state)
                if repeat + 1 < repeats:  # back to the noise level of x_t
                    b = step.alpha_bar / step.alpha_bar_prev
                    z = noise(step.index, repeat=repeat, purpose="travel")
                    x = math.sqrt(b) * state.x_prev + math.sqrt(1 - b) * z
            x = state.x_prev
        return x

    def reverse_step(
        self,
        prior: Prior,
        task,
        condition,
        x_t: Tensor,
        step: Step,
        repeat: int,
        noise: Noise,
        moments: Callable[[Tensor], Tensor] | None = None,
    ) -> GuidedState:
        guided = self.guides(step)
        with torch.set_grad_enabled(guided and self.through_network):
            x_t = x_t.detach().requires_grad_(guided and self.through_network)
            prediction = prior.predict(x_t, step.t)
            x0, eps = self.clean(x_t, prediction, step)
        loss = gradient = None
        if guided:
            with torch.enable_grad():
                loss, gradient = self.gradient(prior, task, condition, step, x_t, x0)
            gradient = gradient if moments is None else moments(gradient)
        elif self.wants_guidance(step):  # the loss is told all the same
            with torch.no_grad():
                loss = task.loss(prior.decode(x0), condition)
        x_t, x0, eps, prediction = x_t.detach(), x0.detach(), eps.detach(), _detached(prediction)
        mean, sigma = self.kernel_of(prediction, step, x_t, x0, eps)
        noiseless = not isinstance(sigma, Tensor) and sigma == 0
        unguided = mean if noiseless else mean + sigma * noise(step.index, repeat=repeat, purpose="step")
        state = GuidedState(
            step.index, step.t, repeat, x_t, x0, unguided, loss,
            step, eps, mean, sigma, unguided, gradient, prediction.text_shift,
        )  # fmt: skip
        if gradient is not None:
            state.x_prev = self.combine(state)
        return state

    def clean(self, x_t: Tensor, prediction: Prediction, step: Step) -> tuple[Tensor, Tensor]:
        """x0 and the eps that goes with it, in guided-diffusion's order of operations: long runs amplify rounding."""
        x0, eps = prediction.x0, prediction.eps
        if x0 is not None:
            if self.clip_denoised:
                x0 = x0.clamp(-1, 1)
                eps = (x_t.detach() - math.sqrt(step.alpha_bar) * x0.detach()) / math.sqrt(1 - step.alpha_bar)
            return x0, eps
        per_x, per_eps = math.sqrt(1 / step.alpha_bar), math.sqrt(1 / step.alpha_bar - 1)
        x0 = per_x * x_t - per_eps * eps
        if self.clip_denoised:
            x0 = x0.clamp(-1, 1)
            eps = (per_x * x_t.detach() - x0.detach()) / per_eps
        return x0, eps

    def kernel_of(self, prediction: Prediction, step: Step, x_t: Tensor, x0: Tensor, eps: Tensor):
        """Mean and sigma of the unguided kernel; the variance is the sampler's choice, or the best that the prior
        offers."""
        v = prediction.v
        self.check_variance(v is not None)
        variance = self.variance or ("fixed_small" if v is None else "learned_range")
        return reverse_kernel(self.kernel, self.eta, variance, step, x_t, x0, eps, v)

    # --- what others want to know

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if not self.reverse_steps(prior.schedule):
            raise ValueError(f"sampler.start_t={self.start_t} lies below every level of this schedule")
        if self.start_t is not None and isinstance(task, Task) and not isinstance(task, LinearInverseProblem):
            raise ValueError(f"sampler.start_t={self.start_t}: task={task.name} gives no image to begin from")
        if self.guided and (self.spherical or self.needs_sphere) and self.kernel != "ddpm" and self.eta == 0:
            raise ValueError("sampler.eta=0 draws no noise and leaves no sphere, so nothing is guided: use eta above 0")
        self.check_variance(prior.learns_variance)
        if self.scaling == "text" and not self.spherical and not prior.takes_prompts:
            raise ValueError("sampler.scaling=text needs a prior that follows prompts: use gradient or noise")

    def check_variance(self, learned: bool) -> None:
        """Raises ValueError if the kernel needs a variance that was not `learned`."""
        if self.kernel == "ddpm" and self.variance == "learned_range" and not learned:
            raise ValueError("sampler.variance=learned_range, but this prior learned no variance: use fixed_small")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        order = []
        for step in self.reverse_steps(schedule):
            for repeat in range(self.repeats(step)):
                order += [*self.step_draws(step, repeat), Draw("travel", step.index, repeat)]
            order.pop()  # no travel after the last repeat
        return order

    def step_draws(self, step: Step, repeat: int) -> list[Draw]:
        return [] if is_noiseless(self.kernel, self.eta, step) else [Draw("step", step.index, repeat)]

    def cost(self, schedule: NoiseSchedule) -> Cost:
        steps = self.reverse_steps(schedule)
        forward = sum(self.repeats(step) for step in steps)
        guided = sum(self.repeats(step) for step in steps if self.guides(step))
        return Cost(forward, guided if self.through_network else 0)

    def notes(self, schedule: NoiseSchedule) -> list[str]:
        if not self.guided or any(self.guides(step) for step in self.reverse_steps(schedule)):
            return []
        which = f"sampler.interval={self.interval}, sampler.window={self.window}"
        return [f"no step is guided ({which}): the images will not fit their conditions"]

    @classmethod
    def unused(cls, options: Mapping[str, Any]) -> dict[str, str]:
        unused = {} if options.get("moment") else {"moment": "null changes no gradient"}
        if options["spherical"]:
            unused |= dict.fromkeys(cls.SUBTRACTION, "spherical=true has a guidance_rate instead")
            if options.get("radius", 1) == 1:
                unused["radius"] = "1 is the paper's radius"
        else:
            unused |= dict.fromkeys(("guidance_rate", "radius"), "spherical=false has a step_size instead")
        if options["kernel"] == "ddpm":
            unused["eta"] = "kernel=ddpm has its own noise"
        else:
            unused["variance"] = f"kernel={options['kernel']} has no variance to choose"
        return unused

    @property
    def tunable(self) -> Tunable | None:
        return Tunable("guidance_rate", 0.2, high=1.0) if self.spherical else super().tunable


def _detached(prediction: Prediction) -> Prediction:
    return Prediction(*(None if tensor is None else tensor.detach() for tensor in prediction))
