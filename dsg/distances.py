"""How far samples are from exact posterior samples: one number each, for x and y [N, d].

All are zero in expectation, or at their floor, for samples of the posterior itself: report exact against exact beside them.
"""

import torch
from torch import Tensor

from dsg.priors.gaussian_mixture import GaussianMixture


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 200, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance (Bonneel et al. 2015): root mean square over random unit directions of the 1-D
    distances, which compare sorted projections. In the units of x.

    Raises:
        ValueError: if there are not as many points in x as in y.
    """
    if x.shape != y.shape:
        raise ValueError(
            f"as many points of the same dimension are compared, not {tuple(x.shape)} with {tuple(y.shape)}"
        )
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(x.shape[1], directions, generator=g, dtype=torch.float64).to(x)
    u = u / u.norm(dim=0)
    return ((x @ u).sort(dim=0).values - (y @ u).sort(dim=0).values).square().mean().sqrt().item()


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X-Y| - E|X-X'| - E|Y-Y'| (Szekely & Rizzo 2013), unbiased: it may come out slightly below zero. In the units of x."""
    return (2 * torch.cdist(x, y).mean() - _mean_distance(x) - _mean_distance(y)).item()


def _mean_distance(x: Tensor) -> Tensor:
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))


def moments(x: Tensor, exact: GaussianMixture) -> dict[str, float]:
    """Errors of mean and covariance against a posterior's.

    mean_error: |mean - exact|, over the posterior's standard deviation sqrt(tr C): 1/sqrt(N) for N exact samples.
    covariance_error: Frobenius norm of the difference over that of C. spread: tr Cov / tr C, 1 where the spread is right.
    """
    c = exact.dense_covariance()
    found = torch.cov(x.T.to(c)).reshape(c.shape)
    return {
        "mean_error": ((x.to(c).mean(0) - exact.mean()).norm() / c.trace().sqrt()).item(),
        "covariance_error": ((found - c).norm() / c.norm()).item(),
        "spread": (found.trace() / c.trace()).item(),
    }


def mode_error(x: Tensor, prior: GaussianMixture, exact: GaussianMixture) -> float:
    """Total variation between the posterior's component weights and how samples fall on the prior's components, in [0, 1]."""
    return 0.5 * (prior.responsibilities(x).mean(0) - exact.weights).abs().sum().item()


def in_credible_region(x: Tensor, exact: GaussianMixture, exact_samples: Tensor, level: float = 0.9) -> float:
    """Share of x in the exact posterior's highest-density region of this level: `level` for its own samples."""
    threshold = torch.quantile(exact.log_density(exact_samples), 1 - level)
    return (exact.log_density(x) >= threshold).double().mean().item()


def interval_coverage(x: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """Share of coordinates whose true value [d] lies in the samples' central interval: `level`, on average over
    truths, for posterior samples."""
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=x.dtype, device=x.device)
    low, high = torch.quantile(x, tail, dim=0)
    truth = truth.flatten().to(x)
    return ((low <= truth) & (truth <= high)).double().mean().item()
