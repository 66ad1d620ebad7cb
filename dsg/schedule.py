"""The noise schedule (tables in float64), its spacings, and the reverse kernels.

Notation of DDIM (Song et al., arXiv 2010.02502) with ab_t = alpha_bar_t:  x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps.
The ddim and freedom kernels have the form

    x_prev = sqrt(ab_prev) x0 + sqrt(1 - ab_prev - sigma^2) eps + sigma z

and differ in sigma alone; so, but for its variance, does ddpm: its posterior mean is that of ddim at eta = 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KERNELS = ("ddim", "ddpm", "freedom")
SPACINGS = ("linspace", "leading")
VARIANCES = ("learned_range", "fixed_small")


@dataclass(frozen=True)
class Step:
    """One reverse step, from ab_t to ab_prev. `index` counts down to 0; `t` is what the network sees."""

    index: int
    t: int
    alpha_bar: float
    alpha_bar_prev: float

    @property
    def beta(self) -> float:
        """Variance of the respaced forward step."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @property
    def beta_tilde(self) -> float:
        """Variance of q(x_prev | x_t, x0) (DDPM, arXiv 2006.11239, eq. 7)."""
        return (1 - self.alpha_bar_prev) / (1 - self.alpha_bar) * self.beta

    @property
    def posterior_x0(self) -> float:
        """Factor c1 of x0 in the mean of q(x_prev | x_t, x0) (DDPM, eq. 7)."""
        return self.beta * math.sqrt(self.alpha_bar_prev) / (1 - self.alpha_bar)


def linear_betas(start: float = 1e-4, end: float = 2e-2, steps: int = 1000) -> Tensor:
    """DDPM's linear schedule, float64 [steps]."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def scaled_linear_betas(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Tensor:
    """Stable Diffusion's schedule, linear in sqrt(beta), float64 [steps]."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


class NoiseSchedule:
    """The forward process of a prior.

    Args:
        betas: float64 [T] variances of the forward steps.
        steps_offset: added to every t of the "leading" spacing (1 for Stable Diffusion).
        final_alpha_bar: ab_prev of the last step: 1 for pixel priors, alpha_bar_0 for Stable Diffusion.
    """

    def __init__(self, betas: Tensor, steps_offset: int = 0, final_alpha_bar: float = 1.0):
        self.alpha_bar = torch.cumprod(1 - betas.double().cpu(), dim=0)
        self.steps_offset, self.final_alpha_bar = steps_offset, final_alpha_bar

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def timesteps(self, steps: int, spacing: str) -> list[int]:
        """The `steps` values of t in ascending order.

        linspace: from 0 to T-1; guided-diffusion's `timestep_respacing` (which adds up its stride and so is off by
        one here and there at odd counts above 250). leading: DDIM's, floor(k T / steps).

        Raises:
            ValueError: unknown spacing, or `steps` outside 2..T.
        """
        total = len(self)
        if not 2 <= steps <= total:
            raise ValueError(f"sampler.steps={steps} is out of range: 2 to {total}")
        if spacing == "linspace":
            return [round(k * (total - 1) / (steps - 1)) for k in range(steps)]
        if spacing == "leading":
            return [min(k * total // steps + self.steps_offset, total - 1) for k in range(steps)]
        raise ValueError(f"sampler.spacing={spacing} is unknown: one of {', '.join(SPACINGS)}")

    def steps(self, steps: int, spacing: str) -> list[Step]:
        """The reverse steps in the order they are taken, index steps-1 down to 0."""
        return self.steps_at(self.timesteps(steps, spacing))

    def steps_at(self, ts: Sequence[int]) -> list[Step]:
        """The reverse steps from the highest of `ts`, which ascend, over the others to the last alpha_bar."""
        ab = [self.alpha_bar[t].item() for t in ts]
        ab_prev = [self.final_alpha_bar, *ab[:-1]]
        return [Step(k, ts[k], ab[k], ab_prev[k]) for k in reversed(range(len(ts)))]

    def alpha_bar_at(self, t: float) -> float:
        """alpha_bar at t in [0, T-1]: of the table, and between its entries log-linear."""
        below = math.floor(t)
        if below == t:
            return self.alpha_bar[below].item()
        low, high = self.alpha_bar[below].item(), self.alpha_bar[below + 1].item()
        return low ** (below + 1 - t) * high ** (t - below)


def reverse_kernel(
    kernel: str, eta: float, variance: str, step: Step, x_t: Tensor, x0: Tensor, eps: Tensor, v: Tensor | None
) -> tuple[Tensor, float | Tensor]:
    """Mean and standard deviation of p(x_prev | x_t) for the predicted clean image and noise.

    Scalars are rounded to float32 where guided-diffusion rounds them, so that its runs are replayed to the bit.

    Args:
        kernel: ddim, ddpm or freedom; eta: of ddim and freedom; variance: of ddpm.
        v: what the network predicts for learned_range, [B, C, H, W] like the other tensors.

    Returns:
        mean like x_t; sigma, a number, or a field like x_t for learned_range. sigma = 0 where the step ends at
        ab_prev = 1.
    """
    if kernel == "ddpm":
        return _ddpm_mean(step, x_t, x0), _ddpm_sigma(step, variance, v)
    ab_prev = np.float32(step.alpha_bar_prev)
    sigma = kernel_sigma(kernel, eta, step)
    toward_noise = np.sqrt(max(1 - ab_prev - sigma**2, np.float32(0)))
    return float(np.sqrt(ab_prev)) * x0 + float(toward_noise) * eps, float(sigma)


def kernel_sigma(kernel: str, eta: float, step: Step) -> np.float32:
    """ddim: eta sqrt((1-ab_prev)/(1-ab_t)) sqrt(1 - ab_t/ab_prev) (DDIM eq. 16); freedom: eta sqrt(1-ab_prev)."""
    ab, ab_prev, eta = np.float32(step.alpha_bar), np.float32(step.alpha_bar_prev), np.float32(eta)
    if kernel == "freedom":
        return eta * np.sqrt(1 - ab_prev)
    return eta * np.sqrt((1 - ab_prev) / (1 - ab)) * np.sqrt(1 - ab / ab_prev)


def is_noiseless(kernel: str, eta: float, step: Step) -> bool:
    """Whether the kernel's sigma is 0: the step to ab_prev = 1, and every ddim or freedom step with eta = 0."""
    return step.alpha_bar_prev == 1 if kernel == "ddpm" else kernel_sigma(kernel, eta, step) == 0


def _ddpm_mean(step: Step, x_t: Tensor, x0: Tensor) -> Tensor:
    """DDPM eq. 7 with the respaced betas."""
    per_x = (1 - step.alpha_bar_prev) * math.sqrt(1 - step.beta) / (1 - step.alpha_bar)
    return step.posterior_x0 * x0 + per_x * x_t


def _ddpm_sigma(step: Step, variance: str, v: Tensor | None) -> float | Tensor:
    """fixed_small: sqrt(beta_tilde). learned_range: v in [-1, 1] interpolates log variance between beta_tilde and
    beta, per pixel (Nichol & Dhariwal, arXiv 2102.09672, eq. 15). guided-diffusion clips beta_tilde at the last step,
    where it is 0; that step takes no noise, so the question does not arise."""
    if step.alpha_bar_prev == 1:
        return 0.0
    if variance == "fixed_small":
        return math.sqrt(step.beta_tilde)
    frac = (v + 1) / 2
    return torch.exp(0.5 * (frac * math.log(step.beta) + (1 - frac) * math.log(step.beta_tilde)))
