"""Segmentation: a label map that the picture should follow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dsg import images
from dsg.images import Picture
from tasks.semantic import Case, SemanticTask

IGNORED = 255  # in a label map: whatever


class Segmentation(SemanticTask):
    """Mean cross-entropy per pixel between the guide's labels of x0 and the map, over the pixels that are not 255.

    The paper gives no more than the network; the loss is ours. `reference` names label maps: PNGs of one channel (or a palette) with
    the class of every pixel; they are cropped to their central square and brought to the prior's size by the nearest
    pixel. A prompt goes to the prior, if it takes one.

    Args:
        classes: names of the classes, in the order of the guide's outputs.
    """

    takes = ("reference", "prompt")
    fetched_as = "lraspp"
    prompts_prior = True
    prompt_optional = True
    judged_as = ("labels",)

    def __init__(
        self,
        name: str,
        guide: Callable[[], nn.Module],
        classes: Sequence[str],
        reference: str | None = None,
        prompt: str | None = None,
        cpu_batch: int = 4,
    ):
        super().__init__(name, guide, reference, prompt, cpu_batch)
        self.classes = list(classes)

    def read_reference(self, path: Path, name: str, size: int) -> Picture:
        labels, original = read_labels(path, size, self.classes)
        if (labels == IGNORED).all():
            raise ValueError(f"{path} asks for nothing: all of it is 255")
        return Picture(name, path, labels, original)

    def show(self, case: Case) -> np.ndarray:
        return colored(case.reference.pixels, len(self.classes))

    def encode(self, case: Case) -> dict[str, Tensor]:
        return {"labels": torch.from_numpy(case.reference.pixels.astype(np.int64))[None]}

    def logits(self, x: Tensor, size: int) -> Tensor:
        out = self.guided(self.network(x.device), x)
        same = out.shape[-1] == size
        return out if same else F.interpolate(out, size=(size, size), mode="bilinear", align_corners=False)

    def loss(self, x0: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        labels = condition["labels"]
        logits = self.logits(x0, labels.shape[-1])
        per_pixel = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten(1)
        return per_pixel.sum(1) / (labels != IGNORED).flatten(1).sum(1)

    def measures(self, images: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = condition["labels"]
        found = self.logits(images, labels.shape[-1]).argmax(1)
        return {
            "guide_miou": mean_iou(found, labels, len(self.classes)),
            "cross_entropy": self.loss(images, condition),
        }


def read_labels(path: Path, size: int, classes: Sequence[str]) -> tuple[np.ndarray, tuple[int, int]]:
    """uint8 [size, size] classes, and the file's size. Raises ValueError if it is no label map."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a label map: {error}") from None
    if image.mode not in ("L", "P", "1", "I;16", "I"):
        raise ValueError(
            f"{path} is no label map: one channel with the class of every pixel, and this has {image.mode}"
        )
    values = np.asarray(image)
    if not 0 <= values.min() <= values.max() <= IGNORED:  # 16 bits
        raise ValueError(f"{path} holds classes from {values.min()} to {values.max()}: 0 to 254, and 255 for whatever")
    highest = values[values != IGNORED].max(initial=0)
    if highest >= len(classes):
        known = ", ".join(f"{i} {c}" for i, c in enumerate(classes))
        raise ValueError(f"{path} holds class {highest}: the guide knows {known}, and 255 for whatever")
    labels = Image.fromarray(values.astype(np.uint8))
    if min(labels.size) < min(size, 32):
        raise ValueError(f"{path} is too small: {labels.width}x{labels.height}")
    return np.asarray(images.square(labels, size, Image.Resampling.NEAREST)), image.size


def mean_iou(found: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Intersection over union, mean over the classes that the map holds, per image: [B]."""
    valid = labels != IGNORED
    total, count = 0.0, 0.0
    for c in range(classes):
        a, b = (found == c) & valid, labels == c
        union = (a | b).flatten(1).sum(1)
        there = b.flatten(1).any(1).float()
        total = total + there * (a & b).flatten(1).sum(1) / union.clamp_min(1)
        count = count + there
    return total / count


def colored(labels: np.ndarray, classes: int) -> np.ndarray:
    """uint8 [H, W, 3] of a label map, to look at."""
    from matplotlib import colormaps

    table = np.array([colormaps["tab20" if classes > 10 else "Set2"](i)[:3] for i in range(min(classes, 20))])
    table = np.vstack([table, np.ones((256 - len(table), 3))])
    return (table[labels] * 255).round().astype(np.uint8)
