"""The exact posterior p(x0 | y) of a Gaussian mixture under y = A x0 + sigma n: again a mixture.

Per component it is the Kalman update (Bishop, "Pattern Recognition and Machine Learning", eq. 2.113-2.117):

    B_k = A Sigma_k A^T + sigma^2 I,   G_k = Sigma_k A^T B_k^-1,
    m_k = mu_k + G_k (y - A mu_k),   C_k = (I - G_k A) Sigma_k,   w_k' ~ w_k N(y; A mu_k, B_k).

Being a `GaussianMixture`, the posterior is a prior too: the unconditional sampler on it follows the true conditional
score. Its covariances are dense, [K, d, d], so it is meant for up to about a thousand dimensions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dsg.priors.gaussian_mixture import GaussianMixture

LARGEST = 2**27  # entries of [K, d, d], a gigabyte


def posterior(prior: GaussianMixture, matrix: Tensor, y: Tensor, sigma: float) -> GaussianMixture:
    """p(x0 | y) for matrix A [m, d], y [m] and noise of standard deviation sigma.

    Raises:
        ValueError: if A Sigma A^T + sigma^2 I is singular: a row of A sees neither noise nor variance;
            or if the covariances would be too large (`LARGEST`).
    """
    if len(prior.weights) * prior.dimension**2 > LARGEST:
        raise ValueError(
            f"the posterior has {len(prior.weights)} dense covariances of {prior.dimension} dimensions: too large"
        )
    a, y = matrix.to(prior.means), y.flatten().to(prior.means)
    sigmas = prior.component_covariances()
    crossed = sigmas @ a.T  # [K, d, m]
    eye = torch.eye(len(y)).to(prior.means)
    factor, failed = torch.linalg.cholesky_ex(a @ crossed + sigma**2 * eye)
    if failed.any():
        raise ValueError(f"A Sigma A^T + sigma^2 I is singular at sigma={sigma}: give noise, or a floor")
    gain = torch.cholesky_solve(crossed.mT, factor).mT
    innovation = y - prior.means @ a.T  # [K, m]
    means = prior.means + torch.einsum("kdm,km->kd", gain, innovation)
    left = torch.eye(prior.dimension).to(a) - gain @ a
    covariances = left @ sigmas @ left.mT + sigma**2 * gain @ gain.mT  # Joseph's form: symmetric and positive
    whitened = torch.linalg.solve_triangular(factor, innovation[..., None], upper=False)[..., 0]
    evidence = -0.5 * whitened.square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
    log_weights = prior.log_weights + evidence
    weights = torch.softmax(log_weights, 0).clamp_min(torch.finfo(a.dtype).tiny)
    return GaussianMixture(
        weights, means, covariances=(covariances + covariances.mT) / 2, shape=prior.shape, name=f"{prior.name} | y"
    )


def task_posterior(prior: GaussianMixture, task, condition: Mapping[str, Tensor]) -> GaussianMixture:
    """p(x0 | y) of any linear task, for the condition of one image.

    Raises:
        ValueError: more than one image in the condition.
    """
    if len(condition["y"]) != 1:
        raise ValueError(f"a posterior is that of one measurement, not of {len(condition['y'])}")
    a = explicit_matrix(task, condition, prior.shape)
    observed = a.abs().sum(1) > 0  # the other rows say nothing
    return posterior(prior, a[observed], condition["y"].flatten().to(a)[observed], task.sigma)


def explicit_matrix(task, condition: Mapping[str, Tensor], shape: Sequence[int], chunk: int = 256) -> Tensor:
    """A as float64 [m, d], by applying the task to every unit vector."""
    d = torch.Size(shape).numel()
    eye = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    one = {k: v.cpu().double() for k, v in condition.items()}
    parts = []
    for part in eye.split(chunk):
        repeated = {k: v.expand(len(part), *v.shape[1:]) for k, v in one.items()}
        parts.append(task.forward(part, repeated).flatten(1))
    return torch.cat(parts).T
