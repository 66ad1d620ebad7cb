"""The gradient's moments over the steps: Belardi et al., "Adaptive Moments are Surprisingly Effective for Plug-and-Play
Diffusion Sampling", ICLR 2026, arXiv 2603.16797, code christianbelardi/adam-guidance."""

from collections.abc import Callable

from torch import Tensor

from dsg.samplers.base import check_choice
from dsg.samplers.inverse import Adam

BETAS = (0.9, 0.995)  # of the released code; its searches for a task and a step size also choose them


def moments_of(name: str | None) -> Callable[[Tensor], Tensor] | None:
    """What `sampler.moment` makes of the gradients of one run, in turn; it remembers those before.

    adam: m/(sqrt(v) + 1e-8), the bias-corrected averages of the gradient and of its square, entry by entry. Every entry
    is then about 1, and the step size in units of the image. None: nothing.

    Raises:
        ValueError: another name.
    """
    if name is None:
        return None
    check_choice("moment", name, ("adam",))
    return Adam(-1.0, *BETAS).change
