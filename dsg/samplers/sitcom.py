"""SITCOM: "Step-wise Triple-Consistent Diffusion Sampling for Inverse Problems", ICML 2025, code sjames40/SITCOM
(SITCOM_with_noise.py). The released settings: `configs/sampler/sitcom.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Draw, Noise, StepState, Tunable, check_range, check_switch
from dsg.samplers.inverse import Adam, InverseSampler, predicted_x0
from dsg.schedule import NoiseSchedule, Step
from tasks.linear import Inpainting


@dataclass
class SITCOM(InverseSampler):
    """At every noise level the network's input is optimised until its x0 fits y; then x0 gets the next level's noise.

    Args:
        steps: S noise levels, t = (S-1) (T//S), ..., T//S, 0.
        clip_denoised: clamp x0 to [-1, 1], also in the loss.
        learning_rate: of Adam (betas .9 and .999), fresh at every level.
        inner_steps: K evaluations per level at most, with an Adam step, and so a backward pass, between each two.
        tolerance: an image stops where the root mean square of y - A(x0), over what is observed, is below sigma + this.
        projection: c, inpainting only: x0 - 2 c A^T(A x0 - y) replaces x0 after a level's optimisation; .5 puts y in.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "sitcom"
    steps: int = 20
    clip_denoised: bool = True
    learning_rate: float = 0.02
    inner_steps: int = 30
    tolerance: float = 0.001
    projection: float = 0.5

    title = "SITCOM"

    def __post_init__(self):
        super().__post_init__()
        check_switch("clip_denoised", self.clip_denoised)
        check_range("steps", self.steps, 2, kind=int)
        check_range("learning_rate", self.learning_rate, 0)
        check_range("inner_steps", self.inner_steps, 1, kind=int)
        check_range("tolerance", self.tolerance, 0)
        check_range("projection", self.projection, 0, 1)

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x = x_T.detach()
        for step in self.reverse_steps(prior.schedule):
            # 1. the network's input is optimised; x0 is the last that was evaluated
            x0, loss = self.optimise(prior, task, condition, x, step)
            # 2. inpainting: what is observed goes in
            found = self.project(task, condition, x0)
            # 3. the next level's noise
            x_prev = found
            if step.index > 0:
                z = noise(step.index, purpose="forward")
                x_prev = math.sqrt(step.alpha_bar_prev) * found + math.sqrt(1 - step.alpha_bar_prev) * z
            if callback is not None:
                callback(StepState(step.index, step.t, 0, x, x0, x_prev, loss))
            x = x_prev
        return x

    def optimise(self, prior: Prior, task, condition, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """x0, like x, and its loss [B]."""
        limit = (task.sigma + self.tolerance) * task.observations(condition).sqrt()
        v, adam = x, Adam(self.learning_rate, 0.9, 0.999)
        x0, losses, going = None, None, torch.ones_like(limit, dtype=torch.bool)
        for k in range(self.inner_steps):
            last = k + 1 == self.inner_steps  # an Adam step here would never be evaluated
            with torch.set_grad_enabled(not last):
                v = v.detach().requires_grad_(not last)
                found = predicted_x0(v, prior.predict(v, step.t), step.alpha_bar, self.clip_denoised)
                loss = task.loss(found, condition)
            x0 = found.detach() if x0 is None else torch.where(_wide(going, v), found.detach(), x0)
            losses = loss.detach() if losses is None else torch.where(going, loss.detach(), losses)
            going = going & (losses >= limit)
            if last or not going.any():
                break
            (gradient,) = torch.autograd.grad(loss.square().sum(), v)
            v = torch.where(_wide(going, v), v.detach() + adam.change(gradient), v.detach())
        return x0, losses

    def project(self, task, condition, x0: Tensor) -> Tensor:
        if not isinstance(task, Inpainting):
            return x0
        shift = task.transpose(task.forward(x0, condition) - condition["y"], condition, x0.shape)
        moved = x0 - 2 * self.projection * shift
        return moved.clamp(-1, 1) if self.clip_denoised else moved

    def reverse_steps(self, schedule: NoiseSchedule) -> list[Step]:
        stride = len(schedule) // self.steps
        return schedule.steps_at([i * stride for i in range(self.steps)])

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        return [Draw("forward", step.index, 0) for step in self.reverse_steps(schedule)[:-1]]

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(self.steps * self.inner_steps, self.steps * (self.inner_steps - 1))

    @property
    def tunable(self) -> Tunable:
        return Tunable("learning_rate", 0.02)


def _wide(per_image: Tensor, like: Tensor) -> Tensor:
    return per_image.reshape(-1, *[1] * (like.ndim - 1))
