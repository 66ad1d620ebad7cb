"""The results of a suite as one tidy frame: a row per view, task, level, method and metric; and differences of methods.

A view says what is equal in a table: `steps`, `compute` or nothing (`own`); its level is the number of steps, or the
budget (`dsg.suites.views`). A suite without views has equal steps.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dsg import config as configs
from dsg.runs.prepare import build
from dsg.runs.summary import DIVERSITY, diversity
from dsg.samplers import Cost
from dsg.statistics import by_image, difference_of, mean_interval, verdict
from dsg.suites.jobs import Job
from dsg.suites.methods import Method
from dsg.suites.nested import interval
from dsg.suites.protocol import CHOSEN, HIGH, LOW, ReportJob
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome, Suite
from dsg.suites.views import is_headline, places_of
from dsg.types import Column

KEYS = ["suite", "view", "task", "level", "method", "steps", "value"]
COLUMNS = [*KEYS, "metric", "mean", "low", "high", "n"]
COSTS = [
    Column("network_evaluations", "evaluations", 0),
    Column("compute", "compute", 0),
    Column("seconds", "s/image", 2),
]
ALL_TASKS = "all tasks"

Metrics = Sequence[str] | Mapping[str, Sequence[str]]  # names, of every task or by task


@dataclass
class Cell:
    """A method at its place in the tables.

    Attributes:
        job: of the suite; None where there is none.
        refused: why there is none.
    """

    view: str
    task: str
    level: int
    method: Method
    steps: int | None
    job: Job | None
    refused: str | None = None

    @functools.cached_property
    def run(self):
        """The job whose images these are, if it has saved some; of a tuned one, the run at the chosen value."""
        job = self.job.ready(CHOSEN) if isinstance(self.job, ReportJob) else self.job
        return job if job is not None and "images" in job.tables() else None

    @functools.cached_property
    def images(self) -> pd.DataFrame:
        """A row per image."""
        table = self.run.tables()["images"]
        several = isinstance(self.run, ImageJob) and self.run.samples > 1
        return table.assign(**{DIVERSITY.name: diversity(self.run.results, table)}) if several else table

    @property
    def value(self) -> str:
        """The options that were tuned or varied."""
        if isinstance(self.job, ReportJob):
            found = self.job.chosen()
            return "" if found is None else f"{self.job.search.tunable.option}={found.value:.3g}"
        return str(getattr(self.job, "value", None) or "")

    def row(self, suite: Suite) -> dict:
        place = {"view": self.view, "task": self.task, "level": self.level}
        return {"suite": suite.name, **place, "method": self.method.name, "steps": self.steps, "value": self.value}


@dataclass
class Collected:
    """What the jobs of a suite have saved.

    Attributes:
        columns: of every task, in the order of the tables.
    """

    suite: Suite
    cells: list[Cell] = field(default_factory=list)
    columns: dict[str, list[Column]] = field(default_factory=dict)

    @property
    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.run is not None]

    @property
    def methods(self) -> dict[str, Method]:
        return {cell.method.name: cell.method for cell in self.cells}

    def frame(self) -> pd.DataFrame:
        """Means with 95 % intervals over images, and costs, which have none; columns are `COLUMNS`."""
        rows = [
            {**cell.row(self.suite), "metric": name, "mean": mean, "low": low, "high": high, "n": n}
            for cell in self.finished
            for name, mean, low, high, n in numbers(cell, self.columns[cell.task])
        ]
        return pd.DataFrame(rows, columns=COLUMNS)


def numbers(cell: Cell, columns: Sequence[Column]) -> Iterator[tuple]:
    """(metric, mean, low, high, n) of a cell; n counts images."""
    table, sets = cell.images, cell.run.set_metrics()
    for column in columns:
        if column.name in sets:
            one = sets[column.name]
            yield column.name, one["value"], one.get("low"), one.get("high"), one.get("images")
        elif column.name in table and table[column.name].notna().any():
            scores = by_image(table, column.name)
            yield column.name, *mean_interval(scores.to_numpy()), int(scores.notna().sum())
    for name in ("network_evaluations", "backward_passes", "seconds"):
        if name in table:
            yield name, table[name].mean(), np.nan, np.nan, len(table)
    if "backward_passes" in table:
        compute = Cost(table["network_evaluations"].mean(), table["backward_passes"].mean()).compute
        yield "compute", compute, np.nan, np.nan, len(table)


def collect(outcome: Outcome, parts: Sequence[str], metrics: Metrics = ()) -> Collected:
    """The cells of the tables, task by task in the order of the plan.

    Args:
        parts: entries of the suite's `jobs`.
        metrics: names that come first, in this order; after them come all others that have a direction.
    """
    cells = list(cells_of(outcome, parts))
    tasks = list(dict.fromkeys(cell.task for cell in cells if not hasattr(cell.job, "like")))
    cells = [cell for task in tasks for cell in cells if cell.task == task]
    found = Collected(outcome.suite, cells)
    for task in tasks:
        runs = [cell.run for cell in found.finished if cell.task == task and isinstance(cell.run, ImageJob)]
        found.columns[task] = columns_of(runs, metrics)
    return found


def cells_of(outcome: Outcome, parts: Sequence[str]) -> Iterator[Cell]:
    jobs = outcome.of(*parts)
    if outcome.suite.yaml.get("views"):
        by_key = {job.key: job for job in jobs}
        for place in places_of(outcome.suite):
            yield Cell(
                place.view, place.task, place.level, place.method, place.steps, by_key.get(place.key), place.refused
            )
        return
    for job in jobs:
        task, name, steps = job.key[:3]
        yield Cell("steps", task, steps, getattr(job, "method", None) or Method(name, guided=False), steps, job)


def columns_of(runs: Sequence[ImageJob], metrics: Metrics) -> list[Column]:
    known = {column.name: column for run in runs for column in run.columns}
    if any(run.samples > 1 for run in runs):
        known[DIVERSITY.name] = DIVERSITY
    first = metrics.get(runs[0].task, ()) if runs and isinstance(metrics, Mapping) else metrics
    chosen = {name: known[name] for name in first if name in known}
    rest = {c.name: c for c in known.values() if c.larger_is_better is not None or c is DIVERSITY}
    return list({**chosen, **rest}.values())


def pooled(outcome: Outcome, found: Collected, name: str, floor: str | None) -> pd.DataFrame:
    """Rows of a metric of all images of a method together, whatever their tasks; of the methods that have enough.

    Args:
        name: in configs/metric/.
        floor: entry of the suite's `jobs` whose images are taken for the unguided method: of its own, tasks share some.
    """
    runs = [cell.run for cell in found.finished if isinstance(cell.run, ImageJob)]
    if not runs:
        return pd.DataFrame(columns=COLUMNS)
    config = configs.load([f"model={runs[0].model}", f"task={runs[0].task}", f"metrics=[{name}]"])
    metric, rows = build(config.metrics[name]), []
    unguided = [job for job in outcome.of(floor or "") if "images" in job.tables()]
    for method in found.methods.values():
        own = [run for run in runs if run.sampler == method.name] if method.guided else unguided
        count = sum(len(run.tables()["images"]) for run in own)
        if count >= metric.smallest and metric.missing() is None:
            images = np.stack([run.results.image(one) for run in own for one in run.tables()["images"]["id"]])
            row = {"suite": found.suite.name, "view": "steps", "task": ALL_TASKS, "level": own[0].steps, "value": ""}
            row |= {"method": method.name, "steps": own[0].steps, "metric": name, "mean": metric(images), "n": count}
            rows.append(row)
            found.columns[ALL_TASKS] = [metric.column]
    return pd.DataFrame(rows, columns=COLUMNS)


# --- differences


def differences(found: Collected, metrics: Sequence[str] | None, margins: Mapping[str, float]) -> pd.DataFrame:
    """Each method minus those that it is compared with at the same place, image by image; then means over the tasks.

    A method is compared with its base method and its control, and with those that the suite's `compare: {methods,
    with}` names.
    The columns nested_low, nested_high and nested_verdict, of headline rows, include the choice of both values.

    Args:
        metrics: names; None: all of single images that have a direction.
        margins: of equivalence, by metric.
    """
    at = {(cell.view, cell.task, cell.level, cell.method.name, cell.value if varied(cell) else ""): cell
          for cell in found.finished}  # fmt: skip
    again = functools.cache(lambda key, metric: resampled(found.suite, at[key], metric))
    rows, changes = [], {}
    for key, cell in at.items():
        for base in compared_with(found.suite, cell.method):
            other_key = (*key[:3], base, key[4])
            if other_key not in at:
                continue
            for name in compared_metrics(found.columns[cell.task], metrics):
                change = (by_image(cell.images, name) - by_image(at[other_key].images, name)).dropna()
                if change.empty:
                    continue
                complete = len(change) == cell.images["image"].nunique() == at[other_key].images["image"].nunique()
                nested = again(key, name) - again(other_key, name) if complete else np.array([np.nan])
                row = {"suite": found.suite.name, "view": cell.view, "level": cell.level, "method": cell.method.name}
                row |= {"base": base, "metric": name}
                changes.setdefault(tuple(row.items()), []).append((change, nested))
                rows.append(difference_row(row, cell.task, change, nested, margins))
    for about, parts in changes.items():
        if len(parts) > 1:
            change, nested = (sum(part) / len(parts) for part in zip(*parts))
            rows.append(difference_row(dict(about), f"mean of {len(parts)}", change.dropna(), nested, margins))
    return pd.DataFrame(rows)


def varied(cell: Cell) -> bool:
    """Whether its value is an option of the plan rather than a tuned one."""
    return not isinstance(cell.job, ReportJob)


def compared_with(suite: Suite, method: Method) -> list[str]:
    more = suite.yaml.get("compare") or {"methods": (), "with": ()}
    return [*method.compared_with, *(more["with"] if method.name in more["methods"] else ())]


def compared_metrics(columns: Sequence[Column], metrics: Sequence[str] | None) -> list[str]:
    return [c.name for c in columns if (c.larger_is_better is not None if metrics is None else c.name in metrics)]


def difference_row(row: dict, task: str, change: pd.Series, nested: np.ndarray, margins: Mapping[str, float]) -> dict:
    margin = margins.get(row["metric"], 0.0)
    found = {"suite": row["suite"], "view": row["view"], "task": task, **row, **difference_of(change, margin)._asdict()}
    if np.isnan(nested).any():
        return found
    low, high = interval(nested)
    return {**found, "nested_low": low, "nested_high": high, "nested_verdict": verdict(low, high, margin)}


def resampled(suite: Suite, cell: Cell, metric: str) -> np.ndarray:
    """See `dsg.suites.nested`; NaN where the choice is not to be included, or its trials are not there."""
    wanted = isinstance(cell.job, ReportJob) and is_headline(suite, cell.task, cell.method.name, cell.steps)
    measured = cell.job.measured(metric) if wanted else None
    return np.array([np.nan]) if measured is None else measured.resampled()


# --- what was tuned, and every image


def choices(jobs: Sequence[ReportJob]) -> pd.DataFrame:
    """What was tuned: value, interval, how it was chosen, on how much."""
    rows = []
    for job in jobs:
        found = job.chosen()
        if found is not None:
            search = job.search
            row = {"task": job.report.task, "method": search.key[1], "steps": job.steps}
            row |= {"option": search.tunable.option, **vars(found), "criterion": search.criterion}
            rows.append({**row, "trials": len(search.tried()), "images": search.images, "seeds": search.seeds})
    return pd.DataFrame(rows)


def per_image(jobs: Sequence[ReportJob], metrics: Sequence[str]) -> pd.DataFrame:
    """A row per test image, at the chosen value and at the ends of its interval (column `at`)."""
    tables = []
    for job in jobs:
        runs = job.runs()
        for name, table in job.tables().items():
            if name in (CHOSEN, LOW, HIGH):
                about = {"task": job.report.task, "method": job.report.sampler, "steps": job.steps, "at": name}
                about["value"] = runs[name].chosen_value if job.search else None
                scores = {metric: by_image(table, metric) for metric in metrics if metric in table}
                each = pd.DataFrame(scores).rename_axis("image").reset_index()
                tables.append(pd.concat([pd.DataFrame([about] * len(each)), each], axis=1))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
