"""Images in and out: a folder of images of any size as square uint8 arrays, each under an id.

Every image is turned upright (EXIF), flattened on white where it is transparent, cropped to its central square, and
reduced with Pillow's antialiased Lanczos filter. It is never enlarged. Images that are degraded already are reduced by
averages instead, so that what is missing does not bleed into what is observed.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dsg.runs.results import temporary_name

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
ANTIALIAS, AVERAGE = Image.Resampling.LANCZOS, Image.Resampling.BOX


def find(root: Path, option: str = "data.root") -> dict[str, Path]:
    """Images below `root` by id: the path without its suffix, `/` as `__`, in the order of the ids.

    Args:
        root: folder, or a single image.
        option: that named it, for errors.

    Raises:
        ValueError: no such folder, nothing in it, or two images with one id.
    """
    if root.is_file():
        return {root.stem: root}
    if not root.is_dir():
        raise ValueError(f"{option}={root}: no such image or folder")
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        name = "__".join(path.relative_to(root).with_suffix("").parts)
        if name in found:
            raise ValueError(f"{found[name]} and {path} both have the id {name}: rename one")
        found[name] = path
    if not found:
        raise ValueError(f"{option}={root}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return dict(sorted(found.items()))


def load(root: str | Path, size: int, limit: int | None = None) -> dict[str, np.ndarray]:
    """The first `limit` images of `root` by id, uint8 [size, size, 3]; errors are those of `find` and `read`."""
    return {name: read(path, size) for name, path in list(find(Path(root)).items())[:limit]}


def read(
    path: Path,
    size: int,
    filter: Image.Resampling = ANTIALIAS,
    exact: bool = False,
    smallest: int | None = None,
) -> np.ndarray:
    """One image, uint8 [size, size, 3].

    Args:
        filter: that it is reduced with.
        exact: refuse an image that would have to be resized.
        smallest: least side in pixels; an image between it and `size` is enlarged. None: `size`.

    Raises:
        ValueError: naming the file, if it is unreadable or has the wrong size.
    """
    image = _open(path)
    if exact and min(image.size) != size:
        raise ValueError(
            f"{path} is {image.width}x{image.height}: a degraded image is not resized, its shorter side must be {size}"
        )
    least = size if smallest is None else smallest
    if min(image.size) < least:
        raise ValueError(f"{path} is too small: {image.width}x{image.height}, at least {least}x{least} is needed")
    return np.asarray(square(image, size, filter))


def read_mask(path: Path, of: Path, size: int) -> Tensor:
    """The mask of the image in the file `of`: float [1, 1, size, size], 1 where the mask is white.

    Either it has the size of that image, and is cropped and reduced with it; a reduced pixel counts as observed if all
    the pixels it averages are. Or it is size x size already.

    Raises:
        ValueError: if it has another size, or covers everything.
    """
    image, original = _open(path).convert("L").point(lambda value: 255 * (value >= 128)), _open(of).size
    if image.size == original:
        image = square(image, size, AVERAGE)
    elif image.size != (size, size):
        raise ValueError(
            f"mask {path} ({image.width}x{image.height}) does not fit {of} "
            f"({original[0]}x{original[1]}): same size, or {size}x{size}"
        )
    mask = torch.from_numpy((np.asarray(image) == 255).astype(np.float32))[None, None]
    if mask.sum() == 0:
        raise ValueError(f"mask {path} is all black: nothing would be observed (white = observed)")
    return mask


def read_masks(source: Path, paths: dict[str, Path], size: int) -> dict[str, Tensor]:
    """Masks by id, for the images in `paths` (by id): `source` is one mask for all, or a folder with one of each id."""
    if source.is_dir():
        files = find(source)
        missing = [name for name in paths if name not in files]
        if missing:
            more = f" and {len(missing) - 1} more" * (len(missing) > 1)
            raise ValueError(f"task.mask={source} has no mask for {missing[0]}{more}")
        return {name: read_mask(files[name], path, size) for name, path in paths.items()}
    if not source.is_file():
        raise ValueError(f"task.mask={source}: no such image or folder")
    return {name: read_mask(source, path, size) for name, path in paths.items()}


def save(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3 or 1] as a PNG that is there whole or not at all, whoever else writes it."""
    temporary = temporary_name(path)
    try:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def square(image: Image.Image, size: int, filter: Image.Resampling) -> Image.Image:
    """The central square of an image, at size x size."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), filter)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return _flatten(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
