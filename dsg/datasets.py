"""Evaluation sets from a data set's archive or folder: which images, how they are resized, and a manifest of them.

Nothing is unpacked: members of an archive are read one by one, up to LARGEST bytes and PIXELS pixels, and their names
only choose ids. The manifest is written before each image, so that a run that was stopped goes on, and a file that the
manifest does not know is somebody else's.
"""

import csv
import io
import lzma
import re
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

from dsg import image_files as images
from dsg.files import first_line, write_text

LARGEST, PIXELS = 64 << 20, 100_000_000
MANIFEST, COLUMNS = "manifest.csv", ("id", "source", "sha256", "dataset", "protocol", "size")
PROTOCOLS = ("crop", "released")
CELEBA_TEST = 182_637  # the first test image of CelebA's partition
DAMAGED = (zlib.error, lzma.LZMAError)  # compressed data
Entries = dict[str, Callable[[], bytes]]  # name -> read it


@dataclass(frozen=True)
class DataSet:
    """What belongs to an evaluation set, in the order of its ids.

    Args:
        name: of the set, and of the list of ids.
        pattern: of the file's stem; its group is the id.
        count: images, unless asked otherwise.
        smallest: px; images with a shorter side do not belong to it.
        mapping: name of a file that says which images are test images.
    """

    name: str
    pattern: str
    count: int = 1000
    smallest: int | None = None
    mapping: str | None = None

    def id_of(self, name: str) -> str | None:
        found = re.fullmatch(self.pattern, PurePosixPath(name).stem)
        return found and (f"{int(found[1]):05}" if found[1].isdigit() else found[1])


DATASETS = {
    "ffhq": DataSet("ffhq", r"(\d{5})"),
    "imagenet": DataSet("imagenet", r"(ILSVRC2012_val_\d{8})", smallest=256),
    "celebahq": DataSet("celebahq", r"(\d{1,5})", mapping="CelebA-HQ-to-CelebA-mapping.txt"),
}


@contextmanager
def opened(source: Path) -> Iterator[Entries]:
    """The files of a folder, .zip or .tar (also compressed).

    Raises:
        ValueError: it is none of them, or broken.
    """
    try:
        if source.is_dir():
            yield {p.relative_to(source).as_posix(): _reader(p.open, "rb") for p in source.rglob("*") if p.is_file()}
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                yield {i.filename: _reader(archive.open, i) for i in archive.infolist() if not i.is_dir()}
        elif source.is_file() and tarfile.is_tarfile(source):
            with tarfile.open(source) as archive:  # links are left out: they may point anywhere
                yield {m.name: _reader(archive.extractfile, m) for m in archive if m.isfile()}
        else:
            raise ValueError(f"{source}: no such folder, .zip or .tar")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, *DAMAGED) as error:
        raise ValueError(f"{source} cannot be read: {first_line(error)}") from None


def _reader(open_it: Callable, what) -> Callable[[], bytes]:
    def read() -> bytes:
        with open_it(what) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"a file of more than {LARGEST >> 20} MB is no image of this data set")
        return data

    return read


def candidates(entries: Entries, dataset: DataSet, within: str = "") -> dict[str, str]:
    """id -> name, of everything that could belong to the set, in the order of ids.

    Args:
        within: only names that contain it.

    Raises:
        ValueError: two files have one id, or there is none.
    """
    found: dict[str, str] = {}
    for name in sorted(entries):
        path = PurePosixPath(name)
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if hidden or path.suffix.lower() not in images.SUFFIXES or within not in name:
            continue
        if (key := dataset.id_of(name)) is not None:
            if key in found:
                raise ValueError(f"{found[key]} and {name} are both {key}: choose by --within <part of the path>")
            found[key] = name
    if not found:
        raise ValueError(f"no images of {dataset.name} there (names like {dataset.pattern})")
    return dict(sorted(found.items()))


def choose(
    entries: Entries, names: dict[str, str], dataset: DataSet, ids: Sequence[str] | None, count: int
) -> list[str]:
    """The ids of the evaluation set: the first `count` by the rule of the data set; `ids`, a list that ships or was
    written before, must be these.

    Raises:
        ValueError: an image of the list is missing, or the list is another one.
    """
    if ids is not None:
        if len(ids) < count:
            raise ValueError(f"the list of ids has {len(ids)}, {count} are wanted (--count, --ids)")
        if missing := [one for one in ids[:count] if one not in names]:
            raise ValueError(f"{dataset.name} {missing[0]} is missing, and {len(missing) - 1} more")
        if small := [one for one in ids[:count] if not _large_enough(entries, names[one], dataset)]:
            raise ValueError(f"{dataset.name} {small[0]} is in the list of ids, but smaller than {dataset.smallest} px")
        return list(ids[:count])
    keys = list(names) if dataset.mapping is None else _test_images(entries, names, dataset)
    chosen: list[str] = []
    for key in keys:
        if len(chosen) == count:
            break
        if _large_enough(entries, names[key], dataset):
            chosen.append(key)
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} images of {dataset.name} there, {count} are wanted (--count)")
    return chosen


def _large_enough(entries: Entries, name: str, dataset: DataSet) -> bool:
    if dataset.smallest is None:
        return True
    with _image(entries[name](), name) as image:
        return min(image.size) >= dataset.smallest


def _test_images(entries: Entries, names: dict[str, str], dataset: DataSet) -> list[str]:
    """Those that CelebA's partition has for testing: lines `idx orig_idx orig_file` of the mapping."""
    files = [name for name in entries if PurePosixPath(name).name == dataset.mapping]
    if not files:
        raise ValueError(f"{dataset.mapping} is not there, which says what the test images are: or give --ids FILE")
    lines = [line.split() for line in entries[files[0]]().decode().splitlines()]
    test = {f"{int(w[0]):05}" for w in lines if len(w) == 3 and w[1].isdigit() and int(w[1]) >= CELEBA_TEST}
    return [key for key in names if key in test]


@contextmanager
def _image(data: bytes, name: str) -> Iterator[Image.Image]:
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
    with _image(data, name) as image:
        if image.width * image.height > PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        if min(image.size) < size:
            raise ValueError(f"it is {image.width}x{image.height}, at least {size}x{size} is needed")
        if protocol == "released":
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(images.square(upright, size, images.ANTIALIAS))


def read_manifest(out: Path) -> dict[str, dict[str, str]]:
    """Rows by id; a line that was cut short counts for nothing."""
    file = out / MANIFEST
    if not file.exists():
        return {}
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {row["id"]: row for row in rows if set(row) == set(COLUMNS) and None not in row.values()}


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of the pixels: it does not depend on how a PNG is compressed."""
    return sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def write_images(
    entries: Entries, chosen: dict[str, str], out: Path, dataset: str, protocol: str, size: int,
    on_image: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Write what is not there yet as <out>/<id>.png, with its line in the manifest.

    Args:
        chosen: id -> name in `entries`.

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
    _rewrite_manifest(out, rows)
    for key, name in chosen.items():
        if key not in rows or not (out / f"{key}.png").exists():
            image = prepare_image(entries[name](), protocol, size, name)
            row = {"id": key, "source": name, "sha256": pixel_hash(image), **about}
            with open(out / MANIFEST, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
            images.save(out / f"{key}.png", image)
        on_image()
    _rewrite_manifest(out, read_manifest(out))


def _rewrite_manifest(out: Path, rows: dict[str, dict[str, str]]) -> None:
    """Sorted, each image once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows))
    write_text(out / MANIFEST, text.getvalue())


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
