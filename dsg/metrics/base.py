"""What a metric is: a number computed from saved images, so that it can be added to finished runs."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch

from dsg.priors.base import Prior
from dsg.types import Column, Input


class EvaluatedRun(Protocol):
    """What a metric may ask of the run that it evaluates (`dsg.runs.runner.Run`)."""

    device: torch.device
    config: Any
    task: Any
    inputs: Sequence[Input]
    samples: int
    seed: int

    def known_prior(self) -> Prior:
        """The prior, which a finished run does not hold."""


class Metric(ABC):
    """One reported number. A metric keeps a published name only when it is that metric.

    Attributes:
        column: its name, title, digits and direction.
        scope: "image" or "set".
        device: of the run; the networks of `guidance.py` and `inception.py` compute there.
    """

    column: Column
    scope: str
    device: torch.device = torch.device("cpu")

    @property
    def name(self) -> str:
        return self.column.name

    def of(self, run: EvaluatedRun) -> "Metric":
        """The metric bound to a run, on whose device it computes; subclasses may ask the run for more."""
        bound = copy(self)
        bound.device = run.device
        return bound

    def missing(self) -> str | None:
        """Why it cannot be had on this machine (weights that are not there), in one line; None if it can."""
        return None

    def settings(self) -> dict:
        """What changes the number besides the images (weights, reference set, filters): printed under tables."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its settings. Numbers that were computed with others are computed again."""
        return sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:10]

    def applies(self, inputs: Sequence[Input]) -> bool:
        """Whether these inputs have what it compares with."""
        return True


class ImageMetric(Metric):
    """A number per image."""

    scope = "image"

    @abstractmethod
    def __call__(self, images: np.ndarray, inputs: Sequence[Input]) -> list[float]:
        """Args: images uint8 [B, H, W, 3] as saved; what each was made from. Returns [B]; NaN where there is none."""


def at_once(height: int, width: int) -> int:
    """How many images a metric gets at a time: 64, and fewer large ones. LPIPS keeps 160 MB for a pair of 256 px."""
    return max(1, min(64, 2**20 // (height * width)))


def in_parts(metric: ImageMetric, images: np.ndarray, inputs: Sequence[Input]) -> list[float]:
    """The metric of any number of images uint8 [N, H, W, 3]."""
    size = at_once(*images.shape[1:3])
    parts = (slice(k, k + size) for k in range(0, len(images), size))
    return [value for part in parts for value in metric(images[part], inputs[part])]


class SetMetric(Metric):
    """One number for all images of a run."""

    scope = "set"
    smallest = 2  # images; fewer give none

    @abstractmethod
    def __call__(self, images: np.ndarray) -> float:
        """Args: images uint8 [N, H, W, 3], N at least `smallest`."""

    def beside(self, images: np.ndarray) -> dict[str, float]:
        """Numbers that belong beside it in metrics.json, by name: a floor, an interval. Asked for after the number."""
        return {}
