"""Denoising: nothing is lost but to noise, so that the posterior under a diffusion prior can be sampled exactly
(`dsg.samplers.denoise_oracle`)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.base import Condition
from tasks.inverse import LinearInverseProblem
from tasks.solvers import SVD, diagonal


class Denoising(LinearInverseProblem):
    """y = x + sigma n.

    Args:
        sigma: standard deviation of the noise, in units of [-1, 1]: .1, .2 and .3 are 13, 26 and 38 of 255.
    """

    baseline_title = "y"
    has_svd = True

    def __init__(self, name: str, sigma: float = 0.2):
        super().__init__(name, sigma)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return x

    def svd(self, condition: Condition, shape: Sequence[int]) -> SVD:
        return diagonal(torch.ones_like(condition["y"]))
