"""Tasks conditioned on a reference picture, a prompt, both, or nothing but a loss of one's own.

A subclass gives `loss`, says what it `takes`, and turns one case into tensors in `encode`. Its guide, a frozen network, is loaded
when it is first needed, or by `to`, once per process, and on a CPU sees `cpu_batch` images at a time, so that an image comes out
the same in any batch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dsg import images
from dsg.checkpoints import file_hash, how_to_get, resolve
from dsg.images import Picture
from dsg.priors.batching import in_fixed_batches

PIL_BILINEAR = Image.Resampling.BILINEAR
SMALLEST = 32  # px; references are enlarged to the guide's size, but not from less


@dataclass(frozen=True)
class Case:
    """What one condition is made of."""

    id: str
    reference: Picture | None = None
    prompt: str | None = None

    @property
    def digest(self) -> str:
        """Tells whether the case under this id is still the same."""
        words = (self.reference.digest if self.reference else "", self.prompt or "")
        return sha256("\n".join(words).encode()).hexdigest()[:16]


class SemanticTask:
    """Args:
        name: of the task, for results.
        guide: called without arguments loads the guide's network (a `functools.partial`); its keyword `checkpoint` is a file or folder.
        reference: picture, or folder of pictures; null: those of `data.root`.
        prompt: text, or a .txt file with a prompt per line.
        cpu_batch: images that the guide sees at a time on a CPU; 0: all.

    A condition is a dict of tensors whose first dimension is the batch.
    """

    takes: tuple[str, ...] = ()  # of "reference", "prompt"
    fetched_as = ""  # the guide's name for scripts/fetch_checkpoints.py
    prompts_prior = False  # whether the prompt is the prior's (Stable Diffusion) rather than the loss's
    prompt_in_loss = False  # whether the loss uses it, whatever the prior does
    prompt_optional = False
    judged_as: tuple[str, ...] = ()  # by an evaluator: "identity", "words", "style", "labels"
    device = torch.device("cpu")  # where cases are encoded

    def __init__(
        self,
        name: str,
        guide: Callable[[], nn.Module] | None = None,
        reference: str | None = None,
        prompt: str | None = None,
        cpu_batch: int = 4,
    ):
        self.name, self.guide, self.reference, self.prompt, self.cpu_batch = name, guide, reference, prompt, cpu_batch
        self._encoded: dict[str, dict[str, Tensor]] = {}

    def loss(self, x0: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """Distance of images x0 [B, 3, H, W], about [-1, 1], from what the condition asks for: [B]."""
        raise NotImplementedError

    def encode(self, case: Case) -> dict[str, Tensor]:
        """One case as tensors [1, ...]."""
        return {}

    def measures(self, images: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The guide's own view of finished images: name -> [B]."""
        return {f"{self.name}_loss": self.loss(images, condition)}

    def condition(self, cases: Sequence[Case]) -> dict[str, Tensor]:
        """The condition of a batch; every case is encoded on its own, and kept for the next batch, which often has it again."""
        known, self._encoded = self._encoded, {}
        for case in cases:
            if case.digest not in self._encoded:
                with torch.no_grad():
                    self._encoded[case.digest] = known.get(case.digest) or self.encode(case)
        encoded = [self._encoded[case.digest] for case in cases]
        return {key: torch.cat([e[key] for e in encoded]) for key in encoded[0]} if encoded else {}

    def cases(self, size: int, root: str | None, limit: int | None) -> list[Case]:
        """All cases that `reference` and `prompt` name, every reference with every prompt, the first `limit` of them.

        Args:
            size: side of the prior's pictures.
            root: folder of pictures that stand in where `reference` is null.

        Raises:
            ValueError: nothing given, or an input that cannot be used, with its path.
        """
        if self.reference is not None and "reference" not in self.takes:
            raise ValueError(f"task.reference={self.reference}: task={self.name} takes none")
        pictures = self.read_references(size, root, limit) if "reference" in self.takes else [None]
        prompts = read_prompts(self.prompt, self.name, self.prompt_optional) if "prompt" in self.takes else [None]
        for prompt in prompts:
            if prompt is not None:
                self.check_prompt(prompt)
        found = [Case(case_id(r, p, self.name, len(prompts)), r, p) for r in pictures for p in prompts]
        if len({case.id for case in found}) < len(found):
            raise ValueError(f"task.prompt={self.prompt}: two prompts that differ in no letter")
        return found[:limit]

    def read_references(self, size: int, root: str | None, limit: int | None) -> list[Picture]:
        source = self.reference if self.reference is not None else root
        if source is None:
            raise ValueError(f"task={self.name} needs task.reference=<picture or folder>")
        option = "task.reference" if self.reference is not None else "data.root"
        found = images.find(resolve(source), option)
        return [self.read_reference(path, name, size) for name, path in list(found.items())[:limit]]

    def read_reference(self, path: Path, name: str, size: int) -> Picture:
        """One reference at the size that the task wants for pictures of side `size`."""
        side = self.reference_size(size)
        return images.read(path, side, name, PIL_BILINEAR, smallest=min(side, SMALLEST))

    def reference_size(self, size: int) -> int:
        return size

    def check(self, shape: Sequence[int]) -> None:
        """Raise a ValueError if images of `shape` (C, H, W) do not suit, or a FileNotFoundError if the guide's weights are missing."""
        if self.checkpoint is not None and not self.checkpoint.exists():
            embedded = "checkpoints/avatars64" in self.checkpoint.as_posix()
            command = how_to_get("avatars64" if embedded else self.fetched_as)
            raise FileNotFoundError(f"no checkpoint at {self.checkpoint}; get it with: {command}")

    def check_prompt(self, prompt: str) -> None:
        """Raise a ValueError if the guide cannot know the prompt."""

    def show(self, case: Case) -> np.ndarray | None:
        """The case as uint8 [H, W, 3], for the results; None where there is no picture."""
        return None if case.reference is None else case.reference.pixels

    @property
    def checkpoint(self) -> Path | None:
        """The guide's file or folder."""
        words = getattr(self.guide, "keywords", {})
        return resolve(words["checkpoint"]) if "checkpoint" in words else None

    @property
    def weights_hash(self) -> str | None:
        """What identifies the guide's weights in a result's identity."""
        if self.checkpoint is None:
            return None
        weights = (f for f in self.checkpoint.glob("*") if f.suffix in (".safetensors", ".bin"))
        files = [self.checkpoint] if self.checkpoint.is_file() else sorted(weights)
        return sha256("".join(file_hash(f) for f in files).encode()).hexdigest()

    def to(self, device: torch.device) -> "SemanticTask":
        """Encode there; the guide is loaded now, so that weights that cannot be used are found before work starts."""
        self.device = torch.device(device)
        if self.guide is not None:
            self.network(self.device)
        return self

    def network(self, device: torch.device) -> nn.Module:
        """The guide, on the device."""
        return shared(self.guide).to(device)

    def guided(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), in fixed batches on a CPU."""
        return in_fixed_batches(function, x, self.cpu_batch)


_loaded: dict[str, nn.Module] = {}


def shared(guide: Callable[[], nn.Module]) -> nn.Module:
    """What `guide` loads, once per process however many cells run."""
    key = repr((getattr(guide, "func", guide), sorted(getattr(guide, "keywords", {}).items(), key=str)))
    if key not in _loaded:
        _loaded[key] = guide()
    return _loaded[key]


def read_prompts(source: str | None, task: str, optional: bool = False) -> list[str | None]:
    """The prompts of an option: a text, or the lines of a .txt file, empty ones and those after # left out.

    Raises:
        ValueError: none, no such file, or one prompt twice.
    """
    if source is None or not str(source).strip():
        if optional:
            return [None]
        raise ValueError(f"task={task} needs task.prompt=<text, or a .txt file with a prompt per line>")
    if not str(source).endswith(".txt"):
        return [str(source).strip()]
    path = resolve(source)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"task.prompt={source} cannot be read: {error}") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"task.prompt={source}: no prompt in it (one per line)")
    doubled = {p for p in prompts if prompts.count(p) > 1}
    if doubled:
        raise ValueError(f"task.prompt={source}: {sorted(doubled)[0]!r} is there twice (samples=<n> makes several)")
    return prompts


def case_id(reference: Picture | None, prompt: str | None, task: str, prompts: int) -> str:
    """<reference>, <prompt>, or <reference>__<prompt> where there are several prompts."""
    if reference is None:
        return slug(prompt) if prompt is not None else task
    return f"{reference.id}__{slug(prompt)}" if prompt is not None and prompts > 1 else reference.id


def slug(text: str, longest: int = 60) -> str:
    """The text as a file name; a long one, or one of another script, ends in a hash of all of it."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) <= longest and text.isascii() and name:
        return name
    return f"{name[:longest].strip('-')}-{sha256(text.encode()).hexdigest()[:8]}".lstrip("-")
