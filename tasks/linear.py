"""Linear operators: masks, downsampling, blurs.

Masks: 1 = observed. A condition is a dict of tensors whose first dimension is the batch; it depends on (seed, image id)
alone.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsg import image_files as images
from dsg.files import resolve
from dsg.noise import rng
from dsg.types import Data, Input
from tasks.base import Condition
from tasks.inverse import LinearInverseProblem, is_integer, is_number
from tasks.kernels import bicubic_matrix, gaussian_matrix, motion_kernel, read_kernel
from tasks.solvers import SVD, diagonal, separable


class Inpainting(LinearInverseProblem):
    """Some pixels observed, all channels of them: y = m (x + sigma n), m = 1 where observed and 0 elsewhere.

    Args:
        masked_fraction: [lo, hi], of which each image draws the fraction of pixels that are missing.
        mask: image, or folder of images with the ids of those that are restored, to use instead: white = observed.
        keep_observed: observed pixels of the result are those of y, exactly; null: of images that are degraded already.
        feather: width of the hole's edge, in pixels, over which the result passes to what is kept around it; null: 0.
    """

    resizable = True  # with its mask
    has_svd = True

    def __init__(
        self,
        name: str,
        sigma: float = 0.05,
        masked_fraction: Sequence[float] = (0.3, 0.7),
        mask: str | None = None,
        keep_observed: bool | None = None,
        feather: float | None = None,
    ):
        super().__init__(name, sigma)
        pair = isinstance(masked_fraction, Sequence) and len(masked_fraction) == 2
        numbers = pair and all(is_number(v, 0) for v in masked_fraction)
        if not numbers or not masked_fraction[0] <= masked_fraction[1] < 1:
            raise ValueError(f"task.masked_fraction={masked_fraction}: expected [lo, hi] with 0 <= lo <= hi < 1")
        if feather is not None and not is_number(feather, 0):
            raise ValueError(f"task.feather={feather}: a width in pixels, 0 or more")
        self.masked_fraction, self.mask = tuple(masked_fraction), mask
        self.keep_observed, self.feather = keep_observed, feather or 0

    def inputs(self, data: Data, shape: Sequence[int]) -> list[Input]:
        found = super().inputs(data, shape)
        if self.mask is None:
            return found
        masks = images.read_masks(resolve(self.mask), {i.id: i.path for i in found}, shape[-1], data.on_error)
        return [replace(i, mask=masks[i.id]) for i in found if i.id in masks]

    def notes(self, inputs: Sequence[Input]) -> list[str]:
        if self.mask is None:
            return super().notes(inputs)
        missing = sorted(100 * (1 - i.mask.mean().item()) for i in inputs)
        least, most = f"{missing[0]:.1f}", f"{missing[-1]:.1f}"
        share = least if least == most else f"{least} to {most}"
        return [f"task.mask: {share} % of the pixels are missing", *super().notes(inputs)]

    def check_degraded(self, shape: Sequence[int]) -> None:
        if self.mask is None:
            raise ValueError(
                f"task={self.name} with data.degraded=true needs task.mask=<image or folder> (white = observed)"
            )

    def condition(self, inputs: Sequence[Input], seed: int) -> dict[str, Tensor]:
        condition = super().condition(inputs, seed)
        measured = inputs[0].measurement is not None
        keep = measured if self.keep_observed is None else self.keep_observed
        return {**condition, "kept": condition["mask"]} if keep else condition

    def finish(self, image: Tensor, condition: Condition) -> Tensor:
        if "kept" not in condition:
            return image
        return keep_observed(image, condition["y"], condition["kept"], self.feather)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return condition["mask"] * x

    def svd(self, condition: Condition, shape: Sequence[int]) -> SVD:
        return diagonal(condition["mask"])

    def observed_part(self, y: Tensor, condition: Condition) -> Tensor:
        return condition["mask"] * y

    def draw(self, shape: Sequence[int], key: tuple) -> dict[str, Tensor]:
        return {"mask": self.draw_mask(shape, rng(*key, "mask"))}

    def draw_mask(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """[1, 1, ...] with exactly int(fraction n) zeros; shape is (C, ...), of n places."""
        pixels = math.prod(shape[1:])
        mask = torch.ones(pixels)
        mask[generator.permutation(pixels)[: int(pixels * generator.uniform(*self.masked_fraction))]] = 0
        return mask.reshape(1, 1, *shape[1:])

    def observed(self, y: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        if mask is None:
            raise ValueError(f"task={self.name} needs the mask that goes with y (1 = observed)")
        if mask.ndim != y.ndim or mask.shape[2:] != y.shape[2:]:
            raise ValueError(f"mask {tuple(mask.shape)} does not fit y {tuple(y.shape)}")
        mask = mask.to(y).expand(len(y), *mask.shape[1:])
        return {"y": mask * y, "mask": mask}


def keep_observed(image: Tensor, y: Tensor, mask: Tensor, feather: float) -> Tensor:
    """`image`, with y where the mask [B, 1, H, W] is 1.

    With a `feather`, what the observed pixels around a hole differ by, averaged over `feather` pixels, is added inside
    of it and fades with the distance to its edge, so that no seam is seen.
    """
    if feather:
        weight = gaussian_blur(mask, feather)
        difference = gaussian_blur(mask * (y - image), feather) / weight.clamp_min(1e-6)
        image = image + (2 * weight).clamp(max=1) * difference  # half of what surrounds an edge is observed
    return torch.where(mask > 0, y, image.clamp(-1, 1))


def gaussian_blur(x: Tensor, std: float) -> Tensor:
    """Blur with 0 beyond the border."""
    radius = math.ceil(3 * std)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / std) ** 2).to(x)
    rows = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(x, rows, padding=(0, radius), groups=x.shape[1])
    return F.conv2d(x, rows.transpose(2, 3), padding=(radius, 0), groups=x.shape[1])


class BoxInpainting(Inpainting):
    """A square is missing, at a random place.

    Args:
        box: side of the square in pixels.
        margin: least distance to the border in pixels.
    """

    def __init__(
        self,
        name: str,
        sigma: float = 0.05,
        box: int = 128,
        margin: int = 16,
        mask: str | None = None,
        keep_observed: bool | None = None,
        feather: float | None = None,
    ):
        super().__init__(name, sigma, mask=mask, keep_observed=keep_observed, feather=feather)
        if not is_integer(box, 1) or not is_integer(margin, 0):
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


class Separable(LinearInverseProblem):
    """A(x) = M_H x M_W^T with one matrix per axis."""

    has_svd = True

    def __init__(self, name: str, sigma: float):
        super().__init__(name, sigma)
        self._matrices: dict[tuple, Tensor] = {}
        self._svds: dict[tuple, SVD] = {}

    @abstractmethod
    def matrix(self, n: int) -> np.ndarray:
        """float64 [m, n], what happens along an axis of n pixels."""

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        rows, columns = (self._matrix_like(n, x) for n in x.shape[-2:])
        return rows @ x @ columns.T

    def svd(self, condition: Condition, shape: Sequence[int]) -> SVD:
        (height, width), y = shape[-2:], condition["y"]
        key = (height, width, y.dtype, y.device)
        if key not in self._svds:
            self._svds[key] = separable(self.matrix(height), self.matrix(width), y)
        return self._svds[key]

    def _matrix_like(self, n: int, x: Tensor) -> Tensor:
        key = (n, x.dtype, x.device)
        if key not in self._matrices:
            self._matrices[key] = torch.as_tensor(self.matrix(n), dtype=x.dtype, device=x.device)
        return self._matrices[key]


class SuperResolution(Separable):
    """Bicubic downsampling as MATLAB's imresize does it: a = -.5, widened by the factor f, symmetric borders.

        y[i, j] = sum_ab w(a - c_i) w(b - c_j) x[a, b] + sigma n,    w(u) ~ Keys(u / f),    sum_a w(a - c_i) = 1

    with the centre c_i = f (i + 1/2) - 1/2 of the block of f pixels that a pixel of y covers, where f divides the side
    (else half of what the last block lacks is before the first pixel), and y of ceil(H / f) x ceil(W / f) pixels.

    Args:
        factor: integer >= 2.
    """

    baseline_title = "bicubic"

    def __init__(self, name: str, sigma: float = 0.05, factor: int = 4):
        super().__init__(name, sigma)
        if not is_integer(factor, 2):
            raise ValueError(f"task.factor={factor}: an integer, 2 or more")
        self.factor = factor

    def check(self, shape: Sequence[int]) -> None:
        if min(shape[-2:]) < self.factor:
            raise ValueError(f"task.factor={self.factor} leaves nothing of {shape[-2]}x{shape[-1]} pixels")

    def measurement_size(self, size: int) -> int:
        return math.ceil(size / self.factor)

    def restored_size(self, size: int) -> int:
        return size * self.factor

    def matrix(self, n: int) -> np.ndarray:
        return bicubic_matrix(n, self.factor)

    def baseline(self, condition: Condition, shape: Sequence[int]) -> Tensor:
        """Bicubic enlargement."""
        return F.interpolate(condition["y"], size=tuple(shape[-2:]), mode="bicubic", align_corners=False)


class GaussianDeblur(Separable):
    """Gaussian blur with reflected borders.

        y[i, j] = sum_ab k[a] k[b] x[i + a, j + b] + sigma n,    k[a] ~ exp(-a^2 / 2 std^2), |a| <= R,    sum_a k[a] = 1

    with R = min(int(4 std + .5), kernel_size // 2).

    Args:
        std: of the kernel in pixels. Like `scipy.ndimage.gaussian_filter`, from which the released kernel comes, it
            ends at 4 std: the released 61x61 kernel of std 3 is zero beyond 12 pixels.
        kernel_size: odd; cuts the kernel if that is less.
    """

    def __init__(self, name: str, sigma: float = 0.05, std: float = 3.0, kernel_size: int = 61):
        super().__init__(name, sigma)
        if not is_number(std, 1e-3) or not is_integer(kernel_size, 1) or kernel_size % 2 == 0:
            raise ValueError(f"task.std={std}, task.kernel_size={kernel_size}: expected std > 0 and an odd integer")
        self.std, self.radius = std, min(int(4 * std + 0.5), kernel_size // 2)

    def check(self, shape: Sequence[int]) -> None:
        if self.radius >= min(shape[-2:]):
            raise ValueError(
                f"task.std={self.std}: a kernel of radius {self.radius} cannot be reflected in {shape[-2:]} pixels"
            )

    def matrix(self, n: int) -> np.ndarray:
        return gaussian_matrix(n, self.std, self.radius)


class MotionDeblur(LinearInverseProblem):
    """Blur along a random camera trajectory, another for each image, or with a given kernel; reflected borders.

        y[i, j] = sum_ab k[a, b] x[i + a - K//2, j + b - L//2] + sigma n,    sum_ab k[a, b] = 1

    for a kernel k of K x L pixels. This correlates, as DPS's code, `cv2.filter2D` and `scipy.ndimage.correlate` do: a
    point spread function, which is the image of a point, is given turned by 180 degrees.

    The camera has inertia and is shaken (a simplified Boracchi & Foi, IEEE TIP 2012): `intensity` in [0, 1] goes from a
    straight streak to a nervous scribble.

    Args:
        kernel_size: odd, in pixels; the trajectory fits in it.
        intensity: in [0, 1].
        kernel: .npy file with numbers [K, L], or an image whose brightness is the kernel, to use for every image
            instead; any size, odd or even; it is scaled to a sum of 1.
    """

    def __init__(
        self,
        name: str,
        sigma: float = 0.05,
        kernel_size: int = 61,
        intensity: float = 0.5,
        kernel: str | None = None,
    ):
        super().__init__(name, sigma)
        if not is_integer(kernel_size, 5) or kernel_size % 2 == 0 or not is_number(intensity, 0) or intensity > 1:
            raise ValueError(
                f"task.kernel_size={kernel_size}, task.intensity={intensity}: an odd size >= 5, intensity in [0, 1]"
            )
        self.kernel, self.intensity = None if kernel is None else read_kernel(kernel), intensity
        self.kernel_size = kernel_size if self.kernel is None else max(self.kernel.shape)

    def check(self, shape: Sequence[int]) -> None:
        if self.kernel_size // 2 >= min(shape[-2:]):
            raise ValueError(f"task.kernel_size={self.kernel_size} is too large for {shape[-2]}x{shape[-1]} pixels")

    def observed(self, y: Tensor, mask: Tensor | None = None, kernel: Tensor | None = None) -> dict[str, Tensor]:
        """`kernel` [1 or B, K, L]: the blur that made y, where the task has none."""
        kernel = self.kernel[None] if kernel is None and self.kernel is not None else kernel
        if mask is not None or kernel is None:
            raise ValueError(f"task={self.name} needs the kernel that goes with y, and takes no mask")
        return {"y": y, "kernel": kernel.to(y).expand(len(y), -1, -1)}

    def draw(self, shape: Sequence[int], key: tuple) -> dict[str, Tensor]:
        drawn = self.kernel is None
        kernel = motion_kernel(rng(*key, "kernel"), self.kernel_size, self.intensity) if drawn else self.kernel
        return {"kernel": kernel[None]}

    def check_degraded(self, shape: Sequence[int]) -> None:
        if self.kernel is None:
            raise ValueError(
                f"task={self.name} with data.degraded=true needs task.kernel=<.npy file or image>: the blur's kernel"
            )

    @property
    def weights_hash(self) -> str | None:
        """A hash of the kernel that was given."""
        return None if self.kernel is None else sha256(self.kernel.numpy().tobytes()).hexdigest()

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        batch, channels, (height, width) = len(x), x.shape[1], condition["kernel"].shape[-2:]
        weight = condition["kernel"].to(x)[:, None, None].expand(batch, channels, 1, -1, -1).flatten(0, 1)
        sides = (width // 2, (width - 1) // 2, height // 2, (height - 1) // 2)  # left, right, top, bottom
        padded = F.pad(x, sides, mode="reflect").flatten(0, 1)[None]
        return F.conv2d(padded, weight, groups=batch * channels).reshape(x.shape)
