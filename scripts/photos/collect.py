"""Collect the photographs listed in data/photos/photos.csv from the Debian packages that ship them.

    python scripts/photos/collect.py
    python scripts/photos/collect.py --only mate-backgrounds --out /tmp/photos

Packages are fetched by `apt-get download` and unpacked by `dpkg -x` in a cache; nothing is installed. Each photograph
is checked against its hash and saved as <out>/<split>/<name>.jpg, at most 2000 px on the longer side. Photographs that
are there already are left; call it again to go on where it stopped.
"""

import hashlib
import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy
import pandas
from PIL import Image, ImageOps
from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive
from dsg.files import REPOSITORY

PHOTOS = REPOSITORY / "data" / "photos"
RESOURCE = ".rcc:"  # what parts the path of a Qt resource file from that of an entry in it
GREY = 128.0
Image.MAX_IMAGE_PIXELS = None  # panoramas are large, and their hashes are checked before they are opened


def main() -> int | None:
    """Collect what the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--list", type=Path, default=PHOTOS / "photos.csv", help="data/photos/photos.csv")
    parser.add_argument("--out", type=Path, default=PHOTOS / "images", help="data/photos/images")
    parser.add_argument("--cache", type=Path, default=PHOTOS / "cache", help="packages (data/photos/cache)")
    parser.add_argument("--longest", type=positive, default=2000, help="longer side at most, px (2000)")
    parser.add_argument("--only", metavar="PACKAGE", help="only the photographs of this package")
    args = parser.parse_args()
    listed = photos = read_list(args.list)
    if args.only is not None:
        photos = photos[photos["package"] == args.only]
        if photos.empty:
            raise ValueError(f"--only {args.only}: no photograph of {args.list} is in this package")
    collect(photos, args.out, args.cache, args.longest)
    others = set(args.out.glob("*/*.jpg")) - {target(args.out, photo) for photo in listed.itertuples()}
    if others:
        print(f"{args.out}: {len(others)} photographs that are not listed; delete them before you train on this folder")
    return 0


def read_list(path: Path) -> pandas.DataFrame:
    """Read the list, with a column `name`; refuse one whose names or hashes are not unique."""
    photos = pandas.read_csv(path, dtype=str, keep_default_na=False)
    photos["name"] = [slug(file) for file in photos["file"]]
    for column in ("name", "sha256"):
        twice = photos.loc[photos[column].duplicated(), "file"]
        if not twice.empty:
            raise ValueError(f"{path}: {twice.iloc[0]}: another photograph has the same {column}")
    return photos


def slug(file: str) -> str:
    """Give the name, without its ending, under which a file of a package is saved."""
    path = file.split(RESOURCE)[-1].removeprefix("usr/share/").rsplit(".", 1)[0]
    return re.sub("[^a-z0-9]+", "-", path.lower()).strip("-")


def collect(photos: pandas.DataFrame, out: Path, cache: Path, longest: int) -> None:
    """Save each photograph of the list that is not in `out` yet."""
    missing = photos[[not target(out, photo).is_file() for photo in photos.itertuples()]]
    with tqdm(total=len(missing), unit="photo") as bar:
        for package, group in missing.groupby("package", sort=False):
            bar.set_description(package)
            root = unpacked(package, cache)
            for photo in group.itertuples():
                save(source(root, photo), target(out, photo), longest)
                bar.update()
    megapixels = 0.0
    for photo in photos.itertuples():
        with Image.open(target(out, photo)) as image:
            megapixels += image.width * image.height / 1e6
    counts = ", ".join(f"{count} {split}" for split, count in photos["split"].value_counts().items())
    print(f"{out}: {counts}; {megapixels:.0f} megapixels, {len(missing)} photographs new")


def target(out: Path, photo) -> Path:
    """Give the path under which a photograph of the list is saved."""
    return out / photo.split / f"{photo.name}.jpg"


def unpacked(package: str, cache: Path) -> Path:
    """Fetch and unpack a package, unless the cache has it."""
    root = cache / package
    if root.is_dir():
        return root
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{package}_*.deb")):
        run(["apt-get", "download", "-qq", package], debs)
    partial = cache / f"{package}.partial"
    run(["dpkg", "-x", str(next(debs.glob(f"{package}_*.deb")).resolve()), str(partial.resolve())], cache)
    partial.rename(root)
    return root


def run(command: list[str], folder: Path) -> None:
    """Run a command; what it complains of is one line."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def source(root: Path, photo) -> bytes:
    """Read a listed file of an unpacked package; refuse one that is not the listed photograph."""
    path, colon, entry = photo.file.partition(RESOURCE)
    if not colon:
        content = (root / path).read_bytes()
    else:
        entries = dict(resources((root / f"{path}.rcc").read_bytes()))
        if entry not in entries:
            raise ValueError(f"{photo.package}: {photo.file}: no such entry")
        content = entries[entry]
    if hashlib.sha256(content).hexdigest() != photo.sha256:
        raise ValueError(f"{photo.package}: {photo.file}: another file than the list's (its SHA-256 differs)")
    return content


def resources(content: bytes):
    """Yield the path and the content of each entry of a Qt resource file that is stored plainly or by zlib."""
    magic, version, tree, data, names = struct.unpack_from(">4s4I", content)
    if magic != b"qres":
        raise ValueError("not a Qt resource file")
    length = 14 if version == 1 else 22
    folders = [(0, "")]
    while folders:
        node, path = folders.pop()
        count, first = struct.unpack_from(">2I", content, tree + node * length + 6)
        for child in range(first, first + count):
            at = tree + child * length
            name_at, flags = struct.unpack_from(">IH", content, at)
            characters = struct.unpack_from(">H", content, names + name_at)[0]
            start = names + name_at + 6
            name = path + content[start : start + 2 * characters].decode("utf-16-be")
            if flags & 2:
                folders.append((child, name + "/"))
                continue
            start = data + struct.unpack_from(">I", content, at + 10)[0]
            entry = content[start + 4 : start + 4 + struct.unpack_from(">I", content, start)[0]]
            if not flags & 4:  # Zstandard
                yield name, zlib.decompress(entry[4:]) if flags & 1 else entry


def save(content: bytes, path: Path, longest: int) -> None:
    """Save a picture upright, without transparency and not larger than asked for, as a JPEG file."""
    with Image.open(io.BytesIO(content)) as image:
        image = opaque(ImageOps.exif_transpose(image))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    image.save(partial, "JPEG", quality=95, subsampling=0)
    partial.rename(path)


def opaque(image: Image.Image) -> Image.Image:
    """Place a cut-out, cropped to what is visible of it, on the colour half-way from its mean colour to mid-grey."""
    if not (image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info):
        return image.convert("RGB")
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    pixels = numpy.asarray(image, dtype=numpy.float64)
    mean = numpy.average(pixels[..., :3].reshape(-1, 3), axis=0, weights=pixels[..., 3].ravel())
    red, green, blue = (round(value) for value in (mean + GREY) / 2)
    return Image.alpha_composite(Image.new("RGBA", image.size, (red, green, blue, 255)), image).convert("RGB")


if __name__ == "__main__":
    sys.exit(exit_code(main))
