"""Exact algebra of linear operators: the SVD, in factors where the operator has them, and the proximal step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

CUTOFF = 0.03  # singular values below this share of the largest would amplify noise; DDRM's own for its blurs


@dataclass(frozen=True)
class SVD:
    """A = U diag(d) V^T with orthonormal columns: components c [B, ...] of images x [B, C, H, W].

    V need not be square: what it leaves of x is not observed, and neither are the components with d = 0.

    Attributes:
        values: d >= 0, which broadcasts with components.
        into: V^T x.
        back: V c.
        left: U^T y, components too.
    """

    values: Tensor
    into: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    left: Callable[[Tensor], Tensor]

    def pseudo_data(self, y: Tensor) -> Tensor:
        """U^T y / d, components of x as y has them; 0 where it has none."""
        return torch.where(self.values > 0, self.left(y) / self.values, 0.0)

    def pseudo_inverse(self, y: Tensor, cutoff: float = CUTOFF) -> Tensor:
        """A^+ y, without the singular values below `cutoff` times the largest."""
        return self.back(self.without_small(cutoff).pseudo_data(y))

    def proximal(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        """argmin_v |A v - y|^2 + rho |v - x|^2; rho > 0."""
        misfit = self.left(y) - self.values * self.into(x)
        return x + self.back(self.values / (self.values**2 + rho) * misfit)

    def without_small(self, cutoff: float = CUTOFF) -> "SVD":
        """Without the singular values below `cutoff` times the largest: what they belong to is not observed."""
        return replace(self, values=torch.where(self.values > cutoff * self.values.max(), self.values, 0.0))

    def replaced(self, x: Tensor, components: Tensor) -> Tensor:
        """x with these components where d > 0."""
        return x + self.back(torch.where(self.values > 0, components - self.into(x), 0.0))


def diagonal(values: Tensor) -> SVD:
    """The SVD of A(x) = values * x, values >= 0."""
    return SVD(values, _same, _same, _same)


def separable(rows: np.ndarray, columns: np.ndarray, like: Tensor) -> SVD:
    """The SVD of A(x) = rows x columns^T, float64 [m, n] each: d_ij = d_i d_j. Tensors as `like`."""
    (u, d, vt), (uc, dc, vct) = (_svd(matrix) for matrix in (rows, columns))
    u, vt, uc, vct = (_as(factor, like) for factor in (u, vt, uc, vct))
    return SVD(
        _as(np.outer(d, dc), like),
        into=lambda x: vt @ x @ vct.T,
        back=lambda c: vt.T @ c @ vct,
        left=lambda y: u.T @ y @ uc,
    )


def dense(matrix: np.ndarray, shape: Sequence[int], like: Tensor) -> SVD:
    """SVD of a float64 matrix [m, n] that acts on every n numbers of images `shape` (C, H, W). Tensors as `like`."""
    (m, n), (u, d, vt) = matrix.shape, _svd(matrix)
    u, vt = _as(u, like), _as(vt, like)
    return SVD(
        _as(d, like),
        into=lambda x: x.reshape(len(x), -1, n) @ vt.T,
        back=lambda c: (c @ vt).reshape(len(c), *shape),
        left=lambda y: y.reshape(len(y), -1, m) @ u,
    )


def proximal_by_gradients(
    forward: Callable[[Tensor], Tensor],
    transpose: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    rho: float,
    iterations: int = 200,
    tolerance: float = 1e-5,
) -> Tensor:
    """argmin_v |A v - y|^2 + rho |v - x|^2 = x + A^T u with (A A^T + rho) u = y - A x, by conjugate gradients.

    An image is done when the residual of that system is below `tolerance` of its start, or after `iterations`: at tiny
    rho, before the directions that A hardly sees have moved.
    """
    r = y - forward(x)
    u, p, square = torch.zeros_like(r), r, _squared(r)
    least = tolerance**2 * square
    for _ in range(iterations):
        going = square > least
        if not going.any():
            break
        ap = forward(transpose(p)) + rho * p
        step = torch.where(going, square / _dot(p, ap), 0.0)
        u, r = u + step * p, r - step * ap
        following = torch.where(going, _squared(r), square)
        p = torch.where(going, r + following / square * p, p)
        square = following
    return x + transpose(u)


def _svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thin one, of float64. Singular values that are 0 but for rounding are 0: nothing is observed there."""
    u, d, vt = np.linalg.svd(matrix, full_matrices=False)
    return u, np.where(d > np.finfo(d.dtype).eps * max(matrix.shape) * d.max(), d, 0.0), vt


def _same(x: Tensor) -> Tensor:
    return x


def _as(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(array, dtype=like.dtype, device=like.device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per image, which broadcasts with it."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def _squared(a: Tensor) -> Tensor:
    return _dot(a, a)
