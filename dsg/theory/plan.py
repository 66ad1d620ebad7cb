"""From configs/suite/theory.yaml to its jobs, in the order of the tables."""

from dsg.benchmark.suite import Suite
from dsg.checkpoints import resolve
from dsg.theory.jobs import Diagnosis, Exact, Guided, Oracle, TheoryJob
from dsg.theory.settings import Setting


def jobs(suite: Suite) -> list[TheoryJob]:
    """Every setting that was asked for, with every method.

    Raises:
        ValueError: no sampler is left, so that there is nothing to show; or a part would take the place of the whole.
    """
    if suite.is_part and suite.out == resolve(suite.yaml["out"]):
        raise ValueError("a part of the suite needs another --out: the full tables are in the default one")
    fewest = min(min(suite.yaml["tasks"][name]["steps"]) for name in suite.tasks)
    if suite.most_steps is not None and suite.most_steps < fewest:
        raise ValueError(f"--most-steps {suite.most_steps}: the samplers take {fewest} or more")
    return [job for name in suite.tasks for job in jobs_of(suite, setting(suite, name))]


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
        *(Guided(**here, method=m, sampler=m, steps=n, **search) for m in yaml["samplers"] for n in steps),
        *(
            Guided(**here, method=m, steps=n, **spec, **search)
            for m, spec in ablations.items()
            for n in yaml["some_steps"]
        ),
        *(Guided(**here, method="unconditional", sampler="unconditional", steps=n) for n in steps),
        *(Diagnosis(**here, method="diagnosis", steps=n) for n in diagnosed),
    ]
