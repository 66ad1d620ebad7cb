"""What a training is: its data, its network and its loss; and what the jobs share."""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dsg.avatars64.attributes import VALUES
from dsg.files import temporary_name


class Job(nn.Module, ABC):
    """Made from the folder of the faces. Its parameters, heads beside the network too, are what is optimised.

    Attributes:
        batch: faces per step.
        rate: highest learning rate.
        file: of the weights, in the folder that is written to.
    """

    batch: int
    rate: float
    file: str

    @abstractmethod
    def loss(self, rng: np.random.Generator) -> Tensor:
        """Of one batch, drawn with `rng`."""

    def begin(self, weights: Path) -> None:  # noqa: B027 a job without it begins at random
        """Start with the network in a folder that is laid out as checkpoints/avatars64.

        Raises:
            ValueError: this job cannot.
        """
        raise ValueError(f"{self.file} is trained from the start: leave out --init")

    @abstractmethod
    def save(self, out: Path) -> None:
        """Write the network's weights, fp16, to `out / file`, with what is needed to read them."""


def augment(images: Tensor, rng: np.random.Generator, noise: float = 0.2, coarsest: int = 2) -> Tensor:
    """uint8 -> float32 in [-1, 1], half of them blurred or noisy, as the estimates of a sampler are.

    Args:
        noise: largest standard deviation.
        coarsest: blurred faces keep a resolution of 64 px / a power of two up to this.
    """
    x = images.float() / 127.5 - 1
    kind = torch.from_numpy(rng.random(len(x)))[:, None, None, None]
    z = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.random(len(x), dtype=np.float32))[:, None, None, None]
    factor = 2 ** int(rng.integers(1, int(math.log2(coarsest)) + 1))
    blurred = F.interpolate(F.avg_pool2d(x, factor), scale_factor=float(factor), mode="bilinear")
    x = torch.where(kind < 0.25, x + (blurred - x) * strength, x)
    return torch.where((kind > 0.2) & (kind < 0.5), x + noise * strength * z, x)


def seen(images: Tensor, estimates: Tensor, index: np.ndarray | Tensor, rng: np.random.Generator, **options) -> Tensor:
    """A batch as a sampler's guidance sees it: half of it the prior's estimates, half augmented faces.

    Args:
        images, estimates: uint8 [N, 3, 64, 64], of the same faces.
        index: [B] of the batch.
        options: of `augment`.

    Returns: float32 [B, 3, 64, 64].
    """
    estimated = torch.from_numpy(rng.random(len(index)) < 0.5)[:, None, None, None]
    return torch.where(estimated, estimates[index].float() / 127.5 - 1, augment(images[index], rng, **options))


def draw(count: int, batch: int, rng: np.random.Generator) -> Tensor:
    """Indices of a batch among `count` faces, with replacement."""
    return torch.from_numpy(rng.integers(0, count, batch))


def attribute_targets(table: pd.DataFrame) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Index of each attribute's value among its sorted values, and how many there are."""
    coded = {name: table[name].astype("category").cat for name in VALUES}
    targets = {name: torch.tensor(c.codes.to_numpy(), dtype=torch.long) for name, c in coded.items()}
    return targets, {name: len(c.categories) for name, c in coded.items()}


def save_half(network: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """The state dict as safetensors, fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    weights = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    temporary = temporary_name(path)
    save_file(weights, temporary, metadata=metadata)
    temporary.replace(path)
