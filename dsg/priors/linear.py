"""The best linear denoiser: the posterior mean under one Gaussian fitted to the data."""

import torch
from torch import Tensor, nn


class LinearDenoiser(nn.Module):
    """E[x0 | x_t] if x0 ~ N(mean, sum_k variances_k u_k u_k' + rest (I - sum_k u_k u_k')), for images of D numbers.

    No linear function of x_t has a smaller error on data with this mean and covariance. Buffers, float32: mean [D],
    components [D, K] (the u_k, orthonormal), variances [K] along them, rest []: variance in every other direction.
    """

    def __init__(self, numbers: int, components: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("components", torch.zeros(numbers, components))
        self.register_buffer("variances", torch.ones(components))
        self.register_buffer("rest", torch.ones(()))

    @classmethod
    def fit(cls, x: Tensor, components: int) -> "LinearDenoiser":
        """To images x [N, C, H, W], from the eigenvectors of their Gram matrix [N, N]."""
        x = x.flatten(1).double()
        mean = x.mean(0)
        x = x - mean
        gram = x @ x.T / (len(x) - 1)
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
        made = cls(x.shape[1], components)
        made.mean.copy_(mean)
        made.components.copy_(x.T @ vectors / (values * (len(x) - 1)).sqrt())
        made.variances.copy_(values)
        made.rest.copy_((gram.trace() - values.sum()) / (x.shape[1] - components))
        return made

    def forward(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """x_t [B, C, H, W], alpha_bar [B] or [1] -> x0 [B, C, H, W]."""
        ab = alpha_bar[:, None]
        residual = self._residual(x_t, ab)
        along = residual @ self.components
        gains = ab.sqrt() * self.variances / (ab * self.variances + 1 - ab)
        rest = ab.sqrt() * self.rest / (ab * self.rest + 1 - ab)
        return (self.mean + rest * residual + ((gains - rest) * along) @ self.components.T).view(x_t.shape)

    def coordinates(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """x_t less the noised mean, along the components: [B, K]."""
        return self._residual(x_t, alpha_bar[:, None]) @ self.components

    def _residual(self, x_t: Tensor, ab: Tensor) -> Tensor:
        return x_t.flatten(1) - ab.sqrt() * self.mean

    def v(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """The same as v = sqrt(ab) eps - sqrt(1-ab) x0."""
        ab = alpha_bar[:, None, None, None]
        return (ab.sqrt() * x_t - self(x_t, alpha_bar)) / (1 - ab).sqrt()

    def skip(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """(1 - ab) v: what is added to the output of a network that learned the rest.

        At high noise a linear model knows nearly all that can be known; at low noise a network does better without it.
        """
        return (1 - alpha_bar)[:, None, None, None] * self.v(x_t, alpha_bar)
