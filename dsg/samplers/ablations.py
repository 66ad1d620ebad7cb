"""The subtracted step: the step sizes of the released codes, and the parts of DSG one by one.

DSG needs none of this. The additive controls (configs/sampler/*additive.yaml) and the suite `factors` are made of the
options `scaling=sphere`, `projected` and `keeps_noise`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dsg.constraint import norm, radius
from dsg.samplers.base import Sampler, Tunable, check_choice, check_range, check_switch, check_window
from dsg.schedule import Step

SCALINGS = ("gradient", "noise", "text", "residual", "sphere")
STARTS = {"residual": 1.0, "sphere": 0.3}  # of the search for a step size, by scaling
Window = Annotated[Sequence[float], Field(description="[lo, hi]")]


@dataclass
class Boost:
    """The step size is multiplied by `factor` where lo <= t <= hi (MPGD's CLIP code)."""

    factor: float = 1.0
    window: Window = (200, 500)


@dataclass
class SubtractingSampler(Sampler):
    """A sampler that can subtract a scaled gradient from the unguided step.

    Args:
        step_size: factor of the subtracted gradient (DPS's zeta, FreeDoM's rho, MPGD's scale).
        scaling: a further factor, per image; null is the method's own, constant but for FreeDoM's sqrt(ab_t).
            With RMS over the entries of an image, g the gradient, c1 the posterior mean's factor of x0:
            gradient: 1/RMS(g);  noise: c1 RMS(eps) sqrt((1-ab_t)/ab_t)/RMS(g);  text: RMS(s (eps_text -
            eps_0))/RMS(g), s the scale of classifier-free guidance, which asks for a prior with a prompt;
            residual: the loss, so that the step follows the gradient of half its square;
            sphere: sqrt(n) sigma_t/|g|, the radius of DSG's sphere (steps without noise are not guided then).
        projected: put the guided step back on the sphere of radius sqrt(n) sigma_t around the kernel's mean.
        keeps_noise: false shrinks the noise by the share of that radius which the subtracted gradient takes.
        boost: a larger step size in a window of t.
    """

    step_size: float = 0.5
    scaling: str | None = None
    projected: bool = False
    keeps_noise: bool = True
    boost: Boost = field(default_factory=Boost)

    SUBTRACTION: ClassVar = ("step_size", "scaling", "projected", "keeps_noise", "boost")

    def __post_init__(self):
        super().__post_init__()
        self.boost = self.boost if isinstance(self.boost, Boost) else Boost(**(self.boost or {}))
        if self.scaling is not None:
            check_choice("scaling", self.scaling, SCALINGS)
        check_range("step_size", self.step_size, 0)
        check_range("boost.factor", self.boost.factor, 0)
        check_window("boost.window", self.boost.window)
        for option in ("projected", "keeps_noise"):
            check_switch(option, getattr(self, option))

    @property
    def is_control(self) -> bool:
        """Whether this is the additive control of DSG: steps of the sphere's length, added to the noise."""
        return (self.scaling, self.projected, self.keeps_noise) == ("sphere", False, True)

    @property
    def needs_sphere(self) -> bool:
        """Whether a subtracted step needs noise."""
        return self.projected or self.scaling == "sphere"

    @property
    def tunable(self) -> Tunable | None:
        whole = 1.0 if self.scaling == "sphere" and not self.keeps_noise else math.inf  # no noise is left at 1
        return Tunable("step_size", STARTS.get(self.scaling, 4.0), high=whole)

    def subtract(self, state) -> Tensor:
        """x_prev of a guided step (`dsg.samplers.guided.GuidedState`)."""
        step = self.step_length(state.step) * self.scaled(state)
        if not self.projected and self.keeps_noise:
            return state.unguided - step
        deviation = state.unguided - state.mean
        return subtracted_step(state.mean, deviation, step, state.sigma, self.projected, self.keeps_noise)

    def step_length(self, step: Step) -> float:
        """The factor of the scaled gradient."""
        lo, hi = self.boost.window
        return self.step_size * (self.boost.factor if lo <= step.t <= hi else 1)

    def scaled(self, state) -> Tensor:
        """The gradient times the factor that `scaling` names."""
        if self.scaling is None:
            return state.gradient
        if self.scaling == "residual":
            return state.gradient * state.loss.reshape(-1, *[1] * (state.gradient.ndim - 1))
        if self.scaling == "sphere":
            return state.gradient / norm(state.gradient).clamp_min(1e-20) * radius(state.sigma, state.mean)
        unit = state.gradient / _rms(state.gradient).clamp_min(1e-20)
        if self.scaling == "noise":
            odds = math.sqrt((1 - state.step.alpha_bar) / state.step.alpha_bar)
            return unit * (state.step.posterior_x0 * odds * _rms(state.eps))
        if self.scaling == "text":  # without a prompt there is no text to follow
            return unit * (0 if state.text_shift is None else _rms(state.text_shift))
        return unit


def subtracted_step(
    mean: Tensor, deviation: Tensor, step: Tensor, sigma: float | Tensor, projected: bool, keeps_noise: bool
) -> Tensor:
    """The parts of `spherical_gaussian_step`, one by one: with neither, x_prev = mean + deviation - step.

    With |step| = guidance_rate r, projected and without its noise kept, it is DSG.

    Args:
        mean, deviation, sigma: as in `dsg.constraint.spherical_gaussian_step`.
        step: [B, ...] the scaled gradient.
        projected: put the sum of deviation and step back on the sphere of radius r around the mean.
        keeps_noise: false shrinks the deviation by the share of the radius that the step takes, to
            (1 - |step|/r) deviation, and to nothing where the step is longer than r.

    Returns:
        [B, ...] x_prev. Nothing is projected where there is no step or no sphere (r = 0).
    """
    if not (projected or not keeps_noise):
        return mean + deviation - step
    r, length = radius(sigma, mean), norm(step)
    if not keeps_noise:
        deviation = deviation * (1 - length / r.clamp_min(1e-20)).clamp(0, 1)
    moved = deviation - step
    if not projected:
        return mean + moved
    on_sphere = mean + moved / norm(moved).clamp_min(1e-20) * r
    return torch.where((length == 0) | (r == 0), mean + moved, on_sphere)


def _rms(x: Tensor) -> Tensor:
    """Root mean square per image, [B, 1, ...]."""
    return x.square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt()
