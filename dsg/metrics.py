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
