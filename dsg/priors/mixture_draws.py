"""Exact draws from the posterior of a Gaussian mixture, without its dense covariances: quick at image size."""

import math

import torch
from torch import Tensor

from dsg.priors.gaussian_mixture import GaussianMixture


class PosteriorDraws:
    """p(x0 | y) for y = A x0 + sigma n, by Matheron's rule (Hoffman & Ribak, ApJ 380, L5, 1991).

    Component k is drawn with its posterior weight; then, with x ~ N(mu_k, Sigma_k) and n ~ N(0, I),

        x + G_k (y - A x - sigma n),    G_k = Sigma_k A^T (A Sigma_k A^T + sigma^2 I)^-1,

    has the law of x0 given y and k. `dsg.priors.mixture_posterior` has the same
    posterior with all that is known of it.

    Args:
        matrix: A [m, d]. y: [m]. sigma: of the noise, above 0.

    Attributes:
        weights: [K], of the components.
        deviation: the posterior's standard deviation, sqrt(tr Cov / d).
    """

    def __init__(self, prior: GaussianMixture, matrix: Tensor, y: Tensor, sigma: float):
        if sigma <= 0:
            raise ValueError(f"task.sigma={sigma}: a posterior without noise has no density to compare with")
        self.prior, self.a, self.y, self.sigma = prior, matrix.to(prior.means), y.flatten().to(prior.means), sigma
        above = (prior.spectrum - prior.outside[:, None])[:, :, None]
        crossed = prior.outside[:, None, None] * self.a.T + prior.basis @ (above * (prior.basis.mT @ self.a.T))
        factor = torch.linalg.cholesky(self.a @ crossed + sigma**2 * torch.eye(len(self.y)).to(self.a))
        self.gain = torch.cholesky_solve(crossed.mT, factor).mT  # [K, d, m]
        innovation = self.y - prior.means @ self.a.T
        whitened = torch.linalg.solve_triangular(factor, innovation[..., None], upper=False)[..., 0]
        evidence = -0.5 * whitened.square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        self.weights = torch.softmax(prior.log_weights + evidence, 0)
        means = prior.means + torch.einsum("kdm,km->kd", self.gain, innovation)
        rest = prior.dimension - prior.basis.shape[2]
        traces = prior.spectrum.sum(1) + rest * prior.outside - (self.gain * crossed).sum((1, 2))
        away = (means - self.weights @ means).square().sum(1)
        self.deviation = math.sqrt((self.weights @ (traces + away)).item() / prior.dimension)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, d], float64; the generator is a CPU one."""
        index = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=generator)
        out = torch.empty(count, self.prior.dimension).to(self.a)
        for k in index.unique():
            chosen = index == k
            x = self._component(int(k), int(chosen.sum()), generator)
            n = torch.randn(len(x), len(self.y), generator=generator, dtype=x.dtype).to(x)
            out[chosen] = x + (self.y - x @ self.a.T - self.sigma * n) @ self.gain[k].T
        return out

    def _component(self, k: int, count: int, generator: torch.Generator) -> Tensor:
        """Draws of N(mu_k, Sigma_k), [count, d]."""
        p = self.prior
        z = torch.randn(count, p.dimension, generator=generator, dtype=p.means.dtype).to(p.means)
        inside = (z @ p.basis[k]) * (p.spectrum[k].sqrt() - p.outside[k].sqrt())
        return p.means[k] + p.outside[k].sqrt() * z + inside @ p.basis[k].T
