"""DiffRGD: "An Inference-Time Diffusion Guidance Through Riemannian Gradient Descent", arXiv 2606.28417,
code jwliao1209/DiffRGD. The released settings: `configs/sampler/diffrgd.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.constraint import norm
from dsg.priors.base import Prior
from dsg.samplers.base import (
    Callback,
    Cost,
    Draw,
    Noise,
    Sampler,
    StepState,
    Tunable,
    check_range,
    check_switch,
)
from dsg.samplers.inverse import predicted_x0
from dsg.schedule import NoiseSchedule, Step, is_noiseless, reverse_kernel


@dataclass
class DiffRGDState(StepState):
    """Attributes:
    losses: [B, K], the loss before each inner iteration; None where the step is not guided.
    """

    losses: Tensor | None


@dataclass
class DiffRGD(Sampler):
    """Gradient descent on the sphere around the kernel's mean, whose radius is the length of the noise that was drawn.

    With mu the kernel's mean, x = mu + sigma z and u = x - mu, a guided step repeats `inner_steps` times:

        g = grad_x |A(x0(x, t_prev)) - y|, through the network;   u <- u - step_size (g - <g, u>/<u, u> u);
        x = mu + |sigma z| u/|u|.

    Args:
        steps, eta: of the ddim kernel, at t = i (T // steps). Its x0 is clamped, its eps stays the network's.
        clip_denoised: clamp x0 to [-1, 1], in the kernel and in the loss.
        step_size: of the descent.
        inner_steps: K, descent iterations per guided step, each a network evaluation and a backward pass.
        interval: guided where the number of steps taken so far % interval == 0; never in the last two steps.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "diffrgd"
    steps: int = 100
    eta: float = 1.0
    clip_denoised: bool = True
    step_size: float = 5.0
    inner_steps: int = 3
    interval: int = 1

    title = "DiffRGD"

    def __post_init__(self):
        super().__post_init__()
        check_switch("clip_denoised", self.clip_denoised)
        check_range("steps", self.steps, 2, kind=int)
        check_range("eta", self.eta, 0, 1)
        check_range("step_size", self.step_size, 0)
        check_range("inner_steps", self.inner_steps, 1, kind=int)
        check_range("interval", self.interval, 1, kind=int)

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x, steps = x_T.detach(), self.levels(prior.schedule)
        for step, following in zip(steps, [*steps[1:], None]):
            x_t, losses = x, None
            # 1. the unguided step, from the clamped x0 and the network's own eps
            with torch.no_grad():
                prediction = prior.predict(x_t, step.t)
                x0 = predicted_x0(x_t, prediction, step.alpha_bar, self.clip_denoised)
            mean, sigma = reverse_kernel("ddim", self.eta, "", step, x_t, x0, prediction.eps, None)
            x = mean + sigma * noise(step.index) if sigma else mean
            # 2. descent on the sphere
            if self.guides(step):
                x, losses = self.descend(prior, task, condition, mean, x, following)
            if callback is not None:
                loss = None if losses is None else losses[:, -1]
                callback(DiffRGDState(step.index, step.t, 0, x_t, x0, x, loss, losses))
        return x

    def descend(self, prior: Prior, task, condition, mean: Tensor, x: Tensor, level: Step) -> tuple[Tensor, Tensor]:
        """The guided x at the noise `level` of the next step, and the losses [B, K]."""
        radius, losses = norm(x - mean), []
        for _ in range(self.inner_steps):
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                x0 = predicted_x0(at, prior.predict(at, level.t), level.alpha_bar, self.clip_denoised)
                loss = task.loss(prior.decode(x0), condition)
                (gradient,) = torch.autograd.grad(loss.sum(), at)
            u = x - mean
            tangent = gradient - _dot(gradient, u) / _dot(u, u) * u
            u = u - self.step_size * tangent
            x = mean + radius * u / norm(u)
            losses.append(loss.detach())
        return x, torch.stack(losses, 1)

    def levels(self, schedule: NoiseSchedule) -> list[Step]:
        """The released times: where `steps` does not divide T they are not those of spacing "leading"."""
        return schedule.steps_at([i * (len(schedule) // self.steps) for i in range(self.steps)])

    def guides(self, step: Step) -> bool:
        """Not where the next level is the last, nor where there is no noise and so no sphere."""
        return self.eta > 0 and step.index > 1 and (self.steps - 1 - step.index) % self.interval == 0

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if self.steps > len(prior.schedule):
            raise ValueError(f"sampler.steps={self.steps} is out of range: 2 to {len(prior.schedule)}")
        if self.eta == 0:
            raise ValueError("sampler.eta=0 leaves no sphere, so that nothing would be guided: use a value above 0")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        steps = self.levels(schedule)
        return [Draw("step", step.index, 0) for step in steps if not is_noiseless("ddim", self.eta, step)]

    def cost(self, schedule: NoiseSchedule) -> Cost:
        guided = sum(self.guides(step) for step in self.levels(schedule))
        return Cost(self.steps + self.inner_steps * guided, self.inner_steps * guided)

    @property
    def tunable(self) -> Tunable:
        return Tunable("step_size", 5.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per image, [B, 1, ...]."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)
