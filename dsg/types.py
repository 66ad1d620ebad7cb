"""The types that all rooms share: what a run is conditioned on, a column of a table, images as arrays and tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Form:
    """What an image file has beside three colours of 8 bits.

    Attributes:
        grey: it has no colours.
        alpha: uint8 [H, W], its opacity; None where all of it is opaque.
        icc: its colour profile.
        deep: it has 16 bits.
    """

    grey: bool = False
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    deep: bool = False


@dataclass(frozen=True, eq=False)
class Input:
    """What one condition is made of. Images are uint8 [H, W, 3].

    Attributes:
        id: the image's path under `data.root` without its suffix, `/` as `__`; of a prompt a short form of the text.
        truth: the clean image that is degraded and restored.
        measurement: instead of it an image that is degraded already; uint16 where the file has 16 bits and images keep
            their size.
        mask: float [1, 1, H, W], 1 = observed; where one was given.
        reference: the image whose person or style is wanted.
        labels: uint8 [H, W], the wanted class of every pixel, 255 = any.
        prompt: the text that is wanted.
        tables: float32 [3, 64], how a JPEG file was compressed (`tasks.jpeg`).
        path: where the image was read.
        form: what the file had beside its colours; the restored image is saved with it.
    """

    id: str
    truth: np.ndarray | None = None
    measurement: np.ndarray | None = None
    mask: Tensor | None = None
    reference: np.ndarray | None = None
    labels: np.ndarray | None = None
    prompt: str | None = None
    tables: np.ndarray | None = None
    path: Path | None = None
    form: Form | None = None

    @property
    def digest(self) -> str:
        """Tells whether what stands behind this id is still the same."""
        digest = sha256()
        for name in ("truth", "measurement", "reference", "labels", "tables"):
            array = getattr(self, name)
            if array is not None:
                digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        if self.mask is not None:
            digest.update(b"mask" + self.mask.numpy().tobytes())
        if self.prompt is not None:
            digest.update(b"prompt" + self.prompt.encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Data:
    """The options `data` of a run.

    Attributes:
        root: image, or folder of images; None where the task brings its own.
        limit: only the first so many inputs, by id; None: all.
        degraded: the images are measurements already.
        size: side in px of the square that images are cropped and reduced to; native: their own size and shape, for a
            prior that takes any; None: the prior's.
        on_error: of images that cannot be used: "stop" names all of them, "skip" leaves them out.
    """

    root: str | None = None
    limit: int | None = None
    degraded: bool = False
    size: int | Literal["native"] | None = None
    on_error: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True)
class Column:
    """How a number is shown in tables.

    Attributes:
        name: in CSV and JSON files.
        title: in tables, with its unit.
        digits: after the point.
        larger_is_better: None where neither is.
    """

    name: str
    title: str
    digits: int = 3
    larger_is_better: bool | None = None


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """float32 [B, 3, H, W] in [-1, 1] of uint8 or uint16 [H, W, 3] images."""
    halves = [float(np.iinfo(image.dtype).max) / 2 for image in images]
    scaled = [torch.from_numpy(image.astype(np.float32)) / half - 1 for image, half in zip(images, halves)]
    return torch.stack(scaled).permute(0, 3, 1, 2)


def to_uint8(images: Tensor) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] -> uint8 [B, H, W, C], clipped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def to_uint16(images: Tensor) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] -> uint16 [B, H, W, C], clipped and rounded."""
    scaled = ((images.clamp(-1, 1).double() + 1) * 32767.5).round()
    return scaled.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint16)
