"""Sets of avatars: drawn in parallel, written to a folder, read again.

Training faces are in shards of 4,096: shard_*.npz with the images, and a .csv with their attributes. The faces of `val`
and `test` are PNGs, with a label map and a second image of each person: another expression, glasses, clothing and
background.
"""

import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dsg.avatars64.attributes import VARIATIONS, draw_attributes, variation
from dsg.avatars64.drawing import render, render_parts
from dsg.checkpoints import REPOSITORY
from dsg.files import temporary_name, write_text

DATA = REPOSITORY / "data/avatars64"
SHARD = 4096
PALETTE = [235, 235, 235, 240, 170, 120, 110, 60, 30, 60, 100, 180]  # RGB of the label maps' PNGs


# --- drawn


def face(seed: int, split: str, index: int) -> tuple[dict, np.ndarray]:
    """Attributes and image of face `index` of a split."""
    attributes = draw_attributes(seed, split, index)
    return attributes, render(attributes)


def face_of_identity(seed: int, index: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """Face `index` of the identities: of person index // VARIATIONS, with its label map."""
    person, number = divmod(index, VARIATIONS)
    attributes = variation(draw_attributes(seed + 1, "train", person), seed, person, number)
    return {"identity": person, **attributes}, render(attributes), render_parts(attributes)


def drawn(
    make: Callable[[int], tuple], indices: range, description: str, pool: ProcessPoolExecutor
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Attributes of the faces, and what else `make(index)` returns, stacked."""
    made = tqdm(pool.map(make, indices, chunksize=32), total=len(indices), desc=description, unit="face")
    attributes, *arrays = zip(*made)
    table = pd.DataFrame(attributes, index=pd.Index([f"{i:05d}" for i in indices], name="id"))
    return table, [np.stack(array) for array in arrays]


# --- written


def write_faces(out: Path, split: str, count: int, seed: int, pool: ProcessPoolExecutor) -> None:
    """`count` faces of `split`, or 16 faces of `count` people if it is "identities", into the folder `out`."""
    if split == "train":
        write_shards(out / split, partial(face, seed, split), ("images",), seed, count, pool)
    elif split == "identities":
        make, names = partial(face_of_identity, seed), ("images", "parts")
        write_shards(out / split, make, names, seed, VARIATIONS * count, pool)
    else:
        write_pngs(out, seed, split, count, pool)


def write_shards(
    folder: Path, make: Callable[[int], tuple], names: tuple[str, ...], seed: int, count: int, pool: ProcessPoolExecutor
) -> None:
    """What `make(index)` returns for each index, under these names. A finished shard is left as it is.

    Raises:
        ValueError: shards are there that are no part of this set; nothing is drawn then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
    shards = {folder / f"shard_{part.start:06d}_{len(part)}_seed{seed}.npz": part for part in parts}
    check_shards({*folder.glob("shard_*.npz"), *shards})
    for shard, indices in shards.items():
        if shard.exists():
            continue
        table, arrays = drawn(make, indices, f"{folder.name} {indices.start}-{indices.stop - 1}", pool)
        write_text(shard.with_suffix(".csv"), table.to_csv())
        temporary = temporary_name(shard)
        with open(temporary, "wb") as file:
            np.savez(file, **dict(zip(names, arrays)))
        temporary.replace(shard)


def write_pngs(out: Path, seed: int, split: str, count: int, pool: ProcessPoolExecutor) -> None:
    """<split>/, <split>_parts/ (label maps), <split>_again/ (the same people), <split>_attributes.csv.

    What is there already is left as it is.

    Raises:
        ValueError: a file is there with other content; nothing is written then.
    """
    table, (images,) = drawn(partial(face, seed, split), range(count), split, pool)
    files = {}
    for name, row, image in zip(table.index, table.to_dict("records"), images):
        files[out / split / f"{name}.png"] = image
        files[out / f"{split}_parts" / f"{name}.png"] = render_parts(row)
        files[out / f"{split}_again" / f"{name}.png"] = render(variation(row, seed, int(name), 0))
    attributes, text = out / f"{split}_attributes.csv", table.to_csv()
    there = attributes.read_text() if attributes.exists() else ""
    same = text.startswith(there) or there.startswith(text)  # fewer rows, or more
    others = [] if same else [attributes]
    others += [path for path, pixels in files.items() if path.exists() and not np.array_equal(_pixels(path), pixels)]
    if others:
        raise ValueError(f"{others[0]} is there with other content: remove it, or draw into another folder (--out)")
    for path, pixels in files.items():
        if not path.exists():
            _write(path, png(pixels))
    if len(text) > len(there):
        write_text(attributes, text)


def png(pixels: np.ndarray) -> bytes:
    """The file of an image, uint8 [H, W, 3], or, in colours, of a label map, uint8 [H, W]."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if pixels.ndim == 2:
        image = image.convert("P")
        image.putpalette(PALETTE)
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def _pixels(path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.write_bytes(content)
    temporary.replace(path)


# --- read


def read_shards(folder: Path, *names: str) -> tuple[pd.DataFrame, list[Tensor]]:
    """Attributes of all faces in `folder`, and the named arrays as uint8 tensors; images as [N, 3, 64, 64].

    Raises:
        FileNotFoundError: no shards; with the command that draws them.
        ValueError: shards of more than one set (`check_shards`).
    """
    shards = shards_of(folder)
    table = pd.concat([pd.read_csv(s.with_suffix(".csv"), keep_default_na=False) for s in shards], ignore_index=True)
    return table, [_array(shards, name) for name in names]


def load_faces(folder: Path = DATA / "train") -> Tensor:
    """All training faces, uint8 [N, 3, 64, 64]; errors as those of `read_shards`."""
    return _array(shards_of(folder), "images")


def load_estimates(folder: Path) -> Tensor:
    """Estimates of the faces in `folder`, uint8 [N, 3, 64, 64], in their order.

    Raises:
        FileNotFoundError: there are not as many as faces; with the command that makes them.
    """
    estimated = [folder.with_name(f"{folder.name}_estimates") / shard.name for shard in shards_of(folder)]
    if not all(shard.exists() for shard in estimated):
        command = f"python scripts/avatars64/estimate.py {folder.name}"
        raise FileNotFoundError(f"no estimates of the faces in {folder}: run '{command}' first")
    return _array(estimated, "images")


def shards_of(folder: Path) -> list[Path]:
    """Files of the faces in `folder`, in their order; errors as those of `read_shards`."""
    shards = sorted(folder.glob("shard_*.npz"))
    if not shards:
        count = 2048 if folder.name == "identities" else 40960
        command = f"python scripts/avatars64/render.py {folder.name}={count}"
        raise FileNotFoundError(f"no faces in {folder}: run '{command}' first")
    check_shards(shards)
    return shards


def check_shards(shards: Iterable[Path]) -> None:
    """Raises ValueError if they are not of one set: two overlap, or are of different seeds."""
    before, end, seed = None, 0, None
    for shard in sorted(shards):
        named = re.fullmatch(r"shard_(\d+)_(\d+)_seed(-?\d+)", shard.stem)
        if named is None:
            raise ValueError(f"{shard}: a name like shard_000000_{SHARD}_seed0.npz is expected")
        start, count, own = map(int, named.groups())
        if before and (start < end or own != seed):
            why = "are of different seeds" if own != seed else "hold the same faces"
            raise ValueError(f"{before} and {shard.name} {why}: only one, with its .csv, can be in this folder")
        before, end, seed = shard, start + count, own


def _array(shards: list[Path], name: str) -> Tensor:
    array = torch.from_numpy(np.concatenate([np.load(shard)[name] for shard in shards]))
    return array.permute(0, 3, 1, 2).contiguous() if array.ndim == 4 else array
