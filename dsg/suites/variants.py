"""One method over values of its options: the plan of an ablation. Named in a suite's YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from dsg.suites.plan import grid
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Suite


def variants(suite: Suite, samplers: Sequence[str], options: Mapping[str, Sequence]) -> list[ImageJob]:
    """Every combination of values, for every task and number of steps.

    Args:
        options: of the samplers, `sampler.interval`, to the values that each takes.
    """
    chosen = [dict(zip(options, values)) for values in product(*options.values())]
    return [with_options(job, one) for job in grid(replace(suite, samplers=samplers)) for one in chosen]


def with_options(job: ImageJob, options: Mapping[str, object]) -> ImageJob:
    named = ",".join(f"{option.removeprefix('sampler.')}={value}" for option, value in options.items())
    return replace(job, value=named, options=[*job.options, *(f"{name}={value}" for name, value in options.items())])
