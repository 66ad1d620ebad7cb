"""A Gaussian process as a prior of time series [C, T]: one Gaussian, whose posterior is GP regression."""

import torch

from dsg.priors.gaussian_mixture import GaussianMixture


def gaussian_process(
    steps: int, channels: int = 1, length_scale: float = 8.0, deviation: float = 1.0, floor: float = 0.05,
    path: str = "vp", name: str = "gaussian_process",
) -> GaussianMixture:  # fmt: skip
    """Series of `steps` times, with mean 0 and covariance

        k(s, t) = deviation^2 exp(-(s - t)^2/(2 length_scale^2)) + floor^2 [s = t],

    the channels alike and independent.

    Args:
        length_scale: in steps.
        path: see `GaussianMixture`.

    Raises:
        ValueError: no steps or channels, or a number that is not positive.
    """
    for option, value in {"steps": steps, "channels": channels}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"model.{option}={value}: an integer, 1 or more")
    for option, value in {"length_scale": length_scale, "deviation": deviation, "floor": floor}.items():
        if not value > 0:
            raise ValueError(f"model.{option}={value}: a number above 0")
    times = torch.arange(steps, dtype=torch.float64)
    kernel = deviation**2 * torch.exp(-0.5 * ((times[:, None] - times) / length_scale) ** 2)
    kernel = kernel + floor**2 * torch.eye(steps, dtype=torch.float64)
    covariance = torch.kron(torch.eye(channels, dtype=torch.float64), kernel)
    means = torch.zeros(1, channels * steps)
    return GaussianMixture([1.0], means, covariances=covariance[None], shape=(channels, steps), path=path, name=name)
