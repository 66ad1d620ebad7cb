"""PSLD: Rout et al., "Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models",
NeurIPS 2023, arXiv 2307.00619, code LituRout/PSLD. The released settings: `configs/sampler/psld.yaml`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Tunable, check_range
from dsg.samplers.guided import GuidedSampler
from dsg.schedule import Step
from tasks.inverse import LinearInverseProblem


@dataclass
class PSLD(GuidedSampler):
    """DPS in the latents of an autoencoder, which are also pulled to those that its encoder would give.

    With the image x = D(z0) of the predicted latent, a step subtracts `step_size` times the gradient, at z_t, of

        omega |y - A(x)| + gamma |E(x + A^T(y - A(x))) - z0|:

    the second term glues what is observed to what is not. For tasks with a linear operator. The released code also
    adds noise to A(x), which is left out.

    Args:
        omega, gamma: weights of the two terms.
    """

    name: str = "psld"
    eta: float = 0.0
    spacing: str = "leading"
    clip_denoised: bool = False
    step_size: float = 1.0
    omega: float = 1.0
    gamma: float = 0.1

    title = "PSLD"
    through_network = True

    def __post_init__(self):
        super().__post_init__()
        check_range("omega", self.omega, 0)
        check_range("gamma", self.gamma, 0)

    def gradient(self, prior: Prior, task, condition, step: Step, x_t: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        image = prior.decode(x0)
        misfit = condition["y"] - task.forward(image, condition)
        glued = prior.encode(image + task.transpose(misfit, condition, image.shape))
        loss = misfit.flatten(1).norm(dim=1)
        total = self.omega * loss + self.gamma * (glued - x0).flatten(1).norm(dim=1)
        (gradient,) = torch.autograd.grad(total.sum(), x_t)
        return loss.detach(), gradient

    def check(self, prior: Prior, task) -> None:
        super().check(prior, task)
        if not isinstance(task, LinearInverseProblem):
            raise ValueError(f"sampler={self.name} needs a linear operator, which task={task.name} has not")

    @property
    def tunable(self) -> Tunable | None:
        return super().tunable if self.spherical or self.is_control else Tunable("step_size", 1.0)
