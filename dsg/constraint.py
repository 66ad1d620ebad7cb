"""The spherical Gaussian constraint: Yang et al., "Guidance with Spherical Gaussian Constraint for Conditional
Diffusion", ICML 2024 (arXiv 2402.03201), algorithm 1."""

import math

import torch
from torch import Tensor


def spherical_gaussian_step(
    mean: Tensor,
    deviation: Tensor,
    grad: Tensor,
    sigma: float | Tensor,
    guidance_rate: float | Tensor,
    eps: float = 1e-8,
) -> Tensor:
    """Replace a sampler's `x_prev = mean + deviation` by the guided step of the same length.

    In n dimensions sigma z lies, nearly surely, on the sphere of radius r = sqrt(n) sigma around the mean. On that
    sphere the linearised loss is least at d* = -r grad/|grad| (eq. 12); the step goes toward d*, mixed with the
    random one, and is put back on the sphere (eq. 15):

        d_m = deviation + guidance_rate (d* - deviation),   x_prev = mean + r d_m/|d_m|.

    Everything is per image. An image with zero gradient, or sigma = 0, gets the unguided step; elsewhere a NaN stays
    a NaN.

    Args:
        mean: [B, ...] mean of the unconditional reverse kernel.
        deviation: [B, ...] sigma * z, what the unconditional step would add.
        grad: [B, ...] gradient of the loss, per image; only its direction matters (as long as its norm is large beside
            `eps`).
        sigma: the kernel's standard deviation: a number, a [B] tensor, or a field shaped like `mean`, of which r
            is the norm.
        guidance_rate: g_r in [0, 1], a number or a [B] tensor (not checked): 0 follows the noise, 1 the gradient.
        eps: added to the norms that are divided by, as in the released code; scale a loss whose gradient is as small
            up.

    Returns:
        [B, ...] x_prev, at distance r of `mean` for every guided image (to within eps/r).

    Raises:
        ValueError: shapes that do not fit, or a guidance rate outside [0, 1].
    """
    if not mean.shape == deviation.shape == grad.shape:
        raise ValueError(f"mean, deviation and grad differ in shape: {mean.shape}, {deviation.shape}, {grad.shape}")
    if isinstance(guidance_rate, (int, float)) and not 0 <= guidance_rate <= 1:
        raise ValueError(f"guidance_rate={guidance_rate} is outside [0, 1]")
    r = radius(sigma, mean)
    grad_norm = norm(grad)
    d_star = -r * grad / (grad_norm + eps)
    d_m = deviation + _per_image(guidance_rate, mean) * (d_star - deviation)
    d_m_norm = norm(d_m)
    guided = mean + d_m / (d_m_norm + eps) * r
    return torch.where((grad_norm == 0) | (r == 0) | (d_m_norm == 0), mean + deviation, guided)


def subtracted_step(
    mean: Tensor, deviation: Tensor, step: Tensor, sigma: float | Tensor, projected: bool, keeps_noise: bool
) -> Tensor:
    """The parts of `spherical_gaussian_step`, one by one: with neither, x_prev = mean + deviation - step.

    With |step| = guidance_rate r, projected and without its noise kept, it is DSG.

    Args:
        mean, deviation, sigma: as of `spherical_gaussian_step`.
        step: [B, ...] what is subtracted.
        projected: put the sum of deviation and step back on the sphere of radius r around the mean.
        keeps_noise: false shrinks the deviation by the share of the radius that the step takes, to
            (1 - |step|/r) deviation, and to nothing where the step is longer than r.

    Returns:
        [B, ...] x_prev. Where there is no step, or no sphere to be put on (r = 0), nothing is projected.
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


def radius(sigma: float | Tensor, like: Tensor) -> Tensor:
    """r = sqrt(n) sigma, [B, 1, ...]; the norm of a sigma field, which is the same for a constant one."""
    if isinstance(sigma, Tensor) and sigma.ndim == like.ndim and sigma.shape[1:] != (1,) * (like.ndim - 1):
        return norm(sigma.expand_as(like).to(like))
    n = like[0].numel()
    return math.sqrt(n) * _per_image(sigma, like)


def norm(x: Tensor) -> Tensor:
    """L2 norm per image, [B, 1, ...]."""
    return _per_image(x.flatten(1).norm(dim=1), x)


def _per_image(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or [B] tensor as [B, 1, ...] (or [1, 1, ...]), to broadcast against `like`."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if value.numel() not in (1, len(like)):
        raise ValueError(f"sigma or guidance_rate of shape {tuple(value.shape)} does not fit a batch of {len(like)}")
    return value.reshape(-1, *[1] * (like.ndim - 1))
