"""A weighted sum of tasks is a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsg.types import Column, Data, Input
from tasks.base import Condition, Task
from tasks.semantic import SemanticTask


class Composite(SemanticTask):
    """sum_i w_i loss_i, for instance a person and a prompt.

    The parts' conditions are one dict with keys `<part>/<key>`. Runs sum semantic tasks; other tasks can be summed as
    well, where the caller makes their conditions.

    Args:
        parts: name -> task.
        weights: name -> w_i; a part whose weight is 0, or that has none, is left out.
        reference: given to every part that takes one; None: the images of `data.root`.
        prompt: given to every part that takes one; None: that of the first part that has one.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Task],
        weights: Mapping[str, float],
        reference: str | None = None,
        prompt: str | None = None,
    ):
        self.weights = _checked(weights, parts)
        self.parts = {n: parts[n] for n in self.weights}
        self.semantic = {n: p for n, p in self.parts.items() if isinstance(p, SemanticTask)}
        self.readers = [p for p in self.semantic.values() if p.reference_kind is not None]
        prompted = [p for p in self.semantic.values() if p.takes_prompt]
        own = [p.prompt for p in prompted if p.prompt is not None]
        super().__init__(name, None, reference, own[0] if prompt is None and own else prompt)
        self.reference_kind = self.readers[0].reference_kind if self.readers else None
        self.takes_prompt = bool(prompted)
        self.prompt_optional = all(p.prompt_optional for p in prompted)
        self.prompts_prior = any(p.prompts_prior for p in prompted)
        self.evaluated_by = tuple(dict.fromkeys(m for p in self.semantic.values() for m in p.evaluated_by))

    @property
    def prompt_in_loss(self) -> bool:
        return any(p.prompt_in_loss for p in self.semantic.values())

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(c for p in self.parts.values() for c in p.columns) + super().columns

    def check(self, shape: Sequence[int]) -> None:
        for part in self.semantic.values():
            part.check(shape)

    def check_prompt(self, prompt: str) -> None:
        for part in self.semantic.values():
            part.check_prompt(prompt)

    def inputs(self, data: Data, shape: Sequence[int]) -> list[Input]:
        others = [n for n in self.parts if n not in self.semantic]
        if others:
            raise ValueError(
                f"task.weights.{others[0]}: a measurement; run.py sums references, prompts and losses only"
            )
        if len({p.reference_kind for p in self.readers}) > 1:
            raise ValueError(
                f"task={self.name}: label maps and images cannot both be task.reference; give one weight 0"
            )
        return super().inputs(data, shape)

    def read_reference(self, path: Path, name: str, size: int) -> Input:
        """As the part that wants it largest; the others reduce that."""
        return max(self.readers, key=lambda p: p.reference_size(size)).read_reference(path, name, size)

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray | None:
        return self.readers[0].condition_image(input, condition) if self.readers else None

    def to(self, device: torch.device) -> "Composite":
        for part in self.semantic.values():
            part.to(device)
        return super().to(device)

    @property
    def weights_hash(self) -> str | None:
        return "+".join(str(p.weights_hash) for p in self.semantic.values())

    def encode(self, input: Input) -> dict[str, Tensor]:
        return {f"{n}/{key}": value for n, p in self.semantic.items() for key, value in p.encode(input).items()}

    def of_part(self, name: str, condition: Mapping) -> dict:
        """The condition of one part; nested dicts do as well."""
        if name in condition:
            return condition[name]
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in condition.items() if key.startswith(prefix)}

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        losses = [w * self.parts[n].loss(image, self.of_part(n, condition)) for n, w in self.weights.items()]
        return sum(losses[1:], start=losses[0])

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        found = {}
        for name, part in self.parts.items():
            found |= part.metrics(image, self.of_part(name, condition))
        return {**found, f"{self.name}_loss": self.loss(image, condition)}


def _checked(weights: Mapping[str, float], parts: Mapping[str, Task]) -> dict[str, float]:
    """The weights above 0."""
    for name, weight in weights.items():
        if name not in parts:
            raise ValueError(f"task.weights.{name}: no such part; one of {', '.join(parts)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0:
            raise ValueError(f"task.weights.{name}={weight}: a number, 0 or more")
    above = {name: float(weight) for name, weight in weights.items() if weight > 0}
    if not above:
        raise ValueError("task.weights: at least one must be above 0")
    return above
