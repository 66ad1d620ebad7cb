"""One cell: a prior, a task, a sampler, a set of images.

python run.py                                             # avatars64, random inpainting, DPS with DSG
python run.py task=super_resolution sampler=mpgd sampler.steps=50
python run.py -m task=inpaint,gaussian_deblur sampler=dps,dps_dsg
"""

import json
import sys
from functools import cache
from pathlib import Path

import hydra
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from dsg import images
from dsg.checkpoints import resolve
from dsg.results import Results, identity, short_hash
from dsg.runner import Cell, Failure, pending, run_cell
from dsg.tracking import MODES, log_cell


def run(config: DictConfig) -> list[Failure]:
    """Check everything, then run the cell and log it. Returns the images that failed."""
    check(config)
    device = pick_device(config.device)
    sampler, task = build(config.sampler), build(config.task)
    model = json.dumps(OmegaConf.to_container(config.model, resolve=True))
    size = config.model.unet.image_size if "unet" in config.model else load_prior(model).shape[-1]
    task.check((3, size, size))
    pictures = load_pictures(config, task, size)
    prior = load_prior(model)
    check_sampler(sampler, prior)
    cell = Cell(
        prior.to(device),
        task,
        sampler,
        pictures,
        config.data.degraded,
        config.samples,
        config.seed,
        config.batch_size,
        device,
    )
    resolved = OmegaConf.to_container(config, resolve=True)
    owner = identity(resolved, prior.weights_hash)
    results = Results(output_folder(config, owner), owner, resolved)
    todo = len(pending(cell, results))
    if todo == 0:
        print(f"finished already: {results.out}")
    with tqdm(
        total=todo * evaluations(sampler, prior), unit="step", desc=f"{task.name} {sampler.name}", disable=todo == 0
    ) as bar:
        failures = run_cell(cell, results, bar.update)
    summary = json.loads((results.out / "metrics.json").read_text())
    if todo and summary["images"]:
        log_cell(results, summary)
        report(summary, results)
    return failures


def check(config: DictConfig) -> None:
    for name, low in (("batch_size", 1), ("samples", 1)):
        value = config[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"{name}={value}: an integer, {low} or more")
    if not isinstance(config.seed, int) or config.seed < 0:
        raise ValueError(f"seed={config.seed}: an integer, 0 or more")
    limit = config.data.limit
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"data.limit={limit}: an integer, 1 or more, or null for all")
    if config.wandb.mode not in MODES:
        raise ValueError(f"wandb.mode={config.wandb.mode} is unknown: one of {', '.join(MODES)}")


def check_sampler(sampler, prior) -> None:
    prior.schedule.timesteps(sampler.steps, sampler.spacing)
    learned = getattr(getattr(prior, "net", None), "learn_sigma", False)
    if sampler.kernel == "ddpm" and sampler.variance == "learned_range" and not learned:
        raise ValueError("sampler.variance=learned_range, but this prior learned no variance: use fixed_small")


def build(config: DictConfig):
    """Instantiate, with the errors of the object itself rather than Hydra's."""
    try:
        return instantiate(config)
    except HydraException as error:
        cause = error.__cause__
        raise cause if isinstance(cause, (ValueError, FileNotFoundError)) else error from None


@cache
def load_prior(model: str):
    """One prior per process however many cells run."""
    return build(OmegaConf.create(json.loads(model)))


def pick_device(name: str) -> torch.device:
    """Raises ValueError if the machine has no such device."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    kind, _, index = str(name).partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()) or (index and kind != "cuda"):
        raise ValueError(f"device={name} is unknown: one of auto, cpu, cuda, cuda:<index>, mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps: not available on this machine")
    return torch.device(name)


def load_pictures(config: DictConfig, task, size: int) -> list[images.Picture]:
    side = task.measurement_size(size) if config.data.degraded else size
    pictures = images.load(resolve(config.data.root), side, config.data.limit)
    if getattr(task, "mask", None) is not None:
        task.masks = images.read_masks(resolve(task.mask), pictures, size)
    if config.data.degraded:
        task.given(images.to_tensor(pictures[:1]), [pictures[0].id], config.seed)  # refuses before any work
    return pictures


def evaluations(sampler, prior) -> int:
    return sum(sampler.repeats(step) for step in prior.schedule.steps(sampler.steps, sampler.spacing))


def output_folder(config: DictConfig, owner: dict) -> Path:
    if config.out is not None:
        return Path(config.out)
    return (
        Path("results")
        / owner["model"]["name"]
        / config.task.name
        / f"{config.sampler.name}-{config.sampler.steps}-{short_hash(owner)}"
    )


def report(summary: dict, results: Results) -> None:
    for name, m in summary["measures"].items():
        if m["mean"] is not None:
            print(f"{name:>20} {m['mean']:8.4f}  [{m['low']:.4f}, {m['high']:.4f}]")
    print(f"{summary['images']} images, {summary['seconds_per_image']:.2f} s each: {results.out}")


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config: DictConfig) -> None:
    try:
        failures = run(config)
    except (ValueError, FileNotFoundError, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for f in failures:
        print(f"failed: {f.id}: not finite at step {f.step_index} (t={f.t})", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
