"""The settings of the suite `theory`: a prior and a task with known posteriors, and how much is drawn of them."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig

from dsg.config import load
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.studies.posterior.ground_truth import GroundTruth

SEEDS = {"tuning": 0, "report": 1, "calibration": 2}


class Counts(NamedTuple):
    """Number of observations, and of samples of each."""

    observations: int
    samples: int


@dataclass(frozen=True)
class Setting:
    """A prior and a task.

    Attributes:
        options: `model=` and `task=`, as for run.py.
        tuning, report: on how much methods are tuned, and compared.
        keep: how many samples of every observation are kept, to look at.
        calibration: on how much ranks are computed; None: they are not.
    """

    name: str
    options: tuple[str, ...]
    tuning: Counts
    report: Counts
    keep: int = 0
    calibration: Counts | None = None

    @classmethod
    def of(cls, name: str, spec: dict, common: dict) -> "Setting":
        """From an entry of the suite's `settings`; counts that it does not give are `common`'s."""
        counts = {part: {**common[part], **spec.get(part, {})} for part in SEEDS if part in common}
        parts = {part: Counts(c["observations"], c["samples"]) for part, c in counts.items()}
        return cls(name, tuple(spec["options"]), **parts, keep=spec.get("keep", 0))

    def config(self, sampler: str, steps: int) -> DictConfig:
        return _config(self.options, sampler, steps)

    @property
    def prior(self) -> GaussianMixture:
        return _prior(self)

    def truth(self, part: str) -> GroundTruth:
        """Of the part "tuning", "report" or "calibration": other truths, other noise."""
        return _truth(self, part)


@cache
def _config(options: tuple[str, ...], sampler: str, steps: int) -> DictConfig:
    return load([*options, f"sampler={sampler}", f"sampler.steps={steps}"])


@cache
def _prior(setting: Setting) -> GaussianMixture:
    return instantiate(setting.config("unconditional", 20).model)


@cache
def _truth(setting: Setting, part: str) -> GroundTruth:
    task = instantiate(setting.config("unconditional", 20).task)
    counts = {"tuning": setting.tuning, "report": setting.report, "calibration": setting.calibration}[part]
    return GroundTruth(setting.prior, task, **counts._asdict(), seed=SEEDS[part])
