"""Samplers against exact posteriors, and the paper's theory measured: everything docs/theory.md shows.

    make reproduce SUITE=theory
    python scripts/theory.py

Writes results/theory/: tables (CSV, Markdown) and figures (PNG, PDF, one GIF). Every job is saved when it is done (jobs/, not
in git); a stopped run goes on from there, and a second call only draws.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import theory_figures
import theory_tables
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from theory_ablations import exact_direction, exact_length
from theory_diagnosis import concentration, diagnose
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY, file_hash, resolve
from dsg.ground_truth import MEASURES, GroundTruth
from dsg.metrics import bootstrap
from dsg.results import short_hash, write_text
from dsg.search import best_of, is_inside, next_value, option_of
from dsg.theory import manifold_deviation

SUITE = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs/suite/theory.yaml"))
START = 0.5  # centre of the first grid of step sizes; for DSG's guidance rate it is 0.2
TUNED = [*SUITE["samplers"], "dps_open", "direction_dsg"]
ORDER = ["exact", "oracle", *SUITE["samplers"], *SUITE["ablations"], "unconditional", "diagnosis"]
SOURCES = (
    "dsg/**/*.py",
    "tasks/*.py",
    "scripts/theory.py",
    "scripts/theory_diagnosis.py",
    "scripts/theory_ablations.py",
)


@dataclass(frozen=True)
class Job:
    """One method at one number of steps in one setting: tuned, then run on other truths."""

    setting: str
    method: str  # a sampler, "oracle", "exact", or "diagnosis" of the setting
    steps: int

    @property
    def cost(self) -> int:
        """Roughly proportional to its time."""
        if self.method == "diagnosis":
            return 20 * self.steps
        trials = SUITE["tuning"]["trials"] if self.method in TUNED else 1
        backward = {"freedom": 4, "dps": 3, "direction": 12, "length": 12}.get(self.method.split("_")[0], 1)
        return max(self.steps, 20) * trials * backward * (5 if self.setting == "faces768" else 1)

    @property
    def fingerprint(self) -> str:
        """Of what changes its numbers."""
        config = composed(self.setting, self.sampler, self.steps)
        parts = {k: OmegaConf.to_container(config[k], resolve=True) for k in ("model", "task", "sampler")}
        counts = {part: observed(self.setting, part) for part in ("tuning", "report")}
        return code() + short_hash(
            {
                **parts,
                "weights": instantiate_model(self.setting).weights_hash,
                **counts,
                "trials": SUITE["tuning"]["trials"],
                "measures": MEASURES,
            }
        )

    @property
    def sampler(self) -> str:
        return self.method if self.method in SUITE["samplers"] else SUITE["ablations"].get(self.method, "unconditional")


@cache
def code() -> str:
    """Of the code that makes the numbers: after a change they are made again."""
    files = sorted(f for pattern in SOURCES for f in REPOSITORY.glob(pattern))
    return short_hash({str(f.relative_to(REPOSITORY)): file_hash(f) for f in files})


def jobs() -> list[Job]:
    planned = []
    for name, setting in SUITE["settings"].items():
        most = max(setting["steps"])
        oracle = [n for n in SUITE["oracle_steps"] if n <= most or most >= 200]
        planned += [Job(name, m, n) for m in SUITE["samplers"] for n in setting["steps"]]
        planned += [Job(name, "unconditional", n) for n in setting["steps"]]
        planned += [Job(name, "oracle", n) for n in oracle] + [Job(name, "exact", 0)]
    planned += [Job(name, m, n) for name in SUITE["ablated"] for m in SUITE["ablations"] for n in (20, 100)]
    planned += [Job(name, "diagnosis", n) for name in SUITE["diagnosed"] for n in (20, 100)]
    return sorted(planned, key=lambda j: -j.cost)  # long ones first, so that no core waits at the end


@cache
def composed(setting: str, sampler: str, steps: int):
    overrides = [*SUITE["settings"][setting]["options"], f"sampler={sampler}", f"sampler.steps={steps}"]
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        return compose("config", overrides)


def points_of(job: Job, known: GroundTruth, value: float | None = None, callback=None) -> torch.Tensor:
    """What the method of the job makes of the measurements, [Y, N, d]."""
    if job.method == "exact":
        return known.floor()
    chosen = {} if value is None else {option_of(job.sampler): value}
    if job.method == "dps_open":
        chosen["window"] = [0, 1000]  # t = 0 is left out
    sampler = instantiate(composed(job.setting, job.sampler, job.steps).sampler, **chosen)
    if job.method == "oracle":
        return known.oracle(sampler)
    if job.method == "direction_dsg":
        return exact_direction(known, sampler, callback)
    if job.method == "length":
        return exact_length(known, job.steps, callback)
    return known.run(sampler, callback)


@cache
def instantiate_model(setting: str):
    return instantiate(composed(setting, "unconditional", 20).model)


def observed(setting: str, part: str) -> dict[str, int]:
    """How many observations, and samples of each, in the part "tuning" or "report"."""
    chosen = {**SUITE[part], **SUITE["settings"][setting].get(part, {})}
    return {k: chosen[k] for k in ("observations", "samples")}


@cache
def truth(setting: str, part: str) -> GroundTruth:
    task = instantiate(composed(setting, "unconditional", 20).task)
    seed = {"tuning": 0, "report": 1}[part]
    return GroundTruth(instantiate_model(setting), task, **observed(setting, part), seed=seed)


class Deviations:
    """A callback that keeps each step's mean manifold deviation."""

    def __init__(self):
        self.rows = []

    def __call__(self, state) -> None:
        deviation = manifold_deviation(state)
        if deviation is not None:
            self.rows.append({"t": state.t, "repeat": state.repeat, "deviation": deviation.mean().item()})

    def distance_from_one(self) -> float:
        return float(np.mean([abs(row["deviation"] - 1) for row in self.rows]))


def run_job(job: Job) -> dict[str, list[dict]]:
    """Rows by table: trials, cells, deviation; or diagnosis; and points of a setting that keeps some."""
    if job.method == "diagnosis":
        return {"diagnosis": diagnose(truth(job.setting, "tuning"), job.steps)}
    rows, best = {}, {}
    if job.method in TUNED:
        tried = tune(job)
        best = {"value": best_of(tried)["value"], "inside": bool(is_inside(tried, job.sampler))}
        rows["trials"] = tried.drop(columns="score").to_dict("records")
    known, deviations = truth(job.setting, "report"), Deviations()
    points = points_of(job, known, best.get("value"), deviations)
    measured = known.measure(points)
    rows["deviation"] = deviations.rows
    rows["observations"] = measured.rename_axis("observation").reset_index().to_dict("records")
    rows["cells"] = [{**best, **summary(measured, known.samples)}]
    rows["points"] = kept(known, job, points)
    return rows


def kept(known: GroundTruth, job: Job, points: torch.Tensor) -> list[dict]:
    """The first points of every observation, to look at; from "exact" also truth, measurement and posterior mean."""
    count = SUITE["settings"][job.setting].get("keep", 0)
    named = {f"sample {k}": points[:, k] for k in range(count)}
    if count and job.method == "exact":
        means = torch.stack([p.mean() for p in known.posteriors])
        named |= {"truth": known.truths.flatten(1), "y": known.condition["y"].flatten(1), "posterior mean": means}
    return [
        {"name": name, "observation": i, "values": [round(v, 3) for v in x.tolist()]}
        for name, part in named.items()
        for i, x in enumerate(part)
    ]


def tune(job: Job) -> pd.DataFrame:
    """The trials of a method; the score is minus the mean sliced Wasserstein distance."""
    known, tried = truth(job.setting, "tuning"), pd.DataFrame(columns=["value", "score"], dtype=float)
    for _ in range(SUITE["tuning"]["trials"]):
        value = next_value(tried, job.sampler, 0.2 if job.sampler.endswith("_dsg") else START)
        deviations = Deviations()
        measured = known.measure(points_of(job, known, value, deviations)).mean(skipna=False)
        row = {
            "value": value,
            "score": -measured["sliced_wasserstein"],
            **measured,
            "off_sphere": deviations.distance_from_one(),
        }
        tried = pd.concat([tried.astype(object), pd.DataFrame([row])], ignore_index=True).infer_objects()
    return tried


def summary(measured: pd.DataFrame, samples: int) -> dict[str, float]:
    """Means over observations with 95 % bootstrap intervals; `bias` is the root mean square error of the mean without
    what `samples` draws of that spread would have by chance."""
    row = {"bias": max((measured["mean_error"] ** 2 - measured["spread"] / samples).mean(), 0) ** 0.5}
    for name in MEASURES:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = bootstrap(measured[name].to_numpy())
    return row


def file_of(job: Job, out: Path) -> Path:
    return out / "jobs" / f"{job.setting}-{job.method}-{job.steps}.json"


def finished(job: Job, out: Path) -> bool:
    file = file_of(job, out)
    return file.exists() and json.loads(file.read_text())["fingerprint"] == job.fingerprint


def collect(planned: list[Job], out: Path) -> dict[str, pd.DataFrame]:
    """The rows of these jobs, by table; each table is written as a CSV too."""
    rows = defaultdict(list)
    for job in sorted(
        planned, key=lambda j: (list(SUITE["settings"]).index(j.setting), ORDER.index(j.method), j.steps)
    ):
        for name, part in json.loads(file_of(job, out).read_text())["rows"].items():
            rows[name] += [{"setting": job.setting, "method": job.method, "steps": job.steps, **row} for row in part]
    tables = {name: pd.DataFrame(part) for name, part in rows.items()}
    tables |= {"concentration": concentration(), "correlations": theory_tables.correlations(tables["trials"])}
    tables["paired"] = theory_tables.paired(tables["observations"], SUITE["samplers"])
    for name, table in tables.items():
        if name != "points":
            write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    return tables


def run(planned: list[Job], out: Path, workers: int) -> None:
    todo = [job for job in planned if not finished(job, out)]
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    with (
        tqdm(total=sum(j.cost for j in todo), desc="suite theory", disable=not todo, unit="", unit_scale=True) as bar,
        ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool,
    ):
        futures = {pool.submit(run_job, job): job for job in todo}
        for future in as_completed(futures):
            job = futures[future]
            if future.exception() is not None:
                pool.shutdown(cancel_futures=True)  # what runs is finished, the rest is not begun
            done = {"fingerprint": job.fingerprint, "rows": future.result()}
            write_text(file_of(job, out), json.dumps(done))
            bar.set_postfix_str(f"{job.setting} {job.method} {job.steps}")
            bar.update(job.cost)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=resolve(SUITE["out"]))
    parser.add_argument("--settings", nargs="+", choices=list(SUITE["settings"]), help="only these (for a quick look)")
    parser.add_argument("--most-steps", type=int, default=1000, help="leave out what takes more steps")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    args = parser.parse_args(arguments)
    wanted = args.settings or list(SUITE["settings"])
    planned = [j for j in jobs() if j.setting in wanted and j.steps <= args.most_steps]
    if (args.settings or args.most_steps < 1000) and args.out == resolve(SUITE["out"]):
        parser.error("a part of the suite needs another --out: the full tables are in the default one")
    if args.workers < 1 or not any(j.method in SUITE["samplers"] for j in planned):
        parser.error("--workers: 1 or more; --most-steps: at least the fewest steps of a setting")
    run(planned, args.out, args.workers)
    tables = collect(planned, args.out)
    write_text(args.out / "table.md", theory_tables.markdown(tables, SUITE))
    written = theory_figures.draw(tables, args.out, {s: truth(s, "tuning") for s in ("plane",)})
    print(f"{args.out}: table.md, " + ", ".join(written))


if __name__ == "__main__":
    sys.exit(main())
