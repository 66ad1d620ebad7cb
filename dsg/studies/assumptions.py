"""Who breaks first when what is assumed is wrong: the noise, the blur, the mask, the prior. Named in a suite's YAML.

Every case turns one thing of the truth away from what is assumed. Beside each `wrong` run stands the `right` one, which
is told the truth; both take the value that the protocol chooses where the assumption holds. What is lost by the wrong
assumption is the difference, image by image.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dsg.files import write_text
from dsg.statistics import by_image, paired
from dsg.studies.degraded import degraded_weights
from dsg.suites.figures import WIDTH, legends_above, plt, save
from dsg.suites.methods import Method, families, styles_in_panel
from dsg.suites.plan import image_job
from dsg.suites.protocol import ReportJob, outcome_of, reported
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome, Suite
from dsg.suites.tables import markdown, with_interval, write_csv
from dsg.suites.views import most_steps

WRONG, RIGHT = "wrong", "right"
METRIC = "psnr"


@dataclass(eq=False)
class CaseJob(ReportJob):
    """A case with one sampler, tuned where the assumption holds.

    Args:
        sides: the runs on test images, right and wrong at every value.
    """

    sides: Sequence[ImageJob] = ()

    def planned_runs(self) -> dict[str, ImageJob]:
        if self.search is None:
            return {str(side.value): side for side in self.sides}
        found = self.chosen()
        if found is None:
            return {}
        return {str(side.value): ReportJob(side, self.search).at(found.value) for side in self.sides}

    def expected(self) -> float:
        return self.report.work() * len(self.sides)


def cases(suite: Suite) -> list[CaseJob]:
    """Every case of the suite's `tasks` with every sampler within the suite's `budget`."""
    jobs = []
    for name in suite.tasks:
        case = suite.yaml["tasks"][name]
        for sampler in suite.samplers:
            plain = within_budget(suite, case["task"], sampler)
            search = reported(suite, plain).search
            jobs.append(CaseJob(replace(plain, section=name), search, sides=sides_of(plain, name, case)))
    return jobs


def sides_of(plain: ImageJob, name: str, case: dict) -> list[ImageJob]:
    """Both sides at each value of the case; where the value is the one that is assumed there is no wrong one."""
    found = []
    for value in case["values"]:
        sides = [RIGHT] if value == case["assumed"] else [RIGHT, WRONG]
        found += [one_side(plain, name, case, value, side) for side in sides]
    return unique(found)


def within_budget(suite: Suite, task: str, sampler: str) -> ImageJob:
    job = image_job(suite, suite.models[0], task, sampler, 2)
    steps = most_steps(lambda n: replace(job.sampler_object, steps=n), job.schedule(), suite.yaml["budget"])
    if steps is None:
        raise ValueError(f"budget: {suite.yaml['budget']} forward passes are too few for two steps of {sampler}")
    return replace(job, steps=steps)


def one_side(job: ImageJob, name: str, case: dict, value: float, side: str) -> ImageJob:
    """The run of a case at a value. VALUE in its options is the value, DEGRADED a file of weights that are so wrong."""
    options = [option.replace("VALUE", f"{value:g}") for option in case[side]]
    if any("DEGRADED" in option for option in options):
        folder = job.folder.parents[1] / "weights"
        file = degraded_weights(job.config.model.checkpoint, value, folder)
        options = [option.replace("DEGRADED", str(file)) for option in options]
    folder = job.folder.parent / name
    return replace(
        job, section=name, value=label(value, side), folder=folder, options=[*job.options, *options], watch=None
    )


def unique(jobs: Sequence[ImageJob]) -> list[ImageJob]:
    """Without those whose options another one has: a right run that does not depend on the value."""
    found: dict[tuple, ImageJob] = {}
    for job in jobs:
        found.setdefault((job.section, job.sampler, *job.options), job)
    return list(found.values())


# --- what came out


def losses(outcome: Outcome, part: str) -> pd.DataFrame:
    """A row per case, method and value: PSNR wrong and right, and right minus wrong with its interval."""
    rows = []
    for job in outcome.of(part):
        name, sampler, steps = job.key
        case = outcome.suite.yaml["tasks"][name]
        scores = {side: by_image(table, METRIC) for side, table in job.tables().items() if side in job.runs()}
        depends = any("VALUE" in option for option in case[RIGHT])
        for value in case["values"]:
            right = scores.get(label(value if depends else case["values"][0], RIGHT))
            wrong = right if value == case["assumed"] else scores.get(label(value, WRONG))
            if right is not None and wrong is not None:
                lost = paired(right, wrong)
                row = {"case": name, "method": sampler, "steps": steps, "value": value}
                row |= {"images": len(wrong), "wrong": wrong.mean(), "right": right.mean()}
                rows.append({**row, "lost": lost.difference, "low": lost.low, "high": lost.high})
    return pd.DataFrame(rows)


def label(value: float, side: str) -> str:
    return f"{value:g}-{side}"


def table(outcome: Outcome, part: str) -> list[str]:
    """losses.csv, and table.md with a table per case."""
    found, suite = losses(outcome, part), outcome.suite
    if found.empty:
        return []
    write_csv(outcome.out / "losses.csv", found)
    limit = suite.yaml["limit"]
    text = (
        f"# Wrong assumptions: the first {suite.images} test images of {suite.models[0]}\n\n"
        f"PSNR [dB] where the assumption is right, and what a wrong one loses: the run that is told the truth minus "
        f"the one that is not, image by image, with 95 % intervals. Both take the value that is chosen where "
        f"the assumption holds. {outcome_of(suite.yaml['tuning'])} Every sampler has {suite.yaml['budget']} forward "
        f"passes per image, a backward pass counting two. breaks at: the first value at which the mean loss is beyond "
        f"{limit:g} dB, and its interval beyond 0. A sampler that never asks for the noise level loses nothing by a "
        "wrong one.\n"
    )
    for name, part_of in found.groupby("case", sort=False):
        case = suite.yaml["tasks"][name]
        text += f"\n## {name}: {case['axis']}\n\nTask: {case['task']}; assumed: {case['assumed']:g}.\n\n"
        text += markdown(wide(part_of, case, limit))
    write_text(outcome.out / "table.md", text)
    print(text)
    return ["table.md", "losses.csv"]


def wide(found: pd.DataFrame, case: dict, limit: float) -> pd.DataFrame:
    """A row per method, a column per value."""
    rows = []
    for (method, steps), part in found.groupby(["method", "steps"], sort=False):
        part = part.set_index("value")
        row = {"method": method, "steps": steps}
        if case["assumed"] in part.index:
            row["PSNR, right [dB]"] = f"{part.loc[case['assumed'], 'right']:.2f}"
        for value in [v for v in case["values"] if v != case["assumed"] and v in part.index]:
            lost, low, high = part.loc[value, ["lost", "low", "high"]]
            row[f"lost at {value:g} [dB]"] = with_interval(lost, low, high, 2)
        rows.append({**row, "breaks at": breaks_at(part.reset_index(), case["assumed"], limit)})
    return pd.DataFrame(rows).fillna("")


def breaks_at(part: pd.DataFrame, assumed: float, limit: float) -> str:
    """The value nearest to what is assumed at which more than `limit` dB are lost, beyond chance; - if at none."""
    broken = part[(part["lost"] > limit) & (part["low"] > 0)]
    return "-" if broken.empty else f"{broken.loc[(broken['value'] - assumed).abs().idxmin(), 'value']:g}"


def figure(outcome: Outcome, part: str) -> list[str]:
    """lost.png, see `lost`."""
    found = losses(outcome, part)
    methods = list(dict.fromkeys(job.report.method for job in outcome.of(part)))
    return save(lost(found, outcome.suite.yaml["tasks"], methods), outcome.out / "lost.png") if len(found) else []


def lost(found: pd.DataFrame, cases: Mapping[str, Mapping], methods: Sequence[Method]):
    """A row per case, a panel per base method and its variants: what is lost against the true value.

    Methods that lose nothing at any value are named instead of drawn, and a panel without others is left blank.
    """
    groups = families(methods, most=4)
    fig, axes = plt.subplots(len(cases), len(groups), figsize=(WIDTH, 2.5 * len(cases)), squeeze=False, sharey="row")
    for row, (name, case) in zip(axes, cases.items()):
        for ax, group in zip(row, groups):
            curves = {m: found[(found["case"] == name) & (found["method"] == m.name)] for m in group}
            panel(ax, {m: curve.sort_values("value") for m, curve in curves.items() if len(curve)}, case)
        row[0].set_ylabel("PSNR lost [dB]")
        row[0].set_title(f"{name}: {case['task'].replace('_', ' ')}", loc="left")
    legends_above(axes)
    return fig


def panel(ax, curves: Mapping[Method, pd.DataFrame], case: Mapping) -> None:
    looks = styles_in_panel(curves)
    unmoved = [method.label for method, curve in curves.items() if (curve["lost"].abs() < 0.005).all()]
    for method, curve in curves.items():
        if method.label not in unmoved:
            ax.plot(curve["value"], curve["lost"], **looks[method.name])
    ax.axvline(case["assumed"], color="0.7", linewidth=0.8, linestyle=":")
    low, high = min(case["values"]), max(case["values"])
    ax.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    ax.set_xlabel(textwrap.fill(case["axis"], 24))
    if unmoved:
        text = "\n".join(["nothing lost:", *unmoved])
        ax.text(0.03, 0.03, text, transform=ax.transAxes, va="bottom", fontsize=7.5)
