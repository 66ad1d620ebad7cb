"""What the theory of guidance speaks of, as quantities. Points are [B, d] or [B, C, H, W].

The manifold deviation can be had of any run. The others need closed forms, and are of a Gaussian mixture.
"""

import math

import torch
from torch import Tensor

from dsg.priors.gaussian_mixture import Conditional, GaussianMixture
from dsg.samplers import GuidedState


def jensen_gap(values: Tensor, at_mean: Tensor) -> Tensor:
    """E f(x0) - f(E x0), [B], from f of draws [count, B] of p(x0 | x_t) and f of its mean [B]."""
    return values.mean(0) - at_mean


def quadratic_gap(matrix: Tensor, conditional: Conditional) -> Tensor:
    """The gap of f = |y - A x0|^2/2 in closed form, tr(A Cov A^T)/2, [B]. It does not depend on y."""
    return 0.5 * torch.einsum("md,bde,me->b", matrix, conditional.dense(), matrix)


def jensen_bound(matrix: Tensor, conditional: Conditional) -> Tensor:
    """The lower bound (beta/2) tr Cov[x0 | x_t] of the gap, [B] (DSG, section 3).

    f = |y - A x0|^2/2 is beta-strongly convex with beta = sigma_min(A)^2. That is 0 where A has fewer rows than columns
    or loses a direction.
    """
    rows, columns = matrix.shape
    beta = 0.0 if rows < columns else torch.linalg.svdvals(matrix)[-1].item() ** 2
    return 0.5 * beta * conditional.trace()


def laurent_massart(n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of |z|^2, z ~ N(0, I_n): each is left with probability at most exp(-x).

    n - 2 sqrt(n x) below, n + 2 sqrt(n x) + 2 x above (Laurent & Massart, Annals of Statistics 2000, lemma 1).
    """
    return n - 2 * (n * x).sqrt(), n + 2 * (n * x).sqrt() + 2 * x


def nearest_subspace(mixture: GaussianMixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each point to the nearest of the affine subspaces mu_k + span U_k, [B], and its k, [B]."""
    _, _, outside = mixture.project(x, 1.0)
    squared, k = outside.min(1)
    return squared.sqrt(), k


def off_manifold(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Distance to the nearest subspace over floor sqrt(d - r), [B]: about 1 for draws of the mixture."""
    distance, k = nearest_subspace(mixture, x)
    rest = mixture.dimension - mixture.basis.shape[2]
    return distance / (mixture.outside[k].sqrt() * math.sqrt(rest))


def tangent_share(mixture: GaussianMixture, x: Tensor, gradient: Tensor) -> Tensor:
    """Share of |gradient|^2 along the subspace nearest to x, [B].

    1 if the linear-manifold assumption (Chung et al., arXiv 2206.00941) holds, r/d on average for a random direction.
    """
    _, k = nearest_subspace(mixture, x)
    flat = gradient.flatten(1).to(mixture.basis)
    inside = torch.einsum("bdr,bd->br", mixture.basis[k], flat)
    return inside.square().sum(1) / flat.square().sum(1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between a and b, [B]."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def manifold_deviation(state: GuidedState) -> Tensor | None:
    """|x_prev - mean| / (sqrt(n) sigma), [B], mean and sigma being the unguided kernel's. None where sigma = 0.

    1 + O(1/sqrt n) for an unguided step, exactly 1 for DSG; subtracted gradients leave it free.
    """
    if not isinstance(state.sigma, Tensor) and state.sigma == 0:
        return None
    sigma = torch.as_tensor(state.sigma, dtype=state.mean.dtype, device=state.mean.device).expand_as(state.mean)
    return (state.x_prev - state.mean).flatten(1).norm(dim=1) / sigma.flatten(1).norm(dim=1)
