"""What the suite `theory` writes when its jobs are done: CSV files, table.md, figures."""

from collections.abc import Iterable, Mapping

import pandas as pd

from dsg.files import write_text
from dsg.studies.posterior import all_figures, posterior_plan
from dsg.studies.posterior.posterior_jobs import Guided
from dsg.studies.posterior.posterior_tables import COLUMNS, DISTANCE, collect, differences, starred, told_diverged
from dsg.suites.methods import Method
from dsg.suites.suite import Outcome

HEAD = """# Samplers against exact posteriors

Written by `make reproduce SUITE=theory`; docs/theory.md explains it.

Each method is tuned for each number of steps: its value is the best of {tuning[trials]} trials, by sliced Wasserstein
distance on {tuning[observations]} observations x {tuning[samples]} samples.
The numbers are means over {report[observations]} other observations x {report[samples]} samples.
`plane` and `faces768` have other counts: configs/suite/theory.yaml.

| column | meaning |
|---|---|
| value | step size, or guidance rate with DSG; * if the best is at the edge of what was tried |
| sliced W2 | sliced 2-Wasserstein distance / standard deviation of the posterior; means leave out what diverged |
| energy | energy distance / mean distance between samples of the posterior |
| bias | error of the mean / standard deviation of the posterior, less what so many samples have by chance |
| cov. | relative error of the covariance |
| spread | tr Cov / that of the posterior |
| modes | total variation between component weights |
| in 90 % | share of samples in the exact 90 % highest-density region |
| coverage | share of the truth's coordinates in the samples' central 90 % intervals |
| to truth | mean squared distance to the truth / 2 tr C of the posterior: 1 for its samples, .5 for its mean |

`exact`: other exact samples, the floor. `oracle`: the unconditional sampler under the true conditional score.
`additive`, `freedom_additive`, `mpgd_additive`: the controls, steps of the sphere's length without the sphere.
`dps_open`, `direction_dsg`, `length`: "Direction or length?" in docs/theory.md.
"""
CORRELATIONS = """
## Leaving the sphere, and the distance to the posterior

Rank correlation of mean |deviation - 1| with sliced W2, over trials: every step size, at every number of steps.

"""


def write(outcome: Outcome) -> list[str]:
    """Every table and figure of what is finished. Returns the names of the files."""
    suite, out = outcome.suite, outcome.out
    guided = methods(outcome, suite.samplers)
    controls = methods(outcome, suite.yaml["controls"])
    control_of = {m.base_method: m.name for m in controls.values()}
    tables = collect(outcome.jobs, {m.name: m.base_method for m in guided.values() if m.control}, control_of)
    shown = {name: table for name, table in tables.items() if name != "points"}
    for name, table in shown.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    write_text(out / "table.md", markdown(tables, suite.yaml))
    known = posterior_plan.setting(suite, "plane").truth("tuning") if "plane" in suite.tasks else None
    return ["table.md", *(f"{name}.csv" for name in shown), *all_figures.draw(tables, out, known, guided, controls)]


def methods(outcome: Outcome, names: Iterable[str]) -> dict[str, Method]:
    """Those of these names that the suite has run."""
    jobs = [job for job in outcome.jobs if isinstance(job, Guided) and job.method in names]
    return {job.method: Method.of(job.build()) for job in jobs}


def markdown(tables: Mapping[str, pd.DataFrame], yaml: Mapping) -> str:
    """table.md: a table per setting, then the differences and the correlations."""
    text = HEAD.format(**yaml)
    for setting, part in tables["runs"].groupby("setting", sort=False):
        table = part[["method"]].assign(steps=part["steps"].replace(0, "-"), value=starred(part))
        for column in COLUMNS:
            table[column.title] = part[column.name].map(f"{{:.{column.digits}f}}".format)
            if column.name == DISTANCE:
                table[column.title] = told_diverged(table[column.title], part)
        options = " ".join(yaml["tasks"][setting]["options"])
        text += f"\n## {setting}\n\n`{options}`\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"
    text += differences(tables["paired"])
    return text + CORRELATIONS + tables["correlations"].to_markdown(index=False, floatfmt=".2f") + "\n"
