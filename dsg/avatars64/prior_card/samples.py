"""Unconditional samples, and their nearest training faces."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor
from tqdm import tqdm

from dsg import config
from dsg.noise import ImageNoise
from dsg.samplers import sample
from dsg.types import to_uint8

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def unconditional(prior, count: int, steps: int, name: str) -> np.ndarray:
    """uint8 [count, H, W, 3], batch by batch."""
    loaded = config.load(["model=avatars64", "sampler=unconditional", f"sampler.steps={steps}"])
    sampler = instantiate(loaded.sampler)
    made = []
    with tqdm(total=count, desc=f"samples, {name}", unit="sample") as bar:
        for start in range(0, count, 16):
            ids = [f"{name}{i}" for i in range(start, min(start + 16, count))]
            noise = ImageNoise(0, ids, [0] * len(ids), prior.shape)
            x_T = sampler.start(prior, None, None, noise.start())
            made.append(to_uint8(sample(prior, None, None, sampler, x_T, noise)))
            bar.update(len(ids))
    return np.concatenate(made)


def nearest(queries: np.ndarray, faces: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Nearest training face of each query by L2 on pixels, and the RMS distances in [-1, 1]."""
    q = torch.from_numpy(queries).flatten(1).float()
    best, index = torch.full((len(q),), float("inf")), torch.zeros(len(q), dtype=torch.long)
    for start in range(0, len(faces), 4096):
        part = faces[start : start + 4096].permute(0, 2, 3, 1).flatten(1).float()
        d, i = torch.cdist(q, part, compute_mode="use_mm_for_euclid_dist").min(1)
        index, best = torch.where(d < best, i + start, index), torch.minimum(d, best)
    found = faces[index].permute(0, 2, 3, 1).numpy()
    return found, (best / q.shape[1] ** 0.5 / 127.5).numpy()


def sheet(samples: np.ndarray, found: np.ndarray, path: Path, columns: int = 6) -> None:
    rows = -(-len(samples) // columns)
    fig, axes = plt.subplots(rows, 2 * columns, figsize=(2.1 * columns, 1.12 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, pair in enumerate(zip(samples, found)):
        for j, one in enumerate(pair):
            ax = axes[i // columns, 2 * (i % columns) + j]
            ax.imshow(one, interpolation="nearest")
            if i < columns:
                ax.set_title(("sample", "nearest")[j], fontsize=7)
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.96, wspace=0.04, hspace=0.04)
    fig.savefig(path, dpi=110)
    plt.close(fig)
