"""The jobs of the suites `theory` and `theory_rivals`: one method at one number of steps in one setting.

A sampler is tuned on some truths and compared with the exact posteriors of others. A finished job is one JSON file.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dsg.files import short_hash, write_text
from dsg.samplers import GuidedState, Sampler, StepState, Tunable
from dsg.studies.posterior.ground_truth import METRICS, GroundTruth
from dsg.studies.posterior.premises import diagnose, manifold_deviation
from dsg.studies.posterior.ranks import rank_test
from dsg.studies.posterior.settings import Setting
from dsg.suites.jobs import Job, Progress
from dsg.suites.search import best_of, is_inside, next_value

VERSION = 1  # of the numbers: raise it with a change of the code that changes them, and every job runs again

Rows = dict[str, list[dict]]  # by table


@dataclass(kw_only=True, eq=False)
class TheoryJob(Job):
    """The part that all jobs share: its file, and when that is out of date.

    Attributes:
        method: name in tables.
        steps: of the sampler; 0 where there is none.
        out: folder of the suite.
    """

    setting: Setting
    method: str
    steps: int
    out: Path
    # set by `check`
    done: bool = field(default=False, init=False)
    left: float = field(default=0.0, init=False)

    sampler = "unconditional"  # name of its config

    @property
    def key(self) -> tuple:
        return self.setting.name, self.method, self.steps

    @abstractmethod
    def rows(self, on_progress: Progress) -> Rows:
        """Compute the numbers."""

    @abstractmethod
    def cost(self) -> float:
        """Roughly proportional to its time."""

    def settings(self) -> dict:
        """What changes the numbers, except for prior, task and sampler. The seeds go with the names of the parts."""
        return {"version": VERSION, "metrics": METRICS, **self.setting.counts}

    def config(self) -> DictConfig:
        return self.setting.config(self.sampler, max(self.steps, 2))

    @property
    def fingerprint(self) -> str:
        """A hash of all that changes the numbers."""
        config = OmegaConf.to_container(self.config())
        parts = {name: config[name] for name in ("model", "task", "sampler")}
        return short_hash({**parts, "weights": self.setting.prior.weights_hash, **self.settings()})

    @property
    def file(self) -> Path:
        return self.out / "jobs" / f"{'-'.join(map(str, self.key))}.json"

    def saved(self) -> Rows | None:
        """The rows of the file; None where there is none, or it is of other settings."""
        found = json.loads(self.file.read_text()) if self.file.exists() else {"fingerprint": None}
        return found["rows"] if found["fingerprint"] == self.fingerprint else None

    def check(self) -> None:
        instantiate(self.config().task).check(self.setting.prior.shape)
        self.done = self.saved() is not None
        self.left = 0 if self.done else self.cost()

    def finished(self) -> bool:
        return self.done

    def work(self) -> float:
        return self.left

    def run(self, on_progress: Progress) -> list[str]:
        rows = self.rows(on_progress)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps({"fingerprint": self.fingerprint, "rows": rows}))
        return []

    def tables(self) -> dict[str, pd.DataFrame]:
        head = dict(zip(("setting", "method", "steps"), self.key))
        rows = self.saved() or {}
        return {name: pd.DataFrame([{**head, **row} for row in part]) for name, part in rows.items() if part}


@dataclass(kw_only=True, eq=False)
class Diagnosis(TheoryJob):
    """The paper's premises along the oracle's trajectories."""

    def cost(self) -> float:
        return 20 * self.steps

    def rows(self, on_progress: Progress) -> Rows:
        return {"diagnosis": diagnose(self.setting.truth("tuning"), self.steps)}


@dataclass(kw_only=True, eq=False)
class Comparison(TheoryJob):
    """Samples of a method, compared with the exact posteriors."""

    def cost(self) -> float:
        return max(self.steps, 20) * (5 if self.setting.prior.dimension > 100 else 1)

    @abstractmethod
    def points(self, known: GroundTruth, callback: Callable | None = None) -> Tensor:
        """Draw the method's samples for every observation, [Y, N, d]."""

    def rows(self, on_progress: Progress) -> Rows:
        known, deviations = self.setting.truth("report"), Deviations()
        points = self.points(known, deviations)
        compared = known.compare(points)
        return {
            "deviation": deviations.rows,
            "observations": compared.rename_axis("observation").reset_index().to_dict("records"),
            "runs": [{"bias": bias(compared, known.samples)}],
            "points": [row for name, x in self.kept(known, points).items() for row in _point_rows(name, x)],
            "ranks": self.ranks(),
        }

    def ranks(self) -> list[dict]:
        """A row with the test of ranks, where the setting has a part for it; none where a point is not finite."""
        if "calibration" not in self.setting.counts:
            return []
        known = self.setting.truth("calibration")
        points = self.points(known)
        return [vars(rank_test(self.truths(known), points))] if torch.isfinite(points).all() else []

    def truths(self, known: GroundTruth) -> Tensor:
        """The truths that are ranked, [Y, d]."""
        return known.truths.flatten(1)

    def kept(self, known: GroundTruth, points: Tensor) -> dict[str, Tensor]:
        """name -> [Y, d]: the first samples of every observation, for the figure of faces."""
        return {f"sample {k}": points[:, k] for k in range(self.setting.keep)}


@dataclass(kw_only=True, eq=False)
class Exact(Comparison):
    """Other exact samples: the floor of every distance. Keeps truths, measurements and posterior means too."""

    def points(self, known: GroundTruth, callback: Callable | None = None) -> Tensor:
        return known.floor()

    def kept(self, known: GroundTruth, points: Tensor) -> dict[str, Tensor]:
        kept = super().kept(known, points)
        if kept:
            means = torch.stack([p.mean() for p in known.posteriors])
            kept |= {"truth": known.truths.flatten(1), "y": known.condition["y"].flatten(1), "posterior mean": means}
        return kept


@dataclass(kw_only=True, eq=False)
class Shuffled(Exact):
    """Exact samples, ranked with the truths of other observations: the test of ranks must reject them."""

    def truths(self, known: GroundTruth) -> Tensor:
        return known.truths.flatten(1).roll(1, 0)


@dataclass(kw_only=True, eq=False)
class Oracle(Comparison):
    """The unconditional sampler under the true conditional score."""

    def points(self, known: GroundTruth, callback: Callable | None = None) -> Tensor:
        return known.oracle(instantiate(self.config().sampler))


@dataclass(kw_only=True, eq=False)
class Guided(Comparison):
    """A sampler, at the best of the values tried where it has one to tune.

    Attributes:
        sampler: name of its config.
        options: that are changed in it.
        exact: class of `dsg.studies.posterior.posterior_ablations` that it becomes.
        trials: of its step size or guidance rate.
        start: centre of the first values tried, by sampler or option; else the sampler's own.
    """

    sampler: str
    options: dict = field(default_factory=dict)
    exact: str | None = None
    trials: int = 9
    start: dict[str, float] = field(default_factory=dict)
    value: float | None = field(default=None, init=False)  # of a trial, then the best

    def build(self, known: GroundTruth | None = None, **options) -> Sampler:
        sampler = instantiate(self.config().sampler, **{**self.options, **options})
        return sampler if self.exact is None else get_class(self.exact)(**vars(sampler), known=known)

    @cached_property
    def tunable(self) -> Tunable | None:
        return self.build().tunable

    @property
    def compute(self) -> int:
        """Forward passes per sample, a backward pass counting two."""
        return self.build().cost(self.setting.prior.schedule).compute

    def settings(self) -> dict:
        changed = {"options": self.options, "exact": self.exact, "trials": self.trials, "start": self.centre}
        return {**super().settings(), **changed}

    @property
    def centre(self) -> float | None:
        """Where the search begins."""
        if self.tunable is None:
            return None
        return self.start.get(self.sampler, self.start.get(self.tunable.option, self.tunable.start))

    def cost(self) -> float:
        per_step = 12 if self.exact else self.compute / self.steps
        return super().cost() * per_step * (self.trials if self.tunable else 1)

    def rows(self, on_progress: Progress) -> Rows:
        if self.tunable is None:
            return super().rows(on_progress)
        tried = self.tune(on_progress)
        self.value = best_of(tried)["value"]
        rows = super().rows(on_progress)
        rows["runs"][0] |= {"value": self.value, "inside": bool(is_inside(tried, self.tunable))}
        return rows | {"trials": tried.drop(columns="score").to_dict("records")}

    def points(self, known: GroundTruth, callback: Callable | None = None) -> Tensor:
        chosen = {} if self.value is None else {self.tunable.option: self.value}
        return known.run(self.build(known, **chosen), callback)

    def tune(self, on_progress: Progress) -> pd.DataFrame:
        """Make the trials; the score is minus the mean sliced Wasserstein distance."""
        known, tried = self.setting.truth("tuning"), pd.DataFrame(columns=["value", "score"], dtype=float)
        for _ in range(self.trials):
            self.value, deviations = next_value(tried, self.tunable, self.centre), Deviations()
            found = known.compare(self.points(known, deviations)).mean(skipna=False)
            row = {"value": self.value, "score": -found["sliced_wasserstein"], **found}
            row["off_sphere"] = deviations.off_sphere()
            tried = pd.concat([tried.astype(object), pd.DataFrame([row])], ignore_index=True).infer_objects()
            on_progress(self.work() / (self.trials + 1))
        return tried


class Deviations:
    """A callback that keeps each step's mean manifold deviation; of samplers that have a kernel's mean and sigma."""

    def __init__(self):
        self.rows: list[dict] = []

    def __call__(self, state: StepState) -> None:
        deviation = manifold_deviation(state) if isinstance(state, GuidedState) else None
        if deviation is not None:
            self.rows.append({"t": state.t, "repeat": state.repeat, "deviation": deviation.mean().item()})

    def off_sphere(self) -> float:
        """Mean |deviation - 1|; NaN if nothing was kept."""
        return float(np.mean([abs(row["deviation"] - 1) for row in self.rows])) if self.rows else math.nan


def bias(compared: pd.DataFrame, samples: int) -> float:
    """Root mean square error of the mean over observations, less what so many samples have by chance."""
    return max((compared["mean_error"] ** 2 - compared["spread"] / samples).mean(), 0) ** 0.5


def _point_rows(name: str, points: Tensor) -> list[dict]:
    return [{"name": name, "observation": i, "values": [round(v, 3) for v in x.tolist()]} for i, x in enumerate(points)]
