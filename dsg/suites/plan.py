"""Plans the jobs of a suite. Its YAML names the functions below under `jobs`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dsg.suites.jobs import Job
from dsg.suites.protocol import reported
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Suite, call
from tasks.inverse import InverseProblem


def plan(suite: Suite) -> list[Job]:
    """All jobs of the suite: each entry of `jobs` is a name and the function that plans it.

    A job that another one covers (the same key, with no fewer images) is left out.
    """
    planned: list[Job] = []
    for part, spec in suite.yaml["jobs"].items():
        for job in call(spec, suite):
            if suite.tune and isinstance(job, ImageJob) and job.value is None and restores(job):
                job = reported(suite, job)
            job.part = part
            too_long = suite.most_steps is not None and job.steps > suite.most_steps
            if not too_long and not any(other.covers(job) for other in planned):
                planned.append(job)
    return planned


def restores(job: ImageJob) -> bool:
    """Whether its values can be chosen by the distance to a truth."""
    return isinstance(job.task_object, InverseProblem)


def grid(suite: Suite) -> list[ImageJob]:
    """Every task at every number of steps with every sampler."""
    return [
        image_job(suite, model, task, sampler, steps)
        for model in suite.models
        for task in suite.tasks
        for steps in suite.steps
        for sampler in suite.samplers
    ]


def listed(suite: Suite, steps: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[ImageJob]:
    """By model and task the samplers that are named, each at its own number of steps."""
    return [
        image_job(suite, model, task, sampler, number)
        for model in suite.models
        for task in suite.tasks
        for sampler, number in steps.get(model, {}).get(task, {}).items()
    ]


def further_steps(suite: Suite, task: str, steps: Sequence[int], images: int) -> list[ImageJob]:
    """One task at more numbers of steps, on no more than `images` images."""
    some = replace(suite, tasks=[task], steps=steps, images=min(images, suite.images))
    return grid(some)


def around_tuned(suite: Suite, task: str, steps: int, factors: Sequence[float], images: int) -> list[ImageJob]:
    """One task at values around the tuned one of each sampler: `factors` times it, within the option's bounds."""
    few = replace(suite, images=min(images, suite.images))
    jobs = []
    for model in suite.models:
        for sampler in suite.samplers:
            tuned = image_job(few, model, task, sampler, steps)
            if tuned.tunable is not None:
                jobs += [with_value(tuned, v) for v in values_around(tuned, factors)] + [tuned]
    return jobs


def values_around(tuned: ImageJob, factors: Sequence[float]) -> list[float]:
    option, value = tuned.tunable, tuned.chosen_value
    values = {float(f"{np.clip(value * factor, option.low, option.high):.6g}") for factor in factors}
    return [v for v in sorted(values) if not np.isclose(v, value)]


def with_value(tuned: ImageJob, value: float) -> ImageJob:
    return replace(tuned, value=value, options=[*tuned.options, f"sampler.{tuned.tunable.option}={value:.6g}"])


def pooled_floor(suite: Suite, task: str, sampler: str, enough: int) -> list[ImageJob]:
    """As many samples of one unguided run as a method has in all tasks together; none where those are not `enough`."""
    count = suite.images * len(suite.tasks)
    if count * suite.samples < enough or task not in suite.tasks:
        return []
    return [image_job(replace(suite, images=count), m, task, sampler, n) for m in suite.models for n in suite.steps]


def image_job(suite: Suite, model: str, task: str, sampler: str, steps: int) -> ImageJob:
    section = f"{model}/{task}" if len(suite.models) > 1 else task
    common = [f"device={suite.device}", f"wandb.group={suite.name}", f"wandb.mode={suite.wandb}"]
    of_task = suite.yaml.get("task_options") or {}
    common += [*of_task.get(task, ()), *of_task.get(f"{model}/{task}", ()), *suite.options]
    return ImageJob(
        section, model, task, sampler, steps, None, suite.images, suite.samples,
        suite.out / "runs" / section, common, suite.yaml.get("watch"),
    )  # fmt: skip
