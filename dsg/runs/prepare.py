"""From a resolved config to a run: everything that can be wrong is found here, before work starts."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dsg.config import OVERRIDE, to_yaml
from dsg.files import first_line, resolve, short_hash
from dsg.layers import Sources
from dsg.priors.base import Prior
from dsg.runs.batches import batches
from dsg.runs.results import Results, identity
from dsg.runs.runner import Run
from dsg.runs.shards import local_rank
from dsg.runs.tracking import check_login
from dsg.types import Data, Input, to_tensor
from tasks.base import Task
from tasks.inverse import InverseProblem, assume
from tasks.noise_level import MOST, estimate_sigma

ENOUGH = 2**14  # pixels, for a prior to say whether it knows such noise: four images of 64 px, one of 256


def prepare(config: DictConfig, sources: Sources | None = None, out: Path | None = None) -> Run:
    """The run that `config` describes, in its folder (`out`, or the config's). Nothing is written yet.

    Args:
        config: as `dsg.config.load` gives it; `sources` tells where its values came from.

    Raises:
        ValueError, FileNotFoundError: one clear sentence.
    """
    for group in ("model", "task", "sampler"):
        check_name(f"{group}.name", config[group].name)
    check_login(config.wandb.mode)
    if config.average and config.samples < 2:
        raise ValueError(f"average=true needs several samples: samples=8, not {config.samples}")
    device = pick_device(config.device)
    sampler, task, prior = build(config.sampler), build_task(config), load_once_from(config.model)
    shape = image_shape(config.model.name, prior, config.data.size)
    if prior.cpu_batch < 0:
        raise ValueError(f"model.cpu_batch={prior.cpu_batch}: an integer, 0 or more")
    if None not in shape:
        task.check(shape)
    data = Data(**config.data)
    inputs, estimated = task.inputs(data, shape), estimated_sigma(task, data, shape, sources)
    if estimated is not None:
        task.sigma = config.task.sigma = estimated
        sources["task.sigma"] = "estimated from the images"
    for own in {task.image_shape(one, shape) for one in inputs} - {tuple(shape)}:
        task.check(own)
    task.check_prior(prior, inputs)
    sampler.check(prior, task)
    metrics = [build(metric) for metric in config.metrics.values()]
    prior, task = prior.to(device), task.to(device)
    owner = identity(OmegaConf.to_container(config), prior.weights_hash, task.weights_hash)
    folder = out or output_folder(config, owner)
    check_folders(folder, config.data.root)
    results = Results(folder, owner)
    run = Run(
        config, to_yaml(config, sources or {}), prior, task, sampler, inputs, results, metrics,
        config.samples, config.seed, shape, batches(config.batch_size, prior.cpu_batch, device), device,
        [*noise_notes(estimated), *task.notes(inputs), *sampler.notes(prior.schedule), *results.notes()],
        sources=sources or None,
    )  # fmt: skip
    if run.pending():  # it refuses inputs that have changed
        run.notes = [*run.notes, *prior_notes(prior, inputs)]
    return run


def prior_notes(prior: Prior, inputs: Sequence[Input]) -> list[str]:
    """What the prior says of the first images, as many as have `ENOUGH` pixels; nothing of measurements."""
    truths = [one.truth for one in inputs if one.truth is not None and one.truth.shape[:2] == prior.image_shape[1:]]
    return prior.notes(to_tensor(truths[: math.ceil(ENOUGH / truths[0][..., 0].size)])) if truths else []


def estimated_sigma(task: Task, data: Data, shape: Sequence[int], sources: Sources | None) -> float | None:
    """The noise level of measured images, for which the user gave none; None where it is given, or not to be seen.

    It is that of the first images whatever data.limit is, so that a larger limit extends a run.
    """
    if not isinstance(task, InverseProblem) or not (data.degraded and task.measures_noise and sources):
        return None
    if sources.get("task.sigma") == OVERRIDE:
        return None
    return estimate_sigma(task.inputs(replace(data, limit=MOST), shape))


def noise_notes(sigma: float | None) -> list[str]:
    """What the user should know of an estimated noise level."""
    if sigma is None:
        return []
    return [
        f"task.sigma={sigma:g} was estimated from the images ({127.5 * sigma:.2g} of 255); give task.sigma if known"
    ]


def check_shape(model: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError if a prior of this `image_shape` has no square images in colour."""
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"model={model} has points of shape {shape}, and run.py restores images (3, n, n): "
            "use dsg.samplers.sample, or dsg.studies.posterior (docs/theory.md)"
        )


def image_shape(model: str, prior: Prior, size: int | str | None) -> tuple[int | None, ...]:
    """(C, H, W) of a run's images, or (C, None, None) where each has its own size.

    Args:
        size: option data.size.

    Raises:
        ValueError: the prior does not take it.
    """
    shape = prior.image_shape
    if None in shape:
        if size in (None, "native"):
            return shape
        if size < 16:
            raise ValueError(f"data.size={size}: 16 or more, or native")
        return (shape[0], size, size)
    check_shape(model, shape)
    if size not in (None, shape[-1]):
        raise ValueError(f"data.size={size}: model={model} takes images of {shape[-1]}x{shape[-1]} only")
    return shape


def check_name(option: str, name: str) -> None:
    """Names become folders."""
    if not re.fullmatch(r"[\w-][\w.-]*", str(name)):
        raise ValueError(f"{option}={name}: letters, digits, '_', '-' and '.' only, since it names a folder")


def check_folders(out: Path, root: str | None) -> None:
    """Raises ValueError if `out` cannot be a folder, or lies below data.root: the next call would read it as inputs."""
    if out.resolve() == Path(out.resolve().anchor):
        raise ValueError(f"out={out} is the root of the file system: choose another out")
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir() or (there != out and not os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"out={out} cannot be made: {there} is no folder that can be written; choose another out")
    if root is None or not resolve(root).is_dir():
        return
    inside = out.resolve().is_relative_to(resolve(root).resolve())
    if inside:
        raise ValueError(f"out={out} lies inside data.root={root}: its images would become inputs; choose another out")


def build(config: DictConfig):
    """Instantiate, with the errors of the object itself rather than Hydra's."""
    try:
        return instantiate(config)
    except HydraException as error:
        cause = error.__cause__ or error
        if isinstance(cause, (ValueError, FileNotFoundError)):
            raise cause from None
        raise ValueError(f"{config.get('name', config.get('_target_'))}: {first_line(cause)}") from cause


def build_task(config: DictConfig) -> Task:
    """The task; with `assumed` options, the assumed one, whose measurements the true one makes."""
    task, assumed = build(config.task), config.get("assumed")
    if assumed and "mask" in assumed:
        raise ValueError("assumed.mask: your own mask belongs to the images; assume another masked_fraction or box")
    if assumed:
        task = assume(build(OmegaConf.merge(config.task, assumed)), task)
    if config.get("samples_of"):
        task.tries = config.samples_of
    return task


@cache
def load_once(config: str):
    """What a config (as JSON) describes, once per process however many runs use it."""
    return build(OmegaConf.create(json.loads(config)))


def load_once_from(config: DictConfig):
    return load_once(json.dumps(OmegaConf.to_container(config)))


def pick_device(name: str) -> torch.device:
    """Raises ValueError if the machine has no such device. Under torchrun, `auto` and `cuda` are the rank's own GPU."""
    local = local_rank()
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind, colon, index = str(name).partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and index.isdigit())):
        raise ValueError(f"device={name} is unknown: one of auto, cpu, cuda, cuda:<index>, mps")
    if kind == "cuda" and not colon and local is not None:
        index, name = str(local), f"cuda:{local}"
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps: not available on this machine")
    return torch.device(name)


def output_folder(config: DictConfig, owner: Mapping) -> Path:
    if config.out is not None:
        return Path(config.out).expanduser()
    run = f"{config.sampler.name}-{config.sampler.steps}-{short_hash(owner)}"
    return Path("results") / config.model.name / config.task.name / run
