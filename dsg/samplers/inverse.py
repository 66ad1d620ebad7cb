"""What the samplers for inverse problems share: whom they work with, the prediction of x0, and Adam."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dsg.priors.base import Prediction, Prior
from dsg.samplers.base import Draw, Sampler
from dsg.schedule import NoiseSchedule, Step
from tasks.inverse import InverseProblem, LinearInverseProblem
from tasks.solvers import SVD


class InverseSampler(Sampler):
    """A method that knows the measurement y, and a prior of images."""

    def check(self, prior: Prior, task) -> None:
        prior.schedule.timesteps(self.steps, "leading")
        if not isinstance(task, InverseProblem):
            raise ValueError(f"sampler={self.name} restores measurements: it needs a task with an operator and a y")
        if prior.image_shape != prior.shape:
            raise ValueError(
                f"sampler={self.name} applies the operator to what is diffused: no latent prior, no greyscale one"
            )


class StridedSampler(InverseSampler):
    """One whose noise levels are the multiples of T//S."""

    def reverse_steps(self, schedule: NoiseSchedule) -> list[Step]:
        """From the highest level; more than S where S does not divide T."""
        return schedule.steps_at(range(0, len(schedule), len(schedule) // self.steps))

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        """One of each level but the last."""
        return [Draw("step", step.index, 0) for step in self.reverse_steps(schedule)[:-1]]


class SpectralSampler(StridedSampler):
    """One that works in the coordinates of A = U diag(d) V^T, where every component is observed by itself, or not at
    all."""

    def svd(self, task, condition: Mapping[str, Tensor], shape: Sequence[int]) -> SVD:
        """The SVD of the operator.

        Without noise in y every component would be taken from it, and rounding, divided by the singular values that a
        blur brings close to 0, would be all that is seen: these are left out, as in DDRM's own blurs.
        """
        found = task.svd(condition, shape)
        return found if task.sigma else found.without_small()

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if not isinstance(task, LinearInverseProblem) or not task.has_svd:
            lacking = f"which task={task.name} has not"
            raise ValueError(f"sampler={self.name} needs the singular values of the operator, {lacking}")


def divisible(values: Tensor) -> Tensor:
    """Singular values to divide by, where those that are 0 do not matter."""
    return torch.where(values > 0, values, 1.0)


def predicted_x0(x: Tensor, prediction: Prediction, alpha_bar: float, clip: bool = False) -> Tensor:
    """The clean image that goes with what is predicted of x; `clip` clamps it to [-1, 1]."""
    x0 = prediction.x0
    if x0 is None:
        x0 = (x - math.sqrt(1 - alpha_bar) * prediction.eps) / math.sqrt(alpha_bar)
    return x0.clamp(-1, 1) if clip else x0


class Adam:
    """Kingma & Ba, arXiv 1412.6980: entry by entry, so that the images of a batch know nothing of each other."""

    def __init__(self, learning_rate: float, beta1: float, beta2: float, eps: float = 1e-8):
        self.learning_rate, self.beta1, self.beta2, self.eps = learning_rate, beta1, beta2, eps
        self.taken, self.mean, self.square = 0, 0.0, 0.0

    def change(self, gradient: Tensor) -> Tensor:
        """What is added to the variable, like the gradient."""
        self.taken += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * gradient**2
        spread = torch.sqrt(self.square) / math.sqrt(1 - self.beta2**self.taken)
        return -self.learning_rate / (1 - self.beta1**self.taken) * self.mean / (spread + self.eps)
