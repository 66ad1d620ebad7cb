"""JPEG compression as an operator: what is lost is what the quantisation of an image's 8x8 blocks rounds away."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, JpegImagePlugin
from torch import Tensor

from dsg.types import Data, Input
from tasks.base import Condition
from tasks.inverse import InverseProblem, is_integer

# Annex K of the JPEG standard: luma and chroma at quality 50, by rows
LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class Jpeg(InverseProblem):
    """y = JPEG(x): blocks D = C b C^T of 8x8 pixels in YCbCr, as T round(D/T), with C the cosine transform and T the
    quantisation table; half the resolution of Cb and Cr (4:2:0) where the file has it.

    In 0..255 units. The gradient goes straight through the rounding, so that it is the one of A = identity (and of the
    halved chroma). Decoders differ by a grey level or so from this, hence sigma.

    Args:
        quality: 1 to 100, as of libjpeg; null takes each file's own tables and sampling (data.degraded=true).
        sigma: of what is added to y when truths are degraded; 0 leaves the compression alone.
    """

    def __init__(self, name: str, sigma: float = 0.0, quality: int | None = 25):
        super().__init__(name, sigma)
        if quality is not None and not (is_integer(quality, 1) and quality <= 100):
            raise ValueError(f"task.quality={quality}: an integer from 1 to 100, or null for the file's own")
        self.quality = quality

    def inputs(self, data: Data, shape: Sequence[int]) -> list[Input]:
        if self.quality is not None:
            return super().inputs(data, shape)
        if not data.degraded:
            raise ValueError("task.quality=null reads the tables of JPEG files: data.degraded=true")
        return [replace(one, tables=read_tables(one)) for one in super().inputs(data, shape)]

    def condition(self, inputs: Sequence[Input], seed: int) -> dict[str, Tensor]:
        condition = super().condition(inputs, seed)
        if self.quality is None:
            condition["tables"] = torch.from_numpy(np.stack([one.tables for one in inputs]))
        return condition

    def tables(self, x: Tensor, condition: Condition) -> Tensor:
        """[B, 3, 64]: of Y and CbCr, by rows, and the sampling's factor in every place of the third."""
        if "tables" in condition:
            return condition["tables"].to(x)
        return torch.from_numpy(tables_of(self.quality)).to(x).expand(len(x), -1, -1)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        tables, size = self.tables(x, condition), x.shape[-2:]
        ycc = torch.einsum("kc,bchw->bkhw", x.new_tensor(TO_YCC), (x + 1) * 127.5)
        ycc = F.pad(ycc, (0, -size[1] % 16, 0, -size[0] % 16), mode="replicate")
        luma = quantised(ycc[:, :1] - 128, tables[:, 0]) + 128
        full = quantised(ycc[:, 1:], tables[:, 1])
        halved = F.interpolate(
            quantised(F.avg_pool2d(ycc[:, 1:], 2), tables[:, 1]), scale_factor=2, mode="bilinear", align_corners=False
        )
        chroma = torch.where(tables[:, 2, :1, None, None] > 1, halved, full)
        ycc = torch.cat([luma, chroma], dim=1)[..., : size[0], : size[1]]
        inverse = torch.linalg.inv(torch.tensor(TO_YCC, dtype=torch.float64)).to(x)
        decoded = torch.einsum("ck,bkhw->bchw", inverse, ycc).clamp(0, 255)
        return straight(decoded, decoded.round()) / 127.5 - 1


def quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Planes [B, C, H, W], H and W multiples of 8, with the coefficients of their blocks rounded to multiples of the
    table [B, 64]."""
    b, c, h, w = planes.shape
    transform, steps = cosines().to(planes), table.reshape(b, 1, 1, 1, 8, 8)
    blocks = planes.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    coefficients = transform @ blocks @ transform.T
    rounded = straight(coefficients, (coefficients / steps).round() * steps)
    return (transform.T @ rounded @ transform).transpose(3, 4).reshape(b, c, h, w)


def straight(x: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of x."""
    return x + (value - x).detach()


@cache
def cosines() -> Tensor:
    """The orthonormal cosine transform of 8 numbers, [8, 8]."""
    k = torch.arange(8, dtype=torch.float64)
    rows = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows


def tables_of(quality: int) -> np.ndarray:
    """float32 [3, 64]: libjpeg's tables of a quality, and 4:2:0 sampling."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [np.clip((np.array(table) * scale + 50) // 100, 1, 255) for table in (LUMA, CHROMA)]
    return np.stack([*tables, np.full(64, 2)]).astype(np.float32)


def read_tables(one: Input) -> np.ndarray:
    """As `tables_of`, of a JPEG file. Raises ValueError if it is none."""
    with Image.open(one.path) as image:
        if image.format != "JPEG":
            raise ValueError(f"{one.path} is no JPEG file: give task.quality")
        tables = list(image.quantization.values())
        sampling = JpegImagePlugin.get_sampling(image)
    both = [tables[0], tables[min(1, len(tables) - 1)]]
    return np.stack([*map(np.array, both), np.full(64, 2 if sampling == 2 else 1)]).astype(np.float32)
