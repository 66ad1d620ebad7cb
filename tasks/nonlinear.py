"""Operators that are not linear: a clipped exposure, and the magnitude of a Fourier transform.

Formulas as in DAPS (zhangbingliang2019/DAPS, forward_operator) and DPS (guided_diffusion/measurements.py).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsg.types import Input
from tasks.base import Condition
from tasks.inverse import InverseProblem, is_integer, is_number


class HDR(InverseProblem):
    """High dynamic range from one over-exposed image: y = clip(scale x, -1, 1) + sigma n.

    Where A saturates its gradient is zero: only the prior says what is there.

    Args:
        scale: the exposure, 1 or more; 2 loses all that is darker or brighter than half of the range.
    """

    def __init__(self, name: str, sigma: float = 0.05, scale: float = 2.0):
        super().__init__(name, sigma)
        if not is_number(scale, 1):
            raise ValueError(f"task.scale={scale}: a number, 1 or more")
        self.scale = scale

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return (self.scale * x).clamp(-1, 1)


class PhaseRetrieval(InverseProblem):
    """y = |F(pad((x + 1)/2))| + sigma n, [B, C, H + 2p, W + 2p], with p = oversample/8 of a side added on every side.

    F is the orthonormal Fourier transform of each channel, the zero frequency in the middle. sigma is in units of y:
    as F is orthonormal, those of [0, 1].

    What y cannot tell: an image turned by 180 degrees, or shifted (around the border) within the padded square, has the
    same y, in each channel by itself. That the padding is black rules out most shifts. A turned image fits as well as
    the right one, and no residual tells; only the prior may. Metrics compare with the truth as it is: nothing is
    aligned, and an image that comes out turned counts as wrong.

    As descent may end in other wrong images, an image is tried `tries` times and the one with the least residual kept.

    Args:
        oversample: 2 adds a quarter on every side.
        tries: from different noise.
    """

    def __init__(self, name: str, sigma: float = 0.05, oversample: float = 2.0, tries: int = 4):
        super().__init__(name, sigma)
        if not is_number(oversample, 0):
            raise ValueError(f"task.oversample={oversample}: a number, 0 or more")
        if not is_integer(tries, 1):
            raise ValueError(f"task.tries={tries}: an integer, 1 or more")
        self.oversample, self.tries = oversample, tries

    def padding(self, size: int) -> int:
        """Pixels on each side."""
        return int(self.oversample / 8 * size)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        vertical, horizontal = (self.padding(n) for n in x.shape[-2:])
        padded = F.pad((x + 1) / 2, [horizontal, horizontal, vertical, vertical])
        spectrum = torch.fft.fft2(torch.fft.ifftshift(padded, (-2, -1)), norm="ortho")
        return torch.fft.fftshift(spectrum, (-2, -1)).abs()

    def measurement_size(self, size: int) -> int:
        return size + 2 * self.padding(size)

    def check_degraded(self, shape: Sequence[int]) -> None:
        raise ValueError(f"task={self.name}: a measurement is no image; data.degraded=true does not apply")

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray:
        """log(1 + |y|), scaled to the brightest."""
        levels = condition["y"].abs().log1p()[0]
        return (255 * levels / levels.max().clamp_min(1e-12)).round().byte().permute(1, 2, 0).cpu().numpy()
