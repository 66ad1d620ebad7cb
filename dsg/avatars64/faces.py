"""Faces of avatars64: drawn in parallel, and read from the shards that scripts/avatars64/render.py writes.

A shard is shard_<first index>_<count>_seed<seed>.npz with the images, and a .csv with their attributes.
"""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dsg.avatars64.attributes import draw_attributes
from dsg.avatars64.drawing import render
from dsg.files import REPOSITORY

DATA = REPOSITORY / "data/avatars64"
SHARD = 4096  # faces


def face(seed: int, split: str, index: int) -> tuple[dict[str, str], np.ndarray]:
    """Attributes and image of face `index` of a split."""
    attributes = draw_attributes(seed, split, index)
    return attributes, render(attributes)


def draw_faces(
    draw: Callable[[int], tuple], indices: range, description: str, pool: Executor
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Call `draw(index)` in parallel; return a table of the attributes it returns first, and stacks of its arrays."""
    results = tqdm(pool.map(draw, indices, chunksize=32), total=len(indices), desc=description, unit="face")
    attributes, *arrays = zip(*results)
    table = pd.DataFrame(attributes, index=pd.Index([f"{i:05d}" for i in indices], name="id"))
    return table, [np.stack(array) for array in arrays]


def read_shards(folder: Path, *names: str) -> tuple[pd.DataFrame, list[Tensor]]:
    """Attributes of all faces in `folder`, and the named arrays as uint8 tensors; images as [N, 3, 64, 64].

    Raises:
        FileNotFoundError: no shards; with the command that draws them.
        ValueError: shards of more than one set (`check_shards`).
    """
    shards = sorted(folder.glob("shard_*.npz"))
    if not shards:
        count = 2048 if folder.name == "identities" else 40960
        command = f"python scripts/avatars64/render.py {folder.name}={count}"
        raise FileNotFoundError(f"no faces in {folder}: run '{command}' first")
    check_shards(shards)
    table = pd.concat([pd.read_csv(s.with_suffix(".csv"), keep_default_na=False) for s in shards], ignore_index=True)
    arrays = [torch.from_numpy(np.concatenate([np.load(shard)[name] for shard in shards])) for name in names]
    return table, [array.permute(0, 3, 1, 2).contiguous() if array.ndim == 4 else array for array in arrays]


def check_shards(shards: Iterable[Path]) -> None:
    """Raise ValueError if they are not of one set: two overlap, or are of different seeds."""
    before, end, seed = None, 0, None
    for shard in sorted(shards):
        parts = re.fullmatch(r"shard_(\d+)_(\d+)_seed(-?\d+)", shard.stem)
        if parts is None:
            raise ValueError(f"{shard}: a name like shard_000000_{SHARD}_seed0.npz is expected")
        start, count, own = map(int, parts.groups())
        if before and (start < end or own != seed):
            why = "are of different seeds" if own != seed else "hold the same faces"
            raise ValueError(f"{before} and {shard.name} {why}: only one, with its .csv, can be in this folder")
        before, end, seed = shard, start + count, own
