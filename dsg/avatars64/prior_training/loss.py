"""The squared error of v, and its weights."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

BINS = 50  # of t, for the balanced weighting
BLOCK = 8  # px, of the coarse error


def to_v(out: Tensor, x_t: Tensor, ab: Tensor, prediction: str) -> Tensor:
    """The v that a prediction [B, C, H, W] of eps, v or x0 stands for; ab: alpha_bar, [B, 1, 1, 1]."""
    if prediction == "v":
        return out
    if prediction == "eps":
        return (out - (1 - ab).sqrt() * x_t) / ab.sqrt()
    return (ab.sqrt() * x_t - out) / (1 - ab).sqrt()


def coarse_error(difference: Tensor) -> Tensor:
    """Mean square [B] of an error [B, C, H, W] averaged over blocks of 8x8 pixels.

    A wrong colour of a whole region is nearly all that is left of an error there, and little of its mean square over
    pixels. To weigh it more (as in "Simple diffusion", arXiv 2301.11093) does not move the optimum: the posterior mean
    has the least error in every linear map of the image.
    """
    return avg_pool2d(difference, BLOCK).square().flatten(1).mean(1)


def weight(ab: Tensor, weighting: str, balance: Tensor | None = None, t: Tensor | None = None) -> Tensor:
    """Weight of the squared error of v, [B]. An error of x0 is sqrt(1-ab) times one of v, with snr = ab / (1-ab):

    v: 1, that is snr + 1 on x0. eps: snr on x0. x0: 1 on x0. edm: snr + 4 on x0 (arXiv 2206.00364, data of standard
    deviation .5). min_snr: min(snr, 5) on x0 (arXiv 2303.09556). balanced: 1 / (running mean of the error at
    this noise level), what the learned weights of EDM2 tend to (arXiv 2312.02696).
    """
    snr = ab / (1 - ab)
    on_x0 = {"eps": snr, "x0": torch.ones_like(snr), "edm": snr + 4, "min_snr": snr.clamp_max(5)}
    if weighting == "balanced":
        return 1 / balance[t * BINS // 1000]
    return on_x0[weighting] * (1 - ab) if weighting in on_x0 else torch.ones_like(ab)
