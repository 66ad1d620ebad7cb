"""What a sampler is: it owns its loop, from x_T to x0."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from dsg.constraint import norm, radius
from dsg.options import locate
from dsg.priors.base import Prior
from dsg.schedule import NoiseSchedule, Step


class Noise(Protocol):
    """Where a sampler gets its noise: every draw is named by what it is for, and is the same whoever asks for it."""

    def __call__(self, step_index: int, repeat: int = 0, purpose: str = "step") -> Tensor:
        """Standard normal, like x_T. `step_index` counts down to 0; `repeat` counts inner iterations up."""


class Draw(NamedTuple):
    """The key of one draw."""

    purpose: str
    step_index: int
    repeat: int


@dataclass
class StepState:
    """What a `callback` sees of a step: tensors [B, C, H, W], detached.

    Attributes:
        index: counts down to 0.
        t: noise level that the network saw.
        repeat: counts repetitions of the step up from 0.
        x_t: where the step began.
        x0: the predicted clean image (of a latent prior: latent).
        x_prev: where it ended.
        loss: [B], the task's loss where it was computed.
    """

    index: int
    t: float
    repeat: int
    x_t: Tensor
    x0: Tensor
    x_prev: Tensor
    loss: Tensor | None

    @property
    def measured_radius(self) -> Tensor | None:
        """|x_prev - mean|/(sqrt(n) sigma) of a guided step with noise, [B]; None of any other step."""
        return None


@dataclass
class GuidedState(StepState):
    """All of a step, for `combine` and for callbacks.

    Attributes:
        step: its place in the schedule.
        eps: noise that goes with x0.
        mean, sigma: of the unguided kernel; sigma a number or a field like x_t.
        unguided: mean + sigma z.
        gradient: of the loss, like x_t; None where the step is not guided.
        text_shift: see `dsg.priors.base.Prediction`.
    """

    step: Step
    eps: Tensor
    mean: Tensor
    sigma: float | Tensor
    unguided: Tensor
    gradient: Tensor | None
    text_shift: Tensor | None

    @property
    def measured_radius(self) -> Tensor | None:
        has_sphere = isinstance(self.sigma, Tensor) or self.sigma > 0
        if self.gradient is None or not has_sphere:
            return None
        return (norm(self.x_prev - self.mean) / radius(self.sigma, self.mean)).flatten()


Callback = Callable[[StepState], None]


@dataclass(frozen=True)
class Tunable:
    """The option of a sampler that is searched, on a logarithmic scale.

    Attributes:
        option: its name.
        start: where the search begins.
        low, high: bounds.
        direction: 1 if a larger value guides more, -1 if it guides less.
    """

    option: str
    start: float
    low: float = 0.0
    high: float = math.inf
    direction: int = 1


class Cost(NamedTuple):
    """What a sampler asks of the network for one image, at most: for plans and progress bars. A run counts what it
    was."""

    forward: int
    backward: int

    @property
    def compute(self) -> int:
        """In forward passes: a backward pass costs about two."""
        return self.forward + 2 * self.backward


@dataclass
class Sampler(ABC):
    """A method. Everything is per image: losses, norms, step sizes, when to stop.

    Args:
        name: names the results.
        base_method: name of the sampler that this one modifies, such as dps for dps_dsg; None if there is none.
        label: the method's name in tables and figures, such as "DPS + DSG"; null: the class's own.
        control: name of the sampler that differs from this one only in what is claimed for it, such as additive for
            dps_dsg; null: there is none.
        steps: number of reverse steps.

    Attributes:
        guided: whether it uses the task's loss.
        clip_denoised: whether it clamps x0 to [-1, 1].
    """

    name: str
    base_method: str | None = None
    label: str | None = None
    control: str | None = None
    steps: int = 100

    guided = True
    clip_denoised = False
    title: ClassVar[str | None] = None  # the label of the class

    def __post_init__(self):
        self.label = self.label or self.title or self.name

    @abstractmethod
    def sample(
        self, prior: Prior, task, condition: Mapping[str, Tensor], x_T: Tensor, noise: Noise, callback: Callback | None
    ) -> Tensor:
        """x0 [B, *prior.shape], unclamped, from x_T. The arguments are those of `dsg.samplers.sample`."""

    def start(self, prior: Prior, task, condition: Mapping[str, Tensor] | None, z: Tensor) -> Tensor:
        """x_T, the state that the first step begins with, from z [B, *prior.shape] standard normal: by default, z."""
        return z

    @abstractmethod
    def cost(self, schedule: NoiseSchedule) -> Cost:
        """What `sample` asks of the network."""

    def check(self, prior: Prior, task) -> None:
        """Raise a ValueError, one line, if this sampler cannot work with them; no weights are needed for that."""
        if self.clip_denoised and prior.latent:
            raise ValueError("sampler.clip_denoised=true clamps latents, which have no bounds: use false")

    def draws(self, schedule: NoiseSchedule) -> list[Draw]:
        """The draws that `sample` will ask for, in its order, so that they can be made ahead; empty: made when asked
        for."""
        return []

    @classmethod
    def unused(cls, options: Mapping[str, Any]) -> dict[str, str]:
        """Those of these options (all of the constructor's) that change nothing beside the others, and why."""
        return {}

    def notes(self, schedule: NoiseSchedule) -> list[str]:
        """What the user should know of these settings before work starts, a line each."""
        return []

    @property
    def tunable(self) -> Tunable | None:
        """What `scripts/tune.py` searches."""
        return None


def unused_options(options: Mapping[str, Any]) -> dict[str, str]:
    """`Sampler.unused` of a sampler's resolved config; nothing is known of a class that is no `Sampler`."""
    kind = locate(options["_target_"])
    return kind.unused(options) if isinstance(kind, type) and issubclass(kind, Sampler) else {}


def sample(
    prior: Prior,
    task,
    condition: Mapping[str, Tensor] | None,
    sampler: Sampler,
    x_T: Tensor,
    noise: Noise | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run the reverse process from x_T under the guidance of `task.loss(image, condition)`.

    Args:
        prior: see `dsg.priors.base.Prior`.
        task: any object with `loss(images [B, C, H, W] in [-1, 1], condition) -> [B]`. Unused without guidance.
        condition: what the task's loss takes, for the whole batch.
        x_T: [B, C, H, W], where the first step begins: what `sampler.start` makes of standard normal noise.
        noise: `noise(step_index, repeat=0, purpose="step") -> z` like x_T; fresh draws if None.
        callback: called with the `StepState` of every step.

    Returns:
        [B, C, H, W]: the sample, unclamped, in the prior's space (`prior.decode` gives the image).

    Raises:
        ValueError: if the prior cannot do what the sampler asks.
    """
    return sampler.sample(prior, task, condition, x_T, noise or _fresh_noise(x_T), callback)


def _fresh_noise(like: Tensor) -> Noise:
    return lambda step_index, repeat=0, purpose="step": torch.randn_like(like)


# --- checks of options, shared by the samplers


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"sampler.{option}={value} is unknown: one of {', '.join(choices)}")


def check_switch(option: str, value) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"sampler.{option}={value}: true or false")


def check_window(option: str, value) -> None:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or len(value) != 2 or not all(isinstance(t, (int, float)) for t in value) or value[0] > value[1]:
        raise ValueError(f"sampler.{option}={value}: expected [lo, hi], numbers with lo <= hi")


def check_range(option: str, value, low: float, high: float = math.inf, kind: type = float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (kind is int and not isinstance(value, int)) or not low <= value <= high:
        allowed = f"at least {low}" if high == math.inf else f"{low} to {high}"
        raise ValueError(f"sampler.{option}={value} is out of range: {'an integer, ' if kind is int else ''}{allowed}")
