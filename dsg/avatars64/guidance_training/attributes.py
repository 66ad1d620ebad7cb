"""The evaluator and the selector of identity, words and style."""

import json
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dsg.avatars64.attributes import VALUES
from dsg.avatars64.faces import read_shards
from dsg.avatars64.guidance_training.base import Job, attribute_targets, augment, draw, save_half
from tasks.networks.evaluator_networks import AttributeNet, DenseAttributeNet, ShuffleAttributeNet


class Attributes(Job):
    """Mean cross-entropy of the attributes. The nose, small and faint and learned last, counts three times."""

    batch, rate, file = 64, 2e-3, "evaluator/attributes.safetensors"
    kind: type[AttributeNet] = DenseAttributeNet

    def __init__(self, data: Path):
        super().__init__()
        self.table, (self.images,) = read_shards(data / "train", "images")
        self.targets, counts = attribute_targets(self.table)
        self.network = self.kind(counts)

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = draw(len(self.images), self.batch, rng)
        logits = self.network(augment(self.images[index], rng))
        losses = {k: F.cross_entropy(logits[k].float(), self.targets[k][index]) for k in logits}
        return (sum(losses.values()) + 2 * losses["nose"]) / len(losses)

    def save(self, out: Path) -> None:
        values = {name: sorted(self.table[name].unique()) for name in VALUES}
        save_half(self.network, out / self.file, {"values": json.dumps(values)})


class SelectorAttributes(Attributes):
    """The same, with the selector's network."""

    kind, file = ShuffleAttributeNet, "selector/attributes.safetensors"
