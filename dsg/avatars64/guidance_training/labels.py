"""The guidance network of `task=segmentation`, the evaluator and the selector of label maps."""

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dsg.avatars64.faces import read_shards
from dsg.avatars64.guidance_training.base import Job, augment, draw, save_half
from tasks.networks.evaluator_networks import ConvNeXtNet, DilatedNet
from tasks.networks.parts import PartsUNet


class Parts(Job):
    """Cross-entropy per pixel."""

    batch, rate, file = 32, 2e-3, "parts.safetensors"
    kind: type = PartsUNet

    def __init__(self, data: Path):
        super().__init__()
        _, (self.images, self.labels) = read_shards(data / "identities", "images", "parts")
        self.network = self.kind()

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = draw(len(self.images), self.batch, rng)
        logits = self.network(augment(self.images[index], rng))
        return F.cross_entropy(logits.float(), self.labels[index].long())

    def save(self, out: Path) -> None:
        save_half(self.network, out / self.file)


class Labels(Parts):
    """The same, with the evaluator's network."""

    kind, file = DilatedNet, "evaluator/labels.safetensors"


class SelectorLabels(Parts):
    """The same, with the selector's network."""

    kind, file = ConvNeXtNet, "selector/labels.safetensors"
