"""A sweep of run.py (-m): every combination of values is a run, and every run a job of the engine."""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dsg.config import load_with_sources
from dsg.files import short_hash
from dsg.overrides import combinations
from dsg.runs.comparison import Finished, comparison
from dsg.runs.main import conclude, restore
from dsg.runs.prepare import prepare
from dsg.runs.runner import Run
from dsg.suites import engine
from dsg.suites.jobs import Job, Progress

LOGS = Path("results/queue")
INTERRUPTED = 130


@dataclass(eq=False)
class RunJob(Job):
    """A run as run.py would make it.

    Args:
        key: the overrides that the sweep varies.
        overrides: all, as on the command line.
        config_dirs: folders of the user's YAML files.
    """

    key: tuple
    overrides: Sequence[str]
    config_dirs: Sequence[str] = ()
    # set by `check`
    device: str = field(default="auto", init=False)
    left: float = field(default=0.0, init=False)
    done: bool = field(default=False, init=False)

    steps = 0

    def prepare(self) -> Run:
        return prepare(*load_with_sources(self.overrides, self.config_dirs))

    def check(self) -> None:
        run = self.prepare()
        self.device, self.left, self.done = run.config.device, run.work(), run.finished

    def finished(self) -> bool:
        return self.done

    def work(self) -> float:
        return self.left

    def run(self, on_progress: Progress) -> list[str]:
        run = self.prepare()
        failures = restore(run, on_progress)
        text = io.StringIO()  # printed at once: several processes share the terminal
        with contextlib.redirect_stdout(text):
            conclude(run)
        print(f"-- {self.key_text}\n{text.getvalue()}", end="")
        return failures + [f"{name}: {reason}" for name, reason in run.broken.items()]

    def tables(self) -> dict[str, pd.DataFrame]:
        return {}

    def result(self) -> Finished | None:
        """The run's metrics, if it has any."""
        run = self.prepare()
        summary = run.results.summary()
        return Finished(run.config, self.overrides, summary) if summary else None


def sweep(
    overrides: Sequence[str], config_dirs: Sequence[str] = (), workers: int | None = None, launcher: Sequence[str] = ()
) -> int:
    """Run every combination, and print their metrics in one table.

    Returns:
        the exit code: 0; 1 if a run failed; 2 if one cannot be run, whatever the others did; 130 if interrupted.
    """
    group = f"sweep-{short_hash({'overrides': list(overrides)})}"  # of W&B, unless one is given
    chosen, able = combinations([f"wandb.group={group}", *overrides]), []
    common = set.intersection(*map(set, chosen)) if len(chosen) > 1 else set()
    jobs = [RunJob(tuple(o for o in one if o not in common), one, config_dirs) for one in chosen]
    for job in jobs:
        errors = engine.errors_of(job)
        able += [] if errors else [job]
        for error in errors:
            print(f"error: {job.key_text}: {error}", file=sys.stderr)
    devices = {job.device for job in able}
    device = devices.pop() if len(devices) == 1 else "cpu"  # several: the sweep itself says which run goes where
    try:
        failures = engine.run(able, "sweep", workers, device, launcher, LOGS)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    finished = [result for job in able if (result := job.result())]
    if finished:
        print(comparison(finished))
    return 2 if len(able) < len(jobs) else int(bool(failures))
