"""What makes DSG work: its parts as switches of the loop, every combination that a comparison needs, as jobs.

A cell has a level of every factor. The suite's YAML has `paths`, by name `{from: cell, to: cell}`; levels that `to`
does not name are those of `from`. All cells between the two, each differing factor at the level of the one or the
other, are run, and `dsg.studies.attribution` shares the difference of the ends between the factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from dsg.studies.posterior.posterior_jobs import Exact, Guided, TheoryJob
from dsg.studies.posterior.settings import Setting
from dsg.suites.plan import image_job
from dsg.suites.protocol import ReportJob, reported
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Suite

# by factor and level, what it says of the sampler
LEVELS: dict[str, dict[str, dict]] = {
    "gradient": {"through the network": {"sampler": "dps"}, "beside it": {"sampler": "mpgd"}},
    "length": {
        "constant": {"scaling": None},
        "residual": {"scaling": "residual"},  # of the gradient of half the squared loss
        "sphere": {"scaling": "sphere"},  # sqrt(n) sigma_t
    },
    "place": {"added": {"projected": False}, "projected": {"projected": True}},
    "noise": {"kept": {"keeps_noise": True}, "replaced": {"keeps_noise": False}},
    "eta": {"0.5": {"eta": 0.5}, "1": {"eta": 1.0}},
    "last": {"guided": {"window": None}, "unguided": {"window": [0, 1000]}},  # the step to t = 0, which has no noise
}
COMMON = {"spherical": False, "kernel": "ddim", "spacing": "linspace"}


@dataclass(frozen=True)
class Cell:
    """A level of each factor. `options` are the sampler's; `name` is for files and tables."""

    gradient: str
    length: str
    place: str
    noise: str
    eta: str
    last: str = "guided"

    @classmethod
    def of(cls, levels: Mapping[str, object]) -> "Cell":
        """Raises ValueError: an unknown factor or level, or one that is missing."""
        named = {"last": cls.last, **{factor: str(level) for factor, level in levels.items()}}
        for factor in [*LEVELS, *named]:
            known = LEVELS.get(factor, {})
            if named.get(factor) not in known:
                what = ", ".join(known) or "no such factor"
                raise ValueError(f"paths: {factor}={named.get(factor)}: {what}")
        return cls(**named)

    @property
    def name(self) -> str:
        last = ["last_unguided"] if self.last == "unguided" and not self.on_sphere else []
        return ",".join([self.length, self.place, self.noise, f"eta{self.eta}", *last])

    @property
    def sampler(self) -> str:
        return LEVELS["gradient"][self.gradient]["sampler"]

    @property
    def options(self) -> dict:
        found = dict(COMMON)
        for factor in ("length", "place", "noise", "eta", *([] if self.on_sphere else ["last"])):
            found |= LEVELS[factor][getattr(self, factor)]
        return found

    @property
    def run(self) -> "Cell":
        """The cell that is run for it. Steps of the sphere's length, projected, are the same points whether the noise
        is kept or not: step size g/(1-g) with it is g without, and the value is tuned. Where there is no noise there
        is no sphere: what needs one leaves the last step alone, whatever `last` says."""
        both = self.length == "sphere" and self.place == "projected"
        return replace(self, noise="replaced" if both else self.noise, last="unguided" if self.on_sphere else self.last)

    @property
    def on_sphere(self) -> bool:
        """Whether its steps need a sphere, that is, noise."""
        return self.length == "sphere" or self.place == "projected"


@dataclass(frozen=True)
class Path:
    """Two cells, and the factors in which they differ, in the order of `LEVELS`."""

    name: str
    start: Cell
    end: Cell

    @classmethod
    def of(cls, name: str, spec: Mapping) -> "Path":
        return cls(name, Cell.of(spec["from"]), Cell.of({**spec["from"], **spec["to"]}))

    @property
    def factors(self) -> list[str]:
        return [f for f in LEVELS if getattr(self.start, f) != getattr(self.end, f)]

    def cell(self, changed: frozenset[str] | set[str]) -> Cell:
        """With these factors as at the end, the others as at the start."""
        return replace(self.start, **{factor: getattr(self.end, factor) for factor in changed})

    @property
    def cells(self) -> list[Cell]:
        switches = product((False, True), repeat=len(self.factors))
        return [self.cell({f for f, on in zip(self.factors, chosen) if on}) for chosen in switches]


def paths(suite: Suite) -> list[Path]:
    return [Path.of(name, spec) for name, spec in suite.yaml["paths"].items() if spec is not None]


def runs(suite: Suite) -> list[Cell]:
    """The cells of all paths that are run, each once."""
    return list(dict.fromkeys(cell.run for path in paths(suite) for cell in path.cells))


def run_jobs(suite: Suite) -> list[ReportJob]:
    """Every cell on every task at every number of steps."""
    (model,) = suite.models
    return [
        reported(suite, image_run(suite, model, task, cell, steps))
        for task in suite.tasks
        for steps in suite.steps
        for cell in runs(suite)
    ]


def image_run(suite: Suite, model: str, task: str, cell: Cell, steps: int) -> ImageJob:
    plain = image_job(suite, model, task, cell.sampler, steps)
    options = [f"sampler.{name}={'null' if value is None else value}" for name, value in cell.options.items()]
    # the tuned table has the sampler's own values: the search begins where the sampler says
    return replace(plain, value=cell.name, options=[*plain.options, *options])


def theory_jobs(suite: Suite) -> list[TheoryJob]:
    """The same cells on mixtures of known posterior; the YAML's `mixture`: settings, steps, observations, samples."""
    spec, found = suite.yaml["mixture"], []
    for name, options in spec["settings"].items():
        setting = Setting.of(name, {"options": options}, spec)
        here = {"setting": setting, "out": suite.out}
        found.append(Exact(**here, method="exact", steps=0))
        for steps, cell in product(spec["steps"], runs(suite)):
            start = {"step_size": 0.5} if cell.length == "constant" else {}
            found.append(
                Guided(
                    **here, method=f"{cell.sampler},{cell.name}", sampler=cell.sampler, steps=steps,
                    options=cell.options, trials=spec["tuning"]["trials"], start=start,
                )
            )  # fmt: skip
    return found
