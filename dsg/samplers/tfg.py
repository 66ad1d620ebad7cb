"""TFG: Ye et al., "TFG: Unified Training-Free Guidance for Diffusion Models", NeurIPS 2024, arXiv 2409.15761,
code YWolfeee/Training-Free-Guidance. The released settings: `configs/sampler/tfg.yaml`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Draw, GuidedState, Noise, Tunable, check_choice, check_range
from dsg.samplers.guided import GuidedSampler
from dsg.schedule import NoiseSchedule, Step

Weighting = Literal["increase", "decrease", "constant"]
WEIGHTS = {"increase": lambda a: a, "decrease": lambda a: 1 - a, "constant": lambda a: 1.0}


@dataclass
class TFG(GuidedSampler):
    """Guidance at x_t, through the network, and at x0, beside it, both of a loss that is smoothed by noise.

    With a = ab_t/ab_prev and the smoothed loss l(x0) = -log mean_k exp(-loss(x0 + s_t z_k)), a step subtracts

        rho_t/sqrt(a) grad_{x_t} l(x0)  +  sqrt(ab_prev) (x0 - x0'),   x0' = x0 after N steps of -mu_t grad_{x0} l.

    N_recur of the paper is `travel.repeats`. Special cases: mu = 0, N_recur = 1 and no smoothing is DPS; with
    recurrence FreeDoM, with smoothing LGD; rho = 0 is MPGD; no smoothing is UGD. Under `spherical` and
    `scaling=sphere` the sum is the direction.

    Args:
        rho, mu: strengths; rho = 0 takes no backward pass through the network.
        rho_weights, mu_weights: how they change over the steps, their mean kept: increase as a, decrease as 1 - a.
        mean_steps: N.
        smoothing: s_t = smoothing sqrt(1-ab_t), or, where `smoothing_weights` is constant, smoothing; 0: none.
        smoothing_samples: K draws z_k.
        step_size: a factor of all that is subtracted.
    """

    name: str = "tfg"
    spacing: str = "leading"
    step_size: float = 1.0
    rho: float = 1.0
    mu: float = 1.0
    rho_weights: Weighting = "increase"
    mu_weights: Weighting = "increase"
    mean_steps: int = 4
    smoothing: float = 0.01
    smoothing_weights: Weighting = "decrease"
    smoothing_samples: int = 1

    title = "TFG"

    def __post_init__(self):
        super().__post_init__()
        for option in ("rho", "mu", "smoothing"):
            check_range(option, getattr(self, option), 0)
        for option in ("rho_weights", "mu_weights"):
            check_choice(option, getattr(self, option), get_args(Weighting))
        check_choice("smoothing_weights", self.smoothing_weights, ("decrease", "constant"))
        for option in ("mean_steps", "smoothing_samples"):
            check_range(option, getattr(self, option), 1, kind=int)

    @property
    def through_network(self) -> bool:
        return self.rho > 0

    def reverse_step(
        self, prior: Prior, task, condition, x_t: Tensor, step: Step, repeat: int, noise: Noise, *moments
    ) -> GuidedState:
        draws = self.smoothing_draws(step, repeat)
        offsets = [self.spread(step) * noise(d.step_index, repeat=d.repeat, purpose=d.purpose) for d in draws]
        smoothed = Smoothed(task, offsets or [0.0])
        return super().reverse_step(prior, smoothed, condition, x_t, step, repeat, noise, *moments)

    def gradient(self, prior: Prior, task, condition, step: Step, x_t: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The smoothed loss [B] at x0, and all that is subtracted, like x_t."""
        mu, loss, subtracted = self.mu_at(step, prior.schedule), None, torch.zeros_like(x0)
        if self.through_network:
            loss = task.smoothed_loss(prior, x0, condition)
            (gradient,) = torch.autograd.grad(loss.sum(), x_t)
            if kept(step) > 0:  # else x_t is noise alone, of which x0 knows nothing
                subtracted = self.rho_at(step, prior.schedule) / math.sqrt(kept(step)) * gradient
        v = x0 = x0.detach()
        for _ in range(self.mean_steps if mu else 0):
            at = v.detach().requires_grad_()
            found = task.smoothed_loss(prior, at, condition)
            (gradient,) = torch.autograd.grad(found.sum(), at)
            v, loss = v - mu * gradient, found if loss is None else loss
        loss = task.loss(prior.decode(x0), condition) if loss is None else loss
        return loss.detach(), subtracted + step.per_x0(self.kernel) * (x0 - v)

    def rho_at(self, step: Step, schedule: NoiseSchedule) -> float:
        return self.rho * self.weight(self.rho_weights, step, schedule)

    def mu_at(self, step: Step, schedule: NoiseSchedule) -> float:
        return self.mu * self.weight(self.mu_weights, step, schedule)

    def weight(self, kind: Weighting, step: Step, schedule: NoiseSchedule) -> float:
        """1 on average over the steps."""
        weights = {s.index: WEIGHTS[kind](kept(s)) for s in schedule.steps(self.steps, self.spacing)}
        return weights[step.index] * len(weights) / sum(weights.values())

    def spread(self, step: Step) -> float:
        """s_t."""
        return self.smoothing * (1 if self.smoothing_weights == "constant" else math.sqrt(1 - step.alpha_bar))

    def smoothing_draws(self, step: Step, repeat: int) -> list[Draw]:
        if not self.smoothing or not self.guides(step):
            return []
        first = repeat * self.smoothing_samples
        return [Draw("smoothing", step.index, first + k) for k in range(self.smoothing_samples)]

    def step_draws(self, step: Step, repeat: int) -> list[Draw]:
        return [*self.smoothing_draws(step, repeat), *super().step_draws(step, repeat)]

    @property
    def tunable(self) -> Tunable | None:
        return super().tunable if self.spherical or self.is_control else Tunable("step_size", 1.0)


def kept(step: Step) -> float:
    """a, the share of x_prev's square that is left in x_t."""
    return step.alpha_bar / step.alpha_bar_prev


class Smoothed:
    """A task, and its loss under noise on x0.

    Args:
        offsets: the noise, like x0, K of it.
    """

    def __init__(self, task, offsets: Sequence[Tensor | float]):
        self.task, self.offsets = task, offsets

    def loss(self, image: Tensor, condition) -> Tensor:
        return self.task.loss(image, condition)

    def smoothed_loss(self, prior: Prior, x0: Tensor, condition) -> Tensor:
        """-log mean_k exp(-loss(x0 + offset_k)), [B]; through the decoder where x0 is a latent."""
        losses = torch.stack([self.loss(prior.decode(x0 + offset), condition) for offset in self.offsets])
        return math.log(len(losses)) - torch.logsumexp(-losses, 0)
