"""Run a suite of cells and draw what it shows.

    make reproduce                                             # on 12 faces
    python scripts/reproduce.py --images 64 --out results/embedded64
    python scripts/reproduce.py --device cuda --images 256 --out results/embedded256
    python scripts/reproduce.py --suite ffhq256                # the paper's linear grid; needs the checkpoint and a GPU
    python scripts/reproduce.py --suite theory                 # samplers against exact posteriors: scripts/theory.py
    python scripts/reproduce.py --suite semantic               # FaceID, text, style, segmentation: scripts/semantic.py

Cells are ordinary ones (`run.py` would give the same pictures), in `<out>/cells/<task>/<sampler>-<steps>`. Resumes where it was
stopped; a second call finishes at once.
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
from omegaconf import OmegaConf
from tqdm import tqdm

from dsg import figures, images, metrics
from dsg.checkpoints import REPOSITORY, resolve
from dsg.prepare import check_wandb, pick_device, prepare
from dsg.results import Results, write_text
from dsg.runner import Cell, evaluations, make_condition, pending, run_cell, unmeasured
from dsg.search import option_of
from dsg.suite import ManifoldDeviation, markdown_table, paired, summarise
from dsg.tracking import MODES, log_cell

MEASURES = ["psnr", "ssim", "haarpsi", "lpips", "residual"]


@dataclass
class Planned:
    """A cell that the suite wants: `value` overrides the tuned step size or guidance rate."""

    task: str
    sampler: str
    steps: int
    images: int
    value: float | None = None

    @property
    def key(self) -> tuple:
        return (self.task, self.sampler, self.steps) + ((self.value,) if self.value is not None else ())

    @property
    def overrides(self) -> list[str]:
        chosen = [
            f"task={self.task}",
            f"sampler={self.sampler}",
            f"sampler.steps={self.steps}",
            f"data.limit={self.images}",
        ]
        return chosen + ([f"sampler.{option_of(self.sampler)}={self.value:.6g}"] if self.value is not None else [])


def plan(suite, count: int, steps: list[int]) -> list[Planned]:
    """The grid, the further step counts of one task, and the step sizes around the tuned ones."""
    curve, sizes = suite.curve_steps, suite.step_sizes
    cells = [Planned(t, s, n, count) for t in suite.tasks for n in steps for s in suite.samplers]
    some = min(curve.images, count)
    cells += [Planned(curve.task, s, n, some) for n in curve.steps if n not in steps for s in suite.samplers]
    for s in suite.samplers:
        if s != "unconditional":
            tuned = tuned_value(suite, s)
            limit = 1.0 if s.endswith("_dsg") else float("inf")
            values = {float(f"{min(tuned * factor, limit):.6g}") for factor in sizes.factors}
            few = min(sizes.images, count)
            cells += [Planned(sizes.task, s, sizes.steps, few, v) for v in sorted(values) if not np.isclose(v, tuned)]
            if sizes.steps not in steps or sizes.task not in suite.tasks:
                cells.append(Planned(sizes.task, s, sizes.steps, few))
    return cells


def tuned_value(suite, sampler: str) -> float:
    sizes = suite.step_sizes
    overrides = [f"model={suite.model}", f"task={sizes.task}", f"sampler={sampler}", f"sampler.steps={sizes.steps}"]
    return float(compose("config", overrides).sampler[option_of(sampler)])


class Suite:
    """The cells of a suite, run one after the other under one progress bar."""

    def __init__(self, suite, out: Path, device: str, wandb_mode: str):
        self.suite, self.out = suite, out
        self.common = [
            f"model={suite.model}", f"device={device}", f"wandb.group={suite.name}", f"wandb.mode={wandb_mode}"
        ]  # fmt: skip
        self.tables, self.deviations, self.failed = {}, {}, 0

    def prepare(self, planned: Planned) -> tuple[Cell, Results]:
        folder = self.out / "cells" / planned.task / "-".join(str(k) for k in planned.key[1:])
        return prepare(compose("config", [*self.common, *planned.overrides]), folder)

    def run(self, built: list[tuple[Planned, Cell, Results]]) -> None:
        total = sum(len(pending(c, r)) * c.weight * evaluations(c) for _, c, r in built)
        with tqdm(
            total=total, unit="evaluation", desc=f"suite {self.suite.name}", disable=total == 0, smoothing=0.02
        ) as bar:
            for planned, cell, results in built:
                bar.set_postfix_str(" ".join(str(k) for k in planned.key))
                self.run_one(planned, cell, results, bar)

    def run_one(self, planned: Planned, cell: Cell, results: Results, bar: tqdm) -> None:
        deviation = ManifoldDeviation(results.out / "manifold_deviation.csv")
        unfinished = pending(cell, results) or len(unmeasured(cell, results))
        if unfinished or not (results.out / "metrics.json").exists():
            failures = run_cell(cell, results, lambda n: bar.update(n * cell.weight), deviation)
            self.failed += len(failures)
            for f in failures:
                print(f"failed: {planned.key} {f.id}: not finite at step {f.step_index} (t={f.t})", file=sys.stderr)
        if len(results.table):
            log_cell(results, json.loads((results.out / "metrics.json").read_text()), again=bool(unfinished))
        ids = [p.id for p in cell.pictures]
        self.tables[planned.key] = results.table.loc[results.table.index.intersection(ids)]
        if deviation.path.exists():
            self.deviations[planned.key] = pd.read_csv(deviation.path, dtype={"id": str})

    def baselines(self, count: int, steps: list[int]) -> None:
        """A^T y, or bicubic: what one has without a prior."""
        for task in self.suite.tasks:
            cell, _ = self.prepare(Planned(task, "dps", steps[0], count))
            if len(cell.pictures) < count:
                raise ValueError(f"--images {count}: there are {len(cell.pictures)}")
            x, condition = make_condition(cell, cell.pictures)
            restored = cell.task.baseline(condition, x.shape).clamp(-1, 1)
            pixels = images.to_uint8(restored)
            folder = self.out / "cells" / task / "baseline" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            for p, u in zip(cell.pictures, pixels):
                images.save(folder / f"{p.id}.png", u)
            table = pd.DataFrame(metrics.measure(pixels, images.to_uint8(x)), index=[p.id for p in cell.pictures])
            table["residual"] = cell.task.residual(restored, condition).tolist()
            self.tables[(task, "bicubic" if task == "super_resolution" else "A^T y", 0)] = table


def write_outputs(runner: Suite, out: Path, count: int, steps: list[int]) -> None:
    suite, tables = runner.suite, runner.tables
    order = [(t, n) for t in suite.tasks for n in [0, *steps]]
    grid = {k: tables[k] for t, n in order for k in tables if len(k) == 3 and (k[0], k[2]) == (t, n)}
    summary, differences = summarise(grid, MEASURES), paired(grid, ["psnr", "ssim", "haarpsi"])
    summary.to_csv(out / "table.csv", index=False, float_format="%.5g")
    differences.to_csv(out / "paired.csv", index=False, float_format="%.5g")
    head = (
        f"# Suite {suite.name}: the first {count} test images of {suite.model}\n\n"
        "Mean and 95 % bootstrap interval over images; the best of a task and step count in bold. Evaluations are forward passes per image; "
        "DPS and FreeDoM also go back through the network.\n\n"
    )
    write_text(
        out / "table.md",
        head + markdown_table(summary) + "\n## DSG minus its host, image by image\n\n" + differences_table(differences),
    )
    curve, sizes = suite.curve_steps, suite.step_sizes
    figures.grid(out, suite, steps, out / "grid.png")
    by_steps = {k: v.sort_index().iloc[: curve.images] for k, v in tables.items() if len(k) == 3 and k[0] == curve.task}
    by_steps = {k: v for k, v in by_steps.items() if k[2] > 0}
    figures.against_steps(summarise(by_steps, MEASURES), out / "steps.png", curve.task)
    figures.against_step_size(step_sizes(runner), out / "step_sizes.png", f"{sizes.task}, {sizes.steps} steps")
    deviations = {k: d for k, d in runner.deviations.items() if len(k) == 3}
    figures.manifold_deviation(deviations, curve.task, steps, out / "manifold_deviation.png")
    print((out / "table.md").read_text())
    print(f"{out}: table.md, table.csv, paired.csv, grid.png, steps.png, step_sizes.png, manifold_deviation.png")


def differences_table(differences: pd.DataFrame) -> str:
    """PSNR and HaarPSI: mean difference with its interval, and on how many faces DSG is better."""
    rows = []
    for (task, host, steps), part in differences.groupby(["task", "host", "steps"], sort=False):
        row = {"task": task, "host": host, "steps": steps}
        for _, d in part[part["measure"].isin(["psnr", "haarpsi"])].iterrows():
            digits = 2 if d["measure"] == "psnr" else 3
            row[d["measure"]] = f"{d['difference']:+.{digits}f} [{d['low']:+.{digits}f}, {d['high']:+.{digits}f}]"
            row[f"{d['measure']} better"] = f"{d['dsg_higher']} of {d['images']}"
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def step_sizes(runner: Suite) -> pd.DataFrame:
    """Mean PSNR of each method by value / tuned value, on the same few faces."""
    sizes, rows = runner.suite.step_sizes, []
    for planned_key, table in runner.tables.items():
        if planned_key[:1] + planned_key[2:3] == (sizes.task, sizes.steps) and planned_key[1] in runner.suite.samplers:
            sampler, tuned = planned_key[1], tuned_value(runner.suite, planned_key[1])
            value = planned_key[3] if len(planned_key) == 4 else tuned
            if sampler != "unconditional":
                few = table.sort_index().iloc[: sizes.images]
                rows.append({"method": sampler, "factor": value / tuned, **few[["psnr", "haarpsi"]].mean()})
    return pd.DataFrame(rows)


def parse_args() -> tuple[argparse.Namespace, OmegaConf]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    suites = sorted(p.stem for p in (REPOSITORY / "configs/suite").glob("*.yaml"))
    parser.add_argument("--suite", default="embedded", choices=suites)
    parser.add_argument("--images", type=int, help="how many (default: the suite's)")
    parser.add_argument("--steps", help="step counts, '20 100' (default: the suite's)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--wandb", default="offline", choices=MODES)
    args = parser.parse_args()
    suite = OmegaConf.load(REPOSITORY / "configs/suite" / f"{args.suite}.yaml")
    if args.suite == "semantic":
        return args, suite
    if args.suite == "theory":
        if args.images is not None or args.steps is not None:
            parser.error(
                "--images and --steps do not apply to suite theory: its settings are in configs/suite/theory.yaml"
            )
        return args, suite
    args.images = suite.images if args.images is None else args.images
    args.out = args.out or resolve(suite.out)
    try:
        args.steps = list(suite.steps) if args.steps is None else [int(n) for n in args.steps.replace(",", " ").split()]
        pick_device(args.device)
        check_wandb(args.wandb)
    except ValueError as error:
        parser.error(str(error))
    if args.images < 2 or not args.steps or not 2 <= min(args.steps) <= max(args.steps) <= 1000:
        parser.error("--images: 2 or more; --steps: one or more numbers, 2 to 1000")
    return args, suite


def main() -> None:
    args, suite = parse_args()
    if args.suite == "theory":
        import theory  # not pictures: another program

        return theory.main(["--out", str(args.out or resolve(suite.out))])
    if args.suite == "semantic":
        import semantic

        options = ["--device", args.device, "--wandb", args.wandb, "--out", str(args.out or resolve(suite.out))]
        return semantic.main(options + (["--conditions", str(args.images)] if args.images else []))
    runner = Suite(suite, args.out, args.device, args.wandb)
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        try:
            runner.baselines(args.images, args.steps)
            # whatever is wrong with any cell is said before work starts
            cells = [(p, *runner.prepare(p)) for p in plan(suite, args.images, args.steps)]
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        runner.run(cells)
        write_outputs(runner, args.out, args.images, args.steps)
    if runner.failed:
        sys.exit(f"{runner.failed} images failed; they are named above, and in the metrics.json of their cells")


if __name__ == "__main__":
    main()
