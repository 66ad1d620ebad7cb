"""What of the bias is direction, and what is length: DPS with one of them exact.

Both need the posterior, which no one has in practice.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsg.samplers import DPS, GuidedState
from dsg.schedule import Step, reverse_kernel
from dsg.studies.posterior.ground_truth import GroundTruth


@dataclass
class ExactDirection(DPS):
    """Guided along grad log p(y | x_t) itself: the loss is -log p(y | x_t), its gradient is taken at x_t.

    Args:
        known: its posteriors are used. `sample` takes `known.samples` images of each of its observations, in turn.
    """

    known: GroundTruth = field(kw_only=True, repr=False)

    through_network = False

    def gradient(self, prior, task, condition, step: Step, x_t: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        at = x_t.detach().requires_grad_()
        parts, ab = zip(at.split(self.known.samples), self.known.posteriors), step.alpha_bar
        loss = torch.cat([self.known.prior.log_density(x, ab) - posterior.log_density(x, ab) for x, posterior in parts])
        (gradient,) = torch.autograd.grad(loss.sum(), at)
        return loss.detach(), gradient


@dataclass
class ExactLength(DPS):
    """DPS's direction, and the length by which the exact guidance moves the kernel's mean; ddim kernel only.

    Args:
        known: as of `ExactDirection`.
    """

    known: GroundTruth = field(kw_only=True, repr=False)

    def combine(self, state: GuidedState) -> Tensor:
        moved = (self.exact_mean(state) - state.mean).flatten(1).norm(dim=1)
        length = moved / state.gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        return state.unguided - length[:, None, None, None] * state.gradient

    def exact_mean(self, state: GuidedState) -> Tensor:
        """The kernel's mean under the true conditional score."""
        step, means = state.step, []
        for x_t, posterior in zip(state.x_t.split(self.known.samples), self.known.posteriors):
            eps = posterior.predict(x_t, step.t).eps
            x0 = posterior.denoise(x_t, step.alpha_bar)
            means.append(reverse_kernel("ddim", self.eta, "", step, x_t, x0, eps, None)[0])
        return torch.cat(means)

    def check(self, prior, task) -> None:
        super().check(prior, task)
        if self.kernel != "ddim":
            raise ValueError(f"sampler.kernel={self.kernel}: the exact length is known for ddim only")

    @property
    def tunable(self) -> None:
        return None
