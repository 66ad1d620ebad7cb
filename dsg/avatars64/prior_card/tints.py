"""The colour of samples' skin against the palette that the faces are drawn with."""

import numpy as np
import torch

from dsg.metrics.distribution import EvaluatorFrechet
from dsg.runs.statistics import bootstrap
from tasks.networks.parts import read_parts

FACE = 1  # in the label maps
EVALUATOR = "checkpoints/avatars64/evaluator"


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours [..., 3] in 0..255."""
    c = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def palette() -> np.ndarray:
    """The skin colours of the data, sRGB [7, 3] in 0..255."""
    import python_avatars

    return np.array([[int(e.value[i : i + 2], 16) for i in (1, 3, 5)] for e in python_avatars.SkinColor])


@torch.no_grad()
def skin_distance(pixels: np.ndarray, parts) -> np.ndarray:
    """Distance [N] in CIELAB of each image's skin, the median of the face's pixels, to the palette's nearest colour.

    pixels: uint8 [N, H, W, 3]. parts: the embedded segmentation network. An image without a face is infinitely far.
    """
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    face = torch.cat([parts(part).argmax(1) == FACE for part in x.split(64)]).numpy()
    colors = lab(palette())
    distances = []
    for image, inside in zip(pixels, face):
        skin = lab(np.median(image[inside], axis=0)) if inside.any() else np.full(3, np.inf)
        distances.append(np.linalg.norm(skin - colors, axis=1).min())
    return np.array(distances)


def tints(samples: np.ndarray, real: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Share of samples further from the palette than the 99th percentile of real faces [%]; Frechet distances.

    uint8 [N, H, W, 3] each. others: as many real faces as samples, for a distance of the same kind.
    """
    parts = read_parts("checkpoints/avatars64/parts.safetensors")
    limit = np.percentile(skin_distance(real, parts), 99)
    distance = skin_distance(samples, parts)
    share, low, high = bootstrap(100.0 * (distance > limit))
    frechet = EvaluatorFrechet(EVALUATOR)
    return {
        "samples": len(samples), "limit": limit, "median": np.median(distance), "tinted": share, "low": low,
        "high": high, "frechet": frechet(samples), "frechet of real faces": frechet(others),
    }  # fmt: skip
