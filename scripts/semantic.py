"""The semantic tasks on the embedded prior: every method on the same conditions, judged by networks that guide nothing.

    python scripts/reproduce.py --suite semantic
    python scripts/semantic.py --conditions 32 --samples 4 --out results/semantic512    # with Frechet distances
    ... --options model.bf16=true model.channels_last=false model.cpu_batch=16          # of every cell: here, for speed

Rows: samples without guidance (the floor), the hosts with and without DSG, and real pictures of what was asked for (the ceiling).
Cells are ordinary ones, in `<out>/cells/<task>/<sampler>-<steps>`; a stopped run goes on, a finished one only draws.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tqdm import tqdm

from dsg import figures, images
from dsg.checkpoints import REPOSITORY, resolve
from dsg.metrics import bootstrap, frechet_distance
from dsg.prepare import check_wandb, prepare
from dsg.results import Results, write_text
from dsg.runner import Cell, diversity, evaluations, pending, run_cell, unmeasured
from dsg.tracking import MODES, log_cell
from tasks.captions import asked_for
from tasks.semantic import Case

MEASURES = {  # task: column -> (title, digits, whether larger is better); the guide's own first, then the judge's
    "faceid": {
        "id_distance": ("ID distance (guide)", 3, False),
        "identity_attributes": ("attributes alike (judge)", 3, True),
        "same_identity": ("same person (judge)", 3, True),
    },
    "clip_text": {
        "clip_score": ("CLIP score (guide)", 1, True),
        "attribute_accuracy": ("attributes right (judge)", 3, True),
        "all_attributes": ("all of them (judge)", 3, True),
    },
    "style": {
        "style_distance": ("style distance (guide)", 0, False),
        "judged_style": ("style distance (judge)", 3, False),
    },
    "segmentation": {
        "guide_miou": ("mIoU (guide)", 3, True),
        "miou": ("mIoU (judge)", 3, True),
    },
}
ENOUGH = 500  # samples for a Frechet distance
TEST = REPOSITORY / "data/avatars64"


def prepare_cells(
    suite, out: Path, conditions: int, samples: int, common: list[str]
) -> dict[tuple, tuple[Cell, Results]]:
    """All cells by (task, sampler); whatever is wrong with one is said before work starts."""
    cells = {}
    for task in suite.tasks:
        for sampler in suite.samplers:
            overrides = [f"model={suite.model}", f"task={task}", f"sampler={sampler}", f"sampler.steps={suite.steps}"]
            overrides += [f"data.limit={conditions}", f"samples={samples}", *common]
            folder = out / "cells" / task / f"{sampler}-{suite.steps}"
            cells[task, sampler] = prepare(compose("config", overrides), folder)
            if len(cells[task, sampler][0].pictures) < conditions:
                raise ValueError(f"--conditions {conditions}: {task} has {len(cells[task, sampler][0].pictures)}")
    return cells


def floor_cell(suite, out: Path, conditions: int, samples: int, common: list[str]) -> dict[tuple, tuple[Cell, Results]]:
    """FaceID's unguided cell, extended to as many samples as a method has in all; empty where that is too few for a Frechet distance."""
    if conditions * samples * len(suite.tasks) < ENOUGH or "faceid" not in suite.tasks:
        return {}
    extended = OmegaConf.merge(suite, {"tasks": ["faceid"], "samplers": ["unconditional"]})
    return prepare_cells(extended, out, conditions * len(suite.tasks), samples, common)


def run(cells: dict, name: str) -> None:
    total = sum(len(pending(c, r)) * c.weight * evaluations(c) for c, r in cells.values())
    with tqdm(total=total, unit="evaluation", desc=name, disable=total == 0, smoothing=0.02) as bar:
        for key, (cell, results) in cells.items():
            bar.set_postfix_str(" ".join(key))
            if pending(cell, results) or len(unmeasured(cell, results)) or not (results.out / "metrics.json").exists():
                failures = run_cell(cell, results, lambda n, w=cell.weight: bar.update(n * w))
                if failures:
                    sys.exit(f"{key}: {len(failures)} samples failed, the first at t={failures[0].t}: {results.out}")
                log_cell(results, json.loads((results.out / "metrics.json").read_text()))


def table_of(cell: Cell, results: Results) -> pd.DataFrame:
    """The rows of this run's conditions, with the diversity of each condition's samples."""
    ids = {case.id for case in cell.pictures}
    table = results.table[results.table["image"].isin(ids) & (results.table["sample"] < cell.samples)]
    return table.assign(diversity=diversity(results, table))


def real_pictures(task: str, cases: list[Case]) -> list[tuple[Case, np.ndarray]]:
    """Real pictures of what was asked for: the person in another picture, test faces that the prompt fits, the reference mirrored
    (its style, with other content), the face that the label map is of."""
    if task == "clip_text":
        rows = pd.read_csv(TEST / "test_attributes.csv", dtype={"id": str}, keep_default_na=False).to_dict("records")
        pairs = []
        for case in cases:
            asked = asked_for(case.prompt)
            fitting = [r["id"] for r in rows if all(r[name] in values for name, values in asked.items())]
            pairs += [(case, _pixels(TEST / "test" / f"{i}.png")) for i in fitting[:4]]
        return pairs
    if task == "style":
        return [(case, case.reference.pixels[:, ::-1].copy()) for case in cases]
    folder = TEST / ("test_again" if task == "faceid" else "test")
    return [(case, _pixels(folder / f"{case.id}.png")) for case in cases]


def real_row(cell: Cell, task: str) -> pd.DataFrame:
    """Measures of the real pictures, by guide and judge."""
    pairs = real_pictures(task, list(cell.pictures))
    cases, pixels = [case for case, _ in pairs], np.stack([p for _, p in pairs])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(cell.device) / 127.5 - 1
    with torch.no_grad():
        own = cell.task.measures(x, {k: v.to(cell.device) for k, v in cell.task.condition(cases).items()})
    table = pd.DataFrame({k: v.cpu().numpy() for k, v in own.items()})
    return table.assign(image=[c.id for c in cases], **cell.evaluator.measure(pixels, cases, cell.task))


def summarise(tables: dict[tuple, pd.DataFrame]) -> pd.DataFrame:
    """A row per task and method: means over conditions (of the means over their samples), 95 % intervals over conditions."""
    rows = []
    for (task, method), table in tables.items():
        row = {"task": task, "method": method, "samples": len(table)}
        for name in [*MEASURES[task], "diversity"]:
            values = table.groupby("image")[name].mean().to_numpy() if name in table else np.array([])
            row[name], row[f"{name}_low"], row[f"{name}_high"] = bootstrap(values)
        row["network_evaluations"] = table["network_evaluations"].mean() if "network_evaluations" in table else np.nan
        row["seconds"] = table["seconds"].mean() if "seconds" in table else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def paired(tables: dict[tuple, pd.DataFrame]) -> pd.DataFrame:
    """DSG minus its host, condition by condition: mean difference, its 95 % interval, on how many conditions it is better."""
    rows = []
    for (task, method), guided in tables.items():
        host = tables.get((task, method.removesuffix("_dsg")))
        if not method.endswith("_dsg") or host is None:
            continue
        for name, (title, digits, upwards) in {**MEASURES[task], "diversity": ("diversity", 3, True)}.items():
            both = (t.groupby("image")[name].mean() for t in (guided, host))
            difference = next(both) - next(both)
            mean, low, high = bootstrap(difference.to_numpy())
            better = int(((difference > 0) if upwards else (difference < 0)).sum())
            rows.append(
                {
                    "task": task,
                    "host": figures.style(method.removesuffix("_dsg"))["label"],
                    "measure": title,
                    "DSG minus host": f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]",
                    "DSG better": f"{better} of {difference.notna().sum()}",
                }
            )
    return pd.DataFrame(rows)


def frechet_rows(cells: dict, tables: dict[tuple, pd.DataFrame], floor: tuple[Cell, Results] | None) -> pd.DataFrame:
    """Frechet distance in the judge's features to real test faces, per method over all tasks, where there are enough samples."""
    statistics = load_file(resolve("checkpoints/avatars64/evaluator/statistics.safetensors"))
    mean, cov = statistics["mean"].double().numpy(), statistics["covariance"].double().numpy()
    evaluator = next(iter(cells.values()))[0].evaluator
    files = {
        method: [cells[key][1].images / f"{n}.png" for key in cells if key[1] == method for n in tables[key]["id"]]
        for method in dict.fromkeys(method for _, method in cells)
    }
    if floor is not None:  # the tasks' unguided samples are partly the same ones
        files["unconditional"] = [floor[1].images / f"{name}.png" for name in floor[1].table["id"]]
    rows = []
    for method, found in files.items():
        if len(found) >= ENOUGH and (method != "unconditional" or floor is not None):
            features = evaluator.features(np.stack([_pixels(f) for f in found])).double().numpy()
            distance = frechet_distance(features.mean(0), np.cov(features.T), mean, cov)
            rows.append({"": label(method), "samples": len(found), "Frechet distance (judge)": f"{distance:.2f}"})
    return pd.DataFrame(rows)


def label(method: str) -> str:
    return {"unconditional": "no guidance", "real": "real pictures"}.get(method) or figures.style(method)["label"]


def markdown(summary: pd.DataFrame) -> str:
    """A table per task; the best method of a column in bold."""
    sections = []
    for task, part in summary.groupby("task", sort=False):
        table = pd.DataFrame({"": [label(m) for m in part["method"]]})
        methods = ~part["method"].isin(["unconditional", "real"])
        for name, (title, digits, upwards) in {**MEASURES[task], "diversity": ("diversity", 3, None)}.items():
            best = (
                None
                if upwards is None
                else (part.loc[methods, name].max() if upwards else part.loc[methods, name].min())
            )
            table[title] = [
                _cell(row, name, digits, m and row[name] == best) for (_, row), m in zip(part.iterrows(), methods)
            ]
        table["evaluations"] = ["" if np.isnan(n) else f"{n:.0f}" for n in part["network_evaluations"]]
        table["s/image"] = ["" if np.isnan(s) else f"{s:.2f}" for s in part["seconds"]]
        sections.append(f"### {task}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(sections)


def _cell(row: pd.Series, name: str, digits: int, bold: bool) -> str:
    if not np.isfinite(row[name]):
        return ""
    mean = f"{row[name]:.{digits}f}"
    return f"{f'**{mean}**' if bold else mean} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"


def _pixels(path: Path) -> np.ndarray:
    return images.read(path, 64).pixels


def head(suite, args: argparse.Namespace) -> str:
    options = f"With {', '.join(args.options)}. " if args.options else ""
    return (
        f"# Suite {suite.name}: {args.conditions} conditions per task, {args.samples} samples each, {suite.steps} steps, {suite.model}\n\n{options}"
        "Means over conditions with 95 % bootstrap intervals; the best method of a column in bold. guide: as the network sees it that guided; judge: "
        "networks that guided nothing (`tasks/evaluator.py`). diversity: RMS distance between the samples of a condition. real pictures: another "
        "picture of the person, test faces that the prompt fits, the reference mirrored, the face that the label map is of.\n\n"
    )


def measured(cells: dict, suite) -> dict[tuple, pd.DataFrame]:
    """The measures of every cell's samples, and of real pictures, by (task, method)."""
    tables = {}
    for task in suite.tasks:
        for method in suite.samplers:
            tables[task, method] = table_of(*cells[task, method])
        tables[task, "real"] = real_row(cells[task, suite.samplers[0]][0], task)
    return tables


def write_outputs(cells: dict, floor: dict, suite, args: argparse.Namespace) -> None:
    out, tables = args.out, measured(cells, suite)
    summary = summarise(tables)
    summary.to_csv(out / "table.csv", index=False, float_format="%.5g")
    text = head(suite, args) + markdown(summary)
    text += "\n## DSG minus its host, condition by condition\n\n"
    text += paired(tables).to_markdown(index=False, disable_numparse=True) + "\n"
    distances = frechet_rows(cells, tables, next(iter(floor.values()), None))
    if len(distances):
        text += "\n## Frechet distance in the judge's features, all tasks together, to 4,096 real test faces\n\n"
        text += distances.to_markdown(index=False, disable_numparse=True) + "\n"
    write_text(out / "table.md", text)
    for task in suite.tasks:
        methods = {label(m): cells[task, m][1] for m in suite.samplers}
        figures.samples(task, list(cells[task, suite.samplers[0]][0].pictures)[:6], methods, out / f"{task}.png")
    print(text)
    print(f"{out}: table.md, table.csv, {', '.join(f'{t}.png' for t in suite.tasks)}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    suite = OmegaConf.load(REPOSITORY / "configs/suite/semantic.yaml")
    parser.add_argument("--conditions", type=int, default=suite.conditions)
    parser.add_argument("--samples", type=int, default=suite.samples)
    parser.add_argument("--steps", type=int, default=suite.steps)
    parser.add_argument("--tasks", nargs="+", default=list(suite.tasks), choices=list(MEASURES))
    parser.add_argument("--options", nargs="+", default=[], help="overrides for every cell")
    parser.add_argument("--wandb", default="offline", choices=MODES)
    parser.add_argument("--out", type=Path, default=resolve(suite.out))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    if args.conditions < 2 or args.samples < 2:
        parser.error("--conditions and --samples: 2 or more (diversity is between the samples of a condition)")
    suite.merge_with({"steps": args.steps, "tasks": args.tasks})
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        try:
            check_wandb(args.wandb)
            common = [f"device={args.device}", f"wandb.mode={args.wandb}", f"wandb.group={suite.name}", *args.options]
            cells = prepare_cells(suite, args.out, args.conditions, args.samples, common)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        run(cells, f"suite {suite.name}")
        floor = floor_cell(suite, args.out, args.conditions, args.samples, common)
        run(floor, "unguided, for the Frechet distance")
        write_outputs(cells, floor, suite, args)


if __name__ == "__main__":
    main()
