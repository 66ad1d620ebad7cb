"""What a Gaussian mixture says of x0 when x_t is seen: p(x0 | x_t) is a mixture too."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dsg.priors.gaussian_mixture import GaussianMixture


@dataclass
class Conditional:
    """p(x0 | x_t) for a batch; Cov[x0 | x_t] = sum_k r_k (C_k + (m_k - m)(m_k - m)^T) as an operator."""

    mixture: "GaussianMixture"
    responsibilities: Tensor  # [B, K]
    mean: Tensor  # [B, d]
    x: Tensor  # [B, d]
    extra: Tensor  # [B, K, r]
    gain_out: Tensor  # [K]
    root: float
    ab: float

    def _component_variances(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C_k: in the basis [K, r], outside [K]."""
        mix, tiny = self.mixture, torch.finfo(self.mean.dtype).tiny
        return tuple(
            (1 - self.ab) * prior / noisy.clamp_min(tiny)
            for prior, noisy in zip((mix.spectrum, mix.outside), mix._variances(self.ab))
        )

    def component_means(self) -> Tensor:
        """m_k = E[x0 | x_t, k], [B, K, d]."""
        mix = self.mixture
        straight = self.gain_out[:, None] * self.x[:, None] + (1 - self.root * self.gain_out)[:, None] * mix.means
        return straight + torch.einsum("bkr,kdr->bkd", self.extra, mix.basis)

    def apply(self, v: Tensor) -> Tensor:
        """Cov[x0 | x_t] v for v [B, d] or [B, *shape]."""
        mix, flat = self.mixture, v.flatten(1).to(self.mean)
        inside, outside = self._component_variances()
        away = self.component_means() - self.mean[:, None]
        coefficients = (flat @ mix.columns).unflatten(1, inside.shape) * (inside - outside[:, None])
        out = (self.responsibilities @ outside)[:, None] * flat
        out = out + (self.responsibilities[..., None] * coefficients).flatten(1) @ mix.columns.T
        along = self.responsibilities * torch.einsum("bkd,bd->bk", away, flat)
        return (out + torch.einsum("bk,bkd->bd", along, away)).reshape(v.shape).to(v)

    def trace(self) -> Tensor:
        """tr Cov[x0 | x_t], [B]."""
        inside, outside = self._component_variances()
        d, rank = self.mixture.dimension, self.mixture.basis.shape[2]
        away = (self.component_means() - self.mean[:, None]).square().sum(2)
        return (self.responsibilities * (inside.sum(1) + (d - rank) * outside + away)).sum(1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of x0, [count, B, d]; the generator is a CPU one."""
        mix, (batch, d) = self.mixture, self.mean.shape
        index = torch.multinomial(self.responsibilities.cpu(), count, replacement=True, generator=generator).T.to(
            self.mean.device
        )
        z = torch.randn(count, batch, d, generator=generator, dtype=self.mean.dtype).to(self.mean)
        inside, outside = (v.sqrt() for v in self._component_variances())
        out = self.component_means()[torch.arange(batch), index] + outside[index][..., None] * z
        for k in range(len(mix.means)):  # by component, so that no basis is gathered per draw
            chosen = index == k
            out[chosen] += (z[chosen] @ mix.basis[k]) * (inside[k] - outside[k]) @ mix.basis[k].T
        return out

    def dense(self) -> Tensor:
        """Cov[x0 | x_t], [B, d, d]: for small d."""
        mix, (inside, outside) = self.mixture, self._component_variances()
        eye = torch.eye(mix.dimension).to(self.mean)
        each = mix.basis * (inside - outside[:, None])[:, None] @ mix.basis.mT + outside[:, None, None] * eye
        away = self.component_means() - self.mean[:, None]
        between = (self.responsibilities[..., None] * away).mT @ away
        return torch.einsum("bk,kde->bde", self.responsibilities, each) + between
