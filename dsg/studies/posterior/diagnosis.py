"""The paper's premises along ideal trajectories.

x_t is the oracle's, so that what is seen is the guidance at a point and not what earlier guidance did.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dsg.noise import rng
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.priors.mixture_posterior import explicit_matrix
from dsg.samplers import GuidedState, Unconditional, sample
from dsg.studies.posterior.ground_truth import GroundTruth
from dsg.studies.posterior.quantities import (
    cosine,
    jensen_bound,
    jensen_gap,
    laurent_massart,
    off_manifold,
    quadratic_gap,
    tangent_share,
)

DRAWS = 50  # of p(x0 | x_t), for expectations


def diagnose(known: GroundTruth, steps: int) -> list[dict]:
    """A row per t: means over observations and samples."""
    sampler = Unconditional(steps=steps, clip_denoised=False)
    rows = []
    for i, posterior in enumerate(known.posteriors):
        condition, noise = known.condition_of(i), known.noise(i, i + 1)
        matrix = explicit_matrix(known.task, {k: v[i : i + 1] for k, v in known.condition.items()}, known.prior.shape)

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

    The kernel takes x0 for known. The exact step does not, and its uncertainty comes in: on average
    |x_prev - mean|^2 = n sigma^2 + c^2 tr Cov[x0 | x_t], c being the factor of x0 in the posterior mean.
    """
    step = state.step
    if step.alpha_bar_prev == 1:
        return math.nan
    trace = prior.conditional(state.x_t, step.alpha_bar).trace()
    return (1 + step.posterior_x0**2 * trace / (prior.dimension * step.beta_tilde)).sqrt().mean().item()


def gradients(prior: GaussianMixture, task, condition: dict, x_t: Tensor, ab: float) -> tuple[Tensor, Tensor]:
    """Of the task's loss at E[x0 | x_t]: with respect to x_t (DPS, FreeDoM), and to x0 (MPGD)."""
    x_t = x_t.detach().requires_grad_()
    x0 = prior.denoise(x_t, ab)
    loss = task.loss(x0, condition).sum()
    beside, through = torch.autograd.grad(loss, (x0, x_t))
    return through, beside


def concentration(count: int = 4000, chunk: int = 500) -> pd.DataFrame:
    """How often |z|^2, z ~ N(0, I_n), leaves Laurent and Massart's bounds, beside exp(-x)."""
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
