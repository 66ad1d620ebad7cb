"""Any physics of deepinv (deepinv.github.io) as a task; needs `.[deepinv]`.

The other way round, a prior as one of deepinv's denoisers: `dsg.priors.plug_and_play`.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import deepinv.physics
import numpy as np
import torch
from deepinv.physics import LinearPhysics, Physics
from deepinv.physics.noise import ZeroNoise
from torch import Tensor

from dsg.files import first_line
from dsg.types import Input, to_uint8
from tasks.base import Condition
from tasks.inverse import InverseProblem, LinearInverseProblem


class PhysicsProblem(InverseProblem):
    """y = A((x + 1)/2) + sigma n: deepinv's images are in [0, 1], and sigma has the units of y.

    Args:
        physics: the operator, or the name of its class in `deepinv.physics`. Its noise is `sigma`, and not a model of
            its own.
        options: of that class. What it draws, it draws from a fixed seed.

    Raises:
        ValueError: not a physics, one with a noise model, or (from `check`) one that does not take the images.
    """

    def __init__(
        self,
        name: str,
        sigma: float = 0.05,
        physics: str | Physics = "Denoising",
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__(name, sigma)
        physics = physics if isinstance(physics, Physics) else _made(physics, options or {})
        if not isinstance(physics.noise_model, ZeroNoise):
            kind = type(physics.noise_model).__name__
            raise ValueError(f"task.physics: its noise is task.sigma, not a {kind} of its own")
        self.physics = physics

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return self.physics.A((x + 1) / 2)

    def check(self, shape: Sequence[int]) -> None:
        try:
            self._measured(shape)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            kind, reason = type(self.physics).__name__, first_line(error)
            raise ValueError(f"task.physics={kind} takes no images of shape {tuple(shape)}: {reason}") from None

    def measurement_size(self, size: int) -> int:
        return self._measured((3, size, size)).shape[-1]

    def to(self, device: torch.device) -> "PhysicsProblem":
        self.physics = self.physics.to(device)
        return self

    @property
    def weights_hash(self) -> str:
        """A hash of what the physics holds: masks, filters."""
        digest = sha256(type(self.physics).__name__.encode())
        for key, tensor in sorted(self.physics.state_dict().items()):
            digest.update(key.encode() + np.ascontiguousarray(tensor.cpu().resolve_conj().numpy()).tobytes())
        return digest.hexdigest()

    def condition_image(self, input: Input, condition: Condition) -> np.ndarray | None:
        """y, where it has the form of an image."""
        y = condition["y"]
        is_image = isinstance(y, Tensor) and y.ndim == 4 and y.shape[1] in (1, 3) and not y.is_complex()
        return to_uint8(y.expand(-1, 3, -1, -1))[0] if is_image else None

    def _measured(self, shape: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return self.physics.A(torch.zeros(1, *shape))


class LinearPhysicsProblem(PhysicsProblem, LinearInverseProblem):
    """y = A x + sigma n of a linear physics, in units of [-1, 1], and its `A_adjoint`."""

    def __init__(
        self,
        name: str,
        sigma: float = 0.05,
        physics: str | Physics = "Denoising",
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__(name, sigma, physics, options)
        if not isinstance(self.physics, LinearPhysics):
            kind = type(self.physics).__name__
            raise ValueError(f"task.physics={kind} is not linear: task._target_=tasks.deepinv.PhysicsProblem")

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return self.physics.A(x)

    def transpose(self, y: Tensor, condition: Condition, shape: Sequence[int]) -> Tensor:
        return self.physics.A_adjoint(y)


def _made(name: str, options: Mapping[str, Any]) -> Physics:
    kind = getattr(deepinv.physics, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Physics):
        raise ValueError(f"task.physics={name}: deepinv.physics has none of that name")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return kind(**options)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            reason = first_line(error)
            raise ValueError(f"task.physics={name} with task.options={dict(options)}: {reason}") from None
