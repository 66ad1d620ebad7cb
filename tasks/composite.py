"""A weighted sum of tasks is a task."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tasks.semantic import Case, SemanticTask


class Composite(SemanticTask):
    """sum_i w_i loss_i, for instance a person and a prompt.

    Args:
        parts: name -> task.
        weights: name -> w_i; a part whose weight is 0, or that has none, is left out.
        reference, prompt: one of each, given to every part that takes one.

    The parts' conditions are one dict with keys `<part>/<key>`.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping,
        weights: Mapping[str, float],
        reference: str | None = None,
        prompt: str | None = None,
    ):
        super().__init__(name, None, reference, prompt)
        unknown = [n for n in weights if n not in parts]
        if unknown:
            raise ValueError(f"task.weights.{unknown[0]}: no such part; one of {', '.join(parts)}")
        wrong = [n for n, w in weights.items() if isinstance(w, bool) or not isinstance(w, (int, float)) or w < 0]
        if wrong:
            raise ValueError(f"task.weights.{wrong[0]}={weights[wrong[0]]}: a number, 0 or more")
        self.weights = {n: float(w) for n, w in weights.items() if w > 0}
        if not self.weights:
            raise ValueError("task.weights: at least one must be above 0")
        self.parts = {n: parts[n] for n in self.weights}
        # others can be summed as well, where the caller makes their conditions
        self.semantic = {n: p for n, p in self.parts.items() if isinstance(p, SemanticTask)}
        semantic = self.semantic.values()
        self.takes = tuple(t for t in ("reference", "prompt") if any(t in p.takes for p in semantic))
        self.prompts_prior = any(p.prompts_prior for p in semantic)
        self.prompt_in_loss = any(p.prompt_in_loss for p in semantic)
        self.judged_as = tuple(j for p in semantic for j in p.judged_as)
        self.prompt_optional = all(p.prompt_optional for p in semantic if "prompt" in p.takes)
        self.readers = [p for p in semantic if "reference" in p.takes]

    def check(self, shape: Sequence[int]) -> None:
        for part in self.semantic.values():
            part.check(shape)

    def check_prompt(self, prompt: str) -> None:
        for part in self.semantic.values():
            part.check_prompt(prompt)

    def cases(self, size: int, root: str | None, limit: int | None) -> list[Case]:
        others = [n for n in self.parts if n not in self.semantic]
        if others:
            raise ValueError(
                f"task.weights.{others[0]}: a measurement; run.py sums references, prompts and losses only"
            )
        if len({type(p).read_reference for p in self.readers}) > 1:
            raise ValueError("task=composite: label maps and pictures cannot both be task.reference; give one weight 0")
        return super().cases(size, root, limit)

    def read_reference(self, path, name, size):
        """As the part that wants it largest; the others reduce that."""
        return max(self.readers, key=lambda p: p.reference_size(size)).read_reference(path, name, size)

    def show(self, case: Case):
        return None if case.reference is None else self.readers[0].show(case)

    def to(self, device: torch.device) -> "Composite":
        for part in self.semantic.values():
            part.to(device)
        return super().to(device)

    @property
    def weights_hash(self) -> str | None:
        hashes = [p.weights_hash for p in self.semantic.values()]
        return "+".join(str(h) for h in hashes)

    def encode(self, case: Case) -> dict[str, Tensor]:
        return {f"{n}/{key}": value for n, p in self.semantic.items() for key, value in p.encode(case).items()}

    def of_part(self, name: str, condition: Mapping) -> dict:
        """The condition of one part; nested dicts do as well."""
        if name in condition:
            return condition[name]
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in condition.items() if key.startswith(prefix)}

    def loss(self, x0: Tensor, condition: Mapping) -> Tensor:
        losses = [w * self.parts[n].loss(x0, self.of_part(n, condition)) for n, w in self.weights.items()]
        return sum(losses[1:], start=losses[0])

    def measures(self, images: Tensor, condition: Mapping) -> dict[str, Tensor]:
        found = {}
        for name, part in self.parts.items():
            found |= part.measures(images, self.of_part(name, condition))
        return {**found, f"{self.name}_loss": self.loss(images, condition)}
