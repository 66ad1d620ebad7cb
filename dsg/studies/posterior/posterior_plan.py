"""The jobs of configs/suite/theory.yaml and theory_rivals.yaml, in the order of the tables."""

from collections.abc import Sequence
from dataclasses import replace

from dsg.studies.posterior.posterior_jobs import Diagnosis, Exact, Guided, Oracle, Shuffled, TheoryJob
from dsg.studies.posterior.settings import Setting
from dsg.suites.suite import Suite
from dsg.suites.views import most_steps


def setting(suite: Suite, name: str) -> Setting:
    return Setting.of(name, suite.yaml["tasks"][name], suite.yaml)


def jobs(suite: Suite) -> list[TheoryJob]:
    """Every setting, with every method at every number of steps.

    Raises:
        ValueError: no sampler is left, so that there is nothing to show; or an option that means nothing here.
    """
    check_options(suite)
    fewest = min(min(suite.yaml["tasks"][name]["steps"]) for name in suite.tasks)
    if suite.most_steps is not None and suite.most_steps < fewest:
        raise ValueError(f"--most-steps {suite.most_steps}: the samplers take {fewest} or more")
    return [job for name in suite.tasks for job in at_steps(suite, setting(suite, name))]


def rivals(suite: Suite) -> list[TheoryJob]:
    """Every setting, with every sampler at each budget of compute, and the references.

    Raises:
        ValueError: an option that means nothing here.
    """
    check_options(suite)
    return [job for name in suite.tasks for job in within_budgets(suite, setting(suite, name))]


def check_options(suite: Suite) -> None:
    """Raises ValueError if a run should have options, or a device, that no job of the suite would take."""
    if suite.options:
        raise ValueError(f"--options does not apply to suite {suite.name}: its settings are in its YAML")
    if suite.device not in ("auto", "cpu"):
        raise ValueError(f"--device {suite.device}: suite {suite.name} runs on the CPU")


def at_steps(suite: Suite, setting: Setting) -> list[TheoryJob]:
    yaml, steps = suite.yaml, suite.yaml["tasks"][setting.name]["steps"]
    oracle = [n for n in yaml["oracle_steps"] if n <= max(steps) or max(steps) >= 200]
    search = {"trials": yaml["tuning"]["trials"], "start": yaml["start"]}
    ablations = yaml["ablations"] if setting.name in yaml["ablated"] else {}
    diagnosed = yaml["some_steps"] if setting.name in yaml["diagnosed"] else []
    here = {"setting": setting, "out": suite.out}

    def guided(method: str, numbers: Sequence[int], **spec) -> list[TheoryJob]:
        return [Guided(**here, method=method, steps=n, **{"sampler": method, **spec}) for n in numbers]

    return [
        Exact(**here, method="exact", steps=0),
        *(Oracle(**here, method="oracle", steps=n) for n in oracle),
        *(job for name in [*yaml["samplers"], *yaml["controls"]] for job in guided(name, steps, **search)),
        *(job for name, spec in ablations.items() for job in guided(name, yaml["some_steps"], **spec, **search)),
        *guided("unconditional", steps),
        *(Diagnosis(**here, method="diagnosis", steps=n) for n in diagnosed),
    ]


def within_budgets(suite: Suite, setting: Setting) -> list[TheoryJob]:
    yaml, here = suite.yaml, {"setting": setting, "out": suite.out}
    more = yaml["tasks"][setting.name].get("more_oracle_steps", [])
    jobs: list[TheoryJob] = [
        Exact(**here, method="exact", steps=0),
        Shuffled(**here, method="shuffled", steps=0),
        *(Oracle(**here, method="oracle", steps=n) for n in [*yaml["oracle_steps"], *more]),
    ]
    for name in suite.samplers:
        common = {"options": yaml["options_of"].get(name, {}), "start": yaml["start"]}
        one = Guided(**here, method=name, sampler=name, steps=2, trials=yaml["tuning"]["trials"], **common)
        for budget in yaml["budgets"]:
            steps = most_steps(lambda n, one=one: one.build(steps=n), setting.prior.schedule, budget)
            if steps is not None:
                jobs.append(replace(one, steps=steps))
    return jobs
