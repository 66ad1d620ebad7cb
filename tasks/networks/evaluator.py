"""The evaluator of avatars64, and the selector: networks that guide nothing, on saved 8-bit images.

The selector chooses step sizes; the evaluator reports, and chooses nothing.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from dsg.avatars64.captions import asked_for
from dsg.files import file_hash
from dsg.types import Input, to_tensor
from dsg.weights import load_into, read_state_dict, require
from tasks.networks.evaluator_networks import (
    AttributeNet,
    ConvNeXtNet,
    DenseAttributeNet,
    DilatedNet,
    ShuffleAttributeNet,
)
from tasks.segmentation import mean_iou

# the nose, the fifth, the evaluator has not learned to tell (card in checkpoints/avatars64/GUIDANCE.md)
IDENTITY = ("skin", "hair", "hair_color", "facial_hair")
FILES = ("attributes.safetensors", "labels.safetensors")


class AvatarEvaluator:
    """What an attribute classifier and a labelling network find in images.

    Images are uint8 [B, 64, 64, 3], with an `Input` for each; results are float [B].

    Args:
        checkpoint: folder with attributes.safetensors and labels.safetensors.
        batch: images that a network sees at a time.
    """

    attribute_network: type[AttributeNet] = DenseAttributeNet
    label_network: type[nn.Module] = DilatedNet

    def __init__(self, checkpoint: str, batch: int = 64):
        self.batch = batch
        attributes, labels = files_of(checkpoint)
        states = {path: read_state_dict(path, "avatars64") for path in (attributes, labels)}
        with safe_open(attributes, "pt") as file:
            self.values: dict[str, list[str]] = json.loads(file.metadata()["values"])
        self.attributes = self.attribute_network({name: len(values) for name, values in self.values.items()})
        self.labels = self.label_network()
        for network, path in ((self.attributes, attributes), (self.labels, labels)):
            load_into(network, states[path], path)
            network.float().eval().requires_grad_(False)

    # --- what the networks say

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> dict[str, Tensor]:
        """Probability [B, values] of every attribute's values, for images [B, 3, 64, 64] in [-1, 1]."""
        parts = [self.attributes(part) for part in x.split(self.batch)]
        return {name: torch.cat([part[name] for part in parts]).softmax(1) for name in self.values}

    def recognised(self, x: Tensor) -> dict[str, Tensor]:
        """Index of each attribute's likeliest value, [B], for images [B, 3, 64, 64] in [-1, 1]."""
        return {name: p.argmax(1) for name, p in self.probabilities(x).items()}

    @torch.no_grad()
    def features(self, images: np.ndarray) -> Tensor:
        """[B, F] of the attribute network, for Frechet distances."""
        return torch.cat([self.attributes.features(part) for part in to_tensor(images).split(self.batch)])

    # --- how images compare with what was wanted

    def alike(self, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        """Share of the identity attributes that are found alike in image and reference."""
        sample, reference = self.recognised(to_tensor(images)), self.recognised(_references(inputs))
        return torch.stack([sample[name] == reference[name] for name in IDENTITY], 1).float().mean(1)

    def right(self, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        """Share of the attributes that the prompt asks for which are found; NaN if it asks for none."""
        sample, shares = self.recognised(to_tensor(images)), []
        for i, input in enumerate(inputs):
            asked = asked_for(input.prompt)
            found = [self.values[name][sample[name][i]] in wanted for name, wanted in asked.items()]
            shares.append(sum(found) / len(found) if found else float("nan"))
        return torch.tensor(shares)

    @torch.no_grad()
    def style_distance(self, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        """|G - G_ref|/|G_ref|, G the Gram matrix of the attribute network's maps after its first block."""
        own, wanted = self.attributes.style(to_tensor(images)), self.attributes.style(_references(inputs))
        return (own - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)

    @torch.no_grad()
    def label_iou(self, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        """Mean intersection over union of the labels found with the map."""
        wanted = torch.stack([torch.from_numpy(input.labels.astype(np.int64)) for input in inputs])
        found = torch.cat([self.labels(part) for part in to_tensor(images).split(self.batch)]).argmax(1)
        return mean_iou(found, wanted, 4)

    # --- the same as smooth numbers, for tuning

    def score(self, images: np.ndarray, inputs: Sequence[Input], metrics: Sequence[str]) -> list[float]:
        """A smooth number in place of metrics, higher is better: the mean over those of `metrics` in `smooth`.

        Of attributes it is their mean probability: to be alike, or to be what the prompt asks for. Of style it is
        1 - distance.

        Args:
            metrics: names, as in a task's `evaluated_by`.
        """
        wanted = [score for metric, score in self.smooth.items() if metric in metrics]
        return torch.stack([score(images, inputs) for score in wanted]).mean(0).tolist()

    @property
    def smooth(self) -> dict[str, Callable[[np.ndarray, Sequence[Input]], Tensor]]:
        """By metric, what stands for it in `score`: [B]."""
        return {
            "identity_attributes": self._probably_alike,
            "attribute_accuracy": self._probably_right,
            "evaluated_style": lambda images, inputs: 1 - self.style_distance(images, inputs),
            "miou": self.label_iou,
        }

    def _probably_alike(self, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        sample, reference = self.probabilities(to_tensor(images)), self.probabilities(_references(inputs))
        return torch.stack([(sample[name] * reference[name]).sum(1) for name in IDENTITY]).mean(0)

    def _probably_right(self, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        found, scores = self.probabilities(to_tensor(images)), []
        for i, input in enumerate(inputs):
            asked = asked_for(input.prompt).items()
            wanted = [sum(found[name][i, self.values[name].index(v)] for v in sorted(values)) for name, values in asked]
            scores.append(torch.stack(wanted).mean())
        return torch.stack(scores)


class AvatarSelector(AvatarEvaluator):
    """The same by networks of other architectures, trained from another seed."""

    attribute_network, label_network = ShuffleAttributeNet, ConvNeXtNet


def files_of(checkpoint: str) -> list[Path]:
    """The weights in a folder of the evaluator or the selector. Raises FileNotFoundError."""
    return [require(Path(checkpoint) / name, "avatars64") for name in FILES]


def hash_of(checkpoint: str) -> str:
    """A hash of these weights."""
    return sha256("".join(file_hash(f) for f in files_of(checkpoint)).encode()).hexdigest()


@cache
def load_selector(checkpoint: str) -> AvatarSelector:
    """The selector in a folder, once per process."""
    return AvatarSelector(checkpoint)


@cache
def load_evaluator(checkpoint: str) -> AvatarEvaluator:
    """The evaluator in a folder, once per process."""
    return AvatarEvaluator(checkpoint)


def _references(inputs: Sequence[Input]) -> Tensor:
    return to_tensor([input.reference for input in inputs])
