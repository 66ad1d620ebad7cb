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

    Everything is per image. An image with zero gradient, or sigma = 0, gets the unguided step; a NaN stays a NaN.

    Args:
        mean: [B, ...] mean of the unconditional reverse kernel.
        deviation: [B, ...] sigma * z, the random part of the unconditional step.
        grad: [B, ...] gradient of the loss, per image; only its direction matters.
        sigma: the kernel's standard deviation: a number, a [B] tensor, or a field shaped like `mean`, of which r
            is the norm.
        guidance_rate: g_r in [0, 1], a number or a [B] tensor (not checked): 0 follows the noise, 1 the gradient.
        eps: added to the norms in denominators, as in the released code.

    Returns:
        [B, ...] x_prev, at distance r from `mean` for every guided image.

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
