"""Render the avatars64 faces: vector faces from `python-avatars` (MIT) at 64 px on random plain backgrounds.

    python scripts/make_avatars.py train=40960           # data/avatars64/train/shard_*.npz + .csv (not in git)
    python scripts/make_avatars.py val=64 test=256       # the PNGs that the repository ships, with attributes.csv

Face i of a split is a function of (seed, split, i) alone, so any shard can be rendered again on its own; a finished
shard is left as it is. An identity is (skin, hair, hair colour, facial hair, nose). Each identity belongs to
exactly one split, by a hash of its names: no face, and no person, of `val` or `test` is ever seen in training.
"""

import argparse
import hashlib
import io
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import python_avatars as pa
import resvg_py
from PIL import Image
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY

SIZE = 64
VIEW_BOX = "22 10 220 220"  # of the 264 x 280 drawing: head and shoulders, square
SHARD = 4096
IDENTITY = ("skin", "hair", "hair_color", "facial_hair", "nose")
SPLITS = {"train": range(0, 80), "val": range(80, 90), "test": range(90, 100)}  # percent of the identities

# Left out: hair that has no colour, or covers the face so that its other attributes cannot be seen.
HIDDEN_HAIR = {
    "NONE",
    "ASTRONAUT",
    "BRIDE",
    "CURLY_2",
    "FRIDA",
    "HAT",
    "LONG_HAIR_CURLY",
    "LOOSE_HAIR",
    "SHAVED_SIDES",
    "STRAIGHT_2",
}
CHOICES = {
    "skin": [e.name for e in pa.SkinColor],
    "hair": [e.name for e in pa.HairType if e.name not in HIDDEN_HAIR],
    "hair_color": [e.name for e in pa.HairColor],
    "facial_hair": [e.name for e in pa.FacialHairType],
    "nose": [e.name for e in pa.NoseType],
    "eyes": [e.name for e in pa.EyeType],
    "eyebrows": [e.name for e in pa.EyebrowType if e.name != "NONE"],
    "mouth": [e.name for e in pa.MouthType if e.name != "VOMIT"],
    "accessory": [e.name for e in pa.AccessoryType],
    "clothing": [e.name for e in pa.ClothingType if e.name not in ("NONE", "GRAPHIC_SHIRT")],
    "clothing_color": [e.name for e in pa.ClothingColor],
}
MOSTLY_NONE = {"facial_hair": 0.5, "accessory": 0.6}  # probability of NONE; the rest is uniform


def split_of(attributes: dict) -> str:
    """The split that an identity belongs to, from a hash of its names (stable across machines and versions)."""
    key = "/".join(attributes[name] for name in IDENTITY)
    percent = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return next(split for split, part in SPLITS.items() if percent in part)


def draw_attributes(seed: int, split: str, index: int) -> dict:
    """Attributes of face `index` of `split`, drawn until the identity falls in that split."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    while True:
        attributes = {}
        for name, choices in CHOICES.items():
            none = MOSTLY_NONE.get(name)
            choices = choices if none is None else [c for c in choices if c != "NONE"]
            attributes[name] = "NONE" if none and rng.random() < none else str(rng.choice(choices))
        attributes["background"] = "#{:02x}{:02x}{:02x}".format(*rng.integers(0, 256, 3))
        if split_of(attributes) == split:
            return attributes


def render(attributes: dict, size: int = SIZE) -> np.ndarray:
    """Rasterise one face: uint8 [size, size, 3]."""
    a = attributes
    svg = pa.Avatar(
        style=pa.AvatarStyle.TRANSPARENT,
        top=pa.HairType[a["hair"]],
        hair_color=pa.HairColor[a["hair_color"]],
        facial_hair=pa.FacialHairType[a["facial_hair"]],
        facial_hair_color=pa.HairColor[a["hair_color"]],
        skin_color=pa.SkinColor[a["skin"]],
        nose=pa.NoseType[a["nose"]],
        eyes=pa.EyeType[a["eyes"]],
        eyebrows=pa.EyebrowType[a["eyebrows"]],
        mouth=pa.MouthType[a["mouth"]],
        accessory=pa.AccessoryType[a["accessory"]],
        clothing=pa.ClothingType[a["clothing"]],
        clothing_color=pa.ClothingColor[a["clothing_color"]],
    ).render()
    framed = 'width="264px" height="280px" viewBox="0 0 264 280"'
    if framed not in svg:
        raise RuntimeError("python-avatars draws in another frame than 264 x 280: see constraints.txt for the version")
    svg = svg.replace(framed, f'width="{size}px" height="{size}px" viewBox="{VIEW_BOX}"', 1)
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, background=a["background"], skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def face(seed: int, split: str, index: int) -> tuple[dict, np.ndarray]:
    attributes = draw_attributes(seed, split, index)
    return attributes, render(attributes)


def faces(seed: int, split: str, indices: range, pool: ProcessPoolExecutor) -> tuple[pd.DataFrame, np.ndarray]:
    drawn = tqdm(
        pool.map(partial(face, seed, split), indices, chunksize=32),
        total=len(indices),
        desc=f"{split} {indices.start}-{indices.stop - 1}",
        unit="face",
    )
    attributes, images = zip(*drawn)
    table = pd.DataFrame(attributes, index=pd.Index([f"{i:05d}" for i in indices], name="id"))
    return table, np.stack(images)


def write_train(out: Path, seed: int, count: int, pool: ProcessPoolExecutor) -> None:
    folder = out / "train"
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, SHARD):
        indices = range(start, min(start + SHARD, count))
        shard = folder / f"shard_{start:06d}_{len(indices)}_seed{seed}.npz"
        if shard.exists():
            continue
        table, images = faces(seed, "train", indices, pool)
        table.to_csv(shard.with_suffix(".csv"))
        partial_file = shard.with_name(shard.name + ".partial")
        with open(partial_file, "wb") as f:
            np.savez(f, images=images)
        partial_file.rename(shard)


def write_pngs(out: Path, seed: int, split: str, count: int, pool: ProcessPoolExecutor) -> None:
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    table, images = faces(seed, split, range(count), pool)
    for name, image in zip(table.index, images):
        Image.fromarray(image).save(folder / f"{name}.png", optimize=True)
    table.to_csv(out / f"{split}_attributes.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="+", metavar="split=count", help="train=N, val=N or test=N")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data/avatars64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    args = parser.parse_args()
    counts = {}
    for word in args.counts:
        split, _, count = word.partition("=")
        if split not in SPLITS or not count.isdigit() or int(count) == 0:
            parser.error(f"{word!r}: expected split=count with split one of {', '.join(SPLITS)} and count > 0")
        counts[split] = int(count)
    with ProcessPoolExecutor(args.workers) as pool:
        for split, count in counts.items():
            if split == "train":
                write_train(args.out, args.seed, count, pool)
            else:
                write_pngs(args.out, args.seed, split, count, pool)


if __name__ == "__main__":
    main()
