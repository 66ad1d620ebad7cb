"""A few lines of Python instead of a command: `dsg.load` a prior, `dsg.restore` an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # importing torch takes seconds
    from dsg.priors.base import Prior


class Restored(NamedTuple):
    """uint8 [H, W, 3] images: the restored one, and a picture of the y that it was made from ([h, w, 3])."""

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


def restore(
    image: str | Path | np.ndarray,
    task: str = "inpaint",
    sampler: str = "dps_dsg",
    model: str = "avatars64",
    overrides: Sequence[str] = (),
    degraded: bool = False,
    mask: np.ndarray | None = None,
) -> Restored:
    """Degrade an image by the task, and restore it; or restore one that is degraded already.

    Args:
        image: file, or uint8 [H, W, 3]; cropped to its central square and reduced to the prior's size.
        task, sampler, model: names of configs, with the values that run.py would take.
        overrides: as on the command line, `["sampler.steps=20", "seed=1"]`.
        degraded: the image is the measurement; it must have its size.
        mask: [H, W], nonzero = observed, of the prior's size: of an image that is degraded already.

    Raises:
        ValueError, FileNotFoundError: one line.
    """
    import torch

    from dsg import config
    from dsg.noise import ImageNoise
    from dsg.runs import images
    from dsg.runs.inputs import Input, to_tensor, to_uint8
    from dsg.runs.prepare import build, build_task, load_once_from, pick_device
    from dsg.runs.tries import best_try
    from dsg.samplers import sample

    chosen = config.load([f"model={model}", f"task={task}", f"sampler={sampler}", *overrides])
    prior, operator, method = load_once_from(chosen.model), build_task(chosen), build(chosen.sampler)
    operator.check(prior.image_shape)
    method.check(prior, operator)
    device = pick_device(chosen.device)
    prior, name = prior.to(device), "image"
    if degraded:
        given = {} if mask is None else {"mask": torch.from_numpy(mask != 0).float()[None, None]}
        condition = operator.observed(to_tensor([images.as_array(image)]), **given)
        condition = {**condition, "y": operator.observed_part(condition["y"], condition)}
    else:
        pixels = images.as_array(image, prior.image_shape[-1])
        condition = operator.degrade(to_tensor([pixels]), [name], chosen.seed)
    on_device = {key: value.to(device) for key, value in condition.items()}

    def one_try(number: int) -> torch.Tensor:
        noise = ImageNoise(chosen.seed, [name], [number], prior.shape, device)
        x_T = method.start(prior, operator, on_device, noise.start())
        return sample(prior, operator, on_device, method, x_T, noise)

    x0, _ = best_try(operator, prior, on_device, one_try)
    with torch.no_grad():
        restored = to_uint8(prior.decode(x0))[0]
    return Restored(restored, operator.picture(Input(name), condition))
