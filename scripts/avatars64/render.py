"""Draw the faces of avatars64: vector faces from `python-avatars` (MIT) at 64 px on random plain backgrounds.

    python scripts/avatars64/render.py train=40960        # data/avatars64/train/shard_*.npz + .csv (not in git)
    python scripts/avatars64/render.py identities=2048    # training identities, 16 images of each (not in git)
    python scripts/avatars64/render.py val=64 test=256    # the PNGs that the repository ships, with attributes.csv

Face i of a split is a function of (seed, split, i) alone. Each identity belongs to one split: no person of `val` or
`test` is seen in training. `val` and `test` are PNGs, with a label map and a second image of each person: another
expression, glasses, clothing and background. What is there already is left as it is, so a stopped command goes on; a
PNG with other content is not overwritten.
"""

import argparse
import io
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64 import faces
from dsg.avatars64.attributes import SPLITS, VARIATIONS, draw_attributes, variation
from dsg.avatars64.drawing import check_extra, render, render_parts
from dsg.avatars64.faces import DATA, check_shards, draw_faces, face
from dsg.files import temporary_name, write_text

PALETTE = [235, 235, 235, 240, 170, 120, 110, 60, 30, 60, 100, 180]  # RGB of the label maps' PNGs


def face_of_identity(seed: int, index: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """Face `index` of the identities: of person index // VARIATIONS, with its label map."""
    person, number = divmod(index, VARIATIONS)
    attributes = variation(draw_attributes(seed + 1, "train", person), seed, person, number)
    return {"identity": person, **attributes}, render(attributes), render_parts(attributes)


def write_faces(out: Path, split: str, count: int, seed: int, pool: Executor) -> None:
    """Write `count` faces of `split`, or 16 faces of `count` people if it is "identities", to the folder `out`."""
    if split == "train":
        write_shards(out / split, partial(face, seed, split), ("images",), seed, count, pool)
    elif split == "identities":
        draw, names = partial(face_of_identity, seed), ("images", "parts")
        write_shards(out / split, draw, names, seed, VARIATIONS * count, pool)
    else:
        write_pngs(out, seed, split, count, pool)


def write_shards(
    folder: Path, draw: Callable[[int], tuple], names: tuple[str, ...], seed: int, count: int, pool: Executor
) -> None:
    """Write what `draw(index)` returns for each index, under these names. A finished shard is left as it is.

    Raises:
        ValueError: shards are there that are no part of this set; nothing is drawn then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [range(start, min(start + faces.SHARD, count)) for start in range(0, count, faces.SHARD)]
    shards = {folder / f"shard_{part.start:06d}_{len(part)}_seed{seed}.npz": part for part in parts}
    check_shards({*folder.glob("shard_*.npz"), *shards})
    for shard, indices in shards.items():
        if not shard.exists():
            table, arrays = draw_faces(draw, indices, f"{folder.name} {indices.start}-{indices.stop - 1}", pool)
            write_text(shard.with_suffix(".csv"), table.to_csv())
            file = io.BytesIO()
            np.savez(file, **dict(zip(names, arrays)))
            write(shard, file.getvalue())


def write_pngs(out: Path, seed: int, split: str, count: int, pool: Executor) -> None:
    """Write <split>/, <split>_parts/ (label maps), <split>_again/ (the same people), <split>_attributes.csv.

    Raises:
        ValueError: a file is there with other content; nothing is written then.
    """
    table, (images,) = draw_faces(partial(face, seed, split), range(count), split, pool)
    files = {}
    for name, row, image in zip(table.index, table.to_dict("records"), images):
        files[out / split / f"{name}.png"] = image
        files[out / f"{split}_parts" / f"{name}.png"] = render_parts(row)
        files[out / f"{split}_again" / f"{name}.png"] = render(variation(row, seed, int(name), 0))
    attributes, text = out / f"{split}_attributes.csv", table.to_csv()
    there = attributes.read_text() if attributes.exists() else ""
    same = text.startswith(there) or there.startswith(text)  # fewer rows, or more
    others = [] if same else [attributes]
    others += [path for path, pixels in files.items() if path.exists() and not np.array_equal(read(path), pixels)]
    if others:
        raise ValueError(f"{others[0]} is there with other content: remove it, or draw into another folder (--out)")
    for path, pixels in files.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, png(pixels))
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


def read(path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def write(path: Path, content: bytes) -> None:
    temporary = temporary_name(path)
    temporary.write_bytes(content)
    temporary.replace(path)


def split_and_count(word: str) -> tuple[str, int]:
    split, _, count = word.partition("=")
    known = ("identities", *SPLITS)
    if split not in known or not count.isdecimal() or int(count) == 0:
        expected = f"split=count with split one of {', '.join(known)} and count > 0"
        raise argparse.ArgumentTypeError(f"{word}: expected is {expected}")
    return split, int(count)


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("counts", nargs="+", type=split_and_count, metavar="split=count", help="of faces; of people if identities")
    add("--out", type=Path, default=DATA, help="folder (data/avatars64)")
    add("--seed", type=int, default=0, help="0 is that of the shipped faces")
    add("--workers", type=positive, help="processes (all cores)")
    args = parser.parse_args()
    check_extra()
    with ProcessPoolExecutor(args.workers) as pool:
        for split, count in args.counts:
            write_faces(args.out, split, count, args.seed, pool)


if __name__ == "__main__":
    sys.exit(exit_code(main))
