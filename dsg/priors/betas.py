"""The betas that a network was trained with: by the name that guided-diffusion and diffusers use, or from a file."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsg.files import first_line, resolve
from dsg.schedule import linear_betas, scaled_linear_betas

SCHEDULES = ("linear", "cosine", "scaled_linear")


def betas_of(schedule: str, steps: int | None = None) -> Tensor:
    """Betas, float64 [steps].

    Args:
        schedule: linear (DDPM's, whose ends guided-diffusion scales with 1000/steps), cosine, scaled_linear (Stable
            Diffusion's), or a .npy file of betas [T].
        steps: T; None: 1000, or the length of the file.

    Raises:
        ValueError: unknown name, a file that holds no betas, or another number of them.
        FileNotFoundError: no such file.
    """
    if steps is not None and steps < 2:
        raise ValueError(f"model.train_steps={steps}: at least 2")
    if schedule.endswith(".npy"):
        return read_betas(resolve(schedule), steps)
    total = 1000 if steps is None else steps
    if schedule == "linear":
        return linear_betas(min(0.1 / total, 0.5), min(20 / total, 0.999), total)
    if schedule == "cosine":
        return cosine_betas(total)
    if schedule == "scaled_linear":
        return scaled_linear_betas(steps=total)
    raise ValueError(f"model.schedule={schedule} is unknown: one of {', '.join(SCHEDULES)}, or a .npy file of betas")


def cosine_betas(steps: int = 1000) -> Tensor:
    """Betas of Nichol & Dhariwal (arXiv 2102.09672, eq. 17), float64 [steps]; none is above 0.999."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def read_betas(path: Path, steps: int | None) -> Tensor:
    """The betas in a file; arguments and errors as of `betas_of`."""
    try:
        betas = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"model.schedule={path}: no such file") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"model.schedule={path} cannot be read: {first_line(error)}") from None
    if betas.ndim != 1 or betas.dtype.kind != "f" or len(betas) < 2 or not ((0 < betas) & (betas < 1)).all():
        raise ValueError(
            f"model.schedule={path}: expected betas between 0 and 1, [T]; it has {betas.dtype} {betas.shape}"
        )
    if steps not in (None, len(betas)):
        raise ValueError(f"model.schedule={path} has {len(betas)} betas, not model.train_steps={steps}")
    return torch.from_numpy(betas.astype(np.float64))
