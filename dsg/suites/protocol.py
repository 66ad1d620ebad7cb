"""The protocol of every suite that compares methods (docs/protocol.md): a value is chosen on validation images, and
test images are restored with it, once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dsg.files import resolve
from dsg.statistics import by_image
from dsg.suites.choice import Choice
from dsg.suites.jobs import Job, Progress
from dsg.suites.nested import Measured
from dsg.suites.run_jobs import ImageJob
from dsg.suites.search import BEYOND
from dsg.suites.speed import Speed
from dsg.suites.suite import Suite
from dsg.suites.trials import Trials
from dsg.suites.tuning import TITLES, Search
from dsg.suites.tuning_plan import size_of, start_of, validation

CHOICES = "choices.csv"
CHOSEN, LOW, HIGH = "chosen", "low", "high"  # at the chosen value, and at the ends of its interval


class Extra(NamedTuple):
    """Another run with what was chosen: at `factor` times the value, with another number of images and samples."""

    name: str
    images: int
    samples: int
    factor: float = 1.0


@dataclass(eq=False)
class ReportJob(Job):
    """One method at one number of steps, tuned and reported.

    Args:
        report: the run on test images; the value is added to its options.
        search: of the value; None if there is nothing to tune.
        nested: report at the ends of the chosen value's interval too, for `dsg.suites.nested`.
        extras: further runs.
        choices: tables of choices that have been reported; they stay (`recorded_choice`).
    """

    report: ImageJob
    search: Search | None
    nested: bool = False
    extras: Sequence[Extra] = ()
    choices: Sequence[Path] = ()
    part: str = ""
    # set by `check`
    left: float = field(default=0.0, init=False)
    done: bool = field(default=False, init=False)
    known: dict[str, ImageJob] = field(default_factory=dict, init=False)  # `runs`, once they are

    @property
    def key(self) -> tuple:
        return self.report.key

    @property
    def steps(self) -> int:
        return self.report.steps

    def covers(self, other: Job) -> bool:
        return super().covers(other) and isinstance(other, ReportJob) and other.report.images <= self.report.images

    def runs(self) -> dict[str, ImageJob]:
        """The runs on test images by name; none before the value is chosen, or if no trial could be used."""
        if not self.known:
            self.known = self.planned_runs()
        return self.known

    def planned_runs(self) -> dict[str, ImageJob]:
        if self.search is None:
            return {CHOSEN: self.report, **{extra.name: self.at(None, extra) for extra in self.extras}}
        found = self.chosen()
        if found is None:
            return {}
        runs = {CHOSEN: self.at(found.value)}
        if self.nested and found.low < found.high:
            runs |= {LOW: self.at(found.low), HIGH: self.at(found.high)}
        return runs | {extra.name: self.at(found.value * extra.factor, extra) for extra in self.extras}

    def chosen(self) -> Choice | None:
        """The result of the search; None before its end, or if no trial could be used."""
        if self.search is None or not self.search.is_searched() or not self.search.tried()["score"].notna().any():
            return None
        return recorded_choice(self.choices, self.search) or self.search.choice()

    def at(self, value: float | None, extra: Extra | None = None) -> ImageJob:
        """The run at a value with four digits, within its bounds, in a folder of its own."""
        options, folder = list(self.report.options), self.report.folder
        if value is not None:
            tunable = self.search.tunable
            text = f"{tunable.option}={min(max(value, tunable.low), tunable.high):.4g}"
            options, folder = [*options, f"sampler.{text}"], folder / text
        if extra is None:
            return replace(self.report, options=options, folder=folder)
        several = folder / f"{extra.samples}-samples"
        return replace(self.report, options=options, folder=several, images=extra.images, samples=extra.samples)

    def check(self) -> None:
        if self.search is not None:
            self.search.check()
        runs = self.runs()
        for run in runs.values() or [self.report]:
            run.check()
        searching = 0.0 if self.search is None else self.search.work()
        self.done = bool(runs) and all(run.finished() for run in runs.values())
        self.left = searching + sum(run.work() for run in runs.values()) if runs else searching + self.expected()

    def expected(self) -> float:
        """The work of the runs, before the value is chosen."""
        each, more = self.report.work(), sum(extra.images * extra.samples for extra in self.extras)
        return each * ((3 if self.nested else 1) + more / self.report.count * self.report.task_object.tries)

    def finished(self) -> bool:
        return self.done

    def work(self) -> float:
        return self.left

    def run(self, on_progress: Progress) -> list[str]:
        if self.search is not None:
            self.search.search(on_progress)
            if not self.runs():
                return ["no trial could be used"]
        failures = []
        for name, run in self.runs().items():
            run.check()
            if not run.finished():
                failures += [f"{name}: {line}" for line in run.run(on_progress)]
        return failures

    def tables(self) -> dict[str, pd.DataFrame]:
        """The images of each run by its name, and the trials."""
        found = {}
        for name, run in self.runs().items():
            if run.results is None:
                run.check()
            if "images" in (tables := run.tables()):
                found[name] = tables["images"]
        return found if self.search is None else {**found, "trials": self.search.tried()}

    def ready(self, name: str) -> ImageJob | None:
        """The run of this name, if it has results."""
        return self.runs()[name] if name in self.tables() else None

    def measured(self, metric: str) -> Measured | None:
        """The scores for a nested bootstrap; None if an image lacks one."""
        tables = self.tables()
        names = [name for name in (CHOSEN, LOW, HIGH) if name in tables]
        if not names:
            return None
        scores = pd.concat([by_image(tables[name], metric) for name in names], axis=1)
        if scores.isna().any(axis=None):  # an image failed at one of the values: methods could not be paired
            return None
        test = scores.to_numpy().T
        if self.search is None:
            return Measured([1.0], test)
        trials = self.search.trials.per_image(self.search.key, self.search.weights, self.search.criterion)
        values = [run.chosen_value for name, run in self.runs().items() if name in names]
        return Measured(values, test, self.search.tunable, trials.index.to_numpy(), trials.to_numpy())

    def about(self) -> dict[str, object]:
        tuned = {} if self.search is None else {"trials": self.search.count, "tuned on": self.search.images}
        return {**self.report.about(), **tuned, "seeds": "" if self.search is None else self.search.seeds}

    def speed(self) -> Speed | None:
        return self.report.speed()

    def missing(self) -> list[str]:
        return self.report.missing()

    def left_out(self) -> list[str]:
        return self.report.left_out()


def reported(suite: Suite, run: ImageJob, nested: bool = False, extras: Sequence[Extra] = ()) -> ReportJob:
    """Make the job that tunes a run by the suite's protocol, and reports it.

    The suite's YAML has `tuning: {images, seeds, trials, criterion, store, choices}`: the first three the same for
    every method (default: configs/tuning.yaml), the criterion psnr or haarpsi, the folder of all trials, and where
    wanted the choices.csv of another suite with the same trials, whose values are taken. With `tuning: null` the values
    are those of configs/tuned/, and nothing is tuned.
    """
    if run.tunable is None or suite.yaml["tuning"] is None:
        return ReportJob(run, None, extras=extras)
    tuning = dict(suite.yaml["tuning"])
    criterion, store = tuning.pop("criterion"), resolve(tuning.pop("store"))
    of_another = tuning.pop("choices", None)
    choices = [suite.out / CHOICES, *([resolve(of_another)] if of_another else [])]
    search = Search(
        model=run.model, task=run.task, sampler=run.sampler, steps=run.steps, criterion=criterion, **size_of(tuning),
        trials=trials_of(store, run.model), options=[*run.options, *validation(run.model, run.task, None)],
        name=None if run.value is None else f"{run.sampler}[{run.value}]", start=start_of(run.task, run.sampler),
    )  # fmt: skip
    return ReportJob(run, search, nested, extras, choices)


def recorded_choice(files: Sequence[Path], search: Search) -> Choice | None:
    """The choice that has been reported for exactly these trials; a later rule leaves it alone."""
    task, method, steps = search.key
    wanted = {"task": task, "method": method, "steps": steps, "criterion": search.criterion}
    wanted |= {"trials": len(search.tried()), "images": search.images, "seeds": search.seeds}
    for file in [file for file in files if file.exists()]:
        rows = pd.read_csv(file)
        found = rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if len(found):
            return Choice(*found.iloc[0][["value", "how", "low", "high"]])
    return None


def trials_of(store, model: str) -> Trials:
    return Trials(store / f"{model}.csv")


def outcome_of(tuning: Mapping | None) -> str:
    """Describe the protocol in one sentence, for every table."""
    if tuning is None:
        return "Values are those of configs/tuned/, and where it has none the samplers' own; nothing was tuned here."
    size = size_of({k: v for k, v in tuning.items() if k in ("images", "seeds", "trials")})
    return (
        f"Values are chosen by mean {TITLES[tuning['criterion']]} on {size['images']} validation images with "
        f"{size['seeds']} noise seed{'s' * (size['seeds'] > 1)}, {size['count']} trials per method, task and number of "
        f"steps, up to {size['count'] + BEYOND} while the best is the outermost, and reported once (docs/protocol.md). "
        "A value at a bound, or at the edge of what was tried, is not tuned (`how` in choices.csv)."
    )
