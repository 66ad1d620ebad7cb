"""Render the avatars64 faces: vector faces from `python-avatars` (MIT) at 64 px on random plain backgrounds.

    python scripts/make_avatars.py train=40960           # data/avatars64/train/shard_*.npz + .csv (not in git)
    python scripts/make_avatars.py identities=2048       # training identities in 16 variations each (not in git)
    python scripts/make_avatars.py val=64 test=256       # the PNGs that the repository ships, with attributes.csv

Face i of a split is a function of (seed, split, i) alone, so any shard can be rendered again on its own; a finished
shard is left as it is. An identity is (skin, hair, hair colour, facial hair, nose). Each identity belongs to
exactly one split, by a hash of its names: no face, and no person, of `val` or `test` is ever seen in training.

With every face comes a label map of its parts (0 background, 1 face, 2 hair, 3 clothes), drawn from the same vectors; `val` and
`test` come with a second picture of each person: another expression, glasses, clothing, background.
"""

import argparse
import hashlib
import io
import xml.etree.ElementTree as ElementTree
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
VARIATIONS = 16  # of a training identity
PARTS = ("background", "face", "hair", "clothes")  # glasses belong to the face, beards to the hair
PART_COLORS = ("#000000", "#ff0000", "#00ff00", "#0000ff")  # far apart, for `render_parts`
PALETTE = [235, 235, 235, 240, 170, 120, 110, 60, 30, 60, 100, 180]  # of the label maps' PNGs
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
        attributes = _draw(rng)
        if split_of(attributes) == split:
            return attributes


def variation(attributes: dict, seed: int, index: int, number: int) -> dict:
    """The same person, number `number` of face `index`: all but the identity is drawn again."""
    drawn = _draw(np.random.default_rng([seed, 77, index, number]))
    return {**drawn, **{name: attributes[name] for name in IDENTITY}}


def _draw(rng: np.random.Generator) -> dict:
    attributes = {}
    for name, choices in CHOICES.items():
        none = MOSTLY_NONE.get(name)
        choices = choices if none is None else [c for c in choices if c != "NONE"]
        attributes[name] = "NONE" if none and rng.random() < none else str(rng.choice(choices))
    attributes["background"] = "#{:02x}{:02x}{:02x}".format(*rng.integers(0, 256, 3))
    return attributes


def render(attributes: dict, size: int = SIZE) -> np.ndarray:
    """Rasterise one face: uint8 [size, size, 3]."""
    return _rasterise(_svg(attributes), size, attributes["background"])


def render_parts(attributes: dict, size: int = SIZE) -> np.ndarray:
    """Label map of one face: uint8 [size, size], indices of PARTS; the topmost part counts."""
    root = ElementTree.fromstring(_svg({**attributes, "accessory": "NONE"}))
    root.set("shape-rendering", "crispEdges")
    _paint(root, None)
    pixels = _rasterise(ElementTree.tostring(root, encoding="unicode"), size, PART_COLORS[0]).astype(int)
    colors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PART_COLORS])
    return np.abs(pixels[:, :, None] - colors).sum(-1).argmin(-1).astype(np.uint8)


def _paint(element, part: int | None) -> None:
    """Give everything that is drawn the colour of its part; shadows are left out, masks stay."""
    name = element.get("id") or ""
    for suffix, index in (("_Body", 1), ("_Face", 1), ("_Top", 2), ("_Clothing", 3)):
        part = index if part is None and name.endswith(suffix) else part
    if element.tag.rpartition("}")[2] in ("mask", "defs", "clipPath", "filter"):
        return
    faint = any(float(element.get(key, 1)) < 0.5 for key in ("opacity", "fill-opacity"))
    for key in ("opacity", "fill-opacity", "filter"):
        element.attrib.pop(key, None)
    for key in ("fill", "stroke"):
        if part is not None and element.get(key, "none") != "none":
            element.set(key, "none" if faint and part != 1 else PART_COLORS[part])
    for child in list(element):
        if faint and part != 1:
            element.remove(child)
        else:
            _paint(child, part)


def _svg(attributes: dict) -> str:
    a = attributes
    return pa.Avatar(
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


def _rasterise(svg: str, size: int, background: str) -> np.ndarray:
    framed = 'width="264px" height="280px" viewBox="0 0 264 280"'
    if framed not in svg:
        raise RuntimeError("python-avatars draws in another frame than 264 x 280: see constraints.txt for the version")
    svg = svg.replace(framed, f'width="{size}px" height="{size}px" viewBox="{VIEW_BOX}"', 1)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background=background, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def face(seed: int, split: str, index: int) -> tuple[dict, np.ndarray]:
    attributes = draw_attributes(seed, split, index)
    return attributes, render(attributes)


def face_of_identity(seed: int, index: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """Face `index` of the identities: person index // VARIATIONS, with its label map."""
    person, number = divmod(index, VARIATIONS)
    attributes = variation(draw_attributes(seed + 1, "train", person), seed, person, number)
    return {"identity": person, **attributes}, render(attributes), render_parts(attributes)


def drawn(make, indices: range, description: str, pool: ProcessPoolExecutor) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Attributes, and what else `make(index)` returns, stacked."""
    made = tqdm(pool.map(make, indices, chunksize=32), total=len(indices), desc=description, unit="face")
    attributes, *arrays = zip(*made)
    table = pd.DataFrame(attributes, index=pd.Index([f"{i:05d}" for i in indices], name="id"))
    return table, [np.stack(array) for array in arrays]


def write_shards(folder: Path, make, names: tuple[str, ...], seed: int, count: int, pool: ProcessPoolExecutor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, SHARD):
        indices = range(start, min(start + SHARD, count))
        shard = folder / f"shard_{start:06d}_{len(indices)}_seed{seed}.npz"
        if shard.exists():
            continue
        table, arrays = drawn(make, indices, f"{folder.name} {indices.start}-{indices.stop - 1}", pool)
        table.to_csv(shard.with_suffix(".csv"))
        partial_file = shard.with_name(shard.name + ".partial")
        with open(partial_file, "wb") as f:
            np.savez(f, **dict(zip(names, arrays)))
        partial_file.rename(shard)


def write_pngs(out: Path, seed: int, split: str, count: int, pool: ProcessPoolExecutor) -> None:
    """<split>/, <split>_parts/ (label maps), <split>_again/ (the same people), <split>_attributes.csv."""
    table, (images,) = drawn(partial(face, seed, split), range(count), split, pool)
    table.to_csv(out / f"{split}_attributes.csv")
    for name, row, image in zip(table.index, table.to_dict("records"), images):
        save_png(out / split / f"{name}.png", image)
        save_png(out / f"{split}_parts" / f"{name}.png", render_parts(row))
        save_png(out / f"{split}_again" / f"{name}.png", render(variation(row, seed, int(name), 0)))


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if pixels.ndim == 2:
        image = image.convert("P")
        image.putpalette(PALETTE)
    image.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="+", metavar="split=count", help="train=N, identities=N, val=N or test=N")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data/avatars64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    args = parser.parse_args()
    counts = {}
    for word in args.counts:
        split, _, count = word.partition("=")
        known = ("identities", *SPLITS)
        if split not in known or not count.isdigit() or int(count) == 0:
            parser.error(f"{word!r}: expected split=count with split one of {', '.join(known)} and count > 0")
        counts[split] = int(count)
    with ProcessPoolExecutor(args.workers) as pool:
        for split, count in counts.items():
            if split == "train":
                write_shards(args.out / split, partial(face, args.seed, split), ("images",), args.seed, count, pool)
            elif split == "identities":
                make, names = partial(face_of_identity, args.seed), ("images", "parts")
                write_shards(args.out / split, make, names, args.seed, VARIATIONS * count, pool)
            else:
                write_pngs(args.out, args.seed, split, count, pool)


if __name__ == "__main__":
    main()
