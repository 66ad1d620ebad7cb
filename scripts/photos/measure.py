"""Measure the prior of photographs as a denoiser: the tables of checkpoints/photos/README.md.

  python scripts/photos/measure.py             writes denoising.csv and levels.csv beside the weights, prints both

Denoising: 256 px crops from the middle of held-out photographs, sigma 15, 25, 50 of 255, against CBM3D (bm3d),
non-local means and wavelets (scikit-image). Levels: mean squared error of x0 at ten noise levels of the schedule,
against the best linear denoiser of patches of 8 px, fitted on the training photographs. Needs the extra `photos`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from dsg.arguments import Parser, exit_code
from dsg.noise import standard_normal
from dsg.priors.photos import PhotoPrior, denoise
from dsg.types import to_tensor

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGED = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image; no weights were trained or tuned on them
SIGMAS, TIMES, PATCH = (15, 25, 50), (20, 50, 100, 200, 300, 400, 500, 700, 850, 999), 8


def crops(validation: Path, size: int = 256) -> dict[str, np.ndarray]:
    """Held-out crops, uint8 [size, size, 3]: those of scikit-image as they are, validation photographs at 600 px."""
    from skimage import data

    found = {name: getattr(data, name)() for name in PACKAGED}
    for path in sorted(validation.glob("*.jpg")):
        with Image.open(path) as image:
            scale = 600 / min(image.size)
            image = image.convert("RGB").resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
            found[path.stem] = np.asarray(image)
    return {name: middle(image, size) for name, image in found.items()}


def middle(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def denoisers(prior: PhotoPrior) -> dict[str, Callable[[np.ndarray, float], np.ndarray]]:
    """Name -> function of a noisy image [H, W, 3] in [0, 1] and its sigma."""
    from bm3d import bm3d_rgb
    from skimage.restoration import denoise_nl_means, denoise_wavelet

    def network(noisy: np.ndarray, sigma: float) -> np.ndarray:
        x = torch.from_numpy(noisy * 2 - 1).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            return (denoise(prior.net, x, torch.tensor([2 * sigma]))[0].permute(1, 2, 0).numpy() + 1) / 2

    def non_local(noisy: np.ndarray, sigma: float) -> np.ndarray:
        options = {"patch_size": 5, "patch_distance": 9, "fast_mode": False, "channel_axis": 2}
        return denoise_nl_means(noisy, h=0.6 * sigma, sigma=sigma, **options)

    def wavelets(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_wavelet(noisy, sigma=sigma, channel_axis=2, convert2ycbcr=True, rescale_sigma=True)

    return {"photos": network, "CBM3D": bm3d_rgb, "non-local means": non_local, "wavelets": wavelets,
            "noisy": lambda noisy, sigma: noisy}  # fmt: skip


def scores(restored: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR and HaarPSI of images [H, W, 3] in [0, 1]."""
    import piq

    x, y = (torch.from_numpy(np.clip(a, 0, 1)).float().permute(2, 0, 1)[None] for a in (restored, truth))
    return {"psnr": -10 * (x - y).square().mean().log10().item(), "haarpsi": piq.haarpsi(x, y).item()}


def denoising(prior: PhotoPrior, images: dict[str, np.ndarray]) -> pd.DataFrame:
    """PSNR and HaarPSI per image, sigma and method; the same noise for all methods."""
    rows, methods = [], denoisers(prior)
    for name, image in tqdm(images.items(), desc="denoising", unit="image"):
        truth = image / 255
        for sigma in SIGMAS:
            noise = standard_normal(truth.shape, 0, name, "denoising", sigma).numpy()
            noisy = truth + sigma / 255 * noise
            for method, restore in methods.items():
                numbers = scores(restore(noisy, sigma / 255), truth)
                rows.append({"image": name, "sigma": sigma, "method": method, **numbers})
    return pd.DataFrame(rows)


class LinearDenoiser:
    """The best linear denoiser of patches [3 PATCH^2], averaged over all patches that hold a pixel."""

    def __init__(self, images: list[np.ndarray]):
        patches = torch.cat([self.unfold(to_tensor([image]))[0].T[::7] for image in images])
        self.mean = patches.mean(0)
        values, self.vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
        self.values = values.clamp_min(0)

    @staticmethod
    def unfold(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.unfold(x, PATCH)

    def __call__(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        gain = (self.vectors * (self.values / (self.values + sigma**2)) @ self.vectors.T).float()
        patches = self.mean[:, None] + gain @ (self.unfold(noisy) - self.mean[:, None])
        size = noisy.shape[-2:]
        count = torch.nn.functional.fold(torch.ones_like(patches), size, PATCH)
        return torch.nn.functional.fold(patches, size, PATCH) / count


def levels(prior: PhotoPrior, images: dict[str, np.ndarray], training: Path) -> pd.DataFrame:
    """Mean squared error of x0, in units of [-1, 1], of the network and of the linear denoiser at each time."""
    from skimage.transform import rescale

    fitted = []
    for path in tqdm(sorted(training.glob("*.jpg")), desc="linear denoiser", unit="photograph"):
        with Image.open(path) as image:
            small = rescale(np.asarray(image.convert("RGB")), 600 / max(image.size), channel_axis=2, anti_aliasing=True)
        fitted.append(np.clip(small * 255, 0, 255).round().astype(np.uint8)[:256, :256])
    linear, rows = LinearDenoiser(fitted), []
    clean = to_tensor(list(images.values()))
    for t in TIMES:
        ab = prior.schedule.alpha_bar_at(t)
        sigma = ((1 - ab) / ab) ** 0.5
        z = torch.stack([standard_normal(clean.shape[1:], 0, name, "levels", t) for name in images])
        with torch.no_grad():
            noisy = clean + sigma * z
            network = torch.cat([denoise(prior.net, one[None], torch.tensor([sigma])) for one in noisy])
        errors = {name: (x - clean).square().mean().item() for name, x in
                  (("photos", network), ("linear", linear(noisy, sigma)))}  # fmt: skip
        rows.append({"t": t, "sigma": sigma, **errors, "gain_db": 10 * np.log10(errors["linear"] / errors["photos"])})
    return pd.DataFrame(rows)


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--weights", type=Path, default=REPOSITORY / "checkpoints/photos/model.safetensors")
    parser.add_argument("--photos", type=Path, default=REPOSITORY / "data/photos/images")
    parser.add_argument("--validation", type=int, default=8, help="so many validation photographs besides the four")
    parser.add_argument("--out", type=Path, help="folder of the tables (default: beside the weights)")
    return exit_code(lambda: measure(parser.parse_args()))


def measure(options: argparse.Namespace) -> None:
    prior = PhotoPrior("photos", str(options.weights)).load()
    images = dict(list(crops(options.photos / "validation").items())[: len(PACKAGED) + options.validation])
    out = options.out or options.weights.parent
    table = levels(prior, images, options.photos / "train")
    table.to_csv(out / "levels.csv", index=False, float_format="%.6g")
    print(table.to_markdown(index=False, floatfmt=".4g"))
    table = denoising(prior, images)
    table.to_csv(out / "denoising.csv", index=False, float_format="%.4f")
    table["of"] = np.where(table["image"].isin(PACKAGED), "scikit-image", "validation")
    means = table.pivot_table(["psnr", "haarpsi"], "method", ["of", "sigma"], sort=False)
    print(means.round(3).to_markdown())


if __name__ == "__main__":
    sys.exit(main())
