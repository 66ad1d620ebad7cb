"""Compare restorations of held-out photographs: what a person would use instead, and ours with the embedded prior.

  python scripts/photos/compare.py --size 128 --validation 4        4 photographs of scikit-image, 4 of validation
  python scripts/photos/compare.py --size 128 --validation 4 --samples 8 --methods mpgd_dsg     and the mean of 8
  python scripts/photos/compare.py --front                          front.png: three photographs, super-resolution

Crops from the middle; noise of the tasks' defaults (sigma .05 of [-1, 1]; denoise .2). Every restored image is saved in
<out>/runs, every score in <out>/compare.csv, and neither is made again; tables and figures are drawn from them. Needs
the extra `photos` and, for validation photographs, scripts/photos/collect.py.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from classical import SEED, TASKS, Problem, classical, image_of, one_pass, plug_and_play
from measure import PACKAGED, crops
from PIL import Image
from tqdm import tqdm

from dsg import config
from dsg.arguments import Parser, exit_code, positive
from dsg.files import write_text
from dsg.image_files import save
from dsg.noise import ImageNoise
from dsg.runs.prepare import build, load_once_from
from dsg.samplers import sample
from dsg.statistics import mean_interval

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("dps", "dps_dsg", "mpgd", "mpgd_dsg", "mpgd_additive", "prox_dsg")
# Step sizes of DPS and MPGD are lengths, which grow with the side of an image: the best of 5 or 6 on three validation
# crops of 80 px by PSNR (20 steps), per pixel of the side. What DSG and its controls have needs no such factor.
LENGTHS = {
    ("super_resolution", "dps"): 16.22 / 80,
    ("super_resolution", "mpgd"): 9.6 / 80,
    ("inpaint", "dps"): 6.16 / 80,
}
OPTIONS = {"prox_dsg": ["sampler.solver_steps=10"]}  # conjugate gradients of a step, for blurs without an SVD
KEY = ["px", "task", "image", "method", "sample"]
FRONT = ("chelsea", "coffee", "rocket")
FRONT_METHODS = ("dps", "dps_dsg", "mpgd_dsg")
Samples = Callable[[Problem, int], np.ndarray]  # of a problem and a sample's number, [H, W, 3] in [0, 1]


class Scores:
    """compare.csv, a row per restored image, and the images themselves in runs/<px>/<task>/<image>."""

    def __init__(self, out: Path, weights: str):
        self.out, self.file = out, out / "compare.csv"
        self.table = pd.read_csv(self.file) if self.file.exists() else pd.DataFrame(columns=[*KEY, "weights"])
        if (other := set(self.table["weights"]) - {weights}) and len(self.table):
            raise ValueError(f"{self.file} has scores of other weights ({other.pop()}): choose another --out")
        self.weights = weights

    def path(self, p: Problem, method: str, number: int) -> Path:
        return self.out / "runs" / str(p.size[0]) / p.task / p.name / f"{method}_{number}.png"

    def make(self, p: Problem, method: str, number: int, restore: Samples) -> None:
        """Restore, save and score what is not there yet."""
        path = self.path(p, method, number)
        if path.exists() and self.rows(p, method, number):
            return
        began = time.perf_counter()
        image = restore(p, number)
        seconds = time.perf_counter() - began
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, (image.clip(0, 1) * 255).round().astype(np.uint8))
        self.add(p, method, number, self.image(p, method, number), seconds)

    def make_mean(self, p: Problem, method: str, samples: int) -> None:
        label = f"{method}, mean of {samples}"
        if samples > 1 and not self.rows(p, label, 0):
            images = [self.image(p, method, number) for number in range(samples)]
            seconds = sum(self.rows(p, method, number)[0]["seconds"] for number in range(samples))
            self.add(p, label, 0, np.mean(images, axis=0), seconds)

    def rows(self, p: Problem, method: str, number: int) -> list[dict]:
        key = dict(zip(KEY, (p.size[0], p.task, p.name, method, number)))
        return self.table[(self.table[KEY] == pd.Series(key)).all(axis=1)].to_dict("records")

    def add(self, p: Problem, method: str, number: int, image: np.ndarray, seconds: float) -> None:
        row = dict(zip(KEY, (p.size[0], p.task, p.name, method, number)))
        row |= scores(image, p.truth) | {"seconds": seconds, "weights": self.weights}
        kept = [old for old in self.table.to_dict("records") if any(old[key] != row[key] for key in KEY)]
        self.table = pd.DataFrame([*kept, row])
        write_text(self.file, self.table.to_csv(index=False, float_format="%.4f"))

    def image(self, p: Problem, method: str, number: int = 0) -> np.ndarray:
        """As saved, in [0, 1]."""
        with Image.open(self.path(p, method, number)) as image:
            return np.asarray(image) / 255


def scores(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM and HaarPSI of an image [H, W, 3] in [0, 1]."""
    import piq
    from skimage.metrics import structural_similarity

    x, y = image.astype(np.float32), (truth / 255).astype(np.float32)
    tensors = (torch.from_numpy(a).permute(2, 0, 1)[None] for a in (x, y))
    ssim = structural_similarity(x, y, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
                                 use_sample_covariance=False)  # fmt: skip
    return {"psnr": -10 * np.log10(np.square(x - y).mean()), "ssim": ssim, "haarpsi": piq.haarpsi(*tensors).item()}


def ours(sampler: str, steps: int) -> tuple[str, Samples]:
    """Its label, and its restoration."""

    def load(task: str, *more: str):
        options = [*TASKS[task], f"sampler={sampler}", f"sampler.steps={steps}", *OPTIONS.get(sampler, []), *more]
        return config.load(["model=photos", *options])

    def restore(p: Problem, number: int) -> np.ndarray:
        length = LENGTHS.get((p.task, sampler))
        chosen = load(p.task, *([f"sampler.step_size={length * p.size[0]:.4g}"] if length else []))
        prior, method = load_once_from(chosen.model), build(chosen.sampler)
        noise = ImageNoise(SEED, [p.name], [number], (3, *p.size))
        x_T = method.start(prior, p.operator, p.condition, noise.start())
        return image_of(sample(prior, p.operator, p.condition, method, x_T, noise))

    return build(load("denoise").sampler).label, restore


def methods_of(task: str, prior) -> dict[str, Samples]:
    """What gives one image, not samples."""
    found = classical(task) | {"DPIR, this network": plug_and_play(prior)}
    if task == "denoise":
        found["this network, one pass"] = one_pass(prior)
    return {label: lambda p, number, restore=restore: restore(p) for label, restore in found.items()}


def compare(options: argparse.Namespace) -> None:
    prior = load_once_from(config.load(["model=photos"]).model)
    images = crops(options.photos / "validation", options.size)
    images = dict(list(images.items())[: len(PACKAGED) + options.validation])
    own = dict(ours(name, options.steps) for name in options.methods)
    table = Scores(options.out, prior.weights_hash[:12])
    if options.front:
        return front(table, prior, crops(Path(), options.size), options.steps)
    pairs = [(name, task) for name in images for task in options.tasks]
    for number in range(options.samples):
        for name, task in tqdm(pairs, desc=f"sample {number}", unit="problem"):
            problem = Problem(task, name, images[name])
            for label, restore in (own if number else methods_of("super_resolution", prior) | own).items():
                table.make(problem, label, number, restore)
    for name, task in pairs:
        for label in own:
            table.make_mean(Problem(task, name, images[name]), label, options.samples)
    text = table_of(table.table[table.table["px"] == options.size], len(images))
    write_text(options.out / "table.md", text)
    print(text)
    problems = [Problem(task, list(images)[k % len(images)], images[list(images)[k % len(images)]])
                for k, task in enumerate(options.tasks)]  # fmt: skip
    draw(options.out / "figure.png", table, problems, list(own))


def table_of(scores: pd.DataFrame, images: int) -> str:
    """Means with 95 % intervals over images, of single samples and of means; a section per task."""
    parts = [f"Crops of {scores['px'].iloc[0]} px, weights {scores['weights'].iloc[0]}. Mean and 95 % interval "
             "(Student's t over images); seconds of one core on a shared machine.\n"]  # fmt: skip
    single = scores[scores["sample"] == 0]
    for task, rows in single.groupby("task", sort=False):
        lines = []
        for method, of in rows.groupby("method", sort=False):
            cells = {name: interval(of[name], digits) for name, digits in (("psnr", 2), ("ssim", 3), ("haarpsi", 3))}
            lines.append({"method": method, **cells, "images": len(of), "seconds": f"{of['seconds'].mean():.1f}"})
        order = pd.DataFrame(lines).rename(columns={"psnr": "PSNR [dB]", "ssim": "SSIM", "haarpsi": "HaarPSI"})
        parts.append(f"### {task}\n\n{order.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(parts)


def interval(values: pd.Series, digits: int) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.{digits}f}" + f" ± {(high - low) / 2:.{digits}f}" * (high == high)


def front(table: Scores, prior, images: dict[str, np.ndarray], steps: int) -> None:
    """front.png: three photographs, 4 times enlarged; measurement, the best classical method, ours, truth."""
    own, problems = dict(ours(name, steps) for name in FRONT_METHODS), []
    for name in FRONT:
        problems.append(Problem("super_resolution", name, images[name]))
        for label, restore in (methods_of("super_resolution", prior) | own).items():
            table.make(problems[-1], label, 0, restore)
    draw(table.out / "front.png", table, problems, list(own))


def draw(out: Path, table: Scores, problems: Iterable[Problem], own: Sequence[str]) -> None:
    """A row per problem: measurement, the classical method of the highest PSNR, `own`, truth; each with its PSNR."""
    rows = []
    for p in problems:
        classic = max(classical(p.task), key=lambda method: table.rows(p, method, 0)[0]["psnr"])
        cells = [(p.task.replace("_", " "), p.y)]
        for label in (classic, *own):
            cells.append((f"{label}\n{table.rows(p, label, 0)[0]['psnr']:.1f} dB", table.image(p, label)))
        rows.append([*cells, ("truth", p.truth / 255)])
    figure, axes = plt.subplots(len(rows), len(rows[0]), squeeze=False, layout="constrained",
                                figsize=(2.6 * len(rows[0]), 2.95 * len(rows)))  # fmt: skip
    for axis, (title, image) in zip(axes.flat, (cell for row in rows for cell in row)):
        axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.savefig(out, dpi=100)
    plt.close(figure)


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--methods", nargs="*", default=list(OURS), help="samplers of ours")
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--samples", type=positive, default=1, help="with several, their mean is scored too")
    parser.add_argument("--size", type=positive, default=256, help="of the crops, in px")
    parser.add_argument("--validation", type=int, default=0, help="so many validation photographs besides the four")
    parser.add_argument("--photos", type=Path, default=REPOSITORY / "data/photos/images")
    parser.add_argument("--front", action="store_true", help="draw front.png instead")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/photos")
    return exit_code(lambda: compare(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
