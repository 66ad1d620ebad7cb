"""The settings of the suite `theory`: a prior and a task with known posteriors, and how much is drawn of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from hydra.utils import instantiate
from omegaconf import DictConfig

from dsg.config import load
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.studies.posterior.ground_truth import GroundTruth

SEEDS = {"tuning": 0, "report": 1, "calibration": 2}  # by part


@dataclass(frozen=True, eq=False)
class Setting:
    """A prior and a task.

    Attributes:
        options: `model=` and `task=`, as for run.py.
        counts: by part the number of observations, and of samples of each. Methods are tuned on the part "tuning",
            compared on "report", ranked on "calibration" where there is one.
        keep: how many samples of every observation are kept, for the figure of faces.
    """

    name: str
    options: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    keep: int = 0

    @classmethod
    def of(cls, name: str, spec: Mapping, common: Mapping) -> "Setting":
        """Args: spec: an entry of the suite's `tasks`; counts that it does not give are those of `common`."""
        counts = {part: {**common[part], **spec.get(part, {})} for part in SEEDS if part in common}
        counts = {part: {name: some[name] for name in ("observations", "samples")} for part, some in counts.items()}
        return cls(name, tuple(spec["options"]), counts, spec.get("keep", 0))

    def config(self, sampler: str, steps: int) -> DictConfig:
        return _config(self.options, sampler, steps)

    @property
    def prior(self) -> GaussianMixture:
        return _prior(self.options)

    def truth(self, part: str) -> GroundTruth:
        """The truths of a part, and what is observed of them; those of other parts are independent."""
        return _truth(self.options, part, **self.counts[part])


@cache
def _config(options: tuple[str, ...], sampler: str, steps: int) -> DictConfig:
    return load([*options, f"sampler={sampler}", f"sampler.steps={steps}"])


@cache
def _prior(options: tuple[str, ...]) -> GaussianMixture:
    return instantiate(_config(options, "unconditional", 20).model)


@cache
def _truth(options: tuple[str, ...], part: str, observations: int, samples: int) -> GroundTruth:
    task = instantiate(_config(options, "unconditional", 20).task)
    return GroundTruth(_prior(options), task, observations, samples, SEEDS[part])
