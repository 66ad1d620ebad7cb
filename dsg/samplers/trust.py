"""Trust Sampling: "Constrained Diffusion with Trust Sampling", arXiv 2411.10932, code will-s-h/trust-sampling.
The released settings: `configs/sampler/trust.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.constraint import norm
from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Draw, Noise, Sampler, StepState, Tunable, check_range, check_switch
from dsg.samplers.inverse import predicted_x0
from dsg.schedule import NoiseSchedule, Step, reverse_kernel


@dataclass
class TrustSampling(Sampler):
    """Normalised gradient descent on the kernel's mean mu, while the noise that the network sees in it is plausible.

    A guided step repeats, at most `inner_steps` times, as long as |eps(mu, t)| <= norm_bound:

        g = grad_mu |A(x0(mu, t)) - y|, through the network;   mu <- mu - step_size g/(|g| + 1e-6).

    Args:
        steps, eta: of the ddim kernel; t from T-1 down in steps of T/S. Its x0 is clamped, its eps follows.
        clip_denoised: clamp x0 to [-1, 1], in the kernel and in the loss.
        step_size: gamma, length of an inner step.
        inner_steps: K, at most, per guided step; each a network evaluation and a backward pass. The last step has none.
        norm_bound: an image stops where its |eps| exceeds it; null: sqrt(C H W), which is what white noise has.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "trust"
    steps: int = 200
    eta: float = 1.0
    clip_denoised: bool = True
    step_size: float = 1.0
    inner_steps: int = 4
    norm_bound: float | None = None

    title = "Trust Sampling"

    def __post_init__(self):
        super().__post_init__()
        check_switch("clip_denoised", self.clip_denoised)
        check_range("steps", self.steps, 2, kind=int)
        check_range("eta", self.eta, 0, 1)
        check_range("step_size", self.step_size, 0)
        check_range("inner_steps", self.inner_steps, 1, kind=int)
        if self.norm_bound is not None:
            check_range("norm_bound", self.norm_bound, 0)

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        x = x_T.detach()
        for step in self.reverse_steps(prior.schedule):
            # 1. the unguided step, from the clamped x0 and the eps that goes with it
            x_t, loss = x, None
            with torch.no_grad():
                x0, eps = self.clean(prior, x_t, step)
            mean, sigma = reverse_kernel("ddim", self.eta, "", step, x_t, x0, eps, None)
            if step.index == 0:
                x = x0
            else:
                # 2. its mean follows the gradient within the bound
                mean, loss = self.descend(prior, task, condition, mean, step)
                # 3. noise
                x = mean + sigma * noise(step.index) if sigma else mean
            if callback is not None:
                callback(StepState(step.index, step.t, 0, x_t, x0, x, loss))
        return x

    def descend(self, prior: Prior, task, condition, mean: Tensor, step: Step) -> tuple[Tensor, Tensor | None]:
        """The guided mean, and each image's loss [B] before its last inner step; None if nothing was guided."""
        bound = math.sqrt(mean[0].numel()) if self.norm_bound is None else self.norm_bound
        going, losses = torch.ones(len(mean), dtype=torch.bool, device=mean.device), None
        for _ in range(self.inner_steps):
            with torch.enable_grad():
                at = mean.detach().requires_grad_()
                x0, eps = self.clean(prior, at, step)
                going = going & (norm(eps.detach()) <= bound).flatten()
                if not going.any():
                    break
                loss = task.loss(prior.decode(x0), condition)
                (gradient,) = torch.autograd.grad(loss.sum(), at)
            losses = loss.detach() if losses is None else torch.where(going, loss.detach(), losses)
            shift = self.step_size * gradient / (norm(gradient) + 1e-6)
            mean = torch.where(going.reshape(-1, *[1] * (mean.ndim - 1)), mean - shift, mean)
        return mean, losses

    def clean(self, prior: Prior, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """x0, and the eps that goes with it."""
        prediction = prior.predict(x, step.t)
        x0 = predicted_x0(x, prediction, step.alpha_bar, self.clip_denoised)
        if self.clip_denoised:
            return x0, (x - math.sqrt(step.alpha_bar) * x0) / math.sqrt(1 - step.alpha_bar)
        return x0, prediction.eps

    def reverse_steps(self, schedule: NoiseSchedule) -> list[Step]:
        """At S+1 points of -1 .. T-1, truncated; the first is the end."""
        return schedule.steps_at(torch.linspace(-1, len(schedule) - 1, self.steps + 1).int().tolist()[1:])

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        prior.schedule.timesteps(self.steps, "linspace")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        return [Draw("step", step.index, 0) for step in self.reverse_steps(schedule)[:-1]] if self.eta else []

    def cost(self, schedule: NoiseSchedule) -> Cost:
        inner = self.inner_steps * (self.steps - 1)
        return Cost(self.steps + inner, inner)

    @property
    def tunable(self) -> Tunable:
        return Tunable("step_size", 1.0)
