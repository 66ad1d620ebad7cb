"""The search for a sampler's step size, or whatever its `tunable` names, on validation images: the protocol of every
suite (docs/protocol.md)."""

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
from dsg.files import REPOSITORY, short_hash, write_text
from dsg.runs.prepare import build, prepare
from dsg.runs.runner import Run
from dsg.samplers import Tunable
from dsg.suites.choice import Choice, choice, choose
from dsg.suites.jobs import Job, Progress
from dsg.suites.search import has_ended, next_value
from dsg.suites.trials import SCORES, Trials, locked
from dsg.tuned import set_value
from tasks.inverse import InverseProblem
from tasks.networks.evaluator import hash_of, load_selector

TITLES = {"haarpsi": "HaarPSI", "psnr": "PSNR", "selector": "selector"}  # criteria
PerImage = dict[str, np.ndarray]  # by name of the score, a number per image


@dataclass(eq=False, kw_only=True)
class Search:
    """The value of one sampler's option, for one task and number of steps.

    Args:
        model, task, sampler, steps: what is tuned.
        name: of the sampler in the table of trials, if its own would not say which options were changed.
        trials: of all searches of this prior.
        count: trials of each search; it goes on while the best value is the outermost (`has_ended`).
        images, seeds: of each trial, the same for all.
        criterion: the score, see `dsg.suites.trials`.
        options: overrides of every trial, the validation data among them.
        selector: folder of the networks that score what has no truth.
        start: centre of the first five values; None: where the sampler says.
    """

    model: str
    task: str
    sampler: str
    steps: int
    trials: Trials
    count: int
    images: int
    criterion: str
    seeds: int = 1
    options: Sequence[str] = ()
    selector: str | None = None
    name: str | None = None
    start: float | None = None
    # set by `check`
    weights: str = field(default="", init=False)
    settings: str = field(default="", init=False)
    passes: int = field(default=0, init=False)  # of a trial

    @property
    def key(self) -> tuple:
        return (self.task, self.name or self.sampler, self.steps)

    @cached_property
    def config(self) -> DictConfig:
        return self.config_with()

    def config_with(self, *more: str) -> DictConfig:
        chosen = [f"model={self.model}", f"task={self.task}", f"sampler={self.sampler}", f"sampler.steps={self.steps}"]
        chosen += [*self.options, f"data.limit={self.images}", "wandb.mode=disabled"]
        metrics = "[]" if self.criterion == "selector" else "[haarpsi,psnr]"
        return configs.load([*chosen, f"metrics={metrics}", *more])

    def __getstate__(self) -> dict:
        """The fields that another process needs; it makes the others again."""
        return {k: v for k, v in self.__dict__.items() if k not in ("config", "tunable")}

    @cached_property
    def tunable(self) -> Tunable:
        found = build(self.config.sampler).tunable
        if found is None:
            raise ValueError(f"sampler={self.sampler} has nothing to tune")
        return found

    def check(self) -> None:
        """Find every mistake before work starts; see `Job.check`."""
        self.tunable  # noqa: B018
        run = prepare(self.config)
        self.check_criterion(run)
        if len(run.inputs) < self.images:
            raise ValueError(f"--images {self.images}: there are {len(run.inputs)} of task={self.task} to tune on")
        scored_by = hash_of(self.selector) if self.criterion == "selector" else None
        used = (run.prior.weights_hash, run.task.weights_hash, scored_by)
        self.weights = "+".join(weights[:10] for weights in used if weights)
        self.settings = self.settings_of(run)
        self.trials.check_size(self.task, self.weights, images=self.images, seeds=self.seeds)
        self.trials.check_settings(self.key, self.weights, self.settings)
        self.passes = self.images * self.seeds * run.task.tries * run.sampler.cost(run.prior.schedule).compute

    def settings_of(self, run: Run) -> str:
        """A hash of all that changes the scores except weights, number of steps, value and seed."""
        owner = {k: v for k, v in run.results.owner.items() if k not in ("model", "seed", "samples")}
        sampler = {k: v for k, v in owner["sampler"].items() if k not in ("steps", self.tunable.option)}
        root = str(owner["data"]["root"]).removeprefix(f"{REPOSITORY}/")  # ours lies in every clone at another place
        return short_hash({**owner, "sampler": sampler, "data": {**owner["data"], "root": root}})

    def check_criterion(self, run: Run) -> None:
        if self.criterion != "selector":
            if not isinstance(run.task, InverseProblem):
                raise ValueError(f"task={self.task} has no truth to compare with: --criterion selector")
        elif self.selector is None or not set(load_selector(self.selector).smooth) & set(run.task.evaluated_by):
            raise ValueError(f"--criterion selector: model={self.model} has no selector for task={self.task}")

    def tried(self) -> pd.DataFrame:
        return self.trials.of(self.key, self.weights, self.criterion)

    def is_searched(self) -> bool:
        return has_ended(self.tried(), self.tunable, self.count)

    def work(self) -> float:
        """The least work that is left: one more trial where the best is at the edge of what was tried."""
        return 0.0 if self.is_searched() else self.passes * max(self.count - len(self.tried()), 1)

    def search(self, on_progress: Progress) -> None:
        """Make the trials that are missing."""
        centre = self.tunable.start if self.start is None else self.start
        while not self.is_searched():
            value = next_value(self.tried(), self.tunable, centre)
            config, found = f"sampler.{self.tunable.option}={value:.8g}", {}
            for seed in range(self.seeds):
                found[seed] = self.scores(self.config_with(config, f"seed={seed}"), on_progress)
            about = dict(zip(("task", "sampler", "steps"), self.key))
            about |= {"images": self.images, "seeds": self.seeds, "value": value, "weights": self.weights}
            about |= {"settings": self.settings, "criterion": self.criterion}
            failed = not all(found.values())
            means = {s: np.mean([one[s] for one in found.values()]) for s in SCORES if not failed and s in found[0]}
            self.trials.add({**about, **means}, {} if failed else found)

    def scores(self, config: DictConfig, on_progress: Progress) -> PerImage:
        """The scores of every image; none if one of them failed."""
        folder = Path(tempfile.mkdtemp(prefix="dsg-tune-"))
        try:
            run = prepare(config, out=folder / "run")
            if run.execute(on_progress):
                return {}
            if self.criterion == "selector":
                return {"selector": self.selected(run)}
            table = run.results.table()
            return {name: table[name].to_numpy(dtype=float) for name in ("haarpsi", "psnr")}
        finally:
            shutil.rmtree(folder)

    def selected(self, run: Run) -> np.ndarray:
        """The selector's smooth score of the images of a finished run."""
        images = np.stack([run.results.image(item.name) for item in run.items])
        score = load_selector(self.selector).score(images, run.inputs, run.task.evaluated_by)
        return np.asarray(score, dtype=float)

    def choice(self) -> Choice:
        """Choose from the trials so far.

        Raises:
            ValueError: all of them failed.
        """
        known = self.trials.per_image(self.key, self.weights, self.criterion)
        if len(known) and len(known) == self.tried()["score"].notna().sum():
            return choice(known.index, known.to_numpy(), self.tunable)
        tried = self.tried()
        value, how = choose(tried["value"], tried["score"], self.tunable)
        return Choice(value, how, value, value)

    def note(self) -> str:
        """The comment on the value in a tuned table."""
        tried = self.tried()
        best, digits = tried["score"].max(), 2 if self.criterion == "psnr" else 3
        size = f"{self.images}" + (f" x {self.seeds} seeds" if self.seeds > 1 else "")
        about = f"{TITLES[self.criterion]} {best:.{digits}f} at best on {size}, {len(tried)} trials"
        return f"{about}, {self.choice().text()}"


@dataclass(eq=False, kw_only=True)
class TuningJob(Search, Job):
    """A search that ends in a tuned table.

    Args:
        table: YAML file that takes the value; only this entry of it changes.
    """

    table: Path
    part: str = ""

    def finished(self) -> bool:
        return self.is_searched() and self.is_written()

    def is_written(self) -> bool:
        """Whether the table has the chosen value with its comment."""
        text = self.table_text()
        return bool(self.tried()["score"].notna().any()) and self.with_entry(text) == text

    def table_text(self) -> str:
        return self.table.read_text(encoding="utf-8") if self.table.exists() else ""

    def run(self, on_progress: Progress) -> list[str]:
        self.search(on_progress)
        self.table.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.table):
            write_text(self.table, self.with_entry(self.table_text()))
        return []

    def with_entry(self, text: str) -> str:
        """The text of a table with the chosen value."""
        return set_value(text, *self.key, self.tunable.option, self.choice().value, self.note())

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"trials": self.tried()}

    def about(self) -> dict[str, object]:
        return {"trials": self.count, "images": self.images, "seeds": self.seeds, "criterion": self.criterion}
