"""Rows of a table that no sampler makes: what one has without a prior, and what real images reach."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dsg import image_files as images
from dsg.files import write_text
from dsg.metrics.base import ImageMetric, in_parts
from dsg.runs.results import SUMMARY
from dsg.runs.runner import Run, condition_of
from dsg.runs.summary import PER_IMAGE, means
from dsg.suites.jobs import Job, Progress
from dsg.suites.plan import image_job
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Suite
from dsg.types import Input, to_tensor, to_uint8
from tasks.inverse import LinearInverseProblem

TABLE = "per_image.csv"


@dataclass(eq=False)
class ReferenceJob(Job):
    """The inputs of a run, with other images than a sampler's. It takes little time, and is done again by every
    call.

    Args:
        like: a run of the task.
    """

    like: ImageJob
    part: str = ""

    steps = 0
    folder = ""  # of its table and images, beside the runs of the task

    @property
    def section(self) -> str:
        return self.like.section

    @property
    def title(self) -> str:
        """The name of its row."""
        return self.folder

    @property
    def key(self) -> tuple:
        return (self.section, self.title, 0)

    @property
    def out(self) -> Path:
        return self.like.folder / self.folder

    def check(self) -> None:
        if len(self.like.ids) == 0:
            self.like.check()

    def finished(self) -> bool:
        return False

    def work(self) -> float:
        return 0

    def run(self, on_progress: Progress) -> list[str]:
        run = self.like.prepare()
        inputs, pixels, numbers = self.make(run)
        table = pd.DataFrame({"image": [i.id for i in inputs], **numbers, **evaluate(run, pixels, inputs)})
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / TABLE, table.to_csv(index=False))
        mean = {name: float(table[column].mean()) if column in table else None for name, column in PER_IMAGE.items()}
        summary = {"images": table["image"].nunique(), "metrics": means(table), "set_metrics": {}, **mean}
        summary |= {"method": {"label": self.title, "guided": False}, "failures": [], "versions": {}}
        write_text(self.out / SUMMARY, json.dumps(summary, indent=1) + "\n")
        return []

    @abstractmethod
    def make(self, run: Run) -> tuple[Sequence[Input], np.ndarray, dict]:
        """The inputs, an image of each, uint8 [N, H, W, 3], and further columns of the table."""

    def tables(self) -> dict[str, pd.DataFrame]:
        if not (self.out / TABLE).exists():
            return {}
        table = pd.read_csv(self.out / TABLE, dtype={"image": str}, keep_default_na=False, na_values=[""],
                            float_precision="round_trip")  # fmt: skip
        return {"images": table}

    def set_metrics(self) -> dict[str, dict]:
        return {}


class Baseline(ReferenceJob):
    """What one has without a prior: see `LinearInverseProblem.baseline`."""

    folder = "baseline"

    @property
    def title(self) -> str:
        return self.like.task_object.baseline_title

    def make(self, run: Run) -> tuple[Sequence[Input], np.ndarray, dict]:
        condition = condition_of(run, run.inputs)
        restored = run.task.baseline(condition, (len(run.inputs), *run.prior.image_shape)).clamp(-1, 1)
        pixels = to_uint8(restored)
        (self.out / "images").mkdir(parents=True, exist_ok=True)
        for one, image in zip(run.inputs, pixels):
            images.save(self.out / "images" / f"{one.id}.png", image)
        own = {name: values.tolist() for name, values in run.task.metrics(restored, condition).items()}
        return run.inputs, pixels, {**own, "network_evaluations": 0, "seconds": 0.0, "backward_passes": 0}


def evaluate(run: Run, pixels: np.ndarray, inputs: Sequence[Input]) -> dict[str, list[float]]:
    """The run's metrics of other images."""
    metrics = [m for m in run.metrics if isinstance(m, ImageMetric) and m.missing() is None and m.applies(inputs)]
    return {metric.name: in_parts(metric, pixels, inputs) for metric in metrics}


def own_metrics(run: Run, pixels: np.ndarray, inputs: Sequence[Input]) -> dict[str, list[float]]:
    """What the task says of other images."""
    with torch.no_grad():
        found = run.task.metrics(to_tensor(pixels).to(run.device), condition_of(run, inputs))
    return {name: values.tolist() for name, values in found.items()}


def baselines(suite: Suite) -> list[Baseline]:
    """The baselines of every linear task of the suite."""
    return [job for job in of_every_task(suite, Baseline) if isinstance(job.like.task_object, LinearInverseProblem)]


def of_every_task(suite: Suite, kind: type[ReferenceJob]) -> list[ReferenceJob]:
    first = replace(suite, steps=suite.steps[:1], samplers=suite.samplers[:1])
    return [kind(image_job(first, m, t, s, n)) for m in first.models for t in first.tasks
            for s in first.samplers for n in first.steps]  # fmt: skip
