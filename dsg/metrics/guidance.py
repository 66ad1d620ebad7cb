"""CLIP score, ID distance and style distance: what the published networks that guide say of saved images.

Tasks report the last two of their own images when they make them. As metrics they can be added to any run whose inputs
have a reference. Another network than the published one (an embedded one) goes by another title.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dsg.metrics.base import ImageMetric
from dsg.priors.batching import in_fixed_batches
from dsg.types import Column, Input, to_tensor
from tasks.clip import load_clip
from tasks.faceid import FaceID
from tasks.networks.base import GuidanceNetwork
from tasks.semantic import SemanticTask
from tasks.style import Style

CPU_BATCH = 4  # so that an image gets the same number in any batch


class NetworkMetric(ImageMetric):
    """A metric in the eyes of one network, on the run's device."""

    network: GuidanceNetwork

    def missing(self) -> str | None:
        try:
            self.network.check()
        except (FileNotFoundError, ValueError) as error:
            return str(error)
        return None

    def settings(self) -> dict:
        """The network's weights."""
        return {"network": self.network.weights_hash[:10]}


class CLIPScore(NetworkMetric):
    """100 max(cos, 0) of the features of image and prompt (Hessel et al., arXiv 2104.08718, without its factor 2.5).

    The image is prepared as CLIP's own preprocessing does: Pillow's bicubic filter, antialiased. (The guidance uses
    FreeDoM's, which is not.)

    Args:
        checkpoint: folder of a CLIP in the Hugging Face hub's format.
        title: in tables.
    """

    def __init__(self, checkpoint: str = "checkpoints/clip-vit-base-patch16", title: str = "CLIP score"):
        self.network, self.column = load_clip(checkpoint), Column("clip_score", title, 1, True)

    def applies(self, inputs: Sequence[Input]) -> bool:
        return all(i.prompt is not None for i in inputs)

    @torch.no_grad()
    def __call__(self, images: np.ndarray, inputs: Sequence[Input]) -> list[float]:
        clip = self.network.load(self.device)
        side = (clip.size, clip.size)
        resized = [np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC)) for image in images]
        features = in_fixed_batches(clip.image_features, to_tensor(resized).to(self.device), CPU_BATCH)
        texts = {prompt: clip.text_features(prompt)[0] for prompt in {i.prompt for i in inputs}}
        cosine = F.cosine_similarity(features, torch.stack([texts[i.prompt] for i in inputs]))
        return (100 * cosine.clamp_min(0)).tolist()


class ReferenceDistance(NetworkMetric):
    """The distance from the reference that a semantic task reports of its own images."""

    task: SemanticTask

    @property
    def network(self) -> GuidanceNetwork:
        return self.task.guidance

    def applies(self, inputs: Sequence[Input]) -> bool:
        return all(i.reference is not None for i in inputs)

    @torch.no_grad()
    def __call__(self, images: np.ndarray, inputs: Sequence[Input]) -> list[float]:
        task = self.task.to(self.device)
        found = task.metrics(to_tensor(images).to(task.device), task.condition(inputs, seed=0))
        return found[self.name].tolist()


class IDDistance(ReferenceDistance):
    """Args: see `tasks.faceid.FaceID`."""

    column = FaceID.columns[0]

    def __init__(self, guidance: GuidanceNetwork, image_size: int = 256, crop: Sequence[int] = (35, 223, 32, 220)):
        self.task = FaceID("faceid", guidance, image_size=image_size, crop=crop, cpu_batch=CPU_BATCH)


class StyleDistance(ReferenceDistance):
    """Args: see `tasks.style.Style`."""

    column = Style.columns[0]

    def __init__(self, guidance: GuidanceNetwork, image_size: int = 224):
        self.task = Style("style", guidance, image_size=image_size, cpu_batch=CPU_BATCH)
