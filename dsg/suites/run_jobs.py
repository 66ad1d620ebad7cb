"""The job of a suite that is a run: images of a task by a sampler, as `run.py` would make them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from dsg import config as configs
from dsg.files import first_line
from dsg.layers import Sources
from dsg.runs.prepare import build, load_once_from, prepare
from dsg.runs.results import Results
from dsg.runs.runner import Run
from dsg.runs.tracking import log
from dsg.samplers import Sampler, Tunable
from dsg.schedule import NoiseSchedule, linear_betas
from dsg.suites.jobs import Job, Progress
from dsg.suites.methods import Method
from dsg.suites.speed import Speed, speed_of
from dsg.suites.suite import call
from dsg.types import Column, Data
from tasks.base import Task


@dataclass(eq=False)
class ImageJob(Job):
    """Args:
    section: of the tables; the task, with several models <model>/<task>.
    model, task, sampler: names of configs.
    steps: of the sampler.
    value: of the option that is tuned, or a text of several, where `options` override them: for the folder's name.
    images, samples: how many inputs, how many samples of each.
    folder: the run is in <folder>/<sampler>-<steps>[-<value>].
    options: further overrides.
    watch: called `(path)`, makes the callback of every step: see `dsg.studies.deviation`.
    """

    section: str
    model: str
    task: str
    sampler: str
    steps: int
    value: float | str | None
    images: int
    samples: int
    folder: Path
    options: Sequence[str] = ()
    watch: Mapping | None = None
    part: str = ""
    # found by `check`
    left: float = field(default=0.0, init=False)
    done: bool = field(default=False, init=False)
    ids: Sequence[str] = field(default=(), init=False)
    columns: Sequence[Column] = field(default=(), init=False)
    set_columns: Sequence[Column] = field(default=(), init=False)
    results: Results | None = field(default=None, init=False)

    @property
    def key(self) -> tuple:
        return (self.section, self.sampler, self.steps) + ((self.value,) if self.value is not None else ())

    @property
    def out(self) -> Path:
        return self.folder / "-".join(str(part) for part in self.key[1:])

    def covers(self, other: Job) -> bool:
        return super().covers(other) and isinstance(other, ImageJob) and other.images <= self.images

    @property
    def config(self) -> DictConfig:
        return self.resolved[0]

    @cached_property
    def resolved(self) -> tuple[DictConfig, Sources]:
        """Its config, and where each value came from."""
        chosen = [f"model={self.model}", f"task={self.task}", f"sampler={self.sampler}", f"sampler.steps={self.steps}"]
        chosen += [f"data.limit={self.images}", f"samples={self.samples}", *self.options]
        return configs.load_with_sources(chosen)

    @cached_property
    def sampler_object(self) -> Sampler:
        return build(self.config.sampler)

    @cached_property
    def task_object(self) -> Task:
        """Without its networks."""
        return build(self.config.task)

    def __getstate__(self) -> dict:
        """What another process needs; the rest is found there again."""
        found = ("resolved", "sampler_object", "task_object", "results")
        return {**{k: v for k, v in self.__dict__.items() if k not in found}, "results": None}

    @property
    def count(self) -> int:
        """The number of images that are sampled, for whatever purpose."""
        return self.images * self.samples * self.task_object.tries

    @property
    def method(self) -> Method:
        return Method.of(self.sampler_object)

    @property
    def tunable(self) -> Tunable | None:
        return self.sampler_object.tunable

    @property
    def chosen_value(self) -> float:
        """The value of the option that is tuned."""
        return float(self.config.sampler[self.tunable.option])

    def prepare(self) -> Run:
        return prepare(*self.resolved, out=self.out)

    def check(self) -> None:
        run = self.prepare()
        if len(run.inputs) < self.images:
            raise ValueError(f"--images {self.images}: there are {len(run.inputs)} of task={self.task}")
        self.left, self.done, self.results = run.work(), run.finished, run.results
        self.ids = [one.id for one in run.inputs]
        self.columns = [*run.task.columns, *(metric.column for metric in run.metrics)]

    def finished(self) -> bool:
        return self.done

    def work(self) -> float:
        """The work of all its images, as long as `check` has not found what is left."""
        return self.left if self.ids else self.count * self.sampler_object.cost(self.schedule()).compute

    def missing(self) -> list[str]:
        """Errors of prior, guidance network and first input."""
        model, data = self.config.model, replace(Data(**self.config.data), limit=1)
        side = model.get("image_size") or model.get("unet", {}).get("image_size", 256)
        looks = (
            lambda: load_once_from(model),
            lambda: self.task_object.check((3, side, side)),
            lambda: self.task_object.inputs(data, (3, side, side)),
        )
        return [error for look in looks if (error := _error(look))]

    def left_out(self) -> list[str]:
        metrics = [build(metric) for metric in self.config.metrics.values()]
        return [f"{metric.name}: {reason}" for metric in metrics if (reason := metric.missing())]

    def run(self, on_progress: Progress) -> list[str]:
        run = self.prepare()  # again: the images of all runs of a suite would not fit into memory
        watch = None if self.watch is None else call(self.watch, self.out)
        failures = run.execute(on_progress, watch)
        log(run)
        failed = [f"{f.id}: not finite at step {f.step_index} (t={f.t})" for f in failures]
        return failed + [f"{name}: {reason}" for name, reason in run.broken.items()]

    def tables(self) -> dict[str, pd.DataFrame]:
        table = pd.DataFrame() if self.results is None else self.results.table()
        if table.empty:
            return {}
        return {"images": table[table["image"].isin(self.ids) & (table["sample"] < self.samples)]}

    def set_metrics(self) -> dict[str, dict]:
        """What was computed of all its images together, by name: value, settings, perhaps low and high. Empty where the
        run holds other images as well."""
        wanted = len(self.ids) * self.samples
        summary = self.results.summary() if self.results is not None else {}
        return summary["set_metrics"] if summary.get("images") == wanted else {}

    def about(self) -> dict[str, object]:
        cost = self.sampler_object.cost(self.schedule())
        made = f"{self.images}" + (f" x {self.samples}" if self.samples > 1 else "")
        return {
            "images": made,
            "network evaluations": self.count * cost.forward,
            "backward passes": self.count * cost.backward,
            "left": "" if self.results is None else f"{self.left:.0f}",
        }

    def schedule(self) -> NoiseSchedule:
        try:
            return load_once_from(self.config.model).schedule
        except (ValueError, OSError):  # no weights here: DDPM's, which takes as many passes
            return NoiseSchedule(linear_betas())

    def speed(self) -> Speed | None:
        texts = self.task_object.prompts_prior and bool(self.config.task.get("prompt"))
        texts = texts or bool(self.config.model.get("prompt"))
        return speed_of(json.dumps(OmegaConf.to_container(self.config.model)), str(self.config.device), texts)


def _error(look: Callable[[], object]) -> str | None:
    """The first line of what it raises."""
    try:
        look()
    except (ValueError, OSError) as error:
        return first_line(error)
    return None
