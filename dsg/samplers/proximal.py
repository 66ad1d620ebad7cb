"""Guidance by a proximal point: the step from x0 to the image that fits y best nearby, beside or through the network.

With x0 the prior's estimate, A the operator and sigma_y the noise of y, the proximal point is

    v = argmin_v |A v - y|^2 + rho |v - x0|^2 = x0 + A^T (A A^T + rho)^-1 (y - A x0),
    rho = rho_factor max(sigma_y, .001)^2 ab/(1-ab).

It is a preconditioned gradient step, and A alone is needed for it. Relatives, with s^2 = (1-ab)/ab:

    DDNM (arXiv 2212.00490):     x0 + A^+ (y - A x0), the limit of rho = 0; eps is kept.
    DiffPIR (arXiv 2305.08995):  the same v with rho = lambda sigma_y^2/s^2; eps follows v, and is partly renewed.
    PiGDM (ICLR 2023):           x_prev + sqrt(ab) (dx0/dx_t)^T A^T (A A^T + sigma_y^2/r^2)^-1 (y - A x0), through the
                                 network; its r^2 = 1-ab is here s^2, which is the same where ab is near 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.constraint import norm
from dsg.priors.base import Prior
from dsg.samplers.base import Tunable, check_range
from dsg.samplers.guided import GuidedSampler
from dsg.schedule import Step, signal_to_noise
from tasks.inverse import LinearInverseProblem

LEAST_SIGMA = 0.001  # of the noise in y


@dataclass
class Proximal(GuidedSampler):
    """The proximal point replaces x0 in the reverse step, and eps is kept; no backward pass through the network.

    `spherical` and `scaling=sphere` put the direction x0 - v in the gradient's place: DSG and its additive control. A
    task without a linear operator has no proximal point in closed form: v is then reached from x0 in `inner_steps`
    gradient steps of the task's loss, all together `inner_length` sqrt(n) min(1, s) long. One step has the direction of
    MPGD.

    Args:
        rho_factor: factor of rho; a larger one trusts the prior more.
        solver_steps: of the conjugate gradients, at most, for linear operators without an SVD.
        inner_steps, inner_length: of tasks without a linear operator.
    """

    name: str = "prox"
    spacing: str = "leading"
    step_size: float = 1.0
    rho_factor: float = 1.0
    solver_steps: int = 50
    inner_steps: int = 1
    inner_length: float = 0.1
    title = "proximal"

    def __post_init__(self):
        super().__post_init__()
        check_range("rho_factor", self.rho_factor, 1e-6)
        check_range("solver_steps", self.solver_steps, 1, kind=int)
        check_range("inner_steps", self.inner_steps, 1, kind=int)
        check_range("inner_length", self.inner_length, 0)

    def gradient(self, prior: Prior, task, condition, step: Step, x_t: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [B] at x0, and x0 - v, like x_t."""
        with torch.no_grad():
            loss = task.loss(prior.decode(x0), condition)
        return loss, x0.detach() - self.proximal_point(prior, task, condition, step, x0.detach())

    def proximal_point(self, prior: Prior, task, condition, step: Step, x0: Tensor) -> Tensor:
        """v, like x0."""
        ratio = signal_to_noise(step.alpha_bar)
        if isinstance(task, LinearInverseProblem):
            rho = self.rho_factor * max(task.sigma, LEAST_SIGMA) ** 2 * ratio
            return task.proximal(x0, condition, rho, self.solver_steps)
        length = self.inner_length * math.sqrt(x0[0].numel()) * min(1.0, ratio**-0.5) / self.inner_steps
        v = x0
        for _ in range(self.inner_steps):
            at = v.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(task.loss(prior.decode(at), condition).sum(), at)
            v = v - length * gradient / norm(gradient).clamp_min(1e-20)
        return v

    def step_length(self, step: Step) -> float:
        """The kernel's factor of x0: the subtraction of x0 - v replaces x0 by v."""
        return super().step_length(step) * (step.per_x0(self.kernel) if self.scaling is None else 1)

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if isinstance(task, LinearInverseProblem) and prior.image_shape != prior.shape:
            raise ValueError(
                f"sampler={self.name} applies the operator to what is diffused: no latent prior, no greyscale one"
            )

    @property
    def tunable(self) -> Tunable | None:
        if self.spherical or self.is_control:
            return super().tunable
        return Tunable("rho_factor", 1.0, low=1e-6, direction=-1)


@dataclass
class PiGDM(Proximal):
    """Song et al., "Pseudoinverse-Guided Diffusion Models", ICLR 2023: the same direction, back through the network.

    x_prev += step_size sqrt(ab) (dx0/dx_t)^T (v - x0), for tasks with a linear operator.
    """

    name: str = "pigdm"
    title = "PiGDM"
    through_network = True

    def gradient(self, prior: Prior, task, condition, step: Step, x_t: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        loss, direction = super().gradient(prior, task, condition, step, x_t, x0)
        (gradient,) = torch.autograd.grad(x0, x_t, direction)
        return loss, gradient

    def step_length(self, step: Step) -> float:
        factor = math.sqrt(step.alpha_bar) if self.scaling is None else 1
        return super(Proximal, self).step_length(step) * factor

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if not isinstance(task, LinearInverseProblem):
            raise ValueError(f"sampler={self.name} needs a linear operator, which task={task.name} does not have")

    @property
    def tunable(self) -> Tunable | None:
        return super().tunable if self.spherical or self.is_control else Tunable("step_size", 1.0)
