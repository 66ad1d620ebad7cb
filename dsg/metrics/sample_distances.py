"""How far samples x [N, d] are from a posterior, or from exact samples y of it: one number each.

Chance keeps most of them above their ideal values for finite N: report what exact samples get beside them.
"""

import torch
from torch import Tensor

from dsg.priors.gaussian_mixture import GaussianMixture


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 200, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance (Bonneel et al. 2015), in the units of x.

    The root mean square, over random unit directions, of the 1-D distances, which compare sorted projections.

    Args:
        y: [k N, d]: k points for each of x, k a whole number.

    Raises:
        ValueError: sizes that do not fit.
    """
    if x.shape[1:] != y.shape[1:] or len(y) % len(x):
        raise ValueError(
            f"y needs k points of the same dimension for each of x, not {tuple(y.shape)} for {tuple(x.shape)}"
        )
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(x.shape[1], directions, generator=g, dtype=torch.float64).to(x)
    u = u / u.norm(dim=0)
    ours = (x @ u).sort(dim=0).values.repeat_interleave(len(y) // len(x), 0)
    return (ours - (y @ u).sort(dim=0).values).square().mean().sqrt().item()


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X-Y| - E|X-X'| - E|Y-Y'| (Szekely & Rizzo 2013), in the units of x.

    The estimate is unbiased, so it may come out slightly below zero.
    """
    return (2 * torch.cdist(x, y).mean() - mean_distance(x) - mean_distance(y)).item()


def mean_distance(x: Tensor) -> Tensor:
    """E|X-X'| over pairs of different points."""
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))


def moments(x: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, float]:
    """Errors of mean and covariance against a posterior's m [d] and C [d, d].

    mean_error: |mean - m| over the posterior's standard deviation sqrt(tr C); about 1/sqrt(N) for N exact samples.
    covariance_error: Frobenius norm of the difference, over that of C.
    spread: tr Cov / tr C; 1 where the spread is right.
    """
    found = torch.cov(x.T.to(covariance)).reshape(covariance.shape)
    return {
        "mean_error": ((x.to(mean).mean(0) - mean).norm() / covariance.trace().sqrt()).item(),
        "covariance_error": ((found - covariance).norm() / covariance.norm()).item(),
        "spread": (found.trace() / covariance.trace()).item(),
    }


def error_to_truth(x: Tensor, truth: Tensor, covariance: Tensor) -> float:
    """Mean squared distance of x to the true x0 [d], over 2 tr C, C [d, d] being the posterior's covariance.

    On average over truths it is 1 for posterior samples, and 1/2 for the posterior mean, the nearest there is.
    """
    distance = (x - truth.flatten().to(x)).square().sum(1).mean()
    return (distance / (2 * covariance.trace())).item()


def mode_error(x: Tensor, prior: GaussianMixture, exact: GaussianMixture) -> float:
    """Total variation, in [0, 1], between the posterior's component weights and those of the samples."""
    return 0.5 * (prior.responsibilities(x).mean(0) - exact.weights).abs().sum().item()


def in_credible_region(x: Tensor, exact: GaussianMixture, exact_samples: Tensor, level: float = 0.9) -> float:
    """Share of x in the exact posterior's highest-density region; its own samples have a share of `level`."""
    threshold = torch.quantile(exact.log_density(exact_samples), 1 - level)
    return (exact.log_density(x) >= threshold).double().mean().item()


def interval_coverage(x: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """Share of coordinates whose true value [d] lies in the samples' central interval.

    For N posterior samples it is level (N - 1)/(N + 1), on average over truths.
    """
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=x.dtype, device=x.device)
    low, high = torch.quantile(x, tail, dim=0)
    truth = truth.flatten().to(x)
    return ((low <= truth) & (truth <= high)).double().mean().item()
