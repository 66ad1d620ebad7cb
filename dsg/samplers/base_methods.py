"""The base methods of the guided loop: where each takes its gradient, and how long its step is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsg.samplers.guided import GuidedSampler
from dsg.schedule import Step


@dataclass
class Unconditional(GuidedSampler):
    """The prior's own samples."""

    name: str = "unconditional"

    title = "unconditional"
    guided = False

    def wants_guidance(self, step: Step) -> bool:
        return False

    @classmethod
    def unused(cls, options: Mapping[str, Any]) -> dict[str, str]:
        guidance = ("spherical", "guidance_rate", "interval", "radius", "window", "moment", *cls.SUBTRACTION)
        return super().unused(options) | dict.fromkeys(guidance, "nothing is guided")

    @property
    def tunable(self) -> None:
        return None


@dataclass
class DPS(GuidedSampler):
    """Chung et al., "Diffusion Posterior Sampling", arXiv 2209.14687: x_prev -= zeta grad_{x_t} |y - A(x0)|."""

    name: str = "dps"

    title = "DPS"
    through_network = True


@dataclass
class FreeDoM(GuidedSampler):
    """Yu et al., "FreeDoM", arXiv 2303.09833: x_prev -= rho_t grad_{x_t} loss, with time travel.

    rho_t = step_size sqrt(ab_t), as in its face code; for linear tasks FreeDoM gives no recipe, this is ours. Its CLIP
    and style codes have other rules: `scaling`.
    """

    name: str = "freedom"

    title = "FreeDoM"
    through_network = True

    def step_length(self, step: Step) -> float:
        return super().step_length(step) * (math.sqrt(step.alpha_bar) if self.scaling is None else 1)


@dataclass
class MPGD(GuidedSampler):
    """He et al., "Manifold Preserving Guided Diffusion", arXiv 2311.16424, without projection.

    x0 -= (scale/sqrt(ab_prev)) grad_{x0} loss with eps kept: in the ddim and freedom kernels that is x_prev -= scale
    grad_{x0}, so it combines as DPS does; in ddpm the posterior mean's factor of x0 comes in. Its style code
    (scaling: text) leaves 1/sqrt(ab_prev) out. No backward pass through the network.
    """

    name: str = "mpgd"

    title = "MPGD"

    def step_length(self, step: Step) -> float:
        kept = 1 if self.scaling == "text" else math.sqrt(step.alpha_bar_prev)
        return super().step_length(step) * step.per_x0(self.kernel) / kept
