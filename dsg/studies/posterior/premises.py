"""The premises of the theory of guidance, as quantities, and their values along ideal trajectories.

Points are [B, d] or [B, C, H, W]. The manifold deviation is known for any run; the others need the closed forms of a
Gaussian mixture.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dsg.constraint import norm, radius
from dsg.noise import rng
from dsg.priors.gaussian_mixture import Conditional, GaussianMixture
from dsg.priors.mixture_posterior import explicit_matrix
from dsg.samplers import GuidedState, Unconditional, sample
from dsg.studies.posterior.ground_truth import GroundTruth

DRAWS = 50  # of p(x0 | x_t), for expectations


def manifold_deviation(state: GuidedState) -> Tensor | None:
    """|x_prev - mean| / (sqrt(n) sigma), [B], with the unguided kernel's mean and sigma. None where sigma = 0.

    1 + O(1/sqrt n) for an unguided step, exactly 1 for DSG; subtracted gradients leave it free.
    """
    if not isinstance(state.sigma, Tensor) and state.sigma == 0:
        return None
    return (norm(state.x_prev - state.mean) / radius(state.sigma, state.mean)).flatten()


# --- the Jensen gap


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


# --- concentration


def laurent_massart(n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of |z|^2, z ~ N(0, I_n): each is left with probability at most exp(-x).

    n - 2 sqrt(n x) below, n + 2 sqrt(n x) + 2 x above (Laurent & Massart, Annals of Statistics 2000, lemma 1).
    """
    return n - 2 * (n * x).sqrt(), n + 2 * (n * x).sqrt() + 2 * x


def concentration(count: int = 4000, chunk: int = 500) -> pd.DataFrame:
    """How often |z|^2, z ~ N(0, I_n), leaves Laurent and Massart's bounds, and their exp(-x)."""
    rows = []
    levels = torch.linspace(0.1, 5, 25, dtype=torch.float64)
    for n in (2, 64, 768, 12288):
        generator = rng("concentration", n)
        draws = [
            np.square(generator.standard_normal((chunk, n), dtype=np.float32)).sum(1) for _ in range(count // chunk)
        ]
        squared = torch.from_numpy(np.concatenate(draws)).double()
        low, high = laurent_massart(n, levels)
        for x, below, above in zip(levels.tolist(), low, high):
            rows.append({
                "n": n, "x": x, "bound": math.exp(-x), "below": (squared <= below).double().mean().item(),
                "above": (squared >= above).double().mean().item(), "radius_std": (squared / n).sqrt().std().item(),
            })  # fmt: skip
    return pd.DataFrame(rows)


# --- the manifold


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


# --- along the oracle's trajectories: the guidance at a point, and not what earlier guidance did


def diagnose(known: GroundTruth, steps: int) -> list[dict]:
    """A row per t: means over observations and samples."""
    sampler = Unconditional(steps=steps, clip_denoised=False)
    rows = []
    for i, posterior in enumerate(known.posteriors):
        condition, noise = known.condition_of(i), known.noise(i, i + 1)
        matrix = explicit_matrix(known.task, {k: v[:1] for k, v in condition.items()}, known.prior.shape)

        def look(state: GuidedState, condition=condition, matrix=matrix, posterior=posterior):
            row = premises(known, condition, matrix, posterior, state.x_t, state.step.alpha_bar)
            rows.append({"t": state.t, **row, "true_radius": true_radius(known.prior, state)})

        sample(posterior, None, None, sampler, noise(0, purpose="start"), noise, look)
    return pd.DataFrame(rows).groupby("t", as_index=False).mean().to_dict("records")


def premises(
    known: GroundTruth, condition: dict, matrix: Tensor, posterior: GaussianMixture, x_t: Tensor, ab: float
) -> dict[str, float]:
    """Gap and manifold quantities at x_t, alpha_bar = ab: means over the batch."""
    prior, x_t = known.prior, x_t.double()
    through, beside = gradients(prior, known.task, condition, x_t, ab)
    conditional = prior.conditional(x_t, ab)
    x0 = conditional.mean
    exact = posterior.score(x_t, ab) - prior.score(x_t, ab)  # grad log p(y | x_t)
    draws = conditional.sample(DRAWS, torch.Generator().manual_seed(0))
    y = condition["y"].flatten(1).double()
    residual = (y - draws @ matrix.T).norm(dim=2), (y - x0 @ matrix.T).norm(dim=1)
    values = {
        "gap_quadratic": jensen_gap(residual[0].square() / 2, residual[1].square() / 2),
        "gap_quadratic_exact": quadratic_gap(matrix, conditional),
        "gap_bound": jensen_bound(matrix, conditional),
        "gap_norm": jensen_gap(*residual) / residual[0].mean(0),
        "off_manifold": off_manifold(prior, x0),
        "uncertainty": 1 - conditional.responsibilities.max(dim=1).values,
        "tangent_through": tangent_share(prior, x0, through),
        "tangent_beside": tangent_share(prior, x0, beside),
        "cosine_through": cosine(-through, exact),
        "cosine_beside": cosine(-beside, exact),
    }
    return {name: value.mean().item() for name, value in values.items()}


def true_radius(prior: GaussianMixture, state: GuidedState) -> float:
    """Root mean square of |x_prev - mean| under the exact p(x_prev | x_t), over sqrt(n) sigma; NaN where sigma = 0.

    The kernel takes x0 for known. In the exact step x0 is uncertain: on average
    |x_prev - mean|^2 = n sigma^2 + c^2 tr Cov[x0 | x_t], c being the factor of x0 in the posterior mean.
    """
    step = state.step
    if step.alpha_bar_prev == 1:
        return math.nan
    trace = prior.conditional(state.x_t, step.alpha_bar).trace()
    return (1 + step.posterior_x0**2 * trace / (prior.dimension * step.beta_tilde)).sqrt().mean().item()


def gradients(prior: GaussianMixture, task, condition: dict, x_t: Tensor, ab: float) -> tuple[Tensor, Tensor]:
    """The gradient of the task's loss at E[x0 | x_t], by x_t (DPS, FreeDoM) and by x0 (MPGD)."""
    x_t = x_t.detach().requires_grad_()
    x0 = prior.denoise(x_t, ab)
    loss = task.loss(x0, condition).sum()
    beside, through = torch.autograd.grad(loss, (x0, x_t))
    return through, beside
