"""Run a suite of cells and draw what it shows.

    make reproduce                                             # on 12 faces
    python scripts/reproduce.py --images 64 --out results/embedded64
    python scripts/reproduce.py --device cuda --images 256 --out results/embedded256

Resumes where it was stopped; a second call finishes at once.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tqdm import tqdm

from dsg import figures, images, metrics
from dsg.checkpoints import REPOSITORY, resolve
from dsg.results import Results, identity, write_text
from dsg.runner import Cell, pending, run_cell
from dsg.suite import ManifoldDeviation, markdown_table, paired, summarise
from dsg.tracking import MODES, log_cell

MEASURES = ["psnr", "ssim", "haarpsi", "lpips", "residual"]


@dataclass
class Planned:
    """A cell that the suite wants, with where it goes."""

    key: tuple  # (task, method, steps), or (task, method, steps, factor) of a step-size curve
    overrides: list[str]
    images: int


def plan(suite, count: int, steps: list[int]) -> list[Planned]:
    cells = []
    for task in suite.tasks:
        for n in steps:
            cells += [
                Planned((task, s, n), [f"task={task}", f"sampler={s}", f"sampler.steps={n}"], count)
                for s in suite.samplers
            ]
    curve = suite.curve_steps
    for n in curve.steps:
        if n not in steps:
            cells += [
                Planned((curve.task, s, n), [f"task={curve.task}", f"sampler={s}", f"sampler.steps={n}"], count)
                for s in suite.samplers
            ]
    return cells + plan_step_sizes(suite, count)


def plan_step_sizes(suite, count: int) -> list[Planned]:
    curve, cells = suite.step_sizes, []
    for s in suite.samplers:
        if s == "unconditional":
            continue
        option = "guidance_rate" if s.endswith("_dsg") else "step_size"
        base = [f"task={curve.task}", f"sampler={s}", f"sampler.steps={curve.steps}"]
        tuned = compose("config", [f"model={suite.model}", *base]).sampler[option]
        for factor in [1.0, *curve.factors]:
            value = min(tuned * factor, 1.0) if option == "guidance_rate" else tuned * factor
            cells.append(
                Planned(
                    (curve.task, s, curve.steps, factor),
                    [*base, f"sampler.{option}={value:.6g}"],
                    min(curve.images, count),
                )
            )
    return cells


class Suite:
    def __init__(self, suite, out: Path, device: torch.device, wandb_mode: str):
        self.suite, self.out, self.device, self.wandb_mode = suite, out, device, wandb_mode
        self.prior, self.tables, self.devs, self.failed = None, {}, {}, 0

    def cell(self, planned: Planned) -> tuple[Cell, Results]:
        overrides = [
            f"model={self.suite.model}",
            *planned.overrides,
            f"data.limit={planned.images}",
            f"wandb.group={self.suite.name}",
            f"wandb.mode={self.wandb_mode}",
        ]
        config = compose("config", overrides)
        if self.prior is None:
            self.prior = instantiate(config.model).to(self.device)
        size = self.prior.shape[-1]
        cell = Cell(
            self.prior,
            instantiate(config.task),
            instantiate(config.sampler),
            images.load(resolve(config.data.root), size, planned.images),
            seed=config.seed,
            batch_size=config.batch_size,
            device=self.device,
        )
        resolved = OmegaConf.to_container(config, resolve=True)
        name = "-".join(str(k) for k in planned.key[1:])
        folder = self.out / "cells" / planned.key[0] / name
        return cell, Results(folder, identity(resolved, self.prior.weights_hash), resolved)

    def run(self, cells: list[Planned]) -> None:
        built = [(p, *self.cell(p)) for p in cells]
        total = sum(len(pending(c, r)) * weight(c) for _, c, r in built)
        with tqdm(
            total=total, unit="evaluation", desc=f"suite {self.suite.name}", disable=total == 0, smoothing=0.02
        ) as bar:
            for planned, cell, results in built:
                self.run_one(planned, cell, results, bar)

    def run_one(self, planned: Planned, cell: Cell, results: Results, bar: tqdm) -> None:
        deviation = ManifoldDeviation()
        if pending(cell, results) or not (results.out / "metrics.json").exists():
            bar.set_postfix_str(" ".join(str(k) for k in planned.key))
            cost = 3 if cell.sampler.gradient_at == "x_t" else 1
            failures = run_cell(cell, results, lambda n: bar.update(n * cost), deviation)
            for f in failures:
                print(f"failed: {planned.key} {f.id}: not finite at step {f.step_index} (t={f.t})", file=sys.stderr)
            self.failed += len(failures)
            deviation.save(results.out / "manifold_deviation.csv")
            if len(results.table):
                log_cell(results, json.loads((results.out / "metrics.json").read_text()))
        ids = [p.id for p in cell.pictures]
        self.tables[planned.key] = results.table.loc[results.table.index.intersection(ids)]
        if (results.out / "manifold_deviation.csv").exists():
            self.devs[planned.key] = pd.read_csv(results.out / "manifold_deviation.csv", dtype={"id": str})

    def baselines(self, count: int) -> None:
        """A^T y, or bicubic: what one has without a prior."""
        for task in self.suite.tasks:
            cell, results = self.cell(
                Planned(
                    (task, "dps", self.suite.steps[0]),
                    [f"task={task}", "sampler=dps", f"sampler.steps={self.suite.steps[0]}"],
                    count,
                )
            )
            x = images.to_tensor(cell.pictures)
            condition = cell.task.measure(x, [p.id for p in cell.pictures], cell.seed)
            restored = cell.task.baseline(condition, x.shape).clamp(-1, 1)
            pixels = images.to_uint8(restored)
            folder = self.out / "cells" / task / "baseline" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            for p, u in zip(cell.pictures, pixels):
                images.save(folder / f"{p.id}.png", u)
            table = pd.DataFrame(metrics.measure(pixels, images.to_uint8(x)), index=[p.id for p in cell.pictures])
            table["residual"] = cell.task.residual(restored, condition).tolist()
            self.tables[(task, "bicubic" if task == "super_resolution" else "A^T y", 0)] = table


def weight(cell: Cell) -> int:
    """Evaluations of an image, a pass through the network and back counted three times."""
    count = sum(cell.sampler.repeats(s) for s in cell.prior.schedule.steps(cell.sampler.steps, cell.sampler.spacing))
    return count * (3 if cell.sampler.gradient_at == "x_t" else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", default="embedded", choices=sorted(p.stem for p in (REPOSITORY / "configs/suite").glob("*.yaml"))
    )
    parser.add_argument("--images", type=int, help="faces (default: the suite's)")
    parser.add_argument(
        "--steps", type=lambda s: [int(v) for v in s.replace(",", " ").split()], help="step counts, '20 100'"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--wandb", default="offline", choices=MODES)
    args = parser.parse_args()
    suite = OmegaConf.load(REPOSITORY / "configs/suite" / f"{args.suite}.yaml")
    count, steps = args.images or suite.images, args.steps or list(suite.steps)
    out = args.out or resolve(suite.out)
    if count < 2 or min(steps) < 2:
        parser.error("--images and --steps: 2 or more")
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        runner = Suite(suite, out, torch.device(args.device), args.wandb)
        runner.baselines(count)
        runner.run(plan(suite, count, steps))
    write_outputs(runner, suite, out, steps)
    if runner.failed:
        sys.exit(f"{runner.failed} images failed; they are named above, and in the metrics.json of their cells")


def write_outputs(runner: Suite, suite, out: Path, steps: list[int]) -> None:
    grid = {k: v for k, v in runner.tables.items() if len(k) == 3 and (k[2] in steps or k[2] == 0)}
    ordered = {k: grid[k] for t in suite.tasks for n in [0, *steps] for k in grid if k[0] == t and k[2] == n}
    summary, differences = summarise(ordered, MEASURES), paired(ordered, ["psnr", "ssim", "haarpsi"])
    summary.to_csv(out / "table.csv", index=False, float_format="%.5g")
    differences.to_csv(out / "paired.csv", index=False, float_format="%.5g")
    count = int(summary["images"].max())
    head = f"# Suite {suite.name}: {count} faces of avatars64's test split\n\nMean and 95 % bootstrap interval; best of a step count in bold.\n\n"
    write_text(out / "table.md", head + markdown_table(summary))
    figures.grid(out, suite, steps, out / "grid.png")
    curve = {k: v for k, v in runner.tables.items() if len(k) == 3 and k[0] == suite.curve_steps.task and k[2] > 0}
    figures.against_steps(summarise(curve, MEASURES), out / "steps.png", suite.curve_steps.task)
    sizes = {k: v for k, v in runner.tables.items() if len(k) == 4}
    rows = [
        {"method": k[1], "factor": k[3], **{m: np.nanmean(v[m]) for m in ("psnr", "haarpsi")}} for k, v in sizes.items()
    ]
    figures.against_step_size(
        pd.DataFrame(rows), out / "step_sizes.png", f"{suite.step_sizes.task}, {suite.step_sizes.steps} steps"
    )
    figures.manifold_deviation(
        {k: d for k, d in runner.devs.items() if len(k) == 3},
        suite.curve_steps.task,
        max(steps),
        out / "manifold_deviation.png",
    )
    print((out / "table.md").read_text())
    print(f"{out}: table.md, table.csv, paired.csv, grid.png, steps.png, step_sizes.png, manifold_deviation.png")


if __name__ == "__main__":
    main()
