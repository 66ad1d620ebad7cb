"""From a composed config to a cell and its results folder: everything that can be wrong is found here, before work starts."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dsg import images
from dsg.checkpoints import require, require_folder, resolve
from dsg.priors.diffusers_prior import saved_size
from dsg.results import Results, identity, short_hash
from dsg.runner import Cell, pending
from dsg.tracking import MODES


def prepare(config: DictConfig, out: Path | None = None) -> tuple[Cell, Results]:
    """The cell that `config` describes, and its folder (`out`, or the config's).

    Raises:
        ValueError, FileNotFoundError: one clear sentence; nothing has been written then.
    """
    check(config)
    device = pick_device(config.device)
    sampler, task = build(config.sampler), build(config.task)
    if "unet" in config.model:
        require(config.model.checkpoint, config.model.name)
    model = json.dumps(OmegaConf.to_container(config.model, resolve=True))
    size = picture_size(config, model)
    task.check((3, size, size))
    check_scaling(sampler, task, config.model)
    pictures = load_cases(config, task, size) if hasattr(task, "cases") else load_pictures(config, task, size)
    prior = load_once(model)
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
        load_evaluator(config, task),
    )
    resolved = OmegaConf.to_container(config, resolve=True)
    owner = identity(resolved, prior.weights_hash, getattr(task, "weights_hash", None))
    results = Results(out or output_folder(config, owner), owner, resolved)
    pending(cell, results)  # refuses pictures that have changed
    return cell, results


def check(config: DictConfig) -> None:
    for name, value, low in (
        ("batch_size", config.batch_size, 1),
        ("samples", config.samples, 1),
        ("seed", config.seed, 0),
        ("data.limit", 1 if config.data.limit is None else config.data.limit, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"{name}={value}: an integer, {low} or more" + " (or null: all)" * (name == "data.limit"))
    switches = {
        f"model.{k}": config.model[k]
        for k in ("bf16", "compile", "channels_last", "use_checkpoint")
        if k in config.model
    }
    for name, value in {"data.degraded": config.data.degraded, **switches}.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value}: true or false")
    check_wandb(config.wandb.mode)


def check_wandb(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"wandb.mode={mode} is unknown: one of {', '.join(MODES)}")
    if mode == "online" and "WANDB_API_KEY" not in os.environ:
        import wandb

        if not wandb.api.api_key:
            raise ValueError("wandb.mode=online needs a login: run 'wandb login', or use wandb.mode=offline")


def picture_size(config: DictConfig, model: str) -> int:
    """Side of the prior's pictures; a network is not loaded for it where a config says it."""
    if "unet" in config.model:
        return config.model.unet.image_size
    if "image_size" in config.model:
        require_folder(config.model.checkpoint, config.model.name)
        return config.model.image_size
    if str(config.model.get("_target_", "")).endswith("DiffusersPrior"):
        size = saved_size(require_folder(config.model.checkpoint, config.model.name))
        if size is not None:
            return size
    prior = load_once(model)
    shape = tuple(getattr(prior, "image_shape", prior.shape))
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"model={config.model.name} has points of shape {shape}, and run.py restores pictures (3, n, n): "
            "use dsg.samplers.sample, or dsg.ground_truth (docs/theory.md)"
        )
    return shape[-1]


def check_scaling(sampler, task, model: DictConfig) -> None:
    scaled = sampler.scaling == "text" and sampler.gradient_at and not sampler.spherical
    own = getattr(task, "prompt", None) if getattr(task, "prompts_prior", False) else None
    if scaled and not ("prompt" in model and (own or model.prompt)):
        raise ValueError("sampler.scaling=text needs a prior with a prompt (model=sd14): use gradient or noise")


def check_sampler(sampler, prior) -> None:
    prior.schedule.timesteps(sampler.steps, sampler.spacing)
    learned = getattr(prior, "learns_variance", True)  # a prior that does not say is asked at the first step
    if sampler.kernel == "ddpm" and sampler.variance == "learned_range" and not learned:
        raise ValueError("sampler.variance=learned_range, but this prior learned no variance: use fixed_small")


def build(config: DictConfig):
    """Instantiate, with the errors of the object itself rather than Hydra's."""
    try:
        return instantiate(config)
    except HydraException as error:
        cause = error.__cause__ or error
        if isinstance(cause, (ValueError, FileNotFoundError)):
            raise cause from None
        raise ValueError(f"{config.get('name', config.get('_target_'))}: {str(cause).splitlines()[0]}") from cause


@cache
def load_once(config: str):
    """What a config (as JSON) describes, once per process however many cells run."""
    return build(OmegaConf.create(json.loads(config)))


def pick_device(name: str) -> torch.device:
    """Raises ValueError if the machine has no such device."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    kind, colon, index = str(name).partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and index.isdigit())):
        raise ValueError(f"device={name} is unknown: one of auto, cpu, cuda, cuda:<index>, mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device=mps: not available on this machine")
    return torch.device(name)


def load_cases(config: DictConfig, task, size: int) -> list:
    """What a semantic task is conditioned on: references and prompts, all checked."""
    if config.data.degraded:
        raise ValueError(f"data.degraded=true: task={task.name} restores nothing")
    usual = OmegaConf.select(config, "task_overrides.clip_text.prompt")  # there whether or not a part takes it
    if task.prompt not in (None, usual) and "prompt" not in task.takes:
        raise ValueError(
            f"task.prompt={task.prompt}: no part of task={task.name} takes one"
            + " (model.prompt is the prior's)" * ("prompt" in config.model)
        )
    if task.prompts_prior and task.prompt is not None and config.model.get("prompt"):
        raise ValueError("task.prompt and model.prompt are both the prior's prompt: give one")
    if task.prompts_prior and not task.prompt_in_loss and task.prompt is not None and "prompt" not in config.model:
        raise ValueError(
            f"task={task.name} gives its prompt to the prior, and model={config.model.name} takes none: "
            "use model=sd14, or task=composite, which puts CLIP's distance into the loss"
        )
    found = task.cases(size, config.data.root, config.data.limit)
    task.to(pick_device(config.device))  # loads the guide, now that all input is known to be good
    return found


def load_evaluator(config: DictConfig, task):
    """Who judges the pictures of a semantic task, where the model has somebody."""
    if config.get("evaluator") is None or not getattr(task, "judged_as", ()):
        return None
    return load_once(json.dumps(OmegaConf.to_container(config.evaluator, resolve=True)))


def load_pictures(config: DictConfig, task, size: int) -> list[images.Picture]:
    """The pictures at the size the prior, or the operator that degraded them, asks for; their masks with them."""
    if config.data.root is None:
        raise ValueError("data.root is null: give a folder of pictures")
    mask = getattr(task, "mask", None)
    side = task.measurement_size(size) if config.data.degraded else size
    exact = config.data.degraded and mask is None  # resizing would change the blur, or the factor
    filter = images.AVERAGE if config.data.degraded else images.ANTIALIAS
    pictures = images.load(resolve(config.data.root), side, config.data.limit, filter, exact)
    if mask is not None:
        task.masks = images.read_masks(resolve(mask), pictures, size)
        pictures = [replace(p, mask=task.masks[p.id]) for p in pictures]
    if config.data.degraded:
        task.given(images.to_tensor(pictures[:1]), [pictures[0].id], config.seed)  # whether its operator is known
    return pictures


def output_folder(config: DictConfig, owner: dict) -> Path:
    if config.out is not None:
        return Path(config.out)
    cell = f"{config.sampler.name}-{config.sampler.steps}-{short_hash(owner)}"
    return Path("results") / owner["model"]["name"] / config.task.name / cell
