"""Images in and out: a folder of images of any size as square uint8 arrays, each under an id.

Every image is turned upright (EXIF), flattened on white where it is transparent, cropped to its central square, and
reduced with Pillow's antialiased Lanczos filter. It is never enlarged. Images that are degraded already are reduced by
averages instead, so that what is missing does not bleed into what is observed. Of an animation the first frame counts.
"""

import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.io import ImageReadMode, read_image

from dsg.files import named, temporary_name
from dsg.types import Form

SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
    ".jp2", ".heic", ".heif", ".tga", ".ppm", ".pgm",
}  # fmt: skip
HEIF = {".heic", ".heif"}
PNG, ORIENTATION = b"\x89PNG\r\n\x1a\n", 0x0112  # a file's first bytes; EXIF's tag
LUMA = (0.299, 0.587, 0.114)
MOST_PIXELS = 100_000_000  # of a file: some 20 kB can claim to be gigabytes
SHOWN = 10  # files that an error names
LONGEST_NAME = 180  # bytes of an id: results add a sample's number and a suffix to it, temporary files some 60 bytes
T = TypeVar("T")
ANTIALIAS, AVERAGE = Image.Resampling.LANCZOS, Image.Resampling.BOX


def find(root: Path, option: str = "data.root") -> dict[str, Path]:
    """Images below `root` by id: the path without its suffix, `/` as `__`, in the order of the ids.

    Files that are no images are named in one line on stderr; hidden ones are not.

    Args:
        root: folder, or a single image.
        option: that named it, for errors.

    Raises:
        ValueError: no such folder, nothing in it, or two images with one id.
    """
    if root.is_file():
        check_name(root.stem, root)
        return {root.stem: root}
    if root.resolve().parent == root.resolve():
        raise ValueError(f"{option}={root} is the whole file system: name a folder of images")
    if not root.is_dir():
        raise ValueError(f"{option}={root}: no such image or folder{how_to_make(root)}")
    found: dict[str, Path] = {}
    files = sorted(p for p in root.rglob("*") if p.is_file() and not _is_hidden(p, root))
    others = [path.relative_to(root) for path in files if not _may_be_image(path)]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        say_once(f"note: {option}={root}: no images, left out: {', '.join(map(str, others[:SHOWN]))}{more}")
    for path in (path for path in files if _may_be_image(path)):
        name = "__".join(path.relative_to(root).with_suffix("").parts)
        if name in found:
            raise ValueError(f"{found[name]} and {path} both have the id {name}: rename one")
        check_name(name, path)
        found[name] = path
    if not found:
        raise ValueError(f"{option}={root}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return dict(sorted(found.items()))


def how_to_make(root: Path) -> str:
    """The command that makes a folder that is named like an evaluation set (data/README.md)."""
    known = re.fullmatch(r"(ffhq|imagenet|celebahq)\d+(_released)?", root.name)
    if known is None:
        return ""
    protocol = " --protocol released" if known[2] else ""
    return f"; make it with: python scripts/prepare_data.py {known[1]} <its folder or archive>{protocol}"


def _is_hidden(path: Path, root: Path) -> bool:
    """As macOS's `._a.jpg`, or a file in `.git`."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


@cache
def say_once(line: str) -> None:
    """Print a line on stderr, if it has not been printed."""
    print(line, file=sys.stderr)


def _may_be_image(path: Path) -> bool:
    """By its suffix, or, where it has none, by its content."""
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    try:
        with Image.open(path):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def check_name(name: str, path: Path) -> None:
    """Raise a ValueError if results could not be filed under this id."""
    shown = str(path).encode(errors="backslashreplace").decode()
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{shown}: its name is not UTF-8; rename it") from None
    if length > LONGEST_NAME:
        raise ValueError(f"{shown}: its id has {length} bytes, {LONGEST_NAME} at most; rename it")
    if any(ord(letter) < 32 for letter in name):
        raise ValueError(f"{shown!r}: its name holds control characters; rename it")


def each(files: Mapping[str, Path], read: Callable[[str, Path], T], on_error: str = "stop") -> dict[str, T]:
    """`read(id, path)` of every file, by id.

    Args:
        on_error: of files that cannot be used: "stop" names all of them in one error, "skip" leaves them out, and
            says so.

    Raises:
        ValueError: a file cannot be used, or, of those that are skipped, all.
    """
    found, problems = {}, []
    for name, path in files.items():
        try:
            found[name] = read(name, path)
        except ValueError as error:
            problems.append(str(error))
    if on_error == "skip" and found:
        for problem in problems:
            print(f"skipped: {problem}", file=sys.stderr)
        return found
    if problems:
        several = f"{len(problems)} of {len(files)} files cannot be used: " if len(problems) > 1 else ""
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        skip = " (data.on_error=skip leaves them out)" if several and found else ""
        raise ValueError(several + "; ".join(problems[:SHOWN]) + more + skip)
    return found


def read(
    path: Path,
    size: int | None,
    filter: Image.Resampling = ANTIALIAS,
    exact: bool = False,
    smallest: int | None = None,
) -> np.ndarray:
    """One image, uint8 [size, size, 3]; without a `size`, [H, W, 3] as it is.

    Args:
        filter: that it is reduced with.
        exact: refuse an image that would have to be resized.
        smallest: least side in pixels; an image between it and `size` is enlarged. None: `size`.

    Raises:
        ValueError: naming the file, if it is unreadable or has the wrong size.
    """
    image = _open(path)
    if size is None:
        return np.asarray(image)
    if exact and min(image.size) != size:
        raise ValueError(
            f"{path} is {image.width}x{image.height}: a degraded image is not resized, its shorter side must be {size}"
        )
    least = size if smallest is None else smallest
    if min(image.size) < least:
        raise ValueError(f"{path} is too small: {image.width}x{image.height}, at least {least}x{least} is needed")
    return np.asarray(square(image, size, filter))


def form_of(path: Path) -> Form:
    """What the file has beside its colours, as `save` takes it."""
    image = _load(path)
    alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else None
    grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
    icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
    deep = image.mode.startswith("I") or (image.mode == "RGB" and _has_sixteen_bits(path))
    return Form(grey, None if alpha is None or alpha.min() == 255 else alpha, icc, deep)


def read_deep(path: Path) -> np.ndarray:
    """uint16 [H, W, 3] of a greyscale file or a PNG of 16 bits (`form_of`); errors are those of `read`."""
    image = _load(path)
    if image.mode.startswith("I"):
        return np.repeat(_sixteen_bits(np.asarray(image), path)[..., None], 3, axis=2)
    return _sixteen_bits(read_image(str(path), ImageReadMode.RGB).permute(1, 2, 0).numpy(), path)


def _has_sixteen_bits(path: Path) -> bool:
    """Whether it is a PNG in colour with 16 bits, which Pillow reads with 8; false for one that is to be turned."""
    with open(path, "rb") as file:
        header = file.read(25)
    with Image.open(path) as image:
        return header[:8] == PNG and header[24] == 16 and image.getexif().get(ORIENTATION, 1) == 1


def read_brightness(path: Path) -> np.ndarray:
    """float64 [H, W], 0 for black, of any image file; 16 bits are kept. Errors are those of `read`."""
    image = _load(path)
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image).astype(np.float64)
    return np.asarray(_flatten(image, path).convert("L")).astype(np.float64)


def colours(image: Image.Image) -> Image.Image:
    """A saved image in RGB, of 8 bits."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    return image.convert("RGB")


def load(root: str | Path, size: int, limit: int | None = None) -> dict[str, np.ndarray]:
    """The first `limit` images of `root` by id, uint8 [size, size, 3]; errors are those of `find` and `read`."""
    return each(dict(list(find(Path(root)).items())[:limit]), lambda name, path: read(path, size))


def as_array(image: str | Path | np.ndarray | Image.Image, size: int | None = None) -> np.ndarray:
    """An image of any source as uint8 [H, W, 3]; with a `size`, its central square, reduced to it.

    Raises:
        ValueError: no such file, no such array, or an image that is too small.
    """
    if isinstance(image, (str, Path)):
        opened = _open(Path(image).expanduser())
    elif isinstance(image, Image.Image):
        opened = _flatten(ImageOps.exif_transpose(image), Path("the image"))
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        opened = Image.fromarray(image)
    else:
        raise ValueError("an image is a file, a PIL image, or uint8 [H, W, 3]")
    if size is not None and min(opened.size) < size:
        raise ValueError(f"the image is too small: {opened.width}x{opened.height}, at least {size}x{size} is needed")
    return np.asarray(opened if size is None else square(opened, size, ANTIALIAS))


def read_mask(path: Path, of: Path, size: int | None) -> Tensor:
    """The mask of the image in the file `of`: float [1, 1, size, size], 1 where the mask is white.

    Without a `size` it has that of the image.

    Either it has the size of that image, and is cropped and reduced with it; a reduced pixel counts as observed if all
    the pixels it averages are. Or it is size x size already.

    Raises:
        ValueError: if it has another size, or covers everything.
    """
    image, original = _open_mask(path), _open(of).size
    if size is None and image.size != original:
        raise ValueError(f"mask {path} ({image.width}x{image.height}) does not fit {of} ({original[0]}x{original[1]})")
    if size is None:
        pass
    elif image.size == original:
        image = square(image, size, AVERAGE)
    elif image.size != (size, size):
        raise ValueError(
            f"mask {path} ({image.width}x{image.height}) does not fit {of} "
            f"({original[0]}x{original[1]}): same size, or {size}x{size}"
        )
    mask = torch.from_numpy((np.asarray(image) == 255).astype(np.float32))[None, None]
    if mask.sum() == 0:
        raise ValueError(f"mask {path} is all black: nothing would be observed (white = observed)")
    if mask.all():
        raise ValueError(f"mask {path} is all white: nothing is missing (white = observed)")
    return mask


def _open_mask(path: Path) -> Image.Image:
    """Mode L, 0 and 255."""
    image = _load(path)
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(f"mask {path} is transparent in parts: save it in black and white (white = observed)")
    return _flatten(image, path).convert("L").point(lambda value: 255 * (value >= 128))


def read_masks(source: Path, paths: dict[str, Path], size: int | None, on_error: str = "stop") -> dict[str, Tensor]:
    """Masks by id, for the images in `paths` (by id): `source` is one mask for all, or a folder with one of each id.

    Args:
        on_error: of a folder, as in `each`.
    """
    if source.is_file():
        return {name: read_mask(source, path, size) for name, path in paths.items()}
    if not source.is_dir():
        raise ValueError(f"task.mask={source}: no such image or folder")
    files = find(source)

    def read_own(name: str, path: Path) -> Tensor:
        if name not in files:
            raise ValueError(f"task.mask={source} has no mask for {name}")
        return read_mask(files[name], path, size)

    return each(paths, read_own, on_error)


def save(path: Path, image: np.ndarray, form: Form | None = None, **texts: str) -> None:
    """Write uint8 [H, W, 3 or 1] or uint16 [H, W, 3] as a PNG that is there whole or not at all, whoever else does.

    Args:
        form: of the file that it was made from: greyscale stays greyscale, opacity and colour profile are kept (opacity
            is enlarged with the image).
        texts: that a file of 8 bits carries, by keyword.
    """
    form, temporary = form or Form(), temporary_name(path)
    try:
        with named(path):
            temporary.write_bytes(_deep_png(image, form) if image.dtype == np.uint16 else _png(image, form, texts))
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _png(image: np.ndarray, form: Form, texts: Mapping[str, str]) -> bytes:
    picture, file = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), BytesIO()
    if form.grey:
        picture = picture.convert("L")
    if form.alpha is not None:
        picture.putalpha(Image.fromarray(form.alpha).resize(picture.size, Image.Resampling.BICUBIC))
    carried = PngInfo()
    for keyword, text in texts.items():
        carried.add_text(keyword, text)
    picture.save(file, format="PNG", icc_profile=form.icc, pnginfo=carried)
    return file.getvalue()


def square(image: Image.Image, size: int, filter: Image.Resampling) -> Image.Image:
    """The central square of an image, at size x size."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), filter)


def _open(path: Path) -> Image.Image:
    """Upright, RGB."""
    return _flatten(_load(path), path)


def _load(path: Path) -> Image.Image:
    """Upright, as the file has it."""
    if path.suffix.lower() in HEIF:
        _open_heif(path)
    try:
        with Image.open(path) as image:
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # a telephone's MPO has its preview second
                say_once(f"note: {path}: the first of its {image.n_frames} frames is taken")
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels are more than {MOST_PIXELS // 10**6} million")
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None


def _open_heif(path: Path) -> None:
    """Let Pillow read HEIC and HEIF."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError(f"{path}: HEIC needs a package: pip install pillow-heif") from None
    register_heif_opener()


def _flatten(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image), path))
    elif image.mode.startswith("I"):
        image = Image.fromarray((_sixteen_bits(np.asarray(image), path) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, path: Path) -> np.ndarray:
    """The 8 bits of floats in [0, 1] or, if one is above 1, in [0, 255]."""
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ValueError(f"{path} holds floats outside [0, 1] and [0, 255]: what is white is not known")
    return (values * (255 if values.max() <= 1 else 1)).round().astype(np.uint8)


def _sixteen_bits(values: np.ndarray, path: Path) -> np.ndarray:
    values = values.astype(np.int64)
    if not 0 <= values.min() <= values.max() < 2**16:
        raise ValueError(f"{path} holds values from {values.min()} to {values.max()}: 0 to 65535 are expected")
    if values.max() < 2**12:  # 10 or 12 bits, most likely: it would come out nearly black
        raise ValueError(
            f"{path} has 16 bits and no value above {values.max()}: save it with 8 bits, or scaled to 65535"
        )
    return values.astype(np.uint16)


def _deep_png(image: np.ndarray, form: Form) -> bytes:
    """A PNG of uint16 [H, W, 3], which Pillow does not write."""
    height, width = image.shape[:2]
    values = (image @ LUMA).round() if form.grey else image.reshape(height, 3 * width)
    rows = values.astype(">u2").tobytes()
    step = len(rows) // height
    content = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 0 if form.grey else 2, 0, 0, 0),
        **({b"iCCP": b"icc\0\0" + zlib.compress(form.icc)} if form.icc else {}),
        b"IDAT": zlib.compress(b"".join(b"\0" + rows[k : k + step] for k in range(0, len(rows), step))),
        b"IEND": b"",
    }
    chunks = (struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in content.items())
    return PNG + b"".join(chunks)
