"""The exact posterior p(x0 | y) of a Gaussian mixture under y = A x0 + sigma n: again a mixture.

Per component it is the Kalman update (Bishop, "Pattern Recognition and Machine Learning", eq. 2.113-2.117):

    B_k = A Sigma_k A^T + sigma^2 I,   G_k = Sigma_k A^T B_k^-1,
    m_k = mu_k + G_k (y - A mu_k),   C_k = (I - G_k A) Sigma_k,   w_k' ~ w_k N(y; A mu_k, B_k).

`posterior` is a `GaussianMixture`, and so a prior too: the unconditional sampler on it follows the true conditional
score. Its covariances are dense, [K, d, d]: for up to about a thousand dimensions. `PosteriorDraws` only samples, and
needs no d x d matrix.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dsg.priors.gaussian_mixture import GaussianMixture

LARGEST = 2**27  # entries of [K, d, d], a gigabyte


class Update(NamedTuple):
    """The Kalman update of every component.

    Attributes:
        a, y: A [m, d] and y [m], in the mixture's dtype.
        crossed: Sigma_k A^T, [K, d, m].
        gain: G_k, [K, d, m].
        means: m_k, [K, d].
        weights: w_k', [K], summing to 1.
    """

    a: Tensor
    y: Tensor
    crossed: Tensor
    gain: Tensor
    means: Tensor
    weights: Tensor


def update(prior: GaussianMixture, matrix: Tensor, y: Tensor, sigma: float) -> Update:
    """Condition every component on y.

    Raises:
        ValueError: A Sigma A^T + sigma^2 I is singular: a row of A sees neither noise nor variance.
    """
    a, y = matrix.to(prior.means), y.flatten().to(prior.means)
    above = (prior.spectrum - prior.outside[:, None])[:, :, None]
    crossed = prior.outside[:, None, None] * a.T + prior.basis @ (above * (prior.basis.mT @ a.T))
    factor, failed = torch.linalg.cholesky_ex(a @ crossed + sigma**2 * torch.eye(len(y)).to(a))
    if failed.any():
        raise ValueError(f"A Sigma A^T + sigma^2 I is singular at sigma={sigma}: give noise, or a floor")
    gain = torch.cholesky_solve(crossed.mT, factor).mT
    innovation = y - prior.means @ a.T  # [K, m]
    whitened = torch.linalg.solve_triangular(factor, innovation[..., None], upper=False)[..., 0]
    evidence = -0.5 * whitened.square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
    means = prior.means + torch.einsum("kdm,km->kd", gain, innovation)
    return Update(a, y, crossed, gain, means, torch.softmax(prior.log_weights + evidence, 0))


def posterior(prior: GaussianMixture, matrix: Tensor, y: Tensor, sigma: float) -> GaussianMixture:
    """p(x0 | y) for matrix A [m, d], y [m] and noise of standard deviation sigma.

    Raises:
        ValueError: see `update`; or the covariances would be too large (`LARGEST`).
    """
    if len(prior.weights) * prior.dimension**2 > LARGEST:
        raise ValueError(
            f"the posterior has {len(prior.weights)} dense covariances of {prior.dimension} dimensions: too large"
        )
    a, _, _, gain, means, weights = update(prior, matrix, y, sigma)
    left = torch.eye(prior.dimension).to(a) - gain @ a
    # Joseph's form: symmetric and positive
    covariances = left @ prior.component_covariances() @ left.mT + sigma**2 * gain @ gain.mT
    return GaussianMixture(
        weights.clamp_min(torch.finfo(a.dtype).tiny), means, covariances=(covariances + covariances.mT) / 2,
        shape=prior.shape, name=f"{prior.name} | y",
    )  # fmt: skip


class PosteriorDraws:
    """Exact draws of p(x0 | y) by Matheron's rule (Hoffman & Ribak, ApJ 380, L5, 1991): quick at image size.

    Component k is drawn with its posterior weight; then, with x ~ N(mu_k, Sigma_k) and n ~ N(0, I),

        x + G_k (y - A x - sigma n)

    has the law of x0 given y and k.

    Args:
        matrix: A [m, d]. y: [m]. sigma: of the noise, above 0.

    Attributes:
        weights: [K], of the components.
        deviation: the posterior's standard deviation, sqrt(tr Cov / d).
    """

    def __init__(self, prior: GaussianMixture, matrix: Tensor, y: Tensor, sigma: float):
        if sigma <= 0:
            raise ValueError(f"task.sigma={sigma}: a posterior without noise has no density to compare with")
        self.prior, self.sigma = prior, sigma
        self.a, self.y, crossed, self.gain, means, self.weights = update(prior, matrix, y, sigma)
        rest = prior.dimension - prior.basis.shape[2]
        traces = prior.spectrum.sum(1) + rest * prior.outside - (self.gain * crossed).sum((1, 2))
        away = (means - self.weights @ means).square().sum(1)
        self.deviation = math.sqrt((self.weights @ (traces + away)).item() / prior.dimension)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, d], float64; the generator is a CPU one."""
        index = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=generator)
        out = torch.empty(count, self.prior.dimension).to(self.a)
        for k in index.unique().tolist():
            chosen = index == k
            z, n = (
                torch.randn(int(chosen.sum()), size, generator=generator, dtype=out.dtype).to(out)
                for size in (self.prior.dimension, len(self.y))
            )
            x = self.prior.from_component(k, z)
            out[chosen] = x + (self.y - x @ self.a.T - self.sigma * n) @ self.gain[k].T
        return out


def task_posterior(prior: GaussianMixture, task, condition: Mapping[str, Tensor]) -> GaussianMixture:
    """p(x0 | y) of any linear task, for the condition of one image.

    Raises:
        ValueError: more than one image in the condition.
    """
    return posterior(prior, *measurement(task, condition, prior.shape), task.sigma)


def task_draws(prior: GaussianMixture, task, condition: Mapping[str, Tensor]) -> PosteriorDraws:
    """The same, only to be sampled."""
    return PosteriorDraws(prior, *measurement(task, condition, prior.shape), task.sigma)


def measurement(task, condition: Mapping[str, Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A [m, d] and y [m] of the condition of one image; without the rows of A that are 0, which say nothing."""
    if len(condition["y"]) != 1:
        raise ValueError(f"a posterior is that of one measurement, not of {len(condition['y'])}")
    a = explicit_matrix(task, condition, shape)
    observed = a.abs().sum(1) > 0
    return a[observed], condition["y"].flatten().to(a)[observed]


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
