"""The tables of semantic tasks, each task with its own metrics. A suite's YAML names them under `tables`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dsg import config as configs
from dsg.files import write_text
from dsg.metrics.base import SetMetric
from dsg.runs.prepare import build
from dsg.runs.statistics import paired
from dsg.suites.collect import Collected, collect
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome
from dsg.suites.tables import better_text, difference_text, sections, write_csv


def semantic(
    outcome: Outcome,
    parts: Sequence[str],
    metrics: Mapping[str, Sequence[str]],
    pooled: str | None = None,
    pooled_floor: str | None = None,
) -> list[str]:
    """table.csv and table.md.

    Args:
        parts: entries of the suite's `jobs`.
        metrics: of every task, in the order wanted.
        pooled: a metric of all images of a method together, whatever their tasks (configs/metric/), if wanted.
        pooled_floor: the entry whose samples take the place of the unguided ones there.
    """
    out, found = outcome.out, collect(outcome, parts, metrics)
    summary = found.summary()
    own = [c for c in summary if c not in ("steps", "images", "backward_passes")]
    write_csv(out / "table.csv", summary[[*own, "backward_passes"]])

    def name(part: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"": part["method"].map(lambda method: label(method, found))})

    # floor and ceiling do not compete
    text = head(outcome, found) + sections(
        summary, found.all_columns, name, lambda m: m in found.methods and found.methods[m].guided
    )
    text += "".join(f"\n{line}\n" for line in found.set_notes())
    text += "\n## DSG minus its base method, condition by condition\n\n" + long_differences(found)
    if pooled is not None:
        text += pooled_metric(outcome, parts, pooled, pooled_floor, found)
    write_text(out / "table.md", text)
    print(text)
    return ["table.md", "table.csv"]


def label(method: str, found: Collected) -> str:
    if method not in found.methods:
        return "real images"
    return found.methods[method].label if found.methods[method].guided else "no guidance"


def head(outcome: Outcome, found: Collected) -> str:
    suite = outcome.suite
    options = f"With {', '.join(suite.options)}. " if suite.options else ""
    samples = f"{suite.samples} sample{'s' * (suite.samples > 1)} each"
    counts = f"{suite.images} conditions per task, {samples}, {suite.steps[0]} steps"
    text = (
        f"# Suite {suite.name}: {counts}, {', '.join(suite.models)}\n\n{options}"
        "Means over conditions with 95 % bootstrap intervals; the best method of a column in bold. guidance network: "
        "as the network sees it that guided; evaluator: networks that guided nothing (`tasks/networks/evaluator.py`)."
    )
    if suite.samples > 1:
        text += " diversity: RMS distance between the samples of a condition."
    if any(method not in found.methods for _, method, _ in found.tables):
        text += (
            " real images: another image of the person, test faces that the prompt fits, the reference mirrored, the "
            "face that the label map is of."
        )
    return f"{text}\n\n"


def long_differences(found: Collected) -> str:
    """A row per task, base method and metric."""
    columns = {column.name: column for columns in found.columns.values() for column in columns}
    rows = []
    for _, difference in paired(found.tables, found.names, found.base_methods).iterrows():
        column = columns[difference["metric"]]
        rows.append(
            {
                "task": difference["task"],
                "base method": label(difference["base_method"], found),
                "metric": column.title,
                "DSG minus base method": difference_text(difference, column.digits),
                "DSG better": better_text(difference, column),
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def pooled_metric(outcome: Outcome, parts: Sequence[str], name: str, floor: str, found: Collected) -> str:
    """A row per method that has enough images, all tasks together; "" if none has."""
    jobs = [job for job in outcome.of(*parts) if isinstance(job, ImageJob) and "images" in job.tables()]
    unguided = [job for job in outcome.of(floor) if "images" in job.tables()]
    if not jobs:
        return ""
    metric, rows = set_metric(jobs[0], name), []
    for method, about in found.methods.items():
        # of the unguided samples, the tasks have partly the same ones
        own = [job for job in jobs if job.sampler == method] if about.guided else unguided
        count = sum(len(job.tables()["images"]) for job in own)
        if count >= metric.smallest and metric.missing() is None:
            images = np.stack([job.results.image(name) for job in own for name in job.tables()["images"]["id"]])
            value = f"{metric(images):.{metric.column.digits}f}"
            rows.append({"": label(method, found), "samples": count, metric.column.title: value})
    if not rows:
        return ""
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return f"\n## {metric.column.title}, all tasks together\n\n{table}\n"


def set_metric(job: ImageJob, name: str) -> SetMetric:
    """The metric as the job's prior has it."""
    config = configs.load([f"model={job.model}", f"task={job.task}", f"metrics=[{name}]"])
    return build(config.metrics[name])
