"""Inverse problems: y = A(x) + sigma n is given, and x in [-1, 1] is wanted.

sigma is the noise's standard deviation in units of [-1, 1], as in DPS's and DSG's code: 0.05 here is 0.025 of [0, 1],
or 6.4 of 255. Sizes follow the tensor.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsg import image_files as images
from dsg.files import resolve
from dsg.noise import standard_normal
from dsg.types import Column, Data, Input, to_tensor, to_uint8
from tasks.base import Condition, Task
from tasks.solvers import CUTOFF, SVD, proximal_by_gradients


class InverseProblem(Task):
    """An operator A and its noise. Subclasses give `forward`, and `draw` where A itself is drawn per image.

    A condition holds "y" and what of A belongs to an image (its mask, its kernel).

    Args:
        name: files results, and keys the noise.
        sigma: standard deviation of the noise, in units of [-1, 1].

    Attributes:
        resizable: whether an image that is degraded already may be reduced to the prior's size. Where A has a length in
            pixels (a blur, a factor) it may not.
        measures_noise: whether the noise of y is seen in y itself, an image, so that sigma can be estimated.
        made_by: the problem that makes y, where it is another than this one, which is what is assumed of y; else None.
    """

    columns = (Column("residual", "residual", 4),)
    evaluated_by = ("psnr", "ssim", "haarpsi", "lpips_vgg")
    resizable = False
    measures_noise = False
    made_by: "InverseProblem | None" = None

    def __init__(self, name: str, sigma: float = 0.05):
        if not is_number(sigma, 0):
            raise ValueError(f"task.sigma={sigma}: a standard deviation in units of [-1, 1], 0 or more")
        self.name, self.sigma = name, sigma

    @abstractmethod
    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """A(x), x [B, C, H, W]."""

    def draw(self, shape: Sequence[int], key: tuple) -> dict[str, Tensor]:
        """What of A is drawn for an image of `shape` (C, H, W), by `rng(*key, ...)`: tensors [1, ...]."""
        return {}

    def observed_part(self, y: Tensor, condition: Condition) -> Tensor:
        """y, and 0 where nothing is observed."""
        return y

    def notes(self, inputs: Sequence[Input]) -> list[str]:
        if self.sigma <= 1:
            return []
        unit = "in units of [-1, 1]; a value for 0 to 255 is divided by 127.5"
        return [f"task.sigma={self.sigma:g} is more noise than there is image: it is {unit}"]

    def measurement_size(self, size: int) -> int:
        """Side of y for a square image of side `size`, in pixels."""
        return size

    def restored_size(self, size: int) -> int:
        """Side of the image whose y has the side `size`, in pixels."""
        return size

    def image_shape(self, input: Input, shape: Sequence[int]) -> tuple[int, ...]:
        if None not in shape:
            return tuple(shape)
        if input.truth is not None:
            return (shape[0], *input.truth.shape[:2])
        return (shape[0], *map(self.restored_size, input.measurement.shape[:2]))

    def check_degraded(self, shape: Sequence[int]) -> None:
        """Raise a ValueError if images that are degraded already cannot be restored, for example as A is not known."""
        if self.draw(shape, (0, "", self.name)):
            raise ValueError(
                f"task={self.name} draws its operator per image: data.degraded=true needs the one that was used"
            )

    def check_made_by(self, data: Data, shape: Sequence[int]) -> None:
        """Raise a ValueError if y cannot be made by another problem than this one."""
        if self.made_by is None:
            return
        if data.degraded:
            raise ValueError("data.degraded=true: y is given, so that what is assumed of it is task.*, not assumed.*")
        if None in shape:  # of each image, as soon as it is known
            return
        self.made_by.check(shape)
        made, expected = (task.measurement_size(shape[-1]) for task in (self.made_by, self))
        if made != expected:
            raise ValueError(f"assumed: y has {made} pixels a side, but {expected} would be assumed")

    def inputs(self, data: Data, shape: Sequence[int]) -> list[Input]:
        """The images of `data.root`: truths, or measurements where `data.degraded`."""
        if data.root is None:
            raise ValueError("data.root is null: give a folder of images")
        if data.degraded:
            self.check_degraded(shape)
        self.check_made_by(data, shape)
        files = dict(list(images.find(resolve(data.root)).items())[: data.limit])
        side, exact = shape[-1] and self.measurement_size(shape[-1]), not self.resizable

        def read(name: str, path: Path) -> Input:
            form = images.form_of(path) if side is None else None
            if data.degraded:
                deep = form is not None and form.deep
                y = images.read_deep(path) if deep else images.read(path, side, images.AVERAGE, exact)
                return Input(name, measurement=y, path=path, form=form)
            return Input(name, truth=images.read(path, shape[-1]), path=path, form=form)

        return list(images.each(files, read, data.on_error).values())

    def condition(self, inputs: Sequence[Input], seed: int) -> dict[str, Tensor]:
        """The degraded y of truths, [B, ...], or the measurements; `inputs` are all the one or all the other."""
        given = {"mask": torch.cat([i.mask for i in inputs])} if inputs[0].mask is not None else {}
        if inputs[0].measurement is None:
            return self.degrade(to_tensor([i.truth for i in inputs]), [i.id for i in inputs], seed, **given)
        return self.observed(to_tensor([i.measurement for i in inputs]), **given)

    def degrade(self, x: Tensor, ids: Sequence[str], seed: int, **given: Tensor) -> dict[str, Tensor]:
        """The condition of clean images x [B, C, H, W], with noise on what is observed.

        Args:
            ids: of the images; with `seed` they key what is drawn.
            given: what of A belongs to an image, [B, ...], in place of a draw: `mask=...`, `kernel=...`.
        """
        if given:
            condition = dict(given)
        else:
            drawn = [self.draw(x.shape[1:], (seed, i, self.name)) for i in ids]
            condition = {k: torch.cat([d[k] for d in drawn]) for k in drawn[0]}
        if self.made_by is not None:  # what is drawn of both is drawn by the same keys
            y = self.made_by.degrade(x, ids, seed, **given)["y"]
            return {**condition, "y": self.observed_part(y, condition)}
        clean = self.forward(x, condition)
        noise = torch.stack([standard_normal(clean.shape[1:], seed, i, self.name, "measurement") for i in ids])
        condition["y"] = clean + self.sigma * self.observed_part(noise, condition)
        return condition

    def observed(self, y: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The condition of a measurement y [B, ...] that is given, with its mask [1 or B, 1 or C, H, W], 1 = observed;
        what y has elsewhere does not count.

        Raises:
            ValueError: if what belongs to A is missing, or does not fit.
        """
        if mask is not None:
            raise ValueError(f"task={self.name} takes no mask")
        return {"y": y}

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        """|y - A(x)|, the norm and not its square (DPS, algorithm 1), per image: [B]."""
        return (condition["y"] - self.forward(image, condition)).flatten(1).norm(dim=1)

    def observations(self, condition: Condition) -> Tensor:
        """How many numbers are observed, [B]."""
        return self.observed_part(torch.ones_like(condition["y"]), condition).flatten(1).sum(1)

    def residual(self, image: Tensor, condition: Condition) -> Tensor:
        """Root mean square of y - A(x) over what is observed, [B]: about sigma for the truth."""
        return self.loss(image, condition) / self.observations(condition).sqrt()

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        return {"residual": self.residual(image, condition)}

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray:
        """y as an image; missing pixels are grey (0)."""
        return to_uint8(condition["y"])[0]


class LinearInverseProblem(InverseProblem):
    """An inverse problem whose A is linear.

    Attributes:
        baseline_title: what tables call its `baseline`.
        has_svd: whether it gives an `svd`.
    """

    baseline_title = "A^T y"
    has_svd = False
    measures_noise = True

    def transpose(self, y: Tensor, condition: Condition, shape: Sequence[int]) -> Tensor:
        """A^T(y) of the shape [B, C, H, W], exact: the vector-Jacobian product of the linear A."""
        x = torch.zeros(tuple(shape), dtype=y.dtype, device=y.device)
        return torch.func.vjp(lambda x: self.forward(x, condition), x)[1](y)[0]

    def svd(self, condition: Condition, shape: Sequence[int]) -> SVD:
        """A in its singular values, for images of the shape [B, C, H, W]; where `has_svd`."""
        raise NotImplementedError(f"{type(self).__name__} has no SVD in closed form (has_svd is false)")

    def proximal(self, x: Tensor, condition: Condition, rho: float, iterations: int = 200) -> Tensor:
        """argmin_v |A(v) - y|^2 + rho |v - x|^2, like x; rho > 0. Exact by the SVD, else by conjugate gradients."""
        if self.has_svd:
            return self.svd(condition, x.shape).proximal(x, condition["y"], rho)
        return proximal_by_gradients(
            lambda x: self.forward(x, condition),
            lambda y: self.transpose(y, condition, x.shape),
            x, condition["y"], rho, iterations,
        )  # fmt: skip

    def pseudo_inverse(self, condition: Condition, shape: Sequence[int]) -> Tensor:
        """A^+ y of the shape [B, C, H, W], without the directions in which A is below `CUTOFF` of its largest.

        Without an SVD these are damped rather than cut.
        """
        if self.has_svd:
            return self.svd(condition, shape).pseudo_inverse(condition["y"])
        return self.proximal(condition["y"].new_zeros(tuple(shape)), condition, CUTOFF**2)

    def baseline(self, condition: Condition, shape: Sequence[int]) -> Tensor:
        """What one has without a prior: A^T(y)."""
        return self.transpose(condition["y"], condition, shape)


def assume(assumed: Task, true: Task) -> InverseProblem:
    """`assumed`, whose y is made by `true`: the loss, the noise level and whatever else a sampler asks for are those
    of `assumed`.

    Raises:
        ValueError: one of them is no inverse problem.
    """
    if not isinstance(assumed, InverseProblem) or not isinstance(true, InverseProblem):
        raise ValueError(f"assumed: task={true.name} makes no measurement of which something could be assumed")
    assumed.made_by = true
    return assumed


def is_integer(value, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value, low: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < math.inf
