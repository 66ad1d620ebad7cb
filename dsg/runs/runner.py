"""Images through a run, in batches: sample, save each image as soon as it is there, evaluate, resume."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import groupby, takewhile
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from dsg import image_files as images
from dsg.files import REPOSITORY, file_digest, first_line, write_text
from dsg.layers import Sources
from dsg.metrics.base import ImageMetric, Metric, SetMetric, at_once
from dsg.noise import ImageNoise
from dsg.priors.base import CountedPrior, Prior
from dsg.runs.batches import USUAL, Batches, forget_peak, peak_memory
from dsg.runs.records import BY
from dsg.runs.results import CURVES, SUMMARY, Results
from dsg.runs.shards import shard_of_this_process
from dsg.runs.summary import write_summary
from dsg.runs.tries import best_try
from dsg.samplers import Cost, Sampler, StepState, sample
from dsg.types import Input, to_uint8, to_uint16
from tasks.inverse import InverseProblem

WEIGHT = {"forward": Cost(1, 0).compute, "backward": Cost(0, 1).compute}  # of a pass, for progress bars


@dataclass(frozen=True)
class Item:
    """One image that a run makes."""

    name: str
    input: Input
    sample_number: int


@dataclass
class Failure:
    """An image whose sampling met a non-finite value."""

    id: str
    step_index: int
    t: float


class Made(NamedTuple):
    """What a batch came to: the images that failed, which of its tries each image is, and the records of both."""

    failures: list[Failure]
    kept: Sequence[int]
    records: list[dict]
    curves: list[dict]


@dataclass
class Run:
    """A prior, a task, a sampler and a set of inputs, all checked (`dsg.runs.prepare`)."""

    config: DictConfig
    config_text: str
    prior: Prior
    task: object
    sampler: Sampler
    inputs: Sequence[Input]
    results: Results
    metrics: Sequence[Metric] = ()
    samples: int = 1
    seed: int = 0
    image_shape: Sequence[int] = ()  # (C, H, W) of all images, or (C, None, None)
    batches: Batches = field(default_factory=lambda: Batches(USUAL))
    device: torch.device = torch.device("cpu")
    notes: Sequence[str] = ()  # what the user should know before it starts
    shard: tuple[int, int] = field(default_factory=shard_of_this_process)
    sources: Sources | None = None  # of the config's values, where they are known
    broken: dict[str, str] = field(default_factory=dict)  # metrics that raised, and what

    def __post_init__(self):
        self.metrics = [metric.of(self) for metric in self.metrics]

    @cached_property
    def items(self) -> list[Item]:
        """Everything the run makes, on all shards."""
        several = self.samples > 1
        numbers = range(self.samples)
        return [Item(f"{i.id}_{k}" if several else i.id, i, k) for i in self.inputs for k in numbers]

    def pending(self) -> list[Item]:
        """What this shard has still to make: it is not there, or not as it was written.

        Raises:
            ValueError: an input has changed since its image was made.
        """
        rank, count = self.shard
        rows, todo = self.results.rows(), []
        for item in self.items[rank::count]:
            row = rows.get(item.name)
            if row is not None and row["input"] != item.input.digest:
                raise ValueError(
                    f"the input of {item.name} has changed since {self.results.images / item.name}.png was made: "
                    "choose another out"
                )
            if row is None or not self.results.whole(row):
                todo.append(item)
        return todo

    @property
    def batch_size(self) -> int:
        """The size of the next batch."""
        return self.batches.size

    def known_prior(self) -> Prior:
        """The prior; of a finished run, which holds none, as its config names it."""
        from dsg.runs.prepare import load_once_from  # which imports this file

        return self.prior or load_once_from(self.config.model)

    def shape_of(self, item: Item) -> tuple[int, ...]:
        """(C, H, W) of what is diffused for an image."""
        if None not in self.prior.shape:
            return self.prior.shape
        return self.task.image_shape(item.input, self.image_shape)

    def work(self) -> int:
        """What is left, in forward passes of one image."""
        return len(self.pending()) * self.task.tries * self.sampler.cost(self.prior.schedule).compute

    @property
    def finished(self) -> bool:
        return not self.pending() and (self.results.out / SUMMARY).exists() and not unevaluated(self)

    def execute(
        self,
        on_progress: Callable[[int], None] = lambda passes: None,
        callback: Callable | None = None,
        on_batch: Callable[[Sequence[str], Sequence[int]], None] = lambda names, kept: None,
    ) -> list[Failure]:
        """Restore what is not finished, evaluate what is not evaluated, write `per_image.csv` and `metrics.json`.

        Args:
            on_progress: called with the forward passes that were done, of one image each; a backward pass counts two.
            callback: called as `callback(state, names)` after every step.
            on_batch: called as `on_batch(names, kept)` before a batch counts as done, with the try that each image is.

        Returns:
            the images that failed here; the others of this shard are done.
        """
        todo, failures = self.pending(), []
        if todo or not self.finished:
            self.results.claim(self.config_text)
        self.results.sweep()
        self.results.check_owner()  # it may have been another run that finished here since this one was prepared
        while todo:
            batch = of_one_size(self, todo[: self.batches.size])
            made = run_if_it_fits(self, batch, on_progress, callback)
            if made is None:
                self.batches.did_not_fit(len(batch))
            else:
                self.batches.fitted(len(batch))
                failures, todo = failures + made.failures, todo[len(batch) :]
                on_batch([item.name for item in batch], made.kept)
                self.results.add(made.curves, CURVES)
                self.results.add(made.records)  # last: what is recorded is not made again
        evaluate(self)
        write_summary(self)
        return failures


def of_one_size(run: Run, items: list[Item]) -> list[Item]:
    """The first items, as many as have the first one's size."""
    shape = run.shape_of(items[0])
    return list(takewhile(lambda item: run.shape_of(item) == shape, items))


class Watch:
    """A callback that notes where each image first stops being finite, the loss, and the radius of every guided step.

    The notes stay on the device until they are asked for, so that watching does not wait for it.
    """

    def __init__(self, batch: int, device: torch.device):
        self.first_bad = torch.full((batch,), -1, device=device)
        self.steps: list[tuple[int, float]] = []
        self.radii: list[Tensor] = []
        self.losses: dict[float, Tensor] = {}  # by t; a step that is repeated counts as it was at last

    def __call__(self, state: StepState) -> None:
        bad = ~torch.isfinite(state.x_prev).flatten(1).all(1)
        self.first_bad = torch.where(bad & (self.first_bad < 0), len(self.steps), self.first_bad)
        self.steps.append((state.index, state.t))
        if (radius := state.measured_radius) is not None:
            self.radii.append(radius)
        if state.loss is not None:
            self.losses[state.t] = state.loss

    def radius(self, image: int) -> float | None:
        """The median of an image's guided steps; None if there is no sphere, or none is guided."""
        return torch.stack([radius[image] for radius in self.radii]).median().item() if self.radii else None

    def curve(self, image: int) -> dict[str, list[float]]:
        """The loss of an image at the times t of its steps, where it was computed."""
        losses = [loss[image].item() for loss in self.losses.values()]
        return {"t": list(self.losses), "loss": [float(f"{loss:.4g}") for loss in losses]}

    def failures(self, names: Sequence[str]) -> list[Failure]:
        return [Failure(name, *self.steps[k]) for name, k in zip(names, self.first_bad.tolist()) if k >= 0]


def failed_always(tries: Sequence[Sequence[Failure]]) -> list[Failure]:
    """Those of the first try, of images that no try has done."""
    failed = [{failure.id for failure in one} for one in tries]
    return [failure for failure in tries[0] if all(failure.id in ids for ids in failed)]


def condition_of(run: Run, inputs: Sequence[Input]) -> dict[str, Tensor]:
    """The condition of a batch, on the run's device."""
    return {k: v.to(run.device) for k, v in run.task.condition(inputs, run.seed).items()}


def run_if_it_fits(run: Run, batch: list[Item], on_progress: Callable, callback: Callable | None) -> Made | None:
    """`run_batch`, or None if the device's memory does not hold the batch; its progress is taken back then."""
    passes = []

    def count(done: int) -> None:
        passes.append(done)
        on_progress(done)

    try:
        return run_batch(run, batch, count, callback)
    except torch.cuda.OutOfMemoryError:
        on_progress(-sum(passes))
    torch.cuda.empty_cache()  # here, where the error holds its tensors no more; nothing without a GPU
    return None


def run_batch(run: Run, batch: list[Item], on_progress: Callable, callback: Callable | None) -> Made:
    names, inputs = [item.name for item in batch], [item.input for item in batch]
    condition = condition_of(run, inputs)
    prompts = [i.prompt for i in inputs] if run.task.prompts_prior and any(i.prompt for i in inputs) else None
    prior = CountedPrior(run.prior, prompts, lambda kind: on_progress(WEIGHT[kind] * len(batch)))
    watches: list[Watch] = []  # of each try

    def each_step(state: StepState) -> None:
        watches[-1](state)
        if callback is not None:
            callback(state, names)

    def one_try(number: int) -> Tensor:
        watches.append(Watch(len(batch), run.device))
        numbers = [item.sample_number * run.task.tries + number for item in batch]
        draws = run.sampler.draws(run.prior.schedule)
        noise = ImageNoise(run.seed, [i.id for i in inputs], numbers, run.shape_of(batch[0]), run.device, draws)
        x_T = run.sampler.start(prior, run.task, condition, noise.start())
        return sample(prior, run.task, condition, run.sampler, x_T, noise, each_step)

    forget_peak(run.device)
    start = time.perf_counter()
    x0, kept = best_try(run.task, run.prior, condition, one_try)
    with torch.no_grad():
        restored = run.task.finish(run.prior.decode(x0).clamp(-1, 1), condition)
        own = {k: v.cpu() for k, v in run.task.metrics(restored, condition).items()}
    failures = failed_always([watch.failures(names) for watch in watches])  # waits for the device
    numbers = {
        "seconds": (time.perf_counter() - start) / len(batch),
        "network_evaluations": prior.forward_passes,
        "backward_passes": prior.backward_passes,
        "batch_size": len(batch),
        "peak_memory": peak_memory(run.device),
    }
    failed = {failure.id: failure for failure in failures}
    restored = torch.nan_to_num(restored)
    rows, curves = [], []
    observed = run.task.observations(condition).sqrt().tolist() if isinstance(run.task, InverseProblem) else None
    for i, item in enumerate(batch):
        if item.name in failed:
            rows.append(failure_of(item, failed[item.name]))
        else:
            files = save(run, item, restored[i : i + 1], {k: v[i : i + 1].cpu() for k, v in condition.items()})
            radius = watches[kept[i]].radius(i)
            measured = {} if radius is None else {"radius": radius}
            rows.append(row_of(run, item, {**numbers, **measured, **{k: v[i].item() for k, v in own.items()}}, files))
            curve = watches[kept[i]].curve(i)
            residual = {} if observed is None else {"residual": [loss / observed[i] for loss in curve["loss"]]}
            curves.append({"id": item.name, **curve, **residual})
    return Made(failures, kept.tolist(), rows, curves)


def save(run: Run, item: Item, restored: Tensor, condition: Mapping[str, Tensor]) -> dict[str, str]:
    """Write the image, and what it was made from; file name -> digest."""
    results, name = run.results, item.input.id
    deep = item.input.measurement is not None and item.input.measurement.dtype == np.uint16
    pixels = (to_uint16 if deep else to_uint8)(restored)[0]
    images.save(results.images / f"{item.name}.png", pixels, item.input.form)
    written = [results.images / f"{item.name}.png"]
    shown = run.task.condition_image(item.input, condition)
    for folder, what in ((results.condition, shown), (results.truth, item.input.truth)):
        if what is not None:
            images.save(folder / f"{name}.png", what)
            written.append(folder / f"{name}.png")
    if item.input.prompt is not None:
        write_text(results.condition / f"{name}.txt", item.input.prompt + "\n")
        written.append(results.condition / f"{name}.txt")
    return {str(path.relative_to(results.out)): file_digest(path) for path in written}


def row_of(run: Run, item: Item, numbers: Mapping, files: Mapping[str, str]) -> dict:
    """The record of an image."""
    prompt = {} if item.input.prompt is None else {"prompt": item.input.prompt}
    about = {"id": item.name, "image": item.input.id, "sample": item.sample_number, "input": item.input.digest}
    return {**about, **numbers, **prompt, **versions(run.device), "files": dict(files)}


def failure_of(item: Item, failure: Failure) -> dict:
    """The record of an image that did not come out."""
    return {"failed": item.name, "image": item.input.id, "step_index": failure.step_index, "t": failure.t}


def unevaluated(run: Run) -> list[tuple[ImageMetric, list[Item]]]:
    """Metrics that finished images of this shard still lack."""
    rank, count = run.shard
    rows = run.results.rows()
    found = []
    for metric in run.metrics:
        if isinstance(metric, ImageMetric) and metric.missing() is None and metric.applies(run.inputs):
            items = [i for i in run.items[rank::count] if i.name in rows and not computed(metric, rows[i.name])]
            found += [(metric, items)] if items else []
    return found


def computed(metric: ImageMetric, row: Mapping) -> bool:
    """Whether the row has this metric, computed with its present settings."""
    return metric.name in row and row.get(f"{BY}{metric.name}") == metric.fingerprint


def evaluate(run: Run) -> None:
    """Compute the metrics that are missing, from the saved images."""
    run.broken.clear()
    for metric, items in unevaluated(run):
        for _, alike in groupby(items, key=lambda item: run.results.image_size(item.name)):
            if metric.name not in run.broken:
                evaluate_images(run, metric, list(alike))
    rows = run.results.rows()
    names = [item.name for item in run.items if item.name in rows]
    for metric in run.metrics:
        wanted = isinstance(metric, SetMetric) and metric.missing() is None and len(names) >= metric.smallest
        wanted = wanted and len(names) == len(run.items) and len(set(map(run.results.image_size, names))) == 1
        if wanted and run.results.set_record(metric, names) is None:
            pixels = np.stack([run.results.image(name) for name in names])
            numbers = attempt(run, metric, set_numbers, metric, pixels)
            if numbers is not None:
                run.results.add([run.results.new_set_record(metric, names, numbers)])


def evaluate_images(run: Run, metric: ImageMetric, items: list[Item]) -> None:
    """Compute a metric of images of one size, and save it."""
    chunk = at_once(*run.results.image(items[0].name).shape[:2])
    for start in range(0, len(items), chunk):
        part = items[start : start + chunk]
        pixels = np.stack([run.results.image(item.name) for item in part])
        values = attempt(run, metric, metric, pixels, [item.input for item in part])
        if values is None:
            return
        by = {f"{BY}{metric.name}": metric.fingerprint}
        run.results.add([{"id": i.name, metric.name: v, **by} for i, v in zip(part, values)])


def set_numbers(metric: SetMetric, images: np.ndarray) -> dict[str, float]:
    return {"value": metric(images), **metric.beside(images)}


def attempt(run: Run, metric: Metric, compute: Callable, *arguments):
    """What `compute` gives; None if it raises, which `run.broken` tells: the other metrics are not lost with it."""
    try:
        return compute(*arguments)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        run.broken[metric.name] = first_line(error)
        return None


def versions(device: torch.device) -> dict[str, str]:
    """What an image was made with."""
    return {"code": code_version(), "torch": str(torch.__version__), "device": str(device)}


@cache
def code_version() -> str:
    if not (REPOSITORY / ".git").exists():  # else git would describe a repository above it
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    except OSError:  # no git here
        return "unknown"
    return described.stdout.strip() or "unknown"
