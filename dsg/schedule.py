"""The noise schedule (float64), its spacings, and the reverse kernels.

A prior's path is x_t = alpha_t x0 + sigma_t eps. Divided by sqrt(alpha_t^2 + sigma_t^2) it preserves the variance; with
ab_t = alpha_bar_t = alpha_t^2/(alpha_t^2 + sigma_t^2) it is that of DDIM (Song et al., arXiv 2010.02502),

    x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps.

Samplers know this form alone; a network sees its own path (`dsg.priors.prediction`). The ddim and freedom kernels are

    x_prev = sqrt(ab_prev) x0 + sqrt(1 - ab_prev - sigma^2) eps + sigma z

and differ in sigma alone; so, but for its variance, does ddpm: its posterior mean is that of ddim at eta = 1. On a flow
ddim at eta = 0 is the Euler step of its ODE.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KERNELS = ("ddim", "ddpm", "freedom")
SPACINGS = ("linspace", "leading", "trailing", "karras", "log_snr")
VARIANCES = ("learned_range", "fixed_small")
PATHS = ("vp", "flow", "edm")


@dataclass(frozen=True)
class Step:
    """One reverse step, from ab_t to ab_prev. `index` counts down to 0; `t` is a time of the schedule."""

    index: int
    t: float
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

    def per_x0(self, kernel: str) -> float:
        """How far the kernel's mean moves with x0 where eps (of ddpm: x_t) is kept."""
        return self.posterior_x0 if kernel == "ddpm" else math.sqrt(self.alpha_bar_prev)


def linear_betas(start: float = 1e-4, end: float = 2e-2, steps: int = 1000) -> Tensor:
    """DDPM's linear schedule, float64 [steps]."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def scaled_linear_betas(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Tensor:
    """Stable Diffusion's schedule, linear in sqrt(beta), float64 [steps]."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


class NoiseSchedule:
    """The forward process of a prior that was trained with betas. Times t run over [0, T-1], also between integers.

    Args:
        betas: float64 [T] variances of the forward steps.
        steps_offset: added to every t of the "leading" spacing (1 for Stable Diffusion).
        final_alpha_bar: ab_prev of the last step: 1 for pixel priors, alpha_bar_0 for Stable Diffusion.
        path: what the network sees. vp: alpha^2 + sigma^2 = 1; flow: alpha + sigma = 1; edm: alpha = 1.

    Attributes:
        alpha_bar: float64 [T], at the integers; it falls, to 0 where the last level is noise alone.

    Raises:
        ValueError: unknown path.
    """

    def __init__(self, betas: Tensor, steps_offset: int = 0, final_alpha_bar: float = 1.0, path: str = "vp"):
        if path not in PATHS:
            raise ValueError(f"model.path={path} is unknown: one of {', '.join(PATHS)}")
        self.alpha_bar, self.path = torch.cumprod(1 - betas.double().cpu(), dim=0), path
        self.steps_offset, self.final_alpha_bar = steps_offset, final_alpha_bar

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def alpha_bar_at(self, t: float) -> float:
        """alpha_bar at t in [0, T-1]: of the table, and between its entries log-linear."""
        below = math.floor(t)
        if below == t:
            return self.alpha_bar[below].item()
        low, high = self.alpha_bar[below].item(), self.alpha_bar[below + 1].item()
        return low ** (below + 1 - t) * high ** (t - below)

    def time_of(self, alpha_bar: float) -> float:
        """The t in [0, T-1] that `alpha_bar_at` maps to alpha_bar, or the nearest one to it."""
        below = max(int((self.alpha_bar >= alpha_bar).sum()) - 1, 0)
        low, high = self.alpha_bar[below].item(), self.alpha_bar[min(below + 1, len(self) - 1)].item()
        if low <= alpha_bar or low == high:
            return float(below)
        return below + math.log(low / alpha_bar) / math.log(low / high)

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        """alpha_t and sigma_t of the prior's own path."""
        ab = self.alpha_bar_at(t)
        a, b = math.sqrt(ab), math.sqrt(1 - ab)
        scale = {"vp": 1.0, "flow": a + b, "edm": a}[self.path]
        return a / scale, b / scale

    def timesteps(self, steps: int, spacing: str) -> list[float]:
        """The `steps` values of t in ascending order.

        linspace: from 0 to T-1; guided-diffusion's `timestep_respacing` (which adds up its stride and so is off by
        one here and there at odd counts above 250). leading: DDIM's, floor(k T / steps). trailing: k T / steps - 1
        from k = 1, for few steps; on a flow, whose time has its shift in it, the one of FLUX. karras: even in
        (sigma/alpha)^(1/7) (EDM, arXiv 2206.00364, eq. 5); log_snr: even in log(sigma/alpha) (DPM-Solver,
        arXiv 2206.00927), both over the levels of the table that have signal.

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
        if spacing == "trailing":
            return [self.on_grid((k + 1) * total / steps - 1) for k in range(steps)]
        if spacing == "karras":
            return self._even(steps, lambda ratio: ratio ** (1 / 7), lambda root: root**7)
        if spacing == "log_snr":
            return self._even(steps, math.log, math.exp)
        raise ValueError(f"sampler.spacing={spacing} is unknown: one of {', '.join(SPACINGS)}")

    def on_grid(self, t: float) -> float:
        """The time next to t that the network was trained at."""
        return round(t)

    @property
    def ratios(self) -> tuple[float, float]:
        """The lowest and the highest sigma/alpha of the table; without the last level where that is noise alone."""
        with_signal = self.alpha_bar[self.alpha_bar > 0]
        return noise_to_signal(with_signal[0].item()), noise_to_signal(with_signal[-1].item())

    def _even(self, steps: int, warp: Callable[[float], float], unwarp: Callable[[float], float]) -> list[float]:
        """Times at which the warped sigma/alpha is even."""
        low, high = map(warp, self.ratios)
        ratios = (unwarp(low + k / (steps - 1) * (high - low)) for k in range(steps))
        ts = (self.time_of(1 / (1 + ratio**2)) for ratio in ratios)
        return [min(max(t, 0), len(self) - 1) for t in ts]  # the ends are rounded

    def steps(self, steps: int, spacing: str) -> list[Step]:
        """The reverse steps in the order they are taken, index steps-1 down to 0."""
        return self.steps_at(self.timesteps(steps, spacing))

    def steps_at(self, ts: Sequence[float]) -> list[Step]:
        """The reverse steps from the highest of `ts`, which ascend, over the others to the last alpha_bar."""
        ab = [self.alpha_bar_at(t) for t in ts]
        ab_prev = [self.final_alpha_bar, *ab[:-1]]
        return [Step(k, ts[k], ab[k], ab_prev[k]) for k in reversed(range(len(ts)))]


class FlowSchedule(NoiseSchedule):
    """A rectified flow (Liu et al., arXiv 2209.03003): alpha = 1 - s, sigma = s. The last level, s = 1, is noise alone.

    Its time has the shift of high resolutions in it (Esser et al., arXiv 2403.03206, eq. 23): with u = (t + 1)/T,
    s = shift u/(1 + (shift - 1) u).

    Args:
        shift: 3 for SD 3; for FLUX see `flux_shift`.
        length: T.
    """

    path, steps_offset, final_alpha_bar = "flow", 0, 1.0

    def __init__(self, shift: float = 1.0, length: int = 1000):
        self.shift, self.length = shift, length
        self.alpha_bar = torch.tensor([self.alpha_bar_at(t) for t in range(length)], dtype=torch.float64)

    def alpha_bar_at(self, t: float) -> float:
        u = (t + 1) / self.length
        s = self.shift * u / (1 + (self.shift - 1) * u)
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)

    def time_of(self, alpha_bar: float) -> float:
        a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        return self.length * b / (self.shift * a + b) - 1

    def on_grid(self, t: float) -> float:
        return t


def flux_shift(
    tokens: int, base_shift: float = 0.5, max_shift: float = 1.15, base_tokens: int = 256, max_tokens: int = 4096
) -> float:
    """The shift for an image of so many tokens (black-forest-labs/flux, sampling.py): exp(mu), mu linear in them."""
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (tokens - base_tokens))


class EDMSchedule(NoiseSchedule):
    """EDM (Karras et al., arXiv 2206.00364): alpha = 1, and time is even in sigma^(1/rho) (eq. 5).

    Args:
        sigma_min, sigma_max: sigma at t = 0 and at T-1.
        rho: 7 in the paper.
        length: T.
    """

    path, steps_offset, final_alpha_bar = "edm", 0, 1.0

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, length: int = 1000):
        self.low, self.high, self.rho, self.last = sigma_min ** (1 / rho), sigma_max ** (1 / rho), rho, length - 1
        self.alpha_bar = torch.tensor([self.alpha_bar_at(t) for t in range(length)], dtype=torch.float64)

    def alpha_bar_at(self, t: float) -> float:
        return 1 / (1 + (self.low + t / self.last * (self.high - self.low)) ** (2 * self.rho))

    def time_of(self, alpha_bar: float) -> float:
        return self.last * (noise_to_signal(alpha_bar) ** (1 / self.rho) - self.low) / (self.high - self.low)

    def on_grid(self, t: float) -> float:
        return t


def noise_to_signal(alpha_bar: float) -> float:
    """sigma/alpha = sqrt((1-ab)/ab): the standard deviation of the noise in x_t/sqrt(ab)."""
    return math.sqrt((1 - alpha_bar) / alpha_bar)


def signal_to_noise(alpha_bar: float) -> float:
    """alpha^2/sigma^2 = ab/(1-ab), for those who divide by it: at least 1e-8."""
    return max(alpha_bar / (1 - alpha_bar), 1e-8)


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
