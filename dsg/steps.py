"""The constrained step for loops of one's own: after DDIM's or a flow's prediction, instead of the scheduler's step.

Both are the stochastic process with the network's marginals, eta = 1, whose noise has a sphere; without a gradient they
take its unguided step, and at eta = 0 the deterministic one.
"""

import math

import torch
from torch import Tensor

from dsg.constraint import spherical_gaussian_step
from dsg.schedule import Step, reverse_kernel


def ddim_step(
    x_t: Tensor, eps: Tensor, alpha_bar: float, alpha_bar_prev: float, gradient: Tensor | None = None,
    z: Tensor | None = None, guidance_rate: float = 0.2, eta: float = 1.0,
) -> Tensor:  # fmt: skip
    """From x_t = sqrt(ab) x0 + sqrt(1-ab) eps to x_prev (DDIM, arXiv 2010.02502), under DSG where there is a gradient.

    Args:
        x_t, eps: [B, ...] the state, and the noise that the network predicts.
        alpha_bar, alpha_bar_prev: ab > 0 now and after the step; 1 at the end.
        gradient: [B, ...] of the loss, per image; only its direction matters. None: no guidance.
        z: [B, ...] standard normal; None: drawn here.
        guidance_rate: g_r of DSG, in [0, 1].
        eta: of DDIM, in [0, 1].

    Returns:
        [B, ...] x_prev, detached.

    Raises:
        ValueError: a gradient at eta = 0: without noise there is no sphere.
    """
    x_t, eps = x_t.detach(), eps.detach()
    x0 = math.sqrt(1 / alpha_bar) * x_t - math.sqrt(1 / alpha_bar - 1) * eps
    return _step(x_t, x0, eps, Step(0, 0, alpha_bar, alpha_bar_prev), gradient, z, guidance_rate, eta)


def flow_step(
    x_s: Tensor, u: Tensor, s: float, s_prev: float, gradient: Tensor | None = None, z: Tensor | None = None,
    guidance_rate: float = 0.2, eta: float = 1.0,
) -> Tensor:  # fmt: skip
    """From x_s = (1-s) x0 + s eps to x_{s_prev}: the same on a rectified flow, whose network predicts u = eps - x0.

    The other arguments, and what is returned, are those of `ddim_step`. At eta = 0 it is the Euler step
    x_s + (s_prev - s) u of `FlowMatchEulerDiscreteScheduler`, whose `sigmas` are s.

    Args:
        x_s, u: [B, ...] the state, and what the network predicts.
        s, s_prev: in [0, 1], s_prev < s.
    """
    x_s, u = x_s.detach(), u.detach()
    scale, scale_prev = math.hypot(1 - s, s), math.hypot(1 - s_prev, s_prev)  # of the path that preserves variance
    step = Step(0, 0, ((1 - s) / scale) ** 2, ((1 - s_prev) / scale_prev) ** 2)
    moved = _step(x_s / scale, x_s - s * u, x_s + (1 - s) * u, step, gradient, z, guidance_rate, eta)
    return moved * scale_prev


def _step(
    x: Tensor, x0: Tensor, eps: Tensor, step: Step, gradient: Tensor | None, z: Tensor | None, rate: float, eta: float
) -> Tensor:
    if gradient is not None and eta == 0:
        raise ValueError("eta=0 draws no noise and leaves no sphere for the gradient: use eta above 0")
    mean, sigma = reverse_kernel("ddim", eta, "", step, x, x0, eps, None)
    if sigma == 0:
        return mean
    unguided = mean + sigma * (torch.randn_like(x) if z is None else z)
    return unguided if gradient is None else spherical_gaussian_step(mean, unguided - mean, gradient, sigma, rate)
