"""A prior as a denoiser of deepinv (deepinv.github.io), for its plug-and-play methods; needs `.[deepinv]`."""

import math

import torch
from deepinv.models import Denoiser
from torch import Tensor

from dsg.priors.base import Prior


class PriorDenoiser(Denoiser):
    """The expected clean image under a pixel prior.

    Args:
        prior: it is asked at the t where its noise is that of the image, or the nearest that it knows.

    Raises:
        ValueError: a prior of latents.
    """

    def __init__(self, prior: Prior):
        super().__init__()
        if prior.image_shape != prior.shape:
            raise ValueError("a prior of latents denoises no images")
        self.prior = prior

    def forward(self, x: Tensor, sigma: float | Tensor, **kwargs) -> Tensor:
        """x [B, C, H, W] in [0, 1] with noise of standard deviation sigma, one or [B] -> the denoised image."""
        sigmas = torch.as_tensor(sigma, dtype=torch.float64).flatten().tolist()
        if len(set(sigmas)) == 1:
            return self.denoise(x, sigmas[0])
        return torch.cat([self.denoise(image, s) for image, s in zip(x.split(1), sigmas, strict=True)])

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        schedule = self.prior.schedule
        t = schedule.time_of(1 / (1 + (2 * sigma) ** 2))  # in [-1, 1] the noise is twice as large
        ab = schedule.alpha_bar_at(t)
        x_t = math.sqrt(ab) * (2 * x - 1)
        prediction = self.prior.predict(x_t, t)
        x0 = prediction.x0
        if x0 is None:
            x0 = (x_t - math.sqrt(1 - ab) * prediction.eps) / math.sqrt(ab)
        return (x0 + 1) / 2
