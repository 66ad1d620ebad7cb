"""Metrics of what a reference, a prompt or a label map asks for, by networks that guide nothing (the evaluator).

Only a prior whose images such networks know has an evaluator: avatars64.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dsg.metrics.base import ImageMetric
from dsg.types import Column, Input
from tasks.networks.evaluator import AvatarEvaluator, files_of, hash_of, load_evaluator


class EvaluatorMetric(ImageMetric):
    """A metric in the evaluator's eyes.

    Args:
        checkpoint: folder with the evaluator's weights; None where the prior has none.
    """

    def __init__(self, checkpoint: str | None = None):
        self.checkpoint = checkpoint

    def missing(self) -> str | None:
        if self.checkpoint is None:
            return "this prior has no evaluator"
        try:
            files_of(self.checkpoint)
        except FileNotFoundError as error:
            return str(error)
        return None

    def settings(self) -> dict:
        """The evaluator's weights."""
        return {"evaluator": hash_of(self.checkpoint)[:10]}

    def __call__(self, images: np.ndarray, inputs: Sequence[Input]) -> list[float]:
        return self.evaluate(load_evaluator(self.checkpoint), images, inputs).double().tolist()

    @abstractmethod
    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        """[B]; the arguments are those of a call."""


class ReferenceMetric(EvaluatorMetric):
    """Compares with the reference image."""

    def applies(self, inputs: Sequence[Input]) -> bool:
        return all(i.reference is not None for i in inputs)


class PromptMetric(EvaluatorMetric):
    """Compares with the prompt."""

    def applies(self, inputs: Sequence[Input]) -> bool:
        return all(i.prompt is not None for i in inputs)


class IdentityAttributes(ReferenceMetric):
    """Share of skin, hair, hair colour and facial hair in which image and reference are found alike."""

    column = Column("identity_attributes", "attributes alike (evaluator)", 3, True)

    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        return evaluator.alike(images, inputs)


class SameIdentity(ReferenceMetric):
    """1 if all four are alike, else 0."""

    column = Column("same_identity", "same person (evaluator)", 3, True)

    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        return (evaluator.alike(images, inputs) == 1).float()


class AttributeAccuracy(PromptMetric):
    """Share of the attributes that the prompt asks for which are found in the image."""

    column = Column("attribute_accuracy", "attributes right (evaluator)", 3, True)

    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        return evaluator.right(images, inputs)


class AllAttributes(PromptMetric):
    """1 if all of them are found, else 0."""

    column = Column("all_attributes", "all of them (evaluator)", 3, True)

    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        shares = evaluator.right(images, inputs)
        return torch.where(shares.isnan(), shares, (shares == 1).float())


class EvaluatedStyle(ReferenceMetric):
    """Relative distance of Gram matrices: see `AvatarEvaluator.style_distance`."""

    column = Column("evaluated_style", "style distance (evaluator)", 3, False)

    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        return evaluator.style_distance(images, inputs)


class Miou(EvaluatorMetric):
    """Mean intersection over union of the evaluator's labels with the label map."""

    column = Column("miou", "mIoU (evaluator)", 3, True)

    def applies(self, inputs: Sequence[Input]) -> bool:
        return all(i.labels is not None for i in inputs)

    def evaluate(self, evaluator: AvatarEvaluator, images: np.ndarray, inputs: Sequence[Input]) -> Tensor:
        return evaluator.label_iou(images, inputs)
