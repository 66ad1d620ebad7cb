"""A few lines of Python instead of a command: `dsg.load` a prior, `dsg.restore` an image, `dsg.guide` a pipeline."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # importing torch takes seconds
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from dsg.priors.base import Prior
    from dsg.priors.latent import LatentPrior
    from dsg.samplers.base import Callback
    from dsg.types import Input
    from tasks.base import Task


class Restored(NamedTuple):
    """uint8 [H, W, 3] images: the restored one, and an image of the y that it was made from ([h, w, 3])."""

    image: np.ndarray
    measurement: np.ndarray


def load(model: str = "avatars64", overrides: Sequence[str] = ()) -> "Prior":
    """The prior of configs/model/<model>.yaml, once per process.

    Args:
        overrides: as on the command line, `["model.checkpoint=weights.pt"]`.

    Raises:
        ValueError, FileNotFoundError: one line; missing weights are named with the command that gets them.
    """
    from dsg import config
    from dsg.runs.prepare import load_once_from

    return load_once_from(config.load([f"model={model}", *overrides]).model).load()


def from_pipeline(
    pipe: "DiffusionPipeline",
    prompt: str | None = None,
    cfg: float | None = None,
    image_size: int | None = None,
    **embeddings: "Tensor",
) -> "LatentPrior":
    """A pipeline of diffusers in memory as a prior: Stable Diffusion 1, 2, XL, 3 and 3.5, FLUX.1.

    Its networks stay where they are, take no parameter gradients from then on, and recompute activations in backward
    passes.

    Args:
        prompt: what the images should show.
        cfg: scale of guidance by text; None: 5 (SD 3: 4.5; FLUX: 3.5).
        image_size: side in pixels; None: the one that the network was trained at.
        embeddings: instead of a prompt, [1, ...] or [B, ...]: `prompt_embeds`, `pooled_prompt_embeds`, and
            `negative_prompt_embeds`, `negative_pooled_prompt_embeds` where the encoders are not loaded.

    Raises:
        ValueError: another pipeline, or an option out of range.
    """
    import dsg.priors.flow_transformers
    import dsg.priors.stable_diffusion  # noqa: F401
    from dsg.priors.latent import LatentPrior

    family = next((kind for kind in LatentPrior.__subclasses__() if kind.fits(pipe)), None)
    if family is None:
        raise ValueError(f"{type(pipe).__name__}: its network is none of Stable Diffusion 1, 2, XL, 3 and FLUX.1")
    size = getattr(pipe, family.network).config.get("sample_size") or pipe.default_sample_size
    side = image_size or size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    scale = family.usual_cfg if cfg is None else cfg
    return family(type(pipe).__name__, pipe, prompt, scale, side, embeddings=embeddings).load()


class _Loss(NamedTuple):
    """A function of images as a task."""

    of_images: "Callable[[Tensor], Tensor]"

    def loss(self, images: "Tensor", condition: None) -> "Tensor":
        return self.of_images(images)


def guide(
    pipe: "DiffusionPipeline",
    loss: "Callable[[Tensor], Tensor]",
    prompt: str | Sequence[str] | None = None,
    sampler: str = "freedom_dsg",
    overrides: Sequence[str] = (),
    image: "Tensor | None" = None,
    cfg: float | None = None,
    image_size: int | None = None,
    callback: "Callback | None" = None,
    **embeddings: "Tensor",
) -> "Tensor":
    """Sample a pipeline of diffusers under the guidance of a loss.

    Args:
        pipe: see `from_pipeline`; so are cfg, image_size and embeddings.
        loss: differentiable, images [B, 3, H, W] in about [-1, 1] -> [B].
        prompt: one, or one for each image.
        sampler: name of a config.
        overrides: as on the command line, `["sampler.steps=20", "sampler.guidance_rate=0.1", "seed=1"]`.
        image: [B, 3, H, W] in [-1, 1] to begin from, at `sampler.start_t=600`.
        callback: called with every step's state, as of `dsg.samplers.sample`.

    Returns:
        images [B, 3, H, W], in [-1, 1], on the pipeline's device.

    Raises:
        ValueError: one line.
    """
    import torch

    from dsg import config
    from dsg.noise import ImageNoise
    from dsg.priors.base import CountedPrior
    from dsg.runs.prepare import build
    from dsg.samplers import sample

    prompts = prompt if prompt is None or isinstance(prompt, str) else list(prompt)
    prior = from_pipeline(pipe, prompts if isinstance(prompts, str) else None, cfg, image_size, **embeddings)
    spacing = "trailing" if prior.schedule.path == "flow" else "leading"
    own = ["model=diffusers", f"sampler={sampler}", "sampler.clip_denoised=false", f"sampler.spacing={spacing}"]
    chosen = config.load([*own, *overrides])
    method, task = build(chosen.sampler), _Loss(loss)
    method.check(prior, task)
    if (image is None) != (getattr(method, "start_t", None) is None):
        raise ValueError("an image to begin from and sampler.start_t=<t> are given together")
    given = [image, *embeddings.values(), prompts if isinstance(prompts, list) else None]
    count = max((len(one) for one in given if one is not None), default=1)
    device = next(prior.net.parameters()).device
    noise = ImageNoise(chosen.seed, [str(k) for k in range(count)], [0] * count, prior.shape, device)
    with torch.no_grad():
        x_T = noise.start() if image is None else method.noised(prior, image.to(device), noise.start())
    x0 = sample(
        CountedPrior(prior, None if isinstance(prompts, str) else prompts), task, None, method, x_T, noise, callback
    )
    with torch.no_grad():
        return prior.decode(x0).clamp(-1, 1)


def restore(
    image: str | Path | np.ndarray,
    task: str = "inpaint",
    sampler: str = "dps_dsg",
    model: str = "avatars64",
    overrides: Sequence[str] = (),
    degraded: bool = False,
    mask: np.ndarray | None = None,
    callback: "Callback | None" = None,
) -> Restored:
    """Degrade an image by the task, and restore it; or restore one that is degraded already.

    Args:
        image: file, or uint8 [H, W, 3]. For a prior of any size (photos) it stays as it is; else it is cropped to its
            central square and reduced to the prior's size, unless it is degraded already.
        task, sampler, model: names of configs, with the values that run.py would take.
        overrides: as on the command line, `["sampler.steps=20", "seed=1"]`.
        degraded: the image is the measurement (super-resolution makes it larger); for a prior of one size it is square.
            Its noise level is estimated, unless `overrides` has task.sigma.
        mask: [H, W], nonzero = observed, of the restored image's size, for inpainting; None: it is drawn.
        callback: called with every step's state (`x0`, `x_prev`, ...), as of `dsg.samplers.sample`.

    Raises:
        ValueError, FileNotFoundError: one line.
    """
    import torch

    from dsg import config
    from dsg.noise import ImageNoise
    from dsg.runs.prepare import build, build_task, image_shape, load_once_from, pick_device
    from dsg.runs.tries import best_try
    from dsg.samplers import sample
    from dsg.types import Data, to_uint8
    from tasks.inverse import InverseProblem
    from tasks.noise_level import estimate_sigma

    options = [f"model={model}", f"task={task}", f"sampler={sampler}", *overrides]
    chosen, sources = config.load_with_sources(options)
    prior, operator, method = load_once_from(chosen.model), build_task(chosen), build(chosen.sampler)
    if not isinstance(operator, InverseProblem):
        raise ValueError(f"task={task} restores no image, which dsg.restore does: python run.py task={task}")
    shape = image_shape(model, prior, chosen.data.size)
    given = _input(image, operator, shape, degraded, mask)
    shape = operator.image_shape(given, shape)
    operator.check(shape)
    operator.check_made_by(Data(degraded=degraded), shape)
    if degraded and operator.measures_noise and sources["task.sigma"] != config.OVERRIDE:
        operator.sigma = estimate_sigma([given])
    method.check(prior, operator)
    device = pick_device(chosen.device)
    prior, condition = prior.to(device), operator.condition([given], chosen.seed)
    on_device = {key: value.to(device) for key, value in condition.items()}

    def one_try(number: int) -> torch.Tensor:
        noise = ImageNoise(chosen.seed, [given.id], [number], shape if None in prior.shape else prior.shape, device)
        x_T = method.start(prior, operator, on_device, noise.start())
        return sample(prior, operator, on_device, method, x_T, noise, callback)

    x0, _ = best_try(operator, prior, on_device, one_try)
    if not torch.isfinite(x0).all():
        raise ValueError(f"sampler={sampler}: the image is not finite; a smaller step may help")
    with torch.no_grad():
        restored = to_uint8(operator.finish(prior.decode(x0).clamp(-1, 1), on_device))[0]
    return Restored(restored, operator.condition_image(given, condition))


def _input(image, operator: "Task", shape: Sequence[int], degraded: bool, mask: np.ndarray | None) -> "Input":
    """What `restore` was given, checked, for images of `shape` (C, H, W), or (C, None, None): of any."""
    import torch

    from dsg import image_files as images
    from dsg.types import Input
    from tasks.linear import Inpainting

    side, inpaints = shape[-1], isinstance(operator, Inpainting)
    if inpaints and operator.mask is not None:
        raise ValueError("task.mask is for run.py: give dsg.restore mask=<array> (nonzero = observed)")
    if mask is not None and not inpaints:
        raise ValueError(f"task={operator.name} takes no mask")
    pixels = images.as_array(image, None if degraded else side)
    size = (side, side) if side else pixels.shape[:2]
    if mask is not None and (np.shape(mask) != size or not np.any(mask)):
        raise ValueError(f"mask: {list(size)} is expected, nonzero = observed, and not all of it 0")
    given = None if mask is None else torch.from_numpy(np.asarray(mask) != 0).float()[None, None]
    if not degraded:
        return Input("image", truth=pixels, mask=given)
    if inpaints and mask is None:
        raise ValueError(f"task={operator.name} with degraded=True needs mask=<array> (nonzero = observed)")
    if not inpaints:
        operator.check_degraded(shape)
    wanted = side and operator.measurement_size(side)
    if side and pixels.shape[:2] != (wanted, wanted):
        found = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise ValueError(f"degraded=True: the image is {found}, and that of task={operator.name} {wanted}x{wanted}")
    return Input("image", measurement=pixels, mask=given)
