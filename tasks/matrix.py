"""Any linear operator: a matrix that is given, or drawn from a seed."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from dsg.files import resolve
from dsg.noise import rng
from tasks.base import Condition
from tasks.inverse import LinearInverseProblem, is_integer
from tasks.solvers import SVD, dense


class Matrix(LinearInverseProblem):
    """y = A x + sigma n with a dense A [m, d] on x flattened to d = C H W numbers: y is [B, 1, 1, m].

    Or with A [m, H W] on every channel by itself: y is [B, C, 1, m].

    Args:
        matrix: nested lists, or a .npy file with such an array; None draws one with d columns and entries N(0, 1/d), so
            that y has about the scale of x.
        rows: m of a drawn matrix; None: a quarter of d.
        seed: of a drawn matrix, which depends on (seed, m, d) alone and is the same for every image.

    Raises:
        ValueError: no such file, not a matrix, or (from `check`) one that does not fit the images.
    """

    has_svd = True
    measures_noise = False

    def __init__(
        self,
        name: str,
        sigma: float = 0.05,
        matrix: str | Sequence | None = None,
        rows: int | None = None,
        seed: int = 0,
    ):
        super().__init__(name, sigma)
        if rows is not None and not is_integer(rows, 1):
            raise ValueError(f"task.rows={rows}: an integer, 1 or more (or null: a quarter of the dimensions)")
        if not is_integer(seed, 0):
            raise ValueError(f"task.seed={seed}: an integer, 0 or more")
        if matrix is not None and rows is not None:
            raise ValueError("task.matrix and task.rows: a given matrix has its rows")
        self.rows, self.seed = rows, seed
        self.given_matrix = None if matrix is None else _read(matrix)
        self._matrices: dict[tuple, Tensor] = {}
        self._svds: dict[tuple, SVD] = {}

    def check(self, shape: Sequence[int]) -> None:
        d = int(np.prod(shape))
        if self.given_matrix is not None and self.given_matrix.shape[1] not in (d, d // shape[0]):
            raise ValueError(
                f"task.matrix has {self.given_matrix.shape[1]} columns, images of shape {tuple(shape)} {d} numbers"
            )

    def matrix(self, d: int) -> np.ndarray:
        """float64 [m, d], or [m, n] as given."""
        if self.given_matrix is not None:
            return self.given_matrix
        m = max(d // 4, 1) if self.rows is None else self.rows
        return rng("matrix", self.seed, m, d).standard_normal((m, d)) / np.sqrt(d)

    def observed(self, y: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The numbers of y [B, ...] may be laid out in any way, such as that of an image."""
        numbers = y[0].numel()
        rows = numbers if self.given_matrix is None else len(self.given_matrix)
        if numbers % rows:
            raise ValueError(f"y has {numbers} numbers, which are not those of a task.matrix of {rows} rows")
        return super().observed(y.reshape(len(y), -1, 1, rows), mask)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        d = x[0].numel()
        key = (d, x.dtype, x.device)
        if key not in self._matrices:
            self._matrices[key] = torch.as_tensor(self.matrix(d), dtype=x.dtype, device=x.device)
        matrix = self._matrices[key]
        return (x.reshape(len(x), -1, matrix.shape[1]) @ matrix.T)[:, :, None]

    def svd(self, condition: Condition, shape: Sequence[int]) -> SVD:
        d, y = int(np.prod(shape[1:])), condition["y"]
        key = (tuple(shape[1:]), y.dtype, y.device)
        if key not in self._svds:
            self._svds[key] = dense(self.matrix(d), shape[1:], y)
        return self._svds[key]

    def check_degraded(self, shape: Sequence[int]) -> None:
        raise ValueError(f"task={self.name}: a measurement is no image; data.degraded=true does not apply")

    @property
    def weights_hash(self) -> str | None:
        """A hash of the matrix as it was read."""
        given = self.given_matrix
        return None if given is None else sha256(f"{given.shape}".encode() + given.tobytes()).hexdigest()


def _read(matrix: str | Sequence) -> np.ndarray:
    if isinstance(matrix, str):
        path = resolve(matrix)
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may claim more than the file holds
        except (OSError, ValueError, MemoryError) as error:
            raise ValueError(f"task.matrix={matrix} cannot be read as a .npy array: {error}") from None
    else:
        try:
            values = np.array([list(row) for row in matrix])
        except (TypeError, ValueError):
            raise ValueError("task.matrix: rows of one length are expected") from None
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"task.matrix: expected finite numbers [m, d], found {values.dtype} {values.shape}")
    return values.astype(np.float64)
