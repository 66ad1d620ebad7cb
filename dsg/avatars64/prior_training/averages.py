"""Averages of the weights over the training."""

import copy

import torch
from torch import nn


class Averages:
    """Averages of the weights with the power-function profiles of EDM2 (arXiv 2312.02696): they grow with the run.

    `widths`: standard deviation of each profile, as a share of the training so far.
    """

    def __init__(self, net: nn.Module, widths: list[float]):
        self.nets = {width: copy.deepcopy(net).requires_grad_(False) for width in widths}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """step: 1 after the first one."""
        for width, average in self.nets.items():
            keep = (1 - 1 / step) ** (exponent(width) + 1)
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - keep)


def exponent(width: float) -> float:
    """The gamma > 0 of t^gamma whose standard deviation is `width`: w^2 (g+2)^2 (g+3) = g+1, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(100):
        g = (low + high) / 2
        low, high = (g, high) if (g + 1) / ((g + 2) ** 2 * (g + 3)) > width**2 else (low, g)
    return low
