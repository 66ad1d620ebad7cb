"""Images through a cell, in batches: sample, save each picture as soon as it is there, measure, resume."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from dsg import images, metrics
from dsg.checkpoints import REPOSITORY
from dsg.images import Picture
from dsg.noise import ImageNoise
from dsg.results import Results, write_text
from dsg.samplers import Sampler, StepState, draws, sample

MADE_WITH = ("code", "torch", "device")
NOT_MEASURES = {"id", "image", "sample", "input", "prompt", "seconds", "network_evaluations", *MADE_WITH}


@dataclass
class Cell:
    """A prior, a task, a sampler, a set of pictures to restore, or of cases (`tasks.semantic.Case`) to draw samples for."""

    prior: object
    task: object
    sampler: Sampler
    pictures: Sequence[Picture]
    degraded: bool = False  # the pictures are measurements, there is no truth
    samples: int = 1
    seed: int = 0
    batch_size: int = 16
    device: torch.device = torch.device("cpu")
    evaluator: object | None = (
        None  # judges the samples of a semantic task: `measure(pixels, cases, task) -> {name: [B]}`
    )

    @property
    def restores(self) -> bool:
        """Whether there is a truth, or a measurement, that the pictures are compared with."""
        return not hasattr(self.task, "cases")

    @property
    def weight(self) -> int:
        """Cost of a network evaluation, for progress bars: a pass through the network and back counts three times."""
        return 3 if self.sampler.gradient_at == "x_t" else 1


@dataclass
class Failure:
    """An image whose sampling met a non-finite value."""

    id: str
    step_index: int
    t: int


class Watch:
    """A callback that counts network evaluations and notes where each image first stops being finite.

    The notes stay on the device until they are asked for, so that watching does not wait for it.
    """

    def __init__(self, batch: int, device: torch.device):
        self.evaluations = 0
        self.first_bad = torch.full((batch,), -1, device=device)
        self.ts: list[tuple[int, int]] = []

    def __call__(self, state: StepState) -> None:
        bad = ~torch.isfinite(state.x_prev).flatten(1).all(1)
        self.first_bad = torch.where(bad & (self.first_bad < 0), self.evaluations, self.first_bad)
        self.evaluations += 1
        self.ts.append((state.index, state.t))

    def failures(self, names: Sequence[str]) -> list[Failure]:
        return [Failure(name, *self.ts[k]) for name, k in zip(names, self.first_bad.tolist()) if k >= 0]


def run_cell(
    cell: Cell, results: Results, on_step: Callable[[int], None] = lambda images: None, callback: Callable | None = None
) -> list[Failure]:
    """Restore what is not finished, measure what is not measured, write `metrics.json`.

    Args:
        on_step: called after every reverse step with the number of images in the batch (for a progress bar).
        callback: called as `callback(state, names)` after every step.

    Returns:
        the images that failed; the others are done.
    """
    todo = pending(cell, results)
    failures = []
    for start in range(0, len(todo), cell.batch_size):
        failures += run_batch(cell, results, todo[start : start + cell.batch_size], on_step, callback)
    fill_in_measures(cell, results)
    write_summary(cell, results, failures)
    return failures


def evaluations(cell: Cell) -> int:
    """Forward passes of the network per image."""
    return len(draws(cell.sampler, cell.prior.schedule, purposes=("step",)))


def pending(cell: Cell, results: Results) -> list[tuple[str, Picture, int]]:
    """(name, picture, sample number) of what has not been made yet."""
    wanted = [(output_name(p.id, k, cell.samples), p, k) for p in cell.pictures for k in range(cell.samples)]
    return [(name, p, k) for name, p, k in wanted if not results.finished(name, p.digest)]


def output_name(picture_id: str, sample_number: int, samples: int) -> str:
    return picture_id if samples == 1 else f"{picture_id}_{sample_number}"


def make_condition(cell: Cell, pictures: Sequence[Picture]) -> tuple[Tensor | None, dict]:
    """The pictures as a tensor, where they are restored, and their condition."""
    if not cell.restores:
        return None, cell.task.condition(pictures)
    x, ids = images.to_tensor(pictures), [p.id for p in pictures]
    make = cell.task.given if cell.degraded else cell.task.measure
    return x, make(x, ids, cell.seed)


def run_batch(cell: Cell, results: Results, batch: list, on_step: Callable, callback: Callable | None) -> list[Failure]:
    names, pictures, numbers = (list(column) for column in zip(*batch))
    _, condition = make_condition(cell, pictures)
    if hasattr(cell.prior, "set_prompts"):
        prompts = [p.prompt for p in pictures] if getattr(cell.task, "prompts_prior", False) else []
        cell.prior.set_prompts(prompts if any(prompts) else None)
    condition = {k: v.to(cell.device) for k, v in condition.items()}
    order = draws(cell.sampler, cell.prior.schedule)
    noise = ImageNoise(cell.seed, [p.id for p in pictures], numbers, cell.prior.shape, cell.device, order)
    watch = Watch(len(names), cell.device)

    def each_step(state: StepState) -> None:
        watch(state)
        on_step(len(names))
        if callback is not None:
            callback(state, names)

    start = time.perf_counter()
    restored = sample(cell.prior, cell.task, condition, cell.sampler, noise.start(), noise, each_step)
    with torch.no_grad():
        restored = cell.prior.decode(restored).clamp(-1, 1)
        measures = {k: v.cpu() for k, v in cell.task.measures(restored, condition).items()}
    failures = watch.failures(names)  # waits for the device
    seconds = (time.perf_counter() - start) / len(names)
    failed = {f.id for f in failures}
    rows, pixels = [], images.to_uint8(torch.nan_to_num(restored))
    made_with = versions(cell.device)
    save_conditions(cell, results, pictures, condition, [n in failed for n in names])
    for i, (name, picture, number) in enumerate(batch):
        if name in failed:
            continue
        images.save(results.images / f"{name}.png", pixels[i])
        rows.append(
            {
                "id": name,
                "image": picture.id,
                "sample": number,
                "input": picture.digest,
                "seconds": seconds,
                "network_evaluations": watch.evaluations,
                **{k: v[i].item() for k, v in measures.items()},
                **({"prompt": picture.prompt} if getattr(picture, "prompt", None) else {}),
                **made_with,
            }
        )
    if rows:
        results.add(rows)
    return failures


def save_conditions(cell: Cell, results: Results, pictures: Sequence, condition: dict, failed: Sequence[bool]) -> None:
    """What the samples were made from: degraded pictures and their truths, or references and prompts."""
    made = [(i, picture) for i, picture in enumerate(pictures) if not failed[i]]
    if not cell.restores:
        for case in {picture.id: picture for _, picture in made}.values():
            save_case(cell, results, case)
        return
    observed = images.to_uint8(condition["y"])
    for i, picture in made:
        images.save(results.condition / f"{picture.id}.png", observed[i])
        if not cell.degraded:
            images.save(results.truth / f"{picture.id}.png", picture.pixels)


def save_case(cell: Cell, results: Results, case) -> None:
    shown = cell.task.show(case)
    if shown is not None:
        images.save(results.condition / f"{case.id}.png", shown)
    if case.prompt is not None:
        write_text(results.condition / f"{case.id}.txt", case.prompt + "\n")


def fill_in_measures(cell: Cell, results: Results, chunk: int = 64) -> None:
    """Measure the saved pictures, against the truth or by the evaluator, where the table has no measure yet."""
    todo = unmeasured(cell, results)
    cases = {p.id: p for p in cell.pictures}
    for start in range(0, len(todo), chunk):
        part = todo.iloc[start : start + chunk]
        pixels = np.stack([_read(results.images, name) for name in part["id"]])
        if cell.restores:
            truths = np.stack([_read(results.truth, name) for name in part["image"].astype(str)])
            measured = metrics.measure(pixels, truths, cell.device)
        else:
            measured = cell.evaluator.measure(pixels, [cases[i] for i in part["image"]], cell.task)
        results.add(part.assign(**measured).to_dict("records"))


def unmeasured(cell: Cell, results: Results) -> pd.DataFrame:
    """The rows that have a truth, or an evaluator, and no measure yet."""
    table = results.table
    if table.empty or (cell.degraded if cell.restores else cell.evaluator is None):
        return table.iloc[:0]
    name = "psnr" if cell.restores else cell.evaluator.names(cell.task)[0]
    todo = table[table[name].isna()] if name in table else table
    return todo if cell.restores else todo[todo["image"].isin([p.id for p in cell.pictures])]


def _read(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / f"{name}.png") as image:
        return np.asarray(image.convert("RGB"))


def write_summary(cell: Cell, results: Results, failures: Sequence[Failure]) -> None:
    """metrics.json: means with 95 % bootstrap intervals over this run's images, versions, what failed."""
    wanted = [output_name(p.id, k, cell.samples) for p in cell.pictures for k in range(cell.samples)]
    table = results.table.loc[results.table.index.intersection(wanted)] if len(results.table) else results.table
    if cell.samples > 1 and not cell.restores and len(table):
        table = table.assign(diversity=diversity(results, table))
    measures = {}
    for name in [c for c in table.columns if c not in NOT_MEASURES]:
        mean, low, high = metrics.bootstrap(
            table.groupby("image")[name].mean().to_numpy()
        )  # samples are not independent
        measures[name] = {"mean": _number(mean), "low": _number(low), "high": _number(high)}
    summary = {
        "images": int(table["image"].nunique()) if len(table) else 0,
        "measures": measures,
        "seconds_per_image": _number(table["seconds"].mean()) if len(table) else None,
        "network_evaluations": _number(table["network_evaluations"].mean()) if len(table) else None,
        "failures": [vars(f) for f in failures],
        "interval": "95 %, percentile bootstrap over images, 2000 resamples",
        "image_ids": list(table.index),
        "versions": {k: sorted(table[k].unique()) for k in MADE_WITH} if len(table) else {},
    }
    write_text(results.out / "metrics.json", json.dumps(summary, indent=1) + "\n")


def diversity(results: Results, table: pd.DataFrame) -> pd.Series:
    """Mean distance (RMS over pixels in [-1, 1]) of each sample to the other samples of its condition; NaN for a single one."""
    distances = pd.Series(np.nan, index=table.index)
    for _, names in table.groupby("image").groups.items():
        if len(names) > 1:
            x = np.stack([_read(results.images, name) for name in names]).reshape(len(names), -1) / 127.5
            between = [np.sqrt(np.square(x - one).mean(1)).sum() for one in x]  # row by row: pictures may be large
            distances[names] = np.array(between) / (len(names) - 1)
    return distances


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def versions(device: torch.device) -> dict[str, str]:
    """What a picture was made with."""
    return {"code": code_version(), "torch": torch.__version__, "device": str(device)}


@cache
def code_version() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    return described.stdout.strip() or "unknown"
