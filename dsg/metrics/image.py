"""Metrics of a restored image against the truth, both as saved 8-bit images.

PSNR [dB] and SSIM: torchmetrics, data range 1, Gaussian window of 11 and std 1.5 for SSIM. LPIPS: the `lpips`
package, version 0.1, with the backbone in its name. HaarPSI: `piq`, a perceptual similarity without learned weights
(Reisenhofer et al. 2018). The libraries are imported when they are used: that takes seconds, and wrong options should
be told at once.
"""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsg.files import file_hash, resolve
from dsg.metrics.base import ImageMetric
from dsg.types import Column, Input
from dsg.weights import read_state_dict

COLUMNS = {  # by name of the metric
    "psnr": Column("psnr", "PSNR [dB]", 2, True),
    "ssim": Column("ssim", "SSIM", 3, True),
    "haarpsi": Column("haarpsi", "HaarPSI", 3, True),
    "lpips_vgg": Column("lpips_vgg", "LPIPS (VGG)", 3, False),
    "lpips_alex": Column("lpips_alex", "LPIPS (Alex)", 3, False),
}
BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}  # torchvision's files


class FullReference(ImageMetric):
    """A metric that compares with the truth."""

    def applies(self, inputs: Sequence[Input]) -> bool:
        return all(i.truth is not None for i in inputs)

    def __call__(self, images: np.ndarray, inputs: Sequence[Input]) -> list[float]:
        return self.compare(*(_unit(a) for a in (images, np.stack([i.truth for i in inputs])))).reshape(-1).tolist()

    @abstractmethod
    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        """[B], from images and truths, float [B, 3, H, W] in [0, 1]."""


class PSNR(FullReference):
    column = COLUMNS["psnr"]

    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        return peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))


class SSIM(FullReference):
    column = COLUMNS["ssim"]

    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        return structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")


class HaarPSI(FullReference):
    column = COLUMNS["haarpsi"]

    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        import piq

        return piq.haarpsi(x, y, reduction="none")


class LPIPS(FullReference):
    """Learned perceptual distance (Zhang et al., arXiv 1801.03924).

    Args:
        net: its backbone: vgg, as in the tables of this field, or alex.
        backbone: file with torchvision's weights of it; null: the published file name, in checkpoints/ or in torch's
            cache.
    """

    def __init__(self, net: str = "vgg", backbone: str | None = None):
        if net not in BACKBONES:
            raise ValueError(f"metric.lpips.net={net} is unknown: one of {', '.join(BACKBONES)}")
        self.net, self.column = net, COLUMNS[f"lpips_{net}"]
        cached = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
        places = [resolve(backbone)] if backbone else [resolve(f"checkpoints/{BACKBONES[net]}"), cached]
        self.file = next((file for file in places if file.is_file()), None)

    def missing(self) -> str | None:
        return None if self.file else f"python scripts/fetch_checkpoints.py lpips_{self.net} gets its backbone"

    def settings(self) -> dict:
        return {"backbone": file_hash(self.file)[:10] if self.file else None}

    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return lpips_network(self.net, self.file)(2 * x - 1, 2 * y - 1)


@cache
def lpips_network(net: str, file: Path):
    """LPIPS on the backbone in `file`, without asking the network for anything."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision with deprecated arguments
        model = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    state = read_state_dict(file, f"lpips_{net}")
    # lpips cuts torchvision's `features` into slices, whose layers keep their numbers
    own = {f"net.slice{k}.{n}.{w}" for k in range(1, 6) for n in range(31) for w in ("weight", "bias")}
    layers = {key: key.replace(f"net.{key.split('.')[1]}", "features") for key in model.state_dict() if key in own}
    model.load_state_dict({key: state[layer] for key, layer in layers.items()}, strict=False)
    return model.eval().requires_grad_(False)


def _unit(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
