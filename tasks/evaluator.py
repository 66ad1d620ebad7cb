"""Who judges the samples on avatars64: networks that no guide has seen, on the saved 8-bit pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from dsg.checkpoints import load_into, read_state_dict, require
from dsg.images import Picture
from tasks.captions import asked_for
from tasks.evaluator_networks import AttributeNet, DilatedNet
from tasks.segmentation import mean_iou
from tasks.semantic import Case

# the nose, the fifth, this judge cannot tell at 64 px (its card)
IDENTITY = ("skin", "hair", "hair_color", "facial_hair")
NAMES = {  # what is judged: the measures
    "identity": ("identity_attributes", "same_identity"),
    "words": ("attribute_accuracy", "all_attributes"),
    "style": ("judged_style",),
    "labels": ("miou",),
}


class AvatarEvaluator:
    """Measures of samples, each a number per image.

    identity_attributes: share of skin, hair, hair colour and facial hair in which the judge finds sample and reference alike.
    same_identity: 1 if all four are.
    attribute_accuracy: share of the prompt's attributes that the judge finds in the sample.
    all_attributes: 1 if it finds all of them.
    judged_style: |G - G_ref|/|G_ref|, G the Gram matrix of the judge's own maps after its first block.
    miou: mean intersection over union of the judge's labels with the map.

    Args:
        checkpoint: folder with attributes.safetensors and labels.safetensors.
    """

    def __init__(self, checkpoint: str, batch: int = 64):
        self.batch = batch
        path = require(Path(checkpoint) / "attributes.safetensors", "avatars64")
        with safe_open(path, "pt") as file:
            self.values: dict[str, list[str]] = json.loads(file.metadata()["values"])
        self.attributes = AttributeNet({name: len(values) for name, values in self.values.items()})
        load_into(self.attributes, read_state_dict(path, "avatars64"), path)
        path = require(Path(checkpoint) / "labels.safetensors", "avatars64")
        self.labels = DilatedNet()
        load_into(self.labels, read_state_dict(path, "avatars64"), path)
        for network in (self.attributes, self.labels):
            network.float().eval().requires_grad_(False)

    def names(self, task) -> list[str]:
        return [name for kind in task.judged_as for name in NAMES[kind]]

    @torch.no_grad()
    def measure(self, pixels: np.ndarray, cases: Sequence[Case], task) -> dict[str, list[float]]:
        """Args: pixels uint8 [B, 64, 64, 3]; the cases they were made for; the task."""
        x = _tensor(pixels)
        found = {}
        for kind in task.judged_as:
            numbers = getattr(self, f"_{kind}")(x, cases)
            found |= dict(zip(NAMES[kind], (n.double().tolist() for n in numbers)))
        return found

    @torch.no_grad()
    def score(self, pixels: np.ndarray, cases: Sequence[Case], task) -> list[float]:
        """One smooth number per image, higher is better, for tuning: the mean over what is asked (identity attributes alike,
        words of the prompt) of its probability; 1 - judged_style; miou."""
        x = _tensor(pixels)
        scores = []
        for kind in task.judged_as:
            if kind == "identity":
                sample, reference = self.probabilities(x), self.probabilities(_references(cases))
                scores.append(torch.stack([(sample[n] * reference[n]).sum(1) for n in IDENTITY]).mean(0))
            elif kind == "words":
                scores.append(self._probability_of_words(self.probabilities(x), cases))
            else:
                (measured,) = getattr(self, f"_{kind}")(x, cases)
                scores.append(1 - measured if kind == "style" else measured)
        return torch.stack(scores).mean(0).tolist()

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> dict[str, Tensor]:
        """Probability [B, values] of every attribute's values, for images in [-1, 1]."""
        parts = [self.attributes(part) for part in x.split(self.batch)]
        return {name: torch.cat([part[name] for part in parts]).softmax(1) for name in self.values}

    @torch.no_grad()
    def features(self, pixels: np.ndarray) -> Tensor:
        """[B, F] of the attribute network, for Frechet distances."""
        return torch.cat([self.attributes.features(part) for part in _tensor(pixels).split(self.batch)])

    @torch.no_grad()
    def recognised(self, x: Tensor) -> dict[str, Tensor]:
        """Index of each attribute's likeliest value, [B], for images in [-1, 1]."""
        return {name: p.argmax(1) for name, p in self.probabilities(x).items()}

    def _identity(self, x: Tensor, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        sample, reference = self.recognised(x), self.recognised(_references(cases))
        alike = torch.stack([sample[name] == reference[name] for name in IDENTITY], 1).float()
        return alike.mean(1), (alike.mean(1) == 1).float()

    def _words(self, x: Tensor, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        sample = self.recognised(x)
        shares = []
        for i, case in enumerate(cases):
            asked = asked_for(case.prompt)
            right = [self.values[name][sample[name][i]] in wanted for name, wanted in asked.items()]
            shares.append(sum(right) / len(right) if right else float("nan"))
        shares = torch.tensor(shares)
        return shares, torch.where(shares.isnan(), shares, (shares == 1).float())

    def _probability_of_words(self, found: dict[str, Tensor], cases: Sequence[Case]) -> Tensor:
        scores = []
        for i, case in enumerate(cases):
            asked = asked_for(case.prompt).items()
            wanted = [sum(found[name][i, self.values[name].index(v)] for v in values) for name, values in asked]
            scores.append(torch.stack(wanted).mean())
        return torch.stack(scores)

    def _style(self, x: Tensor, cases: Sequence[Case]) -> tuple[Tensor]:
        own, wanted = self.attributes.style(x), self.attributes.style(_references(cases))
        return ((own - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1),)

    def _labels(self, x: Tensor, cases: Sequence[Case]) -> tuple[Tensor]:
        wanted = torch.stack([torch.from_numpy(case.reference.pixels.astype(np.int64)) for case in cases])
        found = torch.cat([self.labels(part) for part in x.split(self.batch)]).argmax(1)
        return (mean_iou(found, wanted, 4),)


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _references(cases: Sequence[Case]) -> Tensor:
    pictures: list[Picture] = [case.reference for case in cases]
    return _tensor(np.stack([p.pixels for p in pictures]))
