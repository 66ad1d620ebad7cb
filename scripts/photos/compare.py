"""Compare what a person would use instead: classical restoration of photographs, and ours with the embedded prior.

  python scripts/photos/compare.py                            four photographs of scikit-image, one sample
  python scripts/photos/compare.py --validation 20 --samples 8 --methods mpgd_dsg dps_dsg

Crops of 256 px, sigma 0.05 of [-1, 1]. Writes scores.csv (a row per image, task and method; what is there already is
not made again) and compare.png to results/photos. Needs the extra `photos` and, for more than the four, the validation
photographs (scripts/photos/collect.py). With several samples, `<method>, mean` is their mean.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from measure import PACKAGED, crops
from torch import Tensor
from tqdm import tqdm

from dsg import config
from dsg.arguments import Parser, exit_code, positive
from dsg.files import write_text
from dsg.noise import ImageNoise
from dsg.runs.prepare import build, build_task, load_once_from
from dsg.samplers import sample
from dsg.types import Input, to_uint8

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS = {
    "super_resolution": ["task=super_resolution"],
    "inpaint": ["task=inpaint", "task.masked_fraction=[0.7,0.7]"],
    "gaussian_deblur": ["task=gaussian_deblur"],
    "motion_deblur": ["task=motion_deblur", "task.kernel_size=31"],
    "denoise": ["task=denoise"],
}
SEED = 0


class Problem:
    """A degraded photograph: what classical methods see of it, in [0, 1].

    Attributes:
        y: [h, w, 3]; mask: [H, W], 1 = observed; kernel: [K, K]; size: (H, W) of the truth; sigma of the noise.
    """

    def __init__(self, task: str, name: str, truth: np.ndarray):
        self.task, self.name, self.truth = task, name, truth
        self.operator = build_task(config.load(["model=photos", *TASKS[task]]))
        self.condition = self.operator.condition([Input(name, truth=truth)], SEED)
        self.y = (self.condition["y"][0].permute(1, 2, 0).numpy() + 1) / 2
        self.size, self.sigma = truth.shape[:2], self.operator.sigma / 2

    @property
    def mask(self) -> np.ndarray:
        return self.condition["mask"][0, 0].numpy()

    @property
    def kernel(self) -> np.ndarray:
        """Of the blur, as it is convolved (the operator correlates): the impulse response."""
        if "kernel" in self.condition:
            return self.condition["kernel"][0].flip(0, 1).numpy()
        impulse = torch.zeros(1, 3, *self.size)
        impulse[..., self.size[0] // 2, self.size[1] // 2] = 1
        radius, response = self.operator.radius, self.operator.forward(impulse, {})[0, 0].numpy()
        top, left = (side // 2 - radius for side in self.size)
        return response[top : top + 2 * radius + 1, left : left + 2 * radius + 1]


def classical(task: str) -> dict[str, Callable[[Problem], np.ndarray]]:
    """Name -> function that restores a problem, [H, W, 3] in [0, 1]."""
    import cv2
    from bm3d import bm3d_rgb
    from skimage import restoration

    def enlarged(filter: int) -> Callable[[Problem], np.ndarray]:
        return lambda p: cv2.resize(p.y.astype(np.float32), p.size[::-1], interpolation=filter)

    def sharpened(p: Problem) -> np.ndarray:
        image = enlarged(cv2.INTER_LANCZOS4)(p)
        return image + 0.5 * (image - cv2.GaussianBlur(image, (0, 0), 2.0))

    def painted(method: int) -> Callable[[Problem], np.ndarray]:
        def restore(p: Problem) -> np.ndarray:
            known = to_uint8(p.condition["y"])[0]
            return cv2.inpaint(known, (p.mask == 0).astype(np.uint8), 3, method) / 255

        return restore

    def per_channel(restore: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Problem], np.ndarray]:
        def run(p: Problem) -> np.ndarray:
            radius = len(p.kernel) // 2 + 8  # against ringing at the border
            padded = np.pad(p.y, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
            found = np.stack([restore(padded[..., c], p.kernel) for c in range(3)], axis=-1)
            return found[radius:-radius, radius:-radius]

        return run

    def best(options: list, restore: Callable) -> Callable[[Problem], np.ndarray]:
        """The option with the best PSNR against the truth: more than a person could do."""

        def run(p: Problem) -> np.ndarray:
            return max((per_channel(lambda y, k, o=o: restore(y, k, o))(p) for o in options),
                       key=lambda x: psnr(x, p.truth))  # fmt: skip

        return run

    deblurring = {
        "Wiener": best([0.003, 0.01, 0.03, 0.1, 0.3], lambda y, k, o: restoration.wiener(y, k, o, clip=False)),
        "Richardson-Lucy": best([5, 10, 20, 40], lambda y, k, o: restoration.richardson_lucy(y.clip(0, 1), k, o)),
    }
    return {
        "super_resolution": {"bicubic": enlarged(cv2.INTER_CUBIC), "Lanczos, unsharp": sharpened},
        "inpaint": {
            "biharmonic": lambda p: restoration.inpaint_biharmonic(p.y, p.mask == 0, channel_axis=2),
            "Telea": painted(cv2.INPAINT_TELEA),
            "Navier-Stokes": painted(cv2.INPAINT_NS),
        },
        "gaussian_deblur": deblurring,
        "motion_deblur": deblurring,
        "denoise": {"CBM3D": lambda p: bm3d_rgb(p.y, p.sigma)},
    }[task]


def guided(sampler: str, steps: int, samples: int) -> Callable[[Problem], np.ndarray]:
    """Our restoration: samples [samples, H, W, 3] in [0, 1]."""

    def restore(p: Problem) -> np.ndarray:
        chosen = config.load(["model=photos", *TASKS[p.task], f"sampler={sampler}", f"sampler.steps={steps}"])
        prior, method, shape = load_once_from(chosen.model), build(chosen.sampler), (3, *p.size)
        found = []
        for number in range(samples):
            noise = ImageNoise(SEED, [p.name], [number], shape)
            x_T = method.start(prior, p.operator, p.condition, noise.start())
            found.append(unit(sample(prior, p.operator, p.condition, method, x_T, noise)))
        return np.concatenate(found)

    return restore


def unit(x: Tensor) -> np.ndarray:
    return to_uint8(x) / 255


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return -10 * np.log10(np.square(np.clip(image, 0, 1) - truth / 255).mean())


def scores(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM and HaarPSI of an image [H, W, 3] in [0, 1]."""
    import piq
    from skimage.metrics import structural_similarity

    x, y = np.clip(image, 0, 1).astype(np.float32), (truth / 255).astype(np.float32)
    tensors = (torch.from_numpy(a).permute(2, 0, 1)[None] for a in (x, y))
    ssim = structural_similarity(x, y, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
                                 use_sample_covariance=False)  # fmt: skip
    return {"psnr": psnr(image, truth), "ssim": float(ssim), "haarpsi": piq.haarpsi(*tensors).item()}


def rows_of(p: Problem, label: str, restore: Callable[[Problem], np.ndarray], shown: dict) -> list[dict]:
    began, about = time.perf_counter(), {"task": p.task, "image": p.name}
    made = restore(p)
    made, seconds = made if made.ndim == 4 else made[None], time.perf_counter() - began
    shown[label] = made[0]
    rows = [{**about, "method": label, **scores(made[0], p.truth), "seconds": seconds / len(made)}]
    if len(made) > 1:
        rows.append({**about, "method": f"{label}, mean", **scores(made.mean(0), p.truth), "seconds": seconds})
    return rows


def draw(shown: Mapping[tuple[str, str], Mapping[str, np.ndarray]], out: Path) -> None:
    """A row per task: measurement, methods, truth."""
    columns = max(map(len, shown.values()))
    figure, axes = plt.subplots(len(shown), columns, figsize=(2.6 * columns, 2.8 * len(shown)), squeeze=False)
    for row, ((task, _), cells) in zip(axes, shown.items()):
        places = [*row[: len(cells) - 1], row[-1]]  # the truth last, in every row
        for axis, (label, image) in zip(places, cells.items()):
            axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
            axis.set_title(label, fontsize=9)
        for axis in row:
            axis.set_axis_off()
        row[0].set_title(f"{task.replace('_', ' ')}: measurement", fontsize=9)
    figure.savefig(out, dpi=100, bbox_inches="tight")


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--methods", nargs="*", default=["mpgd_dsg"], help="samplers of ours")
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--samples", type=positive, default=1)
    parser.add_argument("--validation", type=int, default=0, help="so many validation photographs besides")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/photos")
    return exit_code(lambda: compare(parser.parse_args()))


def compare(options: argparse.Namespace) -> None:
    images = crops(REPOSITORY / "data/photos/images/validation")
    images = dict(list(images.items())[: len(PACKAGED) + options.validation])
    options.out.mkdir(parents=True, exist_ok=True)
    file, shown = options.out / "scores.csv", {}
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    for task in options.tasks:
        methods = classical(task) | {m: guided(m, options.steps, options.samples) for m in options.methods}
        for name, truth in tqdm(images.items(), desc=task, unit="image"):
            problem, cells = Problem(task, name, truth), {}
            for label, restore in methods.items():
                if not any((r["task"], r["image"], r["method"]) == (task, name, label) for r in rows):
                    rows += rows_of(problem, label, restore, cells)
            write_text(file, pd.DataFrame(rows).to_csv(index=False, float_format="%.4f"))
            if name == list(images)[list(TASKS).index(task) % len(PACKAGED)] and len(cells) == len(methods):
                shown[task, name] = {"measurement": problem.y} | cells | {"truth": truth / 255}
    if shown:
        draw(shown, options.out / "compare.png")
    table = pd.DataFrame(rows).pivot_table(["psnr", "ssim", "haarpsi", "seconds"], ["task", "method"], sort=False)
    print(table[["psnr", "ssim", "haarpsi", "seconds"]].round(3).to_markdown())


if __name__ == "__main__":
    sys.exit(main())
