"""Measures of a restored picture against the truth, both as the saved 8-bit pictures, one number per image.

psnr [dB], ssim: torchmetrics, data range 1, Gaussian window of 11 and std 1.5 for ssim. lpips: the `lpips` package, version 0.1,
AlexNet. haarpsi: `piq`, a perceptual similarity without learned weights (Reisenhofer et al. 2018). Higher is better,
but for lpips.
"""

import sys
import urllib.error
import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor

MEASURES = ("psnr", "ssim", "lpips", "haarpsi")


def measure(images: np.ndarray, truths: np.ndarray, device: str | torch.device = "cpu") -> dict[str, list[float]]:
    """All measures of uint8 [B, H, W, 3] pictures; lpips is NaN where its weights cannot be had."""
    import piq  # here, because these take seconds to import and wrong options should be told at once
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    x, y = (torch.from_numpy(a.copy()).permute(0, 3, 1, 2).float().to(device) / 255 for a in (images, truths))
    return {
        "psnr": peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3)).tolist(),
        "ssim": structural_similarity_index_measure(x, y, data_range=1.0, reduction="none").reshape(-1).tolist(),
        "lpips": _lpips(x, y),
        "haarpsi": piq.haarpsi(x, y, reduction="none").tolist(),
    }


def _lpips(x: Tensor, y: Tensor) -> list[float]:
    net = lpips_network()
    if net is None:
        return [float("nan")] * len(x)
    with torch.no_grad():
        return net.to(x.device)(2 * x - 1, 2 * y - 1).reshape(-1).tolist()


@cache
def lpips_network():
    """LPIPS with AlexNet, or None (said once) where torchvision cannot get the backbone's weights."""
    import lpips

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision with deprecated arguments
            return lpips.LPIPS(net="alex", version="0.1", verbose=False).eval().requires_grad_(False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"lpips: the AlexNet weights cannot be had here ({reason}); its column stays empty", file=sys.stderr)
        return None


def bootstrap(values: np.ndarray, resamples: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of the finite values, and the bounds of its percentile bootstrap interval (seeded); NaN if there are none."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    tail = 50 * (1 - level)
    low, high = np.percentile(values[draws].mean(1), [tail, 100 - tail])
    return float(values.mean()), float(low), float(high)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2).

    Dowson & Landau, "The Frechet distance between multivariate normal distributions", 1982; in float64, by eigenvalues. The result is
    what the sum gives: between equal Gaussians rounding may leave it a little below 0. With covariances of few samples it is too large.

    Raises:
        ValueError: if a covariance is not symmetric or has an eigenvalue below -1e-5 of its largest. Smaller negative ones, the
            rounding of a float32 covariance without full rank, count as 0.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, dtype=np.float64) for a in (mean1, cov1, mean2, cov2))
    values, vectors = np.linalg.eigh(_symmetric(cov1))
    root1 = (vectors * _root(values)) @ vectors.T
    _root(np.linalg.eigvalsh(_symmetric(cov2)))  # for its check: the product below may hide a direction
    cross = _root(np.linalg.eigvalsh(root1 @ (cov2 + cov2.T) / 2 @ root1)).sum()
    return float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def _symmetric(covariance: np.ndarray) -> np.ndarray:
    if not np.isfinite(covariance).all():
        raise ValueError("frechet_distance: a covariance is not finite")
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max():
        raise ValueError("frechet_distance: a covariance is not symmetric")
    return (covariance + covariance.T) / 2


def _root(eigenvalues: np.ndarray) -> np.ndarray:
    lowest, largest = eigenvalues.min(initial=0), np.abs(eigenvalues).max(initial=0)
    if lowest < -1e-5 * largest:
        raise ValueError(f"frechet_distance: a covariance has the eigenvalue {lowest:.3g} (largest {largest:.3g})")
    return np.sqrt(np.maximum(eigenvalues, 0))
