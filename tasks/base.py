"""What a task is: what a run is conditioned on, and the loss that guides it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dsg.priors.base import Prior
from dsg.types import Column, Data, Input

Condition = Mapping[str, Tensor]


class Task(ABC):
    """What a run is conditioned on (`inputs`), as tensors (`condition`), and how far an image is from it (`loss`).

    Attributes:
        name: files results; keys the noise that the task draws.
        columns: how the numbers of `metrics` are shown in tables.
        evaluated_by: names of the metrics (configs/metric/) that are reported by default.
        prompts_prior: whether an input's prompt is the prior's.
        tries: how often an image is sampled, from other noise; the one with the least loss is kept.
    """

    name: str
    columns: tuple[Column, ...] = ()
    evaluated_by: tuple[str, ...] = ()
    prompts_prior = False
    tries = 1

    @abstractmethod
    def inputs(self, data: Data, shape: Sequence[int]) -> list[Input]:
        """All inputs, checked, the first `data.limit` of them by id; for images of `shape` (C, H, W), or (C, None,
        None): each of its own size.

        Raises:
            ValueError: one line that names the file or option.
        """

    def image_shape(self, input: Input, shape: Sequence[int]) -> tuple[int, ...]:
        """(C, H, W) of the image that is made from the input; `shape` is that of all, or (C, None, None)."""
        if None not in shape:
            return tuple(shape)
        raise ValueError(f"task={self.name} needs images of one size: data.size=256")

    @abstractmethod
    def condition(self, inputs: Sequence[Input], seed: int) -> dict[str, Tensor]:
        """The condition of a batch: tensors [B, ...] that depend on (seed, input) alone."""

    @abstractmethod
    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        """[B], of images [B, C, H, W], about [-1, 1]; each depends on its own image alone; differentiable."""

    def finish(self, image: Tensor, condition: Condition) -> Tensor:
        """What is saved of finished images [B, C, H, W] in [-1, 1]; like `image`."""
        return image

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        """What the task itself says of finished images: the name of each of its `columns` -> [B]."""
        return {}

    def check(self, shape: Sequence[int]) -> None:
        """Reads no weights.

        Raises:
            ValueError: images of `shape` (C, H, W) do not suit.
            FileNotFoundError: weights are missing.
        """

    def check_prior(self, prior: Prior, inputs: Sequence[Input]) -> None:
        """Raise a ValueError if the prior does not suit what is asked for. Needs no weights."""

    def notes(self, inputs: Sequence[Input]) -> list[str]:
        """What the user should know of the inputs before work starts, a line each."""
        return []

    def to(self, device: torch.device) -> "Task":
        """Load what it guides with, onto the device."""
        return self

    @property
    def weights_hash(self) -> str | None:
        """Identifies, in a run's identity, files that change the loss: weights, matrices."""
        return None

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray | None:
        """What stands for the condition of one image in results, uint8 [H, W, C], from `condition` [1, ...]."""
        return None
