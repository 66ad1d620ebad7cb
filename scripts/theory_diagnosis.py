"""The paper's premises along ideal trajectories: x_t of the oracle, so that what is measured is the guidance and not its past."""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dsg.ground_truth import GroundTruth
from dsg.noise import rng
from dsg.posterior import explicit_matrix
from dsg.samplers import Sampler, sample
from dsg.theory import cosine, jensen_bound, jensen_gap, laurent_massart, off_manifold, quadratic_gap, tangent_share

DRAWS = 50  # of p(x0 | x_t), for expectations


def diagnose(known: GroundTruth, steps: int) -> list[dict]:
    """A row per t: means over observations and samples."""
    sampler = Sampler(steps=steps, clip_denoised=False)
    rows = []
    for i, posterior in enumerate(known.posteriors):
        noise = known.noise(i, i + 1)
        condition = {k: v[i : i + 1].expand(known.samples, *v.shape[1:]) for k, v in known.condition.items()}
        a = explicit_matrix(known.task, {k: v[i : i + 1] for k, v in known.condition.items()}, known.prior.shape)

        def look(state, condition=condition, a=a, posterior=posterior):
            rows.append({"t": state.t, **premises(known, condition, a, posterior, state.x_t, state.step.alpha_bar)})
            rows[-1]["true_radius"] = true_radius(known.prior, state)

        sample(posterior, None, None, sampler, noise(0, purpose="start"), noise, look)
    return pd.DataFrame(rows).groupby("t", as_index=False).mean().to_dict("records")


def premises(known: GroundTruth, condition: dict, a: Tensor, posterior, x_t: Tensor, ab: float) -> dict[str, float]:
    prior, task = known.prior, known.task
    x_t = x_t.double()
    through, beside = gradients(prior, task, condition, x_t, ab)
    conditional = prior.conditional(x_t, ab)
    x0 = conditional.mean
    exact = posterior.score(x_t, ab) - prior.score(x_t, ab)  # grad log p(y | x_t)
    draws = conditional.sample(DRAWS, torch.Generator().manual_seed(0))
    y = condition["y"].flatten(1).double()
    residual = (y - draws @ a.T).norm(dim=2), (y - x0 @ a.T).norm(dim=1)
    quadratic = jensen_gap(residual[0].square() / 2, residual[1].square() / 2)
    values = {
        "gap_quadratic": quadratic,
        "gap_quadratic_exact": quadratic_gap(a, conditional),
        "gap_bound": jensen_bound(a, conditional),
        "gap_norm": jensen_gap(*residual) / residual[0].mean(0),
        "off_manifold": off_manifold(prior, x0),
        "uncertainty": 1 - conditional.responsibilities.max(dim=1).values,
        "tangent_through": tangent_share(prior, x0, through),
        "tangent_beside": tangent_share(prior, x0, beside),
        "cosine_through": cosine(-through, exact),
        "cosine_beside": cosine(-beside, exact),
    }
    return {name: value.mean().item() for name, value in values.items()}


def true_radius(prior, state) -> float:
    """Of the exact p(x_prev | x_t), over sqrt(n) sigma. The kernel fixes x0; the true step does not know it, and adds its
    uncertainty: |x_prev - mean|^2 = n sigma^2 + c^2 tr Cov[x0 | x_t] on average, c the coefficient of x0 in the posterior mean."""
    step = state.step
    if step.alpha_bar_prev == 1:
        return math.nan
    c = math.sqrt(step.alpha_bar_prev) * step.beta / (1 - step.alpha_bar)
    trace = prior.conditional(state.x_t, step.alpha_bar).trace()
    return (1 + c**2 * trace / (prior.dimension * step.beta_tilde)).sqrt().mean().item()


def gradients(prior, task, condition: dict, x_t: Tensor, ab: float) -> tuple[Tensor, Tensor]:
    """Of the task's loss at E[x0 | x_t]: with respect to x_t (DPS, FreeDoM), and to x0 (MPGD)."""
    x_t = x_t.detach().requires_grad_()
    x0 = prior.denoise(x_t, ab)
    loss = task.loss(x0, condition).sum()
    beside, through = torch.autograd.grad(loss, (x0, x_t))
    return through, beside


def concentration(count: int = 4000, chunk: int = 500) -> pd.DataFrame:
    """|z|^2 for z ~ N(0, I_n): how often it leaves Laurent and Massart's bounds, against exp(-x)."""
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
