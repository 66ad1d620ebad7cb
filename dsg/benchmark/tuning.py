"""The job that finds a sampler's step size, or whatever its `tunable` names, for a task and a number of steps."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from dsg import config as configs
from dsg.benchmark.jobs import Job, Progress
from dsg.benchmark.search import best_of, is_inside, next_value
from dsg.benchmark.trials import Trials, nearest
from dsg.benchmark.tuned_table import set_entry, value_in
from dsg.metrics.semantic import EvaluatorMetric
from dsg.runs.prepare import build, prepare
from dsg.runs.results import write_text
from dsg.runs.runner import Run
from dsg.samplers import Tunable
from tasks.inverse import InverseProblem
from tasks.networks.evaluator import load_evaluator

TITLES = {"haarpsi": "HaarPSI", "psnr": "PSNR", "evaluator": "evaluator"}  # criteria


@dataclass(eq=False)
class TuningJob(Job):
    """Args:
    model, task, sampler, steps: what is tuned.
    trials: of all searches of this prior.
    table: YAML file that takes the best value.
    count: trials of each search.
    images: validation images, the same for every trial.
    criterion: the score, see `dsg.benchmark.trials`.
    options: overrides of every trial, the validation data among them.
    start: where the first search of this task and sampler begins; None: where the sampler says.
    """

    model: str
    task: str
    sampler: str
    steps: int
    trials: Trials
    table: Path
    count: int
    images: int
    criterion: str
    options: Sequence[str] = ()
    start: float | None = None
    part: str = ""
    # found by `check`
    weights: str = field(default="", init=False)
    passes: int = field(default=0, init=False)  # of a trial

    @property
    def key(self) -> tuple:
        return (self.task, self.sampler, self.steps)

    @cached_property
    def config(self) -> DictConfig:
        return self.config_with()

    def config_with(self, *more: str) -> DictConfig:
        chosen = [f"model={self.model}", f"task={self.task}", f"sampler={self.sampler}", f"sampler.steps={self.steps}"]
        chosen += [f"data.limit={self.images}", "wandb.mode=disabled", *self.options]
        metrics = [] if self.criterion == "evaluator" else ["metrics=[haarpsi,psnr]"]
        return configs.load([*chosen, *metrics, *more])

    @cached_property
    def tunable(self) -> Tunable:
        found = build(self.config.sampler).tunable
        if found is None:
            raise ValueError(f"sampler={self.sampler} has nothing to tune")
        return found

    def check(self) -> None:
        self.tunable  # noqa: B018
        run = prepare(self.config)
        self.check_criterion(run)
        if len(run.inputs) < self.images:
            raise ValueError(f"--images {self.images}: there are {len(run.inputs)} of task={self.task}")
        own = run.task.weights_hash
        self.weights = run.prior.weights_hash[:10] + (f"+{own[:10]}" if own else "")
        self.trials.check_images(self.task, self.weights, self.images)
        self.passes = self.images * run.sampler.cost(run.prior.schedule).compute

    def check_criterion(self, run: Run) -> None:
        if self.criterion != "evaluator" and not isinstance(run.task, InverseProblem):
            raise ValueError(f"task={self.task} has no truth to compare with: --criterion evaluator")
        if self.criterion == "evaluator" and not evaluators(run):
            raise ValueError(f"--criterion evaluator: model={self.model} has no evaluator for task={self.task}")

    def tried(self) -> pd.DataFrame:
        return self.trials.of(self.key, self.weights, self.criterion)

    def finished(self) -> bool:
        return len(self.tried()) >= self.count and self.is_written()

    def is_written(self) -> bool:
        """Whether the table has the best value."""
        return value_in(self.table_text(), self.key, self.tunable.option) == float(f"{self.best()[0]:.4g}")

    def table_text(self) -> str:
        return self.table.read_text(encoding="utf-8") if self.table.exists() else ""

    def work(self) -> float:
        return self.passes * max(self.count - len(self.tried()), 0)

    def run(self, on_progress: Progress) -> list[str]:
        while len(self.tried()) < self.count:
            value = next_value(self.tried(), self.tunable, self.centre())
            scores = self.scores(self.config_with(f"sampler.{self.tunable.option}={value:.8g}"), on_progress)
            about = dict(zip(("task", "sampler", "steps"), self.key))
            self.trials.add({**about, "images": self.images, "value": value, **scores, "weights": self.weights})
        value, note = self.best()
        self.table.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.table, set_entry(self.table_text(), self.key, {self.tunable.option: value}, note))
        return []

    def centre(self) -> float:
        """The best value at the nearest number of steps that has been searched already, if any."""
        others = [n for n in self.trials.steps_of(self.task, self.sampler) if n != self.steps]
        found = {n: self.trials.of((self.task, self.sampler, n), self.weights, self.criterion) for n in others}
        other = nearest(self.steps, [n for n, tried in found.items() if len(tried) >= self.count])
        if other is None:
            return self.tunable.start if self.start is None else self.start
        return float(best_of(found[other])["value"])

    def scores(self, config: DictConfig, on_progress: Progress) -> dict[str, float]:
        """Means over the images; NaN if one of them failed."""
        folder = Path(tempfile.mkdtemp(prefix="dsg-tune-"))
        try:
            run = prepare(config, out=folder / "run")
            if run.execute(on_progress):
                return {}
            if self.criterion == "evaluator":
                return {"evaluator": evaluated(run)}
            table = run.results.table()
            return {name: float(np.mean(table[name])) for name in ("haarpsi", "psnr")}
        finally:
            shutil.rmtree(folder)

    def best(self) -> tuple[float, str]:
        """The value, and what is noted behind it."""
        tried = self.tried()
        row = best_of(tried)
        digits = 2 if self.criterion == "psnr" else 3
        note = f"{TITLES[self.criterion]} {row['score']:.{digits}f} on {row['images']}, {len(tried)} trials"
        return float(row["value"]), note + ("" if is_inside(tried, self.tunable) else ", at the edge of what was tried")

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"trials": self.tried()}

    def about(self) -> dict[str, object]:
        return {"trials": self.count, "images": self.images, "criterion": self.criterion}


def evaluators(run: Run) -> list[EvaluatorMetric]:
    return [m for m in run.metrics if isinstance(m, EvaluatorMetric) and m.missing() is None]


def evaluated(run: Run) -> float:
    """The evaluator's smooth score of a finished run."""
    images = np.stack([run.results.image(item.name) for item in run.items])
    evaluator = load_evaluator(evaluators(run)[0].checkpoint)
    return float(np.mean(evaluator.score(images, run.inputs, run.task.evaluated_by)))
