"""Guided sampling: one loop, in which DPS, FreeDoM and MPGD, each with or without DSG, differ in two places.

Every reverse step is five lines: predict x0, take a gradient of the task's loss, compute the reverse kernel's mean and
sigma, draw noise, combine. The methods differ in where the gradient is taken (`gradient_at`: x_t, through the network, or
x0, beside it), and in `combine` (subtracted with `step_length`, or under the spherical constraint).
Interval, window and time travel belong to the loop.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsg.constraint import spherical_gaussian_step
from dsg.schedule import KERNELS, SPACINGS, VARIANCES, NoiseSchedule, Step, reverse_kernel

PURPOSES = ("step", "travel")
SCALINGS = ("gradient", "noise", "text")


@dataclass
class Travel:
    """Time travel (FreeDoM, algorithm 2): a step with lo <= t <= hi is taken `repeats` times."""

    repeats: int = 1
    window: Sequence[int] = (400, 700)


@dataclass
class Boost:
    """The step size is multiplied by `factor` where lo <= t <= hi (MPGD's CLIP code)."""

    factor: float = 1.0
    window: Sequence[int] = (200, 500)


@dataclass
class Sampler:
    """Settings of the loop. On its own the unconditional sampler; the hosts below add a gradient.

    Args:
        name: what results are filed under.
        steps: S >= 2 reverse steps.
        kernel: ddim, ddpm or freedom (`dsg.schedule.reverse_kernel`).
        eta: noise of the ddim and freedom kernels, in [0, 1]; ddpm has none to choose.
        spacing: linspace or leading (`NoiseSchedule.timesteps`).
        variance: of kernel ddpm: learned_range or fixed_small; null takes the learned one where the prior has it.
        clip_denoised: clamp x0 to [-1, 1] (the gradient flows through the clamp) and recompute eps from it.
        spherical: DSG, the spherical Gaussian constraint, instead of a subtraction.
        guidance_rate: g_r of DSG, in [0, 1].
        interval: guided where step index % interval == 0, the plain step elsewhere.
        step_size: factor of the subtracted gradient (DPS's zeta, FreeDoM's rho, MPGD's scale).
        scaling: what else multiplies it, per image; null is the host's own, constant but for FreeDoM's sqrt(ab_t). With
            RMS over the entries of an image, g the gradient, c1 the posterior mean's factor of x0:
            gradient: 1/RMS(g);  noise: c1 RMS(eps) sqrt((1-ab_t)/ab_t)/RMS(g);  text: RMS(s (eps_text - eps_0))/RMS(g), s the scale of
            classifier-free guidance, which asks for a prior with a prompt.
        boost: a larger step size in a window of t.
        window: guided for lo < t <= hi only; null is everywhere.
        travel: time travel.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "unconditional"
    steps: int = 100
    kernel: str = "ddim"
    eta: float = 1.0
    spacing: str = "linspace"
    variance: str | None = None
    clip_denoised: bool = True
    spherical: bool = False
    guidance_rate: float = 0.2
    interval: int = 1
    step_size: float = 0.5
    scaling: str | None = None
    boost: Boost = field(default_factory=Boost)
    window: Sequence[int] | None = None
    travel: Travel = field(default_factory=Travel)

    gradient_at = None  # "x_t": through the network; "x0": beside it; None: no guidance

    def __post_init__(self):
        if not isinstance(self.travel, Travel):
            self.travel = Travel(**(self.travel or {}))
        if not isinstance(self.boost, Boost):
            self.boost = Boost(**(self.boost or {}))
        if self.scaling is not None:
            _choice("scaling", self.scaling, SCALINGS)
        _range("boost.factor", self.boost.factor, 0, math.inf)
        _window("boost.window", self.boost.window)
        _choice("kernel", self.kernel, KERNELS)
        _choice("spacing", self.spacing, SPACINGS)
        if self.variance is not None:
            _choice("variance", self.variance, VARIANCES)
        _range("steps", self.steps, 2, math.inf, int)
        _range("eta", self.eta, 0, 1)
        _range("guidance_rate", self.guidance_rate, 0, 1)
        _range("interval", self.interval, 1, math.inf, int)
        _range("step_size", self.step_size, 0, math.inf)
        _range("travel.repeats", self.travel.repeats, 1, math.inf, int)
        _switch("clip_denoised", self.clip_denoised)
        _switch("spherical", self.spherical)
        _window("travel.window", self.travel.window)
        if self.window is not None:
            _window("window", self.window)

    def step_length(self, step: Step) -> float:
        """What the (scaled) gradient is multiplied by when it is subtracted."""
        lo, hi = self.boost.window
        return self.step_size * (self.boost.factor if lo <= step.t <= hi else 1)

    def scale(self, step: Step, gradient: Tensor, eps: Tensor, prior) -> Tensor:
        """The gradient times what `scaling` says; untouched under the spherical constraint, where its length is of no account."""
        if self.scaling is None or self.spherical:
            return gradient
        unit = gradient / _rms(gradient).clamp_min(1e-20)
        if self.scaling == "noise":
            odds = math.sqrt((1 - step.alpha_bar) / step.alpha_bar)
            return unit * (step.posterior_x0 * odds * _rms(eps))
        return unit * prior.text_rms[:, None, None, None].to(unit) if self.scaling == "text" else unit

    def combine(self, step: Step, mean: Tensor, plain: Tensor, gradient: Tensor, sigma: float | Tensor) -> Tensor:
        """x_prev of a guided step, from the plain step mean + sigma z and the gradient."""
        if self.spherical:
            return spherical_gaussian_step(mean, plain - mean, gradient, sigma, self.guidance_rate)
        return plain - self.step_length(step) * gradient

    def guides(self, step: Step) -> bool:
        in_window = self.window is None or self.window[0] < step.t <= self.window[1]
        return self.gradient_at is not None and in_window and step.index % self.interval == 0

    def repeats(self, step: Step) -> int:
        lo, hi = self.travel.window
        return self.travel.repeats if lo <= step.t <= hi else 1


class DPS(Sampler):
    """Chung et al., "Diffusion Posterior Sampling", arXiv 2209.14687: x_prev -= zeta grad_{x_t} |y - A(x0)|."""

    gradient_at = "x_t"


class FreeDoM(Sampler):
    """Yu et al., "FreeDoM", arXiv 2303.09833: x_prev -= rho_t grad_{x_t} loss, with time travel.

    rho_t = step_size sqrt(ab_t), as in its face code; for linear tasks FreeDoM gives no recipe, this is ours. Its CLIP and style
    codes have other rules: `scaling`.
    """

    gradient_at = "x_t"

    def step_length(self, step: Step) -> float:
        return super().step_length(step) * (math.sqrt(step.alpha_bar) if self.scaling is None else 1)


class MPGD(Sampler):
    """He et al., "Manifold Preserving Guided Diffusion", arXiv 2311.16424, without projection.

    x0 -= (scale/sqrt(ab_prev)) grad_{x0} loss with eps kept: in the ddim and freedom kernels that is x_prev -= scale
    grad_{x0}, so it combines as DPS does; in ddpm the posterior mean's factor of x0 comes in. Its style code (scaling: text) leaves
    1/sqrt(ab_prev) out. No backward pass through the network.
    """

    gradient_at = "x0"

    def step_length(self, step: Step) -> float:
        per_x0 = step.posterior_x0 if self.kernel == "ddpm" else math.sqrt(step.alpha_bar_prev)
        return super().step_length(step) * per_x0 / (1 if self.scaling == "text" else math.sqrt(step.alpha_bar_prev))


@dataclass
class StepState:
    """What a `callback` sees of a step: tensors [B, C, H, W], detached; `loss` [B].

    `plain` = mean + sigma z is the unguided step; `gradient` and `loss` are None where the step was not guided;
    `sigma` is a number or a field like x_t.
    """

    step: Step
    repeat: int
    x_t: Tensor
    x0: Tensor
    eps: Tensor
    mean: Tensor
    sigma: float | Tensor
    plain: Tensor
    gradient: Tensor | None
    loss: Tensor | None
    x_prev: Tensor

    @property
    def index(self) -> int:
        return self.step.index

    @property
    def t(self) -> int:
        return self.step.t


def sample(
    prior,
    task,
    condition,
    sampler: Sampler,
    x_T: Tensor,
    noise: Callable[..., Tensor] | None = None,
    callback: Callable[[StepState], None] | None = None,
) -> Tensor:
    """Run the reverse process from x_T under the guidance of `task.loss(image, condition)`.

    Args:
        prior: see `dsg.priors`: `schedule`, `predict(x_t, t) -> (eps, v or None)`, `decode(x0) -> image`.
        task: any object with `loss(images [B, C, H, W] in [-1, 1], condition) -> [B]`. Unused without guidance.
        condition: what the task's loss takes, for the whole batch.
        x_T: [B, C, H, W] standard normal start.
        noise: `noise(step_index, repeat=0, purpose="step"|"travel") -> z` like x_T; fresh draws if None.
        callback: called with the `StepState` of every step.

    Returns:
        [B, C, H, W]: the sample, unclamped, in the prior's space (`prior.decode` gives the image).

    Raises:
        ValueError: if the prior cannot do what the sampler asks.
    """
    noise = noise or _fresh_noise(x_T)
    x = x_T.detach()
    for step in prior.schedule.steps(sampler.steps, sampler.spacing):
        repeats = sampler.repeats(step)
        for repeat in range(repeats):
            state = reverse_step(prior, task, condition, sampler, x, step, repeat, noise)
            if callback is not None:
                callback(state)
            if repeat + 1 < repeats:  # back to the noise level of x_t
                b = step.alpha_bar / step.alpha_bar_prev
                z = noise(step.index, repeat=repeat, purpose="travel")
                x = math.sqrt(b) * state.x_prev + math.sqrt(1 - b) * z
        x = state.x_prev
    return x


def draws(sampler: Sampler, schedule: NoiseSchedule, purposes: Sequence[str] = PURPOSES) -> list[tuple[str, int, int]]:
    """(purpose, step index, repeat) of every noise that `sample` may ask for, in its order."""
    order = []
    for step in schedule.steps(sampler.steps, sampler.spacing):
        for repeat in range(sampler.repeats(step)):
            order += [("step", step.index, repeat), ("travel", step.index, repeat)]
        order.pop()  # no travel after the last repeat
    return [draw for draw in order if draw[0] in purposes]


def reverse_step(prior, task, condition, sampler: Sampler, x_t: Tensor, step: Step, repeat: int, noise) -> StepState:
    """The five lines."""
    guided = sampler.guides(step)
    x0, eps, v, gradient, loss = predict(prior, task, condition, sampler, x_t, step, guided)
    mean, sigma = reverse_kernel(sampler.kernel, sampler.eta, variance(sampler, v), step, x_t, x0, eps, v)
    silent = not isinstance(sigma, Tensor) and sigma == 0
    plain = mean if silent else mean + sigma * noise(step.index, repeat=repeat, purpose="step")
    x_prev = plain
    if gradient is not None:
        x_prev = sampler.combine(step, mean, plain, sampler.scale(step, gradient, eps, prior), sigma)
    return StepState(step, repeat, x_t, x0, eps, mean, sigma, plain, gradient, loss, x_prev)


def predict(prior, task, condition, sampler: Sampler, x_t: Tensor, step: Step, guided: bool):
    """x0, eps, v, and the gradient and loss of a guided step; all detached, no graph where none is needed."""
    through_network = guided and sampler.gradient_at == "x_t"
    with torch.set_grad_enabled(through_network):
        x_t = x_t.detach().requires_grad_(through_network)
        eps, v = prior.predict(x_t, step.t)
        # in guided-diffusion's order of operations: long runs amplify rounding
        per_x, per_eps = math.sqrt(1 / step.alpha_bar), math.sqrt(1 / step.alpha_bar - 1)
        x0 = per_x * x_t - per_eps * eps
        if sampler.clip_denoised:
            x0 = x0.clamp(-1, 1)
            eps = (per_x * x_t.detach() - x0.detach()) / per_eps
    gradient = loss = None
    if guided:
        with torch.enable_grad():
            at = x_t if through_network else x0.detach().requires_grad_()
            loss = task.loss(prior.decode(x0 if through_network else at), condition)
            (gradient,) = torch.autograd.grad(loss.sum(), at)
        loss = loss.detach()
    return x0.detach(), eps.detach(), None if v is None else v.detach(), gradient, loss


def variance(sampler: Sampler, v: Tensor | None) -> str:
    """The sampler's choice, or the best that the prior offers."""
    if sampler.kernel == "ddpm" and sampler.variance == "learned_range" and v is None:
        raise ValueError("sampler.variance=learned_range, but this prior learned no variance: use fixed_small")
    return sampler.variance or ("fixed_small" if v is None else "learned_range")


def _rms(x: Tensor) -> Tensor:
    """Root mean square per image, [B, 1, ...]."""
    return x.square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt()


def _fresh_noise(like: Tensor) -> Callable[..., Tensor]:
    return lambda step_index, repeat=0, purpose="step": torch.randn_like(like)


def _choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"sampler.{option}={value} is unknown: one of {', '.join(choices)}")


def _switch(option: str, value) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"sampler.{option}={value}: true or false")


def _window(option: str, value) -> None:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or len(value) != 2 or not all(isinstance(t, (int, float)) for t in value) or value[0] > value[1]:
        raise ValueError(f"sampler.{option}={value}: expected [lo, hi], numbers with lo <= hi")


def _range(option: str, value, low: float, high: float, kind: type = float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (kind is int and not isinstance(value, int)) or not low <= value <= high:
        allowed = f"at least {low}" if high == math.inf else f"{low} to {high}"
        raise ValueError(f"sampler.{option}={value} is out of range: {'an integer, ' if kind is int else ''}{allowed}")
