"""Linear inverse problems: y = A(x) + sigma n, with x in [-1, 1].

sigma is the noise's standard deviation in units of [-1, 1], as in DPS's and DSG's code: .05 here is .025 of [0, 1], or 6.4
of 255. Masks: 1 = observed. A condition is a dict of tensors whose first dimension is the batch; it depends on (seed, image
id) alone. Sizes follow the tensor.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsg.noise import rng, standard_normal

Condition = Mapping[str, Tensor]


class LinearTask(ABC):
    """An operator A and its noise. Subclasses give `forward`, and `draw` where A itself is drawn per image.

    Args:
        name: of the task, for results.
        sigma: standard deviation of the noise in [-1, 1].
    """

    def __init__(self, name: str, sigma: float = 0.05):
        if not _number(sigma, 0):
            raise ValueError(f"task.sigma={sigma}: a standard deviation in units of [-1, 1], 0 or more")
        self.name, self.sigma = name, sigma

    @abstractmethod
    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """A(x), x [B, C, H, W]."""

    def draw(self, shape: Sequence[int], key: tuple) -> dict[str, Tensor]:
        """What of A is drawn for an image of `shape` (C, H, W): tensors [1, ...]."""
        return {}

    def check(self, shape: Sequence[int]) -> None:
        """Raise a ValueError if images of `shape` (C, H, W) do not suit the task's options."""

    def measurement_size(self, size: int) -> int:
        """Side of y for a square image of side `size`."""
        return size

    def measure(self, x: Tensor, ids: Sequence[str], seed: int) -> dict[str, Tensor]:
        """Degrade clean images [B, C, H, W]: the condition, with noise on what is observed."""
        drawn = [self.draw(x.shape[1:], (seed, i, self.name)) for i in ids]
        condition = {k: torch.cat([d[k] for d in drawn]) for k in drawn[0]}
        clean = self.forward(x, condition)
        noise = torch.stack([standard_normal(clean.shape[1:], seed, i, self.name, "measurement") for i in ids])
        condition["y"] = clean + self.sigma * self.observed_part(noise, condition)
        return condition

    def given(self, y: Tensor, ids: Sequence[str], seed: int) -> dict[str, Tensor]:
        """The condition for pictures that are degraded already.

        Raises:
            ValueError: if A is not known for them.
        """
        if self.draw((3, *y.shape[-2:]), (seed, ids[0], self.name)):
            raise ValueError(
                f"task={self.name} draws its operator per image: data.degraded=true needs the one that was used"
            )
        return self.observed(y)

    def observed(self, y: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The condition for a given measurement y [B, ...] (and mask [1 or B, 1 or C, H, W], 1 = observed)."""
        if mask is not None:
            raise ValueError(f"task={self.name} takes no mask")
        return {"y": y}

    def observed_part(self, y: Tensor, condition: Condition) -> Tensor:
        return y

    def loss(self, x0: Tensor, condition: Condition) -> Tensor:
        """|y - A(x0)|, the norm and not its square (DPS, algorithm 1), per image: [B]."""
        return (condition["y"] - self.forward(x0, condition)).flatten(1).norm(dim=1)

    def residual(self, x: Tensor, condition: Condition) -> Tensor:
        """Root mean square of y - A(x) over what is observed, [B]: about sigma for the truth."""
        count = self.observed_part(torch.ones_like(condition["y"]), condition).flatten(1).sum(1)
        return self.loss(x, condition) / count.sqrt()

    def measures(self, x: Tensor, condition: Condition) -> dict[str, Tensor]:
        """What the task itself says of a finished picture: name -> [B]."""
        return {"residual": self.residual(x, condition)}

    def transpose(self, y: Tensor, condition: Condition, shape: Sequence[int]) -> Tensor:
        """A^T(y) of the shape [B, C, H, W], exact: the vector-Jacobian product of the linear A."""
        x = torch.zeros(tuple(shape), dtype=y.dtype, device=y.device)
        return torch.func.vjp(lambda x: self.forward(x, condition), x)[1](y)[0]

    def baseline(self, condition: Condition, shape: Sequence[int]) -> Tensor:
        """What one has without a prior: A^T(y)."""
        return self.transpose(condition["y"], condition, shape)


class Inpainting(LinearTask):
    """Some pixels observed, all channels of them. Noise on observed pixels only; y is 0 elsewhere.

    Args:
        masked_fraction: [lo, hi], of which each image draws the fraction of pixels that are missing.
        mask: optional picture, or folder of pictures named like the images, to use instead: white = observed.
    """

    def __init__(
        self, name: str, sigma: float = 0.05, masked_fraction: Sequence[float] = (0.3, 0.7), mask: str | None = None
    ):
        super().__init__(name, sigma)
        pair = isinstance(masked_fraction, Sequence) and len(masked_fraction) == 2
        if (
            not pair
            or not all(_number(v, 0) for v in masked_fraction)
            or not masked_fraction[0] <= masked_fraction[1] < 1
        ):
            raise ValueError(f"task.masked_fraction={masked_fraction}: expected [lo, hi] with 0 <= lo <= hi < 1")
        self.masked_fraction, self.mask = tuple(masked_fraction), mask
        self.masks: dict[str, Tensor] = {}  # by image id, from `mask`; the runner fills it

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return condition["mask"] * x

    def observed_part(self, y: Tensor, condition: Condition) -> Tensor:
        return condition["mask"] * y

    def draw(self, shape: Sequence[int], key: tuple) -> dict[str, Tensor]:
        if self.mask is not None:
            return {"mask": self.masks[key[1]]}
        return {"mask": self.draw_mask(shape, rng(*key, "mask"))}

    def draw_mask(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """[1, 1, H, W] with exactly int(fraction H W) zeros."""
        pixels = shape[-2] * shape[-1]
        mask = torch.ones(pixels)
        mask[generator.permutation(pixels)[: int(pixels * generator.uniform(*self.masked_fraction))]] = 0
        return mask.reshape(1, 1, *shape[-2:])

    def given(self, y: Tensor, ids: Sequence[str], seed: int) -> dict[str, Tensor]:
        if self.mask is None:
            raise ValueError(
                f"task={self.name} with data.degraded=true needs task.mask=<picture or folder> (white = observed)"
            )
        mask = torch.cat([self.masks[i] for i in ids])
        return {"y": mask * y, "mask": mask}

    def observed(self, y: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        if mask is None:
            raise ValueError(f"task={self.name} needs the mask that goes with y (1 = observed)")
        if mask.ndim != 4 or mask.shape[-2:] != y.shape[-2:]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit y {tuple(y.shape)}")
        return {"y": y, "mask": mask.to(y).expand(len(y), -1, -1, -1)}


class BoxInpainting(Inpainting):
    """A square is missing, at a random place.

    Args:
        box: side of the square in pixels.
        margin: least distance to the border in pixels.
    """

    def __init__(self, name: str, sigma: float = 0.05, box: int = 128, margin: int = 16, mask: str | None = None):
        super().__init__(name, sigma, mask=mask)
        if not _integer(box, 1) or not _integer(margin, 0):
            raise ValueError(f"task.box={box}, task.margin={margin}: integers, box >= 1 and margin >= 0")
        self.box, self.margin = box, margin

    def check(self, shape: Sequence[int]) -> None:
        if self.box + 2 * self.margin > min(shape[-2:]):
            raise ValueError(
                f"task.box={self.box} with task.margin={self.margin} does not fit in {shape[-2]}x{shape[-1]} pixels"
            )

    def draw_mask(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        top, left = (int(generator.integers(self.margin, n - self.margin - self.box + 1)) for n in shape[-2:])
        mask = torch.ones(1, 1, *shape[-2:])
        mask[..., top : top + self.box, left : left + self.box] = 0
        return mask


class Separable(LinearTask):
    """A(x) = M_H x M_W^T with one matrix per axis."""

    def __init__(self, name: str, sigma: float):
        super().__init__(name, sigma)
        self._matrices: dict[tuple, Tensor] = {}

    @abstractmethod
    def matrix(self, n: int) -> np.ndarray:
        """float64 [m, n], what happens along an axis of n pixels."""

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        rows, columns = (self._matrix_like(n, x) for n in x.shape[-2:])
        return rows @ x @ columns.T

    def _matrix_like(self, n: int, x: Tensor) -> Tensor:
        key = (n, x.dtype, x.device)
        if key not in self._matrices:
            self._matrices[key] = torch.as_tensor(self.matrix(n), dtype=x.dtype, device=x.device)
        return self._matrices[key]


class SuperResolution(Separable):
    """Bicubic downsampling as MATLAB's imresize does it: a = -.5, widened by the factor, symmetric borders.

    Args:
        factor: integer >= 2.
    """

    def __init__(self, name: str, sigma: float = 0.05, factor: int = 4):
        super().__init__(name, sigma)
        if not _integer(factor, 2):
            raise ValueError(f"task.factor={factor}: an integer, 2 or more")
        self.factor = factor

    def check(self, shape: Sequence[int]) -> None:
        if min(shape[-2:]) < self.factor:
            raise ValueError(f"task.factor={self.factor} leaves nothing of {shape[-2]}x{shape[-1]} pixels")

    def measurement_size(self, size: int) -> int:
        return math.ceil(size / self.factor)

    def matrix(self, n: int) -> np.ndarray:
        return bicubic_matrix(n, self.factor)

    def baseline(self, condition: Condition, shape: Sequence[int]) -> Tensor:
        """Bicubic enlargement."""
        return F.interpolate(condition["y"], size=tuple(shape[-2:]), mode="bicubic", align_corners=False)


class GaussianDeblur(Separable):
    """Gaussian blur with reflected borders.

    Args:
        std: of the kernel in pixels. Like `scipy.ndimage.gaussian_filter`, from which the released kernel comes, it ends at
            4 std: the released 61x61 kernel of std 3 is zero beyond 12 pixels.
        kernel_size: odd; cuts the kernel if that is less.
    """

    def __init__(self, name: str, sigma: float = 0.05, std: float = 3.0, kernel_size: int = 61):
        super().__init__(name, sigma)
        if not _number(std, 1e-3) or not _integer(kernel_size, 1) or kernel_size % 2 == 0:
            raise ValueError(f"task.std={std}, task.kernel_size={kernel_size}: expected std > 0 and an odd integer")
        self.std, self.radius = std, min(int(4 * std + 0.5), kernel_size // 2)

    def check(self, shape: Sequence[int]) -> None:
        if self.radius >= min(shape[-2:]):
            raise ValueError(
                f"task.std={self.std}: a kernel of radius {self.radius} cannot be reflected in {shape[-2:]} pixels"
            )

    def matrix(self, n: int) -> np.ndarray:
        return gaussian_matrix(n, self.std, self.radius)


class MotionDeblur(LinearTask):
    """Blur along a random camera trajectory, another for each image, with reflected borders.

    The camera has inertia and is shaken (a simplified Boracchi & Foi, IEEE TIP 2012): `intensity` in [0, 1] goes from a
    straight streak to a nervous scribble.

    Args:
        kernel_size: odd, in pixels; the trajectory fits in it.
        intensity: in [0, 1].
    """

    def __init__(self, name: str, sigma: float = 0.05, kernel_size: int = 61, intensity: float = 0.5):
        super().__init__(name, sigma)
        if not _integer(kernel_size, 5) or kernel_size % 2 == 0 or not _number(intensity, 0) or intensity > 1:
            raise ValueError(
                f"task.kernel_size={kernel_size}, task.intensity={intensity}: an odd size >= 5, intensity in [0, 1]"
            )
        self.kernel_size, self.intensity = kernel_size, intensity

    def check(self, shape: Sequence[int]) -> None:
        if self.kernel_size // 2 >= min(shape[-2:]):
            raise ValueError(f"task.kernel_size={self.kernel_size} is too large for {shape[-2]}x{shape[-1]} pixels")

    def observed(self, y: Tensor, mask: Tensor | None = None, kernel: Tensor | None = None) -> dict[str, Tensor]:
        """`kernel` [1 or B, K, K], K odd: the blur that made y."""
        if mask is not None or kernel is None:
            raise ValueError(f"task={self.name} needs the kernel that goes with y, and takes no mask")
        return {"y": y, "kernel": kernel.to(y).expand(len(y), -1, -1)}

    def draw(self, shape: Sequence[int], key: tuple) -> dict[str, Tensor]:
        return {"kernel": motion_kernel(rng(*key, "kernel"), self.kernel_size, self.intensity)[None]}

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        batch, channels, radius = len(x), x.shape[1], condition["kernel"].shape[-1] // 2
        weight = condition["kernel"].to(x)[:, None, None].expand(batch, channels, 1, -1, -1).flatten(0, 1)
        padded = F.pad(x, [radius] * 4, mode="reflect").reshape(
            1, batch * channels, *(n + 2 * radius for n in x.shape[-2:])
        )
        return F.conv2d(padded, weight, groups=batch * channels).reshape(x.shape)


def _integer(value, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _number(value, low: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < math.inf


def bicubic_matrix(n: int, factor: int) -> np.ndarray:
    """float64 [ceil(n/factor), n]: Keys' kernel (a = -.5) stretched by `factor`, rows summing to 1."""
    m = math.ceil(n / factor)
    centre = (np.arange(m) + 0.5 - (m - n / factor) / 2) * factor - 0.5  # of each output pixel, in input pixels
    offset = np.arange(-2 * factor - 1, 2 * factor + 2)
    taps = np.floor(centre)[:, None].astype(int) + offset
    weights = _keys((centre[:, None] - taps) / factor)
    weights /= weights.sum(1, keepdims=True)
    mirrored = np.mod(taps, 2 * n)  # symmetric: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    mirrored = np.where(mirrored < n, mirrored, 2 * n - 1 - mirrored)
    return _scatter(weights, mirrored, n)


def gaussian_matrix(n: int, std: float, radius: int) -> np.ndarray:
    """float64 [n, n]: normalised Gaussian taps, borders reflected without repeating the edge pixel."""
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offset / std) ** 2)
    taps = np.abs(np.arange(n)[:, None] + offset)
    taps = np.where(taps < n, taps, 2 * (n - 1) - taps)
    return _scatter(np.broadcast_to(kernel / kernel.sum(), taps.shape), taps, n)


def motion_kernel(generator: np.random.Generator, size: int, intensity: float, steps: int = 400) -> Tensor:
    """float32 [size, size], non-negative, sum 1, centred on its centre of mass."""
    velocity = np.exp(2j * np.pi * generator.uniform())
    position = np.zeros(steps, dtype=complex)
    for k in range(1, steps):
        shake = generator.standard_normal() + 1j * generator.standard_normal()
        velocity += intensity * (0.15 * shake - 0.02 * position[k - 1] / max(abs(position[k - 1]), 1.0))
        if generator.uniform() < 0.01 * intensity:  # a jerk turns the camera around
            velocity *= -np.exp(1j * generator.normal(0, 0.5))
        velocity /= abs(velocity)
        position[k] = position[k - 1] + velocity
    position -= position.mean()
    reach = max(np.abs(position.real).max(), np.abs(position.imag).max())
    length = generator.uniform(0.6, 1.0)  # of what the kernel could hold
    position *= length * (size // 2 - 1) / reach
    kernel = np.zeros((size, size))
    for dy in (0, 1):  # bilinear splat of every point
        for dx in (0, 1):
            y, x = np.floor(position.imag) + dy, np.floor(position.real) + dx
            weight = (1 - np.abs(position.imag - y)) * (1 - np.abs(position.real - x))
            np.add.at(kernel, (y.astype(int) + size // 2, x.astype(int) + size // 2), weight)
    return torch.from_numpy((kernel / kernel.sum()).astype(np.float32))


def _keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = -.5."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _scatter(weights: np.ndarray, taps: np.ndarray, n: int) -> np.ndarray:
    matrix = np.zeros((len(taps), n))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)
    return matrix
