"""RED-diff: "A Variational Perspective on Solving Inverse Problems with Diffusion Models", arXiv 2305.04391,
code NVlabs/RED-diff. The released settings: `configs/sampler/reddiff.yaml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.samplers.base import Callback, Cost, Noise, StepState, Tunable, check_choice, check_range
from dsg.samplers.inverse import Adam, StridedSampler, predicted_x0
from dsg.schedule import NoiseSchedule, noise_to_signal
from tasks.inverse import LinearInverseProblem

Weighting = Literal["linear", "sqrt", "square", "log", "trunc_linear", "power2over3", "const"]
WEIGHTS = {
    "linear": lambda s: s,
    "sqrt": lambda s: s**0.5,
    "square": lambda s: s**2,
    "log": lambda s: math.log(s + 1),
    "trunc_linear": lambda s: min(s, 1.0),
    "power2over3": lambda s: s ** (2 / 3),
    "const": lambda s: 1.0,
}


@dataclass
class REDDiff(StridedSampler):
    """The mean mu of a Gaussian is optimised by Adam; at every noise level the prior says how it should change.

    With x = sqrt(ab) mu + sqrt(1-ab) z, s = sqrt((1-ab)/ab) and e = eps(x, t), held constant, an Adam step lowers

        data_weight mean((y - A(mu))^2)/2 + prior_weight w(s) mean((e - z) mu),

    means over the entries of an image; where nothing is observed, y and A(mu) are 0 and count. mu starts at the
    pseudo-inverse of A times y, or, where A is not linear, at noise. As in the released code, the result is mu before
    the last Adam step, so that the last level is not evaluated.

    Args:
        steps: S noise levels, at the multiples of T//S from 0; more than S where S does not divide T.
        learning_rate: of Adam (betas .9 and .99).
        prior_weight: lambda.
        data_weight: v.
        weighting: w(s): linear s, sqrt s^(1/2), square s^2, log ln(1+s), trunc_linear min(s, 1), power2over3 s^(2/3),
            const 1.

    Raises:
        ValueError: naming the option that is out of range.
    """

    name: str = "reddiff"
    steps: int = 100
    learning_rate: float = 0.1
    prior_weight: float = 0.25
    data_weight: float = 1.0
    weighting: Weighting = "linear"

    title = "RED-diff"

    def __post_init__(self):
        super().__post_init__()
        check_choice("weighting", self.weighting, get_args(Weighting))
        check_range("steps", self.steps, 2, kind=int)
        for option in ("learning_rate", "prior_weight", "data_weight"):
            check_range(option, getattr(self, option), 0)

    def start(self, prior: Prior, task, condition, z: Tensor) -> Tensor:
        return task.pseudo_inverse(condition, z.shape) if isinstance(task, LinearInverseProblem) else z

    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        mu, adam = x_T.detach(), Adam(self.learning_rate, 0.9, 0.99)
        for step in self.reverse_steps(prior.schedule)[:-1]:
            # 1. mu with noise, and the noise that the prior sees in it
            z = noise(step.index)
            x = math.sqrt(step.alpha_bar) * mu + math.sqrt(1 - step.alpha_bar) * z
            with torch.no_grad():
                prediction = prior.predict(x, step.t)
            # 2. the gradients of the two terms, beside the network
            with torch.enable_grad():
                at = mu.detach().requires_grad_()
                loss = task.loss(at, condition)
                (data,) = torch.autograd.grad(loss.square().sum(), at)
            s = noise_to_signal(step.alpha_bar)
            gradient = self.data_weight * data / (2 * condition["y"][0].numel())
            gradient = gradient + self.prior_weight * WEIGHTS[self.weighting](s) * (prediction.eps - z) / mu[0].numel()
            # 3. Adam
            following = mu + adam.change(gradient)
            if callback is not None:
                x0 = predicted_x0(x, prediction, step.alpha_bar)
                # the draws are numbered with the level at t = 0, from which no step goes; the steps end at 0
                callback(StepState(step.index - 1, step.t, 0, x, x0, following, loss.detach()))
            mu = following
        return mu

    def cost(self, schedule: NoiseSchedule) -> Cost:
        return Cost(len(self.reverse_steps(schedule)) - 1, 0)

    @property
    def tunable(self) -> Tunable:
        return Tunable("prior_weight", 0.25, direction=-1)
