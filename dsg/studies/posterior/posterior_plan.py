"""From configs/suite/theory.yaml and theory_rivals.yaml to their jobs, in the order of the tables."""

from dataclasses import replace

from dsg.studies.posterior.posterior_jobs import Diagnosis, Exact, Guided, Oracle, Shuffled, TheoryJob
from dsg.studies.posterior.settings import Setting
from dsg.suites.suite import Suite
from dsg.suites.views import most_steps


def jobs(suite: Suite) -> list[TheoryJob]:
    """Every setting that was asked for, with every method.

    Raises:
        ValueError: no sampler is left, so that there is nothing to show; or an option that means nothing here.
    """
    check_options(suite)
    fewest = min(min(suite.yaml["tasks"][name]["steps"]) for name in suite.tasks)
    if suite.most_steps is not None and suite.most_steps < fewest:
        raise ValueError(f"--most-steps {suite.most_steps}: the samplers take {fewest} or more")
    return [job for name in suite.tasks for job in jobs_of(suite, setting(suite, name))]


def check_options(suite: Suite) -> None:
    """Raises ValueError if a run should have options, or a device, that no job of the suite would take."""
    if suite.options:
        raise ValueError(f"--options does not apply to suite {suite.name}: its settings are in its YAML")
    if suite.device not in ("auto", "cpu"):
        raise ValueError(f"--device {suite.device}: suite {suite.name} runs on the CPU")


def setting(suite: Suite, name: str) -> Setting:
    return Setting.of(name, suite.yaml["tasks"][name], suite.yaml)


def jobs_of(suite: Suite, setting: Setting) -> list[TheoryJob]:
    yaml, steps = suite.yaml, suite.yaml["tasks"][setting.name]["steps"]
    oracle = [n for n in yaml["oracle_steps"] if n <= max(steps) or max(steps) >= 200]
    search = {"trials": yaml["tuning"]["trials"], "start": yaml["start"]}
    ablations = yaml["ablations"] if setting.name in yaml["ablated"] else {}
    diagnosed = yaml["some_steps"] if setting.name in yaml["diagnosed"] else []
    here = {"setting": setting, "out": suite.out}
    return [
        Exact(**here, method="exact", steps=0),
        *(Oracle(**here, method="oracle", steps=n) for n in oracle),
        *(
            Guided(**here, method=m, sampler=m, steps=n, **search)
            for m in [*yaml["samplers"], *yaml["controls"]]
            for n in steps
        ),
        *(
            Guided(**here, method=m, steps=n, **spec, **search)
            for m, spec in ablations.items()
            for n in yaml["some_steps"]
        ),
        *(Guided(**here, method="unconditional", sampler="unconditional", steps=n) for n in steps),
        *(Diagnosis(**here, method="diagnosis", steps=n) for n in diagnosed),
    ]


def rivals(suite: Suite) -> list[TheoryJob]:
    """Every setting, with every sampler at each budget of compute, and what stands beside them.

    Raises:
        ValueError: an option that means nothing here.
    """
    check_options(suite)
    return [job for name in suite.tasks for job in within_budgets(suite, setting(suite, name))]


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
