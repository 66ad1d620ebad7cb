"""Pictures in and out: a folder of any pictures as square tensors in [-1, 1], each under an id.

Every picture is turned upright (EXIF), flattened on white where it is transparent, cropped to its central square, and
reduced with Pillow's antialiased Lanczos filter. It is never enlarged. Pictures with a mask are reduced by averages instead,
so that what is missing does not bleed into what is observed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
ANTIALIAS, AVERAGE = Image.Resampling.LANCZOS, Image.Resampling.BOX


@dataclass(frozen=True)
class Picture:
    id: str
    path: Path
    pixels: np.ndarray  # uint8 [size, size, 3]
    original_size: tuple[int, int]  # (width, height) upright
    mask: Tensor | None = field(default=None, compare=False)  # [1, 1, size, size], where one was given

    @property
    def digest(self) -> str:
        """Tells whether a picture under this id, and its mask, are still the same."""
        digest = hashlib.sha256(self.pixels.tobytes())
        if self.mask is not None:
            digest.update(self.mask.numpy().tobytes())
        return digest.hexdigest()[:16]


def find(root: Path, option: str = "data.root") -> dict[str, Path]:
    """Pictures below `root` by id: the path without its suffix, `/` as `__`, in the order of the ids.

    Raises:
        ValueError: no such folder, nothing in it, or two pictures with one id.
    """
    if root.is_file():
        return {root.stem: root}
    if not root.is_dir():
        raise ValueError(f"{option}={root}: no such picture or folder")
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        name = "__".join(path.relative_to(root).with_suffix("").parts)
        if name in found:
            raise ValueError(f"{found[name]} and {path} both have the id {name}: rename one")
        found[name] = path
    if not found:
        raise ValueError(f"{option}={root}: no pictures in it ({', '.join(sorted(SUFFIXES))})")
    return dict(sorted(found.items()))


def load(
    root: str | Path,
    size: int,
    limit: int | None = None,
    filter: Image.Resampling = ANTIALIAS,
    exact: bool = False,
) -> list[Picture]:
    """The first `limit` pictures of `root` by id, all checked, at size x size.

    Args:
        exact: refuse what would have to be resized.

    Raises:
        ValueError: naming the picture that is unreadable or has the wrong size.
    """
    chosen = list(find(Path(root)).items())[:limit]
    return [read(path, size, name, filter, exact) for name, path in chosen]


def read(
    path: Path,
    size: int,
    name: str | None = None,
    filter: Image.Resampling = ANTIALIAS,
    exact: bool = False,
    smallest: int | None = None,
) -> Picture:
    """One picture as above; enlarged to `size`, if it is at least `smallest`. Raises ValueError with its path."""
    image = _open(path)
    if exact and min(image.size) != size:
        raise ValueError(
            f"{path} is {image.width}x{image.height}: a degraded picture is not resized, its shorter side must be {size}"
        )
    least = size if smallest is None else smallest
    if min(image.size) < least:
        raise ValueError(f"{path} is too small: {image.width}x{image.height}, at least {least}x{least} is needed")
    return Picture(name or path.stem, path, np.asarray(square(image, size, filter)), image.size)


def read_mask(path: Path, picture: Picture, size: int) -> Tensor:
    """[1, 1, size, size], 1 where the mask's picture is white.

    It has the size of the picture, and is cropped and reduced with it (a pixel is observed if all that it averages
    is), or is size x size already.

    Raises:
        ValueError: if it has another size, or covers everything.
    """
    image = _open(path).convert("L").point(lambda value: 255 * (value >= 128))
    if image.size == picture.original_size:
        image = square(image, size, AVERAGE)
    elif image.size != (size, size):
        raise ValueError(
            f"mask {path} ({image.width}x{image.height}) does not fit {picture.path} "
            f"({picture.original_size[0]}x{picture.original_size[1]}): same size, or {size}x{size}"
        )
    mask = torch.from_numpy((np.asarray(image) == 255).astype(np.float32))[None, None]
    if mask.sum() == 0:
        raise ValueError(f"mask {path} is all black: nothing would be observed (white = observed)")
    return mask


def read_masks(source: str | Path, pictures: Sequence[Picture], size: int) -> dict[str, Tensor]:
    """Masks by image id: `source` is one picture for all, or a folder with a picture of the same id for each."""
    source = Path(source)
    if source.is_dir():
        files = find(source)
        missing = [p.id for p in pictures if p.id not in files]
        if missing:
            raise ValueError(
                f"task.mask={source} has no mask for {missing[0]}"
                + f" and {len(missing) - 1} more" * (len(missing) > 1)
            )
        return {p.id: read_mask(files[p.id], p, size) for p in pictures}
    if not source.is_file():
        raise ValueError(f"task.mask={source}: no such picture or folder")
    return {p.id: read_mask(source, p, size) for p in pictures}


def to_tensor(pictures: Sequence[Picture]) -> Tensor:
    """float32 [B, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([p.pixels for p in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] -> uint8 [B, H, W, C], clipped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def save(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG that is there whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(temporary, format="PNG")
    temporary.replace(path)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return _flatten(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from None


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def square(image: Image.Image, size: int, filter: Image.Resampling) -> Image.Image:
    """The central square of an image, at size x size."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), filter)
