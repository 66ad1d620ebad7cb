"""Evaluation sets in data/, from a data set's folder, .zip or .tar (data/README.md).

    python scripts/prepare_data.py ffhq images1024x1024.zip
    python scripts/prepare_data.py imagenet ILSVRC2012_img_val.tar --protocol released --out data/imagenet256_released
    python scripts/prepare_data.py ffhq images1024x1024.zip --skip 1000 --count 64 --out data/ffhq256_val   # to tune on
    python scripts/prepare_data.py ffhq --check

The first 1,000 images, 256 px, lossless PNG: the central square by an antialiased filter, or, with --protocol released,
the whole image squashed to a square by a bilinear filter, as the released codes do. manifest.csv has a hash of each
image's pixels. Call it again to go on where it stopped. Nothing is unpacked: members of an archive are read one by one,
and their names only choose ids.
"""

import csv
import io
import lzma
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from dsg import image_files as images
from dsg.arguments import Parser, exit_code, not_negative, positive
from dsg.files import REPOSITORY, counted, first_line, write_text

LARGEST, PIXELS = 64 << 20, 100_000_000  # bytes and pixels of an image
MANIFEST, COLUMNS = "manifest.csv", ("id", "source", "sha256", "dataset", "protocol", "size")
CELEBA_TEST = 182_637  # the first test image of CelebA's partition
Entries = dict[str, Callable[[], bytes]]  # name -> read it


@dataclass(frozen=True)
class DataSet:
    """What belongs to an evaluation set, in the order of its ids.

    Args:
        name: of the set, and of the list of ids.
        pattern: of the file's stem; its group is the id.
        example: a file of this name.
        smallest: px; images with a shorter side do not belong to it.
        mapping: name of a file that says which images are test images.
    """

    name: str
    pattern: str
    example: str
    smallest: int = 0
    mapping: str | None = None


DATASETS = {
    "ffhq": DataSet("ffhq", r"(\d{5})", "00000.png"),
    "imagenet": DataSet("imagenet", r"(ILSVRC2012_val_\d{8})", "ILSVRC2012_val_00000001.JPEG", smallest=256),
    "celebahq": DataSet("celebahq", r"(\d{1,5})", "12345.jpg", mapping="CelebA-HQ-to-CelebA-mapping.txt"),
}

# --- which images


@contextmanager
def opened(source: Path) -> Iterator[Entries]:
    """The files of a folder, .zip or .tar (also compressed).

    Raises:
        ValueError: it is none of them, or broken.
    """
    damage = (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, zlib.error)
    try:
        if source.is_dir():
            yield {p.relative_to(source).as_posix(): reader(p.open, "rb") for p in source.rglob("*") if p.is_file()}
        elif source.is_file() and zipfile.is_zipfile(source):  # a device has no end
            with zipfile.ZipFile(source) as archive:
                yield {i.filename: reader(archive.open, i) for i in archive.infolist() if not i.is_dir()}
        elif source.is_file() and tarfile.is_tarfile(source):
            with tarfile.open(source) as archive:  # links are left out: they may point anywhere
                yield {m.name: reader(archive.extractfile, m) for m in archive if m.isfile()}
        else:
            raise ValueError(f"{source}: no such folder, .zip or .tar")
    except (*damage, lzma.LZMAError) as error:
        raise ValueError(f"{source} cannot be read: {first_line(error)}") from None


def reader(open_it: Callable, what) -> Callable[[], bytes]:
    def read() -> bytes:
        with open_it(what) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"a file of more than {LARGEST >> 20} MB is no image of this data set")
        return data

    return read


def candidates(entries: Entries, dataset: DataSet, within: str = "") -> dict[str, str]:
    """id -> name of every file that could belong to the set, in the order of ids.

    Args:
        within: only names that contain it.

    Raises:
        ValueError: two files have one id, or there is none.
    """
    names: dict[str, str] = {}
    for name in sorted(entries):
        path = PurePosixPath(name)
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        match = re.fullmatch(dataset.pattern, path.stem)
        if match and not hidden and path.suffix.lower() in images.SUFFIXES and within in name:
            key = f"{int(match[1]):05}" if match[1].isdigit() else match[1]
            if key in names:
                raise ValueError(f"{names[key]} and {name} are both {key}: choose by --within <part of the path>")
            names[key] = name
    if not names:
        raise ValueError(f"no images of {dataset.name} there (names like {dataset.example})")
    return dict(sorted(names.items()))


def choose(entries: Entries, names: dict[str, str], dataset: DataSet, ids: Sequence[str] | None, count: int) -> list:
    """The ids of the evaluation set: the first `count` by the rule of the data set, or of the list `ids`.

    Raises:
        ValueError: an image of the list is missing or too small, or there are fewer images.
    """
    if ids is not None:
        if len(ids) < count:
            raise ValueError(f"the list of ids has {len(ids)}, {count} are wanted (--count, --ids)")
        if missing := [one for one in ids[:count] if one not in names]:
            raise ValueError(f"{dataset.name} {missing[0]} is missing, and {len(missing) - 1} more")
        if small := [one for one in ids[:count] if not large_enough(entries, names[one], dataset)]:
            raise ValueError(f"{dataset.name} {small[0]} is in the list of ids, but smaller than {dataset.smallest} px")
        return list(ids[:count])
    chosen: list[str] = []
    for key in names if dataset.mapping is None else test_images(entries, names, dataset.mapping):
        if len(chosen) < count and large_enough(entries, names[key], dataset):
            chosen.append(key)
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} images of {dataset.name} there, {count} are wanted (--count)")
    return chosen


def large_enough(entries: Entries, name: str, dataset: DataSet) -> bool:
    if not dataset.smallest:
        return True
    with image_in(entries[name](), name) as image:
        return min(image.size) >= dataset.smallest


def test_images(entries: Entries, names: dict[str, str], mapping: str) -> list[str]:
    """The test images of CelebA's partition: lines `idx orig_idx orig_file` of the mapping."""
    files = [name for name in entries if PurePosixPath(name).name == mapping]
    if not files:
        raise ValueError(f"{mapping} is not there, which says what the test images are: or give --ids FILE")
    lines = [line.split() for line in entries[files[0]]().decode().splitlines()]
    test = {f"{int(w[0]):05}" for w in lines if len(w) == 3 and w[1].isdigit() and int(w[1]) >= CELEBA_TEST}
    return [key for key in names if key in test]


# --- what they become


@contextmanager
def image_in(data: bytes, name: str) -> Iterator[Image.Image]:
    """The image in a file. Raises ValueError, which names it, if it is none or what is done with it does not work."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError:  # whose message names the bytes in memory
        raise ValueError(f"{name} cannot be prepared: it is no image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be prepared: {first_line(error)}") from None


def prepare_image(data: bytes, protocol: str, size: int, name: str) -> np.ndarray:
    """uint8 [size, size, 3]. crop: turned upright, central square, Lanczos (antialiased). released: the whole image
    squashed to a square by Pillow's bilinear filter.

    Raises:
        ValueError: no image, too large, or too small.
    """
    with image_in(data, name) as image:
        if image.width * image.height > PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        if min(image.size) < size:
            raise ValueError(f"it is {image.width}x{image.height}, at least {size}x{size} is needed")
        if protocol == "released":
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(images.square(upright, size, images.ANTIALIAS))


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of the pixels: it does not depend on how a PNG is compressed."""
    return sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def read_manifest(out: Path) -> dict[str, dict[str, str]]:
    """Rows by id; a line that was cut short counts for nothing."""
    file = out / MANIFEST
    if not file.exists():
        return {}
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {row["id"]: row for row in rows if set(row) == set(COLUMNS) and None not in row.values()}


def write_manifest(out: Path, rows: dict[str, dict[str, str]]) -> None:
    """Sorted, each image once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows))
    write_text(out / MANIFEST, text.getvalue())


def write_images(entries: Entries, chosen: dict[str, str], out: Path, dataset: str, protocol: str, size: int) -> None:
    """Write what is not there yet as <out>/<id>.png; `chosen`: id -> name in `entries`.

    A line of the manifest is written before its image, so that a command that was stopped goes on, and a file that the
    manifest does not know is somebody else's.

    Raises:
        ValueError: the folder has images that are not of this set.
    """
    about, rows = {"dataset": dataset, "protocol": protocol, "size": str(size)}, read_manifest(out)
    for key, row in rows.items():
        if differing := [k for k, v in about.items() if row[k] != v]:
            raise ValueError(f"{out} holds images with {differing[0]}={row[differing[0]]}: choose another folder")
        if key not in chosen:
            raise ValueError(f"{out} holds {key}, which does not belong to this set: choose another folder")
    if foreign := [p for p in sorted(out.glob("*")) if p.suffix in images.SUFFIXES and p.stem not in rows]:
        raise ValueError(f"{foreign[0]} is not from here, and is not overwritten: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out, rows)
    for key, name in tqdm(chosen.items(), unit="image", desc=dataset, disable=None):
        if key not in rows or not (out / f"{key}.png").exists():
            image = prepare_image(entries[name](), protocol, size, name)
            row = {"id": key, "source": name, "sha256": pixel_hash(image), **about}
            with open(out / MANIFEST, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
            images.save(out / f"{key}.png", image)
    write_manifest(out, read_manifest(out))


def damaged(out: Path) -> list[str]:
    """Ids in the manifest whose image is missing, or has other pixels."""
    wrong = []
    for key, row in read_manifest(out).items():
        try:
            with Image.open(out / f"{key}.png") as image:
                same = pixel_hash(np.asarray(image.convert("RGB"))) == row["sha256"]
        except (OSError, SyntaxError, ValueError):
            same = False
        wrong += [] if same else [key]
    return wrong


# --- the command


def main() -> int | None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("dataset", choices=list(DATASETS))
    add("source", nargs="?", type=Path, help="folder, .zip or .tar")
    add("--protocol", choices=("crop", "released"), default="crop")
    add("--size", type=positive, default=256, help="px (256)")
    add("--count", type=positive, default=1000, help="images (1000)")
    add("--skip", type=not_negative, default=0, help="leave out so many: those of the test set")
    add("--out", type=Path, help="data/<dataset><size>[_released]")
    add("--ids", type=Path, help="list of ids, a line each (data/ids/<dataset>.txt)")
    add("--within", default="", help="only files whose path contains this, such as images1024x1024")
    add("--check", action="store_true", help="prepare nothing; check the images against the manifest")
    args = parser.parse_args()
    suffix = "_released" if args.protocol == "released" else ""
    out = args.out or REPOSITORY / "data" / f"{args.dataset}{args.size}{suffix}"
    if args.check:
        return check(out)
    if args.source is None:
        parser.error("which folder, .zip or .tar?")
    if args.out == Path():
        parser.error("--out: which folder?")
    dataset, listed = DATASETS[args.dataset], args.ids or REPOSITORY / f"data/ids/{args.dataset}.txt"
    if args.ids is not None and not args.ids.is_file():
        raise ValueError(f"--ids {args.ids}: no such file")
    if args.skip and args.out is None:
        raise ValueError("--skip: these are other images than the evaluation set: give --out")
    by_rule = args.ids is None and (args.skip or not listed.is_file())
    ids = None if by_rule else listed.read_text(encoding="utf-8").split()
    with opened(args.source) as entries:
        names = candidates(entries, dataset, args.within)
        chosen = choose(entries, names, dataset, ids, args.skip + args.count)[args.skip :]
        write_images(entries, {key: names[key] for key in chosen}, out, dataset.name, args.protocol, args.size)
    if by_rule and not args.skip and args.count == parser.get_default("count"):
        listed.parent.mkdir(parents=True, exist_ok=True)
        write_text(listed, "".join(f"{key}\n" for key in chosen))
        print(f"{listed}: the ids of this set; commit it, and others get the same images")
    print(f"{out}: {counted(len(chosen), 'image')}")


def check(out: Path) -> int:
    rows, wrong = read_manifest(out), damaged(out)
    if not rows:
        print(f"{out}: no manifest there", file=sys.stderr)
        return 1
    for key in wrong:
        print(f"{out / key}.png is missing or damaged", file=sys.stderr)
    print(f"{out}: {len(rows) - len(wrong)} of {len(rows)} images are as the manifest has them")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(exit_code(main))
