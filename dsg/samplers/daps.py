"""DAPS: "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing", arXiv 2407.01521,
code zhangbingliang2019/DAPS. The released settings: `configs/sampler/daps.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Draw, Noise, StepState, Tunable, check_range
from dsg.samplers.inverse import InverseSampler
from dsg.schedule import NoiseSchedule, linear_betas

RHO = 7  # noise levels are evenly spaced in sigma^(1/RHO)
DDPM = NoiseSchedule(linear_betas()).alpha_bar


@dataclass
class DAPS(InverseSampler):
    """Denoise, move towards the measurement, add the next level's noise: neighbouring levels are not tied together.

    The state is x0 + sigma z. The prior sees it as x/sqrt(1 + sigma^2), at the t where its schedule has that noise:
    between integers. The noise that the Langevin chain assumes in y is tau/sqrt(2), whatever the task's sigma.

    Args:
        steps: S noise levels, from sigma_max towards sigma_min, which is not used itself; after the last comes 0.
        ode_steps: M Euler steps from each level to `ode_sigma_min`, each a network evaluation.
        langevin_steps: K per level, beside the network.
        langevin_step_size: of the first level; it falls linearly towards `langevin_step_ratio` of that, which it would
            reach two levels after the last.
        tau: scale of |A v - y| in units of [-1, 1].

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "daps"
    steps: int = 200
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    ode_steps: int = 5
    ode_sigma_min: float = 0.01
    langevin_steps: int = 100
    langevin_step_size: float = 1e-4
    langevin_step_ratio: float = 0.01
    tau: float = 0.01

    title = "DAPS"

    def __post_init__(self):
        super().__post_init__()
        check_range("steps", self.steps, 2, kind=int)
        check_range("ode_sigma_min", self.ode_sigma_min, 1e-4)
        check_range("sigma_min", self.sigma_min, self.ode_sigma_min)
        check_range("sigma_max", self.sigma_max, self.sigma_min)
        check_range("ode_steps", self.ode_steps, 1, kind=int)
        check_range("langevin_steps", self.langevin_steps, 0, kind=int)
        check_range("langevin_step_size", self.langevin_step_size, 0)
        check_range("langevin_step_ratio", self.langevin_step_ratio, 0, 1)
        check_range("tau", self.tau, 1e-6)

    def start(self, prior: Prior, task, condition, z: Tensor) -> Tensor:
        return self.sigma_max * z

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x, sigmas = x_T.detach(), levels(self.sigma_max, self.sigma_min, self.steps)[:-1]
        for i, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0])):
            index = self.steps - 1 - i
            # 1. an estimate of x0: the probability-flow ODE from x
            x0 = self.denoise(prior, x, sigma)
            # 2. Langevin dynamics of p(x0 | x) p(y | x0), with a Gaussian around the estimate for the former
            size = self.langevin_step_size * (1 + i / (self.steps + 1) * (self.langevin_step_ratio - 1))
            v, loss = self.langevin(task, condition, x0, sigma, size, index, noise)
            # 3. the next level's noise
            x_prev = v + following * noise(index, purpose="forward") if following else v
            if callback is not None:
                callback(StepState(index, time_of(sigma, prior.schedule), 0, x, x0, x_prev, loss))
            x = x_prev
        return x

    def denoise(self, prior: Prior, x: Tensor, sigma: float) -> Tensor:
        """M Euler steps of dx/dsigma = (x - D(x, sigma))/sigma, which is eps, down to `ode_sigma_min`."""
        sigmas = levels(sigma, self.ode_sigma_min, self.ode_steps)
        for high, low in zip(sigmas, sigmas[1:]):
            with torch.no_grad():
                eps = prior.predict(x / math.sqrt(1 + high**2), time_of(high, prior.schedule)).eps
            x = x + (low - high) * eps
        return x

    def langevin(
        self, task, condition, x0: Tensor, sigma: float, size: float, index: int, noise: Noise
    ) -> tuple[Tensor, Tensor | None]:
        """The end of the chain, and the loss [B] before its last update; None if there is no chain."""
        v, loss = x0, None
        for k in range(self.langevin_steps):
            with torch.enable_grad():
                at = v.detach().requires_grad_()
                loss = task.loss(at, condition)
                (gradient,) = torch.autograd.grad(loss.square().sum(), at)
            loss, z = loss.detach(), noise(index, repeat=k, purpose="langevin")
            v = v + size * ((x0 - v) / sigma**2 - gradient / self.tau**2) + math.sqrt(2 * size) * z
        return v, loss

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        largest = prior.schedule.ratios[1]
        if self.sigma_max > largest:
            raise ValueError(f"sampler.sigma_max={self.sigma_max}: this prior knows noise up to {largest:.4g}")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        order = []
        for index in reversed(range(self.steps)):
            order += [Draw("langevin", index, k) for k in range(self.langevin_steps)] + [Draw("forward", index, 0)]
        return order[:-1]

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(self.steps * self.ode_steps, 0)

    @property
    def tunable(self) -> Tunable:
        return Tunable("langevin_step_size", 1e-4)


def levels(high: float, low: float, count: int) -> list[float]:
    """count + 1 noise levels from `high` to `low`, evenly spaced in sigma^(1/7)."""
    first, last = high ** (1 / RHO), low ** (1 / RHO)
    return [(first + i / count * (last - first)) ** RHO for i in range(count + 1)]


def time_of(sigma: float, schedule: NoiseSchedule) -> float:
    """t where 1/ab - 1 = sigma^2. As in the released code, DDPM's linear schedule is taken as continuous for that, with
    beta from .1 to 20 over 999."""
    if len(schedule) != len(DDPM) or not torch.allclose(schedule.alpha_bar, DDPM):
        return schedule.time_of(1 / (1 + sigma**2))
    return 999 * (math.sqrt(0.1**2 + 2 * 19.9 * math.log1p(sigma**2)) - 0.1) / 19.9
