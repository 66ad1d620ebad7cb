"""What the runs of a suite have saved, in the order of its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from dsg.runs.statistics import summarise
from dsg.runs.summary import diversity
from dsg.suites.methods import Method
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome
from dsg.types import Column

KEY = ["task", "method", "steps"]
DIVERSITY = Column("diversity", "diversity", 3)


@dataclass
class Collected:
    """Attributes:
    tables: by (task, method, steps), the rows of each run's images.
    columns: of every task, in the order of the tables.
    methods: by name; what no sampler made is not among them.
    sets: by (task, method, steps), the metrics of all images of a run together (`ImageJob.set_metrics`).
    set_columns: of every task, those that were asked for.
    """

    tables: dict[tuple, pd.DataFrame] = field(default_factory=dict)
    columns: dict[str, list[Column]] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    sets: dict[tuple, dict[str, dict]] = field(default_factory=dict)
    set_columns: dict[str, list[Column]] = field(default_factory=dict)

    @property
    def all_columns(self) -> dict[str, list[Column]]:
        """Of metrics of images, then of sets."""
        return {task: [*columns, *self.set_columns.get(task, [])] for task, columns in self.columns.items()}

    def summary(self) -> pd.DataFrame:
        """`dsg.runs.statistics.summarise`, with the metrics of sets as further columns (low and high where a metric has
        an interval)."""
        rows = summarise(self.tables, self.names)
        for column in dict.fromkeys(c.name for columns in self.set_columns.values() for c in columns):
            found = [self.sets.get(tuple(key), {}).get(column, {}) for key in rows[KEY].itertuples(index=False)]
            for suffix, entry in (("", "value"), ("_low", "low"), ("_high", "high")):
                rows[f"{column}{suffix}"] = [one.get(entry, float("nan")) for one in found]
        return rows

    def set_notes(self) -> list[str]:
        """A line per metric of a set that has settings: its title, and with what it was computed."""
        titles = {c.name: c.title for columns in self.set_columns.values() for c in columns}
        lines = {}
        for metrics in self.sets.values():
            for name, found in metrics.items():
                settings = ", ".join(f"{k} {v}" for k, v in found.get("settings", {}).items())
                if name in titles and settings:
                    lines[f"{titles[name]}: {settings}"] = None
        return list(lines)

    @property
    def names(self) -> dict[str, list[str]]:
        return {task: [column.name for column in columns] for task, columns in self.columns.items()}

    @property
    def base_methods(self) -> dict[str, str]:
        return {name: method.base_method for name, method in self.methods.items() if method.base_method}


def collect(outcome: Outcome, parts: Sequence[str], metrics: Sequence[str] | Mapping[str, Sequence[str]]) -> Collected:
    """Task by task, in the order of the plan; a job that has saved nothing is left out.

    Args:
        parts: entries of the suite's `jobs`.
        metrics: names in the order wanted, of every task or by task. Where there are several samples of an input, their
            diversity comes last.
    """
    found, tables = Collected(), {}
    for job in outcome.of(*parts):
        table = job.tables().get("images")
        if table is None:
            continue
        if isinstance(job, ImageJob):
            found.methods[job.sampler] = job.method
            found.columns.setdefault(job.section, _columns(job, metrics))
            found.set_columns.setdefault(job.section, list(job.set_columns))
            found.sets[job.key] = job.set_metrics()
            if job.samples > 1:
                table = table.assign(diversity=diversity(job.results, table))
        tables[job.key] = table
    tasks = list(found.columns)
    keys = [key for key in tables if key[0] in tasks]
    found.tables = {key: tables[key] for key in sorted(keys, key=lambda key: tasks.index(key[0]))}
    return found


def _columns(job: ImageJob, metrics: Sequence[str] | Mapping[str, Sequence[str]]) -> list[Column]:
    known = {column.name: column for column in job.columns}
    names = metrics[job.task] if isinstance(metrics, Mapping) else metrics
    return [known.get(name, Column(name, name)) for name in names] + ([DIVERSITY] if job.samples > 1 else [])
