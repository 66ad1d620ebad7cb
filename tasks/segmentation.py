"""Segmentation: a label map that the image should follow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dsg import image_files as images
from dsg.types import Column, Input
from tasks.base import Condition
from tasks.networks.base import GuidanceNetwork
from tasks.semantic import SMALLEST, SemanticTask

IGNORED = 255  # in a label map: any class


class Segmentation(SemanticTask):
    """Mean cross-entropy per pixel between the network's labels of x0 and the map, over the pixels that are not 255.

    The paper gives no more than the network; the loss is ours. `reference` names label maps: PNGs of one channel (or a
    palette) with the class of every pixel. They are cropped to their central square and brought to the prior's size by
    the nearest pixel. A prompt goes to the prior, if it takes one.

    Args:
        guidance: `tasks.networks.parts.load_lraspp`, or `load_parts`.
        classes: names of the classes, in the order of the network's outputs.
        reference, prompt, cpu_batch: see `SemanticTask`.
    """

    reference_kind = "label map"
    takes_prompt = True
    prompts_prior = True
    prompt_optional = True
    columns = (
        Column("guidance_miou", "mIoU (guidance network)", 3, True),
        Column("cross_entropy", "cross-entropy (guidance network)", 3, False),
    )
    evaluated_by = ("miou", "clip_score")

    def __init__(
        self,
        name: str,
        guidance: GuidanceNetwork,
        classes: Sequence[str],
        reference: str | None = None,
        prompt: str | None = None,
        cpu_batch: int = 4,
    ):
        super().__init__(name, guidance, reference, prompt, cpu_batch)
        self.classes = list(classes)

    def read_reference(self, path: Path, name: str, size: int) -> Input:
        labels = read_labels(path, size, self.classes)
        if (labels == IGNORED).all():
            raise ValueError(f"{path} asks for nothing: all of it is 255")
        return Input(name, labels=labels, path=path)

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray:
        """The label map in colours."""
        return colored(input.labels, len(self.classes))

    def encode(self, input: Input) -> dict[str, Tensor]:
        return {"labels": torch.from_numpy(input.labels.astype(np.int64))[None].to(self.device)}

    def logits(self, image: Tensor, size: int) -> Tensor:
        """[B, classes, size, size] of images [B, 3, H, W]."""
        out = self.in_batches(self.network(image.device), image)
        same = out.shape[-1] == size
        return out if same else F.interpolate(out, size=(size, size), mode="bilinear", align_corners=False)

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        labels = condition["labels"]
        return cross_entropy(self.logits(image, labels.shape[-1]), labels)

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        labels = condition["labels"]
        logits = self.logits(image, labels.shape[-1])
        miou = mean_iou(logits.argmax(1), labels, len(self.classes))
        return {"guidance_miou": miou, "cross_entropy": cross_entropy(logits, labels)}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[B], the mean over the pixels that have a label. Args: [B, classes, S, S]; [B, S, S]."""
    per_pixel = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten(1)
    return per_pixel.sum(1) / (labels != IGNORED).flatten(1).sum(1)


def read_labels(path: Path, size: int, classes: Sequence[str]) -> np.ndarray:
    """uint8 [size, size], the class of every pixel. Raises a ValueError if it is no label map."""
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
        raise ValueError(f"{path} holds classes from {values.min()} to {values.max()}: 0 to 254, and 255 for any")
    highest = values[values != IGNORED].max(initial=0)
    if highest >= len(classes):
        known = ", ".join(f"{i} {c}" for i, c in enumerate(classes))
        raise ValueError(f"{path} holds class {highest}: the guidance network knows {known}, and 255 for any")
    labels = Image.fromarray(values.astype(np.uint8))
    if min(labels.size) < min(size, SMALLEST):
        raise ValueError(f"{path} is too small: {labels.width}x{labels.height}")
    return np.asarray(images.square(labels, size, Image.Resampling.NEAREST))


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
