"""One method over values of its options: the plan of an ablation. Named in a suite's YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from dsg.files import resolve
from dsg.suites.plan import grid
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Suite


def variants(
    suite: Suite,
    samplers: Sequence[str],
    options: Mapping[str, Sequence],
    at: Mapping[str, object] | None = None,
    data: str | None = None,
) -> list[ImageJob]:
    """Every combination of values, for every task and number of steps.

    Args:
        options: of the samplers, `sampler.interval`, to the values that each takes.
        at: fields of the suite that are others here, `steps`, `tasks` or `images`.
        data: a folder of other images, validation images; their runs are below <out>/<its name>/.
    """
    chosen = [dict(zip(options, values)) for values in product(*options.values())]
    jobs = grid(replace(suite, samplers=samplers, **(at or {})))
    if data is not None:
        jobs = [on_data(suite, job, data) for job in jobs]
    return [with_options(job, one) for job in jobs for one in chosen]


def on_data(suite: Suite, job: ImageJob, data: str) -> ImageJob:
    folder = resolve(data)
    return replace(
        job, section=f"{folder.name}/{job.section}", folder=suite.out / folder.name / job.section,
        options=[*job.options, f"data.root={folder}"],
    )  # fmt: skip


def with_options(job: ImageJob, options: Mapping[str, object]) -> ImageJob:
    named = ",".join(f"{option.removeprefix('sampler.')}={value}" for option, value in options.items())
    return replace(job, value=named, options=[*job.options, *(f"{name}={value}" for name, value in options.items())])
