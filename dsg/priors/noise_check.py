"""Whether a network knows the noise that its schedule and its prediction say is there: a few evaluations tell.

An eps that is the mean of the noise given x_t has <eps_true, eps> = <eps, eps>, at every level. A network that is told
another level than the image has over- or underestimates the noise, and one that predicts something else than eps is no
better than x_t itself. A network with the right options comes out at 1.00 on images that it knows, and, as measured
with drawn faces' network, at 0.90 on photographs.
"""

import math

import torch
from torch import Tensor

from dsg.priors.base import Prior

LEVELS = (0.6, 0.3, 0.1)  # alpha_bar
SLOPES = 0.85, 1.15


def doubt(prior: Prior, images: Tensor) -> str | None:
    """What is odd about the prior's noise of images [B, *shape] in [-1, 1], in one line; None: nothing."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    found = [at_level(prior, images, noise, level) for level in LEVELS]
    if not any(odd for odd, _ in found):
        return None
    return (
        f"the network does not find the noise that is put on images: x0 with {', '.join(told for _, told in found)}. "
        "Are model.schedule, model.train_steps, model.rescale_timesteps and model.prediction those of its training?"
    )


@torch.no_grad()
def at_level(prior: Prior, images: Tensor, noise: Tensor, level: float) -> tuple[bool, str]:
    """Whether the noise found at alpha_bar = level is odd, and the PSNR of x0 there."""
    alpha_bar = prior.schedule.alpha_bar
    t = int((alpha_bar - level).abs().argmin())
    ab = alpha_bar[t].item()
    x_t = math.sqrt(ab) * images + math.sqrt(1 - ab) * noise
    eps = prior.predict(x_t, t).eps
    product, size = (noise * eps).sum(), eps.square().sum()
    slope, correlation = product / size, product / (size * noise.square().sum()).sqrt()
    error = (noise - eps).square().mean().item() * (1 - ab) / ab
    psnr = 10 * math.log10(4 / error) if error > 0 else math.inf
    # x_t itself has a correlation of sqrt(1-ab); `not` because NaN compares with nothing
    fits = SLOPES[0] < slope < SLOPES[1] and correlation > math.sqrt(1 - ab)
    return not fits, f"{psnr:.1f} dB at t={t}"
