"""Tables of suites of runs, as Markdown and CSV. A suite's YAML names them under `tables`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.runs.statistics import paired
from dsg.suites.collect import collect
from dsg.suites.suite import Outcome
from dsg.types import Column

Columns = Mapping[str, Sequence[Column]]  # of every task


def restoration(
    outcome: Outcome, parts: Sequence[str], metrics: Sequence[str], differences: Sequence[str], shown: Sequence[str]
) -> list[str]:
    """table.csv, paired.csv and table.md of tasks that have a truth.

    Args:
        parts: entries of the suite's `jobs`.
        metrics: in the order wanted.
        differences: metrics in which methods are compared with their base methods; `shown` are those in table.md.
    """
    out, suite, found = outcome.out, outcome.suite, collect(outcome, parts, metrics)
    summary = found.summary()
    compared = paired(found.tables, dict.fromkeys(found.columns, differences), found.base_methods)
    counts = ["seconds", "network_evaluations", "backward_passes"]
    write_csv(out / "table.csv", summary[[c for c in summary if c not in (*counts, "samples")] + counts])
    write_csv(out / "paired.csv", compared)
    text = (
        f"# Suite {suite.name}: the first {suite.images} test images of {', '.join(suite.models)}\n\n"
        "Mean and 95 % bootstrap interval over images; the best of a task and step count in bold. Evaluations are "
        "forward passes per image; DPS and FreeDoM also go back through the network.\n\n"
    )
    text += sections(summary, found.all_columns, method_and_steps)
    text += "".join(f"\n{line}\n" for line in found.set_notes())
    if len(compared):
        text += "\n## DSG minus its base method, image by image\n\n"
        text += wide_differences(
            compared, {c.name: c for columns in found.columns.values() for c in columns if c.name in shown}
        )
    write_text(out / "table.md", text)
    print(text)
    return ["table.md", "table.csv", "paired.csv"]


def method_and_steps(part: pd.DataFrame) -> pd.DataFrame:
    return part[["method"]].assign(steps=part["steps"].replace(0, "-"))


def sections(
    summary: pd.DataFrame,
    columns: Columns,
    first: Callable[[pd.DataFrame], pd.DataFrame],
    competes: Callable[[str], bool] = lambda method: True,
) -> str:
    """The summary as Markdown, a section per task; the best of each number of steps in bold.

    Args:
        columns: of every task; one that is empty is left out.
        first: makes the first columns from the rows of a task.
        competes: whether a method may be the best.
    """
    found = []
    for task, part in summary.groupby("task", sort=False):
        table, competing = first(part), part["method"].map(competes)
        for column in columns[task]:
            if part[column.name].notna().any():
                table[column.title] = cells(part, column, competing)
        table["evaluations"] = (
            part["network_evaluations"].map("{:.0f}".format).where(part["network_evaluations"].notna(), "")
        )
        table["s/image"] = part["seconds"].map("{:.2f}".format).where(part["seconds"].notna(), "")
        found.append(f"### {task}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(found)


def cells(part: pd.DataFrame, column: Column, competing: pd.Series) -> list[str]:
    """Mean and interval (where there is one) of a metric, row by row; the best in bold, if a direction is known."""
    values, best = part[column.name], pd.Series(np.nan, index=part.index)
    if column.larger_is_better is not None:
        which = "max" if column.larger_is_better else "min"
        best = values.where(competing).groupby(part["steps"]).transform(which)
    texts = []
    for i, row in part.iterrows():
        mean = f"{row[column.name]:.{column.digits}f}"
        low, high = row[f"{column.name}_low"], row[f"{column.name}_high"]
        interval = f" [{low:.{column.digits}f}, {high:.{column.digits}f}]" if np.isfinite(low) else ""
        bold = competing[i] and row[column.name] == best[i]
        texts.append(f"{f'**{mean}**' if bold else mean}{interval}" if np.isfinite(row[column.name]) else "")
    return texts


def wide_differences(compared: pd.DataFrame, columns: Mapping[str, Column]) -> str:
    """A row per task, method and number of steps: the mean differences, and on how many images it is better."""
    rows = []
    for (task, base, steps, method), part in compared.groupby(["task", "base_method", "steps", "method"], sort=False):
        row = {"task": task, "base method": base, "steps": steps, "method": method}
        for name, column in columns.items():
            for _, difference in part[part["metric"] == name].iterrows():
                row[name] = difference_text(difference, column.digits)
                row[f"{name} better"] = better_text(difference, column)
        rows.append(row)
    table = pd.DataFrame(rows)
    if len(rows) and not table.groupby("base method")["method"].nunique().gt(1).any():
        table = table.drop(columns="method")  # that with DSG
    return table.to_markdown(index=False, disable_numparse=True) + "\n"


def difference_text(difference: pd.Series, digits: int) -> str:
    return "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(*difference[["difference", "low", "high"]], d=digits)


def better_text(difference: pd.Series, column: Column) -> str:
    return f"{difference['lower' if column.larger_is_better is False else 'higher']} of {difference['images']}"


def write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.6g"))
