"""The benchmark's two views, equal steps and equal compute, and the rivals at their own number of steps: its jobs.

The suite's YAML has `views`, each with the `samplers` in it:

    steps: the suite's numbers of steps.
    compute: budgets, the compute that `of` takes with the suite's numbers of steps (`Cost.compute`: forward passes +
        2 x backward passes per image, at most); every sampler takes as many steps as fit into each.
    own: a sampler's own number of steps, as its YAML has it.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hydra.utils import instantiate

from dsg.files import first_line
from dsg.layers import read
from dsg.runs.prepare import load_once_from
from dsg.samplers import Sampler
from dsg.schedule import NoiseSchedule
from dsg.suites.methods import Method
from dsg.suites.plan import image_job
from dsg.suites.protocol import Extra, ReportJob, reported
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Suite

VIEWS = ("steps", "compute", "own")
MMSE = "mmse"


class Place(NamedTuple):
    """A place in a view's table.

    Attributes:
        level: what is equal: the number of steps, or the budget; of `own`, 0.
        steps: of the sampler; None where it is refused.
        refused: why there is nothing here.
        method: what tables call it.
    """

    view: str
    model: str
    task: str
    level: int
    sampler: str
    steps: int | None
    refused: str | None = None
    method: Method | None = None

    @property
    def key(self) -> tuple:
        """The key of the job that fills it."""
        return (self.task, self.sampler, self.steps)


def places_of(suite: Suite) -> list[Place]:
    """The places of all views, in the order of the tables.

    Raises:
        ValueError: several models, which a view cannot show.
    """
    if len(suite.models) != 1:
        raise ValueError(f"suite {suite.name}: its views are of one model")
    views = {view: spec["samplers"] for view in VIEWS if (spec := suite.yaml["views"].get(view))}
    found = []
    for task in suite.tasks:
        names = dict.fromkeys(name for samplers in views.values() for name in samplers)
        one = {name: image_job(suite, suite.models[0], task, name, suite.steps[0]) for name in names}
        refused = {name: refusal(job) for name, job in one.items()}
        for view, samplers in views.items():
            for level in levels(suite, view, one):
                for name in samplers:
                    steps, why = steps_at(view, level, one[name], refused[name])
                    found.append(Place(view, suite.models[0], task, level, name, steps, why, one[name].method))
    return sorted(found, key=lambda place: VIEWS.index(place.view))


def levels(suite: Suite, view: str, one: Mapping[str, ImageJob]) -> list[int]:
    """Args: one: of every sampler, a job of the task."""
    if view == "own":
        return [0]
    if view == "steps":
        return list(suite.steps)
    of = one[suite.yaml["views"]["compute"]["of"]]
    return [compute(of, steps) for steps in suite.steps]


def steps_at(view: str, level: int, one: ImageJob, refused: str | None) -> tuple[int | None, str | None]:
    """The number of steps, or why there is none."""
    if refused:
        return None, refused
    if view == "steps":
        return level, None
    if view == "own":
        return read("sampler", one.sampler, ())["steps"], None
    steps = most_steps(lambda n: instantiate(one.config.sampler, steps=n), one.schedule(), level)
    return steps, "two steps cost more" if steps is None else None


def most_steps(build: Callable[[int], Sampler], schedule: NoiseSchedule, budget: int) -> int | None:
    """The largest number of steps with which a sampler takes at most `budget` forward passes per sample, a backward
    pass counting two; None if 2 are too many."""
    counts = range(2, min(budget + 1, len(schedule)) + 1)
    fitting = bisect_right(counts, budget, key=lambda n: build(n).cost(schedule).compute)
    return counts[fitting - 1] if fitting else None


def refusal(job: ImageJob) -> str | None:
    """Why the sampler cannot work with this task and prior, as its `check` says; None if it can, or if the prior is
    not there to ask."""
    try:
        prior = load_once_from(job.config.model)
    except (ValueError, OSError):
        return None
    try:
        job.sampler_object.check(prior, job.task_object)
    except ValueError as error:
        return first_line(error)
    return None


def compute(job: ImageJob, steps: int) -> int:
    return instantiate(job.config.sampler, steps=steps).cost(job.schedule()).compute


def jobs(suite: Suite) -> list[ReportJob]:
    """A job for every sampler and number of steps that one of the views shows."""
    wanted = {place.key: place for place in places_of(suite) if place.steps is not None}
    made = []
    for place in wanted.values():
        run = image_job(suite, place.model, place.task, place.sampler, place.steps)
        made.append(
            reported(suite, run, is_headline(suite, place.task, place.sampler, place.steps), extras_of(suite, place))
        )
    return made


def is_headline(suite: Suite, task: str, sampler: str, steps: int) -> bool:
    """Whether its intervals are to include the choice of the value: the YAML's `headline: {tasks, samplers, steps}`."""
    spec = suite.yaml.get("headline")
    return bool(spec) and task in spec["tasks"] and sampler in spec["samplers"] and steps in spec["steps"]


def extras_of(suite: Suite, place: Place) -> Sequence[Extra]:
    """The runs of `tradeoff`, in the suite's YAML: several samples of a few images, along a sampler's knob; and those
    of which the mean is taken (`mmse`)."""
    spec = suite.yaml.get("tradeoff")
    if spec is None or place.task != spec["task"]:
        return ()
    images, found = min(spec["images"], suite.images), []
    at_equal_steps = place.steps == spec["steps"] and place.sampler in spec["samplers"]
    if at_equal_steps or (place.view == "compute" and place.sampler in spec.get("rivals", ())):
        found = [Extra(f"x{f:g}", images, spec["samples"], f) for f in spec["factors"]]
    mmse = spec["mmse"]
    if (place.sampler, place.steps) == (mmse["sampler"], mmse["steps"]):
        found.append(Extra(MMSE, images, mmse["samples"]))
    return found
