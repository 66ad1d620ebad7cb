"""Tasks conditioned on a reference image, a label map, a prompt, or nothing but a loss of one's own."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dsg import image_files as images
from dsg.files import resolve
from dsg.priors.base import Prior
from dsg.priors.batching import in_fixed_batches
from dsg.types import Column, Data, Input
from tasks.base import Condition, Task
from tasks.networks.base import GuidanceNetwork
from tasks.prompts import read_prompts, slug

PIL_BILINEAR = Image.Resampling.BILINEAR
SMALLEST = 32  # px; references are enlarged to the guidance network's size, but not from less


class SemanticTask(Task):
    """Subclasses give `loss`, say what they take, and turn an input into tensors in `encode`.

    The guidance network is read when it is first needed, or by `to`, once per process. On a CPU it sees `cpu_batch`
    images at a time, so that an image comes out the same in any batch.

    Args:
        name: of the task, for results.
        guidance: the network that the loss looks through.
        reference: image or label map, or a folder of them; None: those of `data.root`.
        prompt: text, or a .txt file with a prompt per line.
        cpu_batch: images that the network sees at a time on a CPU; 0: all.

    Attributes:
        reference_kind: what `reference` names, "image" or "label map"; None if the task takes none.
        takes_prompt: whether the task takes a prompt.
        prompt_optional: whether it may be left out.
    """

    reference_kind: str | None = None
    takes_prompt = False
    prompt_optional = False
    device = torch.device("cpu")  # where inputs are encoded

    def __init__(
        self,
        name: str,
        guidance: GuidanceNetwork | None = None,
        reference: str | None = None,
        prompt: str | None = None,
        cpu_batch: int = 4,
    ):
        self.name, self.guidance, self.reference, self.prompt = name, guidance, reference, prompt
        self.cpu_batch = cpu_batch
        self._encoded: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        """Distance of images [B, 3, H, W], about [-1, 1], from what the condition asks for: [B]."""

    def encode(self, input: Input) -> dict[str, Tensor]:
        """One input as tensors [1, ...] of the condition."""
        return {}

    def condition(self, inputs: Sequence[Input], seed: int) -> dict[str, Tensor]:
        """The condition of a batch. Every input is encoded on its own; the last batch's are kept, as the next one often
        has them again. Nothing is drawn: `seed` does not matter.
        """
        digests = [input.digest for input in inputs]
        known, self._encoded = self._encoded, {}
        for digest, input in zip(digests, inputs):
            if digest not in self._encoded:
                with torch.no_grad():
                    self._encoded[digest] = known[digest] if digest in known else self.encode(input)
        encoded = [self._encoded[digest] for digest in digests]
        return {key: torch.cat([e[key] for e in encoded]) for key in encoded[0]} if encoded else {}

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(f"{self.name}_loss", "loss", 3, False),)

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        return {f"{self.name}_loss": self.loss(image, condition)}

    # --- inputs

    def inputs(self, data: Data, shape: Sequence[int]) -> list[Input]:
        """Every reference with every prompt, the first `data.limit` of them."""
        if data.degraded:
            raise ValueError(f"data.degraded=true: task={self.name} restores nothing")
        if self.reference is not None and self.reference_kind is None:
            raise ValueError(f"task.reference={self.reference}: task={self.name} takes none")
        references = self.read_references(data, shape[-1]) if self.reference_kind is not None else [None]
        prompts = read_prompts(self.prompt, self.name, self.prompt_optional) if self.takes_prompt else [None]
        for prompt in prompts:
            if prompt is not None:
                self.check_prompt(prompt)
        found = [_combined(r, p, self.name, len(prompts)) for r in references for p in prompts]
        if len({input.id for input in found}) < len(found):
            raise ValueError(f"task.prompt={self.prompt}: two prompts that differ in no letter")
        return found[: data.limit]

    def read_references(self, data: Data, size: int) -> list[Input]:
        """The first `data.limit` references, for images of side `size`."""
        source = self.reference if self.reference is not None else data.root
        if source is None:
            raise ValueError(f"task={self.name} needs task.reference=<image or folder>")
        option = "task.reference" if self.reference is not None else "data.root"
        files = dict(list(images.find(resolve(source), option).items())[: data.limit])
        return list(
            images.each(files, lambda name, path: self.read_reference(path, name, size), data.on_error).values()
        )

    def read_reference(self, path: Path, name: str, size: int) -> Input:
        """One reference, for images of side `size`."""
        side = self.reference_size(size)
        image = images.read(path, side, PIL_BILINEAR, smallest=min(side, SMALLEST))
        return Input(name, reference=image, path=path)

    def reference_size(self, size: int) -> int:
        """Side of a reference, for images of side `size`, in pixels."""
        return size

    # --- checks

    def check(self, shape: Sequence[int]) -> None:
        if self.guidance is not None:
            self.guidance.check()

    def check_prompt(self, prompt: str) -> None:
        """Raise a ValueError if the guidance network cannot know the prompt."""

    @property
    def prompt_in_loss(self) -> bool:
        """Whether the loss follows the prompt, whatever the prior does."""
        return self.takes_prompt and not self.prompts_prior

    def check_prior(self, prior: Prior, inputs: Sequence[Input]) -> None:
        if self.prompt is None:
            return
        if not self.takes_prompt:
            raise ValueError(
                f"task.prompt={self.prompt}: no part of task={self.name} takes one"
                + " (model.prompt is the prior's)" * prior.takes_prompts
            )
        if self.prompts_prior and prior.prompt:
            raise ValueError("task.prompt and model.prompt are both the prior's prompt: give one")
        if not self.prompt_in_loss and not prior.takes_prompts:
            raise ValueError(
                f"task={self.name} gives its prompt to the prior, and this prior takes none: "
                "use model=sd14, or task=composite, which puts CLIP's distance into the loss"
            )

    # --- the guidance network

    @property
    def weights_hash(self) -> str | None:
        return None if self.guidance is None else self.guidance.weights_hash

    def to(self, device: torch.device) -> "SemanticTask":
        """Encode there. The guidance network is read now, so that weights that cannot be used are found early."""
        self.device = torch.device(device)
        if self.guidance is not None:
            self.guidance.load(self.device)
        return self

    def network(self, device: torch.device) -> nn.Module:
        """The guidance network, on the device."""
        return self.guidance.load(device)

    def in_batches(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), in fixed batches on a CPU."""
        return in_fixed_batches(function, x, self.cpu_batch)

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray | None:
        return input.reference


def _combined(reference: Input | None, prompt: str | None, task: str, prompts: int) -> Input:
    """Its id is <reference>, <prompt>, or <reference>__<prompt> where there are several prompts."""
    if reference is None:
        return Input(slug(prompt) if prompt is not None else task, prompt=prompt)
    name = f"{reference.id}__{slug(prompt)}" if prompt is not None and prompts > 1 else reference.id
    return replace(reference, id=name, prompt=prompt)
