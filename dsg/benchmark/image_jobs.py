"""The job of a suite that is a run: images of a task by a sampler, as `run.py` would make them."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from dsg import config as configs
from dsg.benchmark.jobs import Job, Progress
from dsg.benchmark.methods import Method
from dsg.benchmark.suite import call
from dsg.metrics.base import Column
from dsg.runs.prepare import build, load_once, pick_device, prepare
from dsg.runs.results import Results
from dsg.runs.runner import Run
from dsg.runs.tracking import log
from dsg.samplers import Sampler, Tunable
from dsg.schedule import NoiseSchedule, linear_betas
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
    watch: called `(path)`, makes the callback of every step: see `dsg.benchmark.deviation`.
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
    results: Results | None = field(default=None, init=False)

    @property
    def key(self) -> tuple:
        return (self.section, self.sampler, self.steps) + ((self.value,) if self.value is not None else ())

    @property
    def out(self) -> Path:
        return self.folder / "-".join(str(part) for part in self.key[1:])

    def covers(self, other: Job) -> bool:
        return super().covers(other) and isinstance(other, ImageJob) and other.images <= self.images

    @cached_property
    def config(self) -> DictConfig:
        chosen = [f"model={self.model}", f"task={self.task}", f"sampler={self.sampler}", f"sampler.steps={self.steps}"]
        chosen += [f"data.limit={self.images}", f"samples={self.samples}", *self.options]
        return configs.load(chosen)

    @cached_property
    def sampler_object(self) -> Sampler:
        return build(self.config.sampler)

    @cached_property
    def task_object(self) -> Task:
        """Without its networks."""
        return build(self.config.task)

    def __getstate__(self) -> dict:
        """What another process needs; the rest is found there again."""
        found = ("config", "sampler_object", "task_object", "results")
        return {**{k: v for k, v in self.__dict__.items() if k not in found}, "results": None}

    @property
    def method(self) -> Method:
        return Method.of(self.sampler_object)

    @property
    def tunable(self) -> Tunable | None:
        return self.sampler_object.tunable

    @property
    def chosen_value(self) -> float:
        """Of the option that is tuned."""
        return float(self.config.sampler[self.tunable.option])

    def prepare(self) -> Run:
        return prepare(self.config, out=self.out)

    def check(self) -> None:
        run = self.prepare()
        if len(run.inputs) < self.images:
            raise ValueError(f"--images {self.images}: there are {len(run.inputs)} of task={self.task}")
        self.left, self.done, self.results = run.work(), run.finished, run.results
        self.ids = [one.id for one in run.inputs]
        self.columns = [*run.task.columns, *(metric.column for metric in run.metrics if metric.scope == "image")]

    def finished(self) -> bool:
        return self.done

    def work(self) -> float:
        return self.left

    def run(self, on_progress: Progress) -> list[str]:
        run = self.prepare()  # again: the images of all runs of a suite would not fit into memory
        watch = None if self.watch is None else call(self.watch, self.out)
        failures = run.execute(on_progress, watch)
        log(run)
        return [f"{f.id}: not finite at step {f.step_index} (t={f.t})" for f in failures]

    def tables(self) -> dict[str, pd.DataFrame]:
        table = pd.DataFrame() if self.results is None else self.results.table()
        if table.empty:
            return {}
        return {"images": table[table["image"].isin(self.ids) & (table["sample"] < self.samples)]}

    def about(self) -> dict[str, object]:
        cost = self.sampler_object.cost(self.schedule())
        count = self.images * self.samples * self.task_object.tries
        made = f"{self.images}" + (f" x {self.samples}" if self.samples > 1 else "")
        return {
            "images": made,
            "network evaluations": count * cost.forward,
            "backward passes": count * cost.backward,
            "left": "" if self.results is None else f"{self.left:.0f}",
        }

    def schedule(self) -> NoiseSchedule:
        try:
            return load_once(_model(self.config)).schedule
        except (ValueError, OSError):  # no weights here: DDPM's, which takes as many passes
            return NoiseSchedule(linear_betas())

    def rate(self) -> float:
        return seconds_per_pass(_model(self.config), str(self.config.device))


def _model(config: DictConfig) -> str:
    return json.dumps(OmegaConf.to_container(config.model))


@cache
def seconds_per_pass(model: str, device: str) -> float:
    """Of one image through the prior: on a CPU of one alone, elsewhere of a batch."""
    prior, device = load_once(model).to(pick_device(device)), pick_device(device)
    batch = 1 if device.type == "cpu" else 16
    x = torch.zeros(batch, *prior.shape, device=device)
    with torch.no_grad():
        prior.predict(x, 500).eps.cpu()  # warm up
        start = time.perf_counter()
        prior.predict(x, 500).eps.cpu()
    return (time.perf_counter() - start) / batch
