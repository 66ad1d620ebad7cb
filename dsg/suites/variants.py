"""One method over values of its options: the plan, table and figure of an ablation. Named in a suite's YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import matplotlib
import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from dsg.files import write_text
from dsg.runs.statistics import summarise
from dsg.suites.collect import collect
from dsg.suites.plan import grid
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome, Suite
from dsg.suites.tables import sections, write_csv
from dsg.types import Column

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

Metrics = Sequence[str] | Mapping[str, Sequence[str]]  # names, or names by task


def variants(suite: Suite, samplers: Sequence[str], options: Mapping[str, Sequence]) -> list[ImageJob]:
    """Every combination of values, for every task and number of steps.

    Args:
        options: of the samplers, `sampler.interval`, to the values that each takes.
    """
    chosen = [dict(zip(options, values)) for values in product(*options.values())]
    return [with_options(job, one) for job in grid(replace(suite, samplers=samplers)) for one in chosen]


def with_options(job: ImageJob, options: Mapping[str, object]) -> ImageJob:
    named = ",".join(f"{short(option)}={value}" for option, value in options.items())
    return replace(job, value=named, options=[*job.options, *(f"{name}={value}" for name, value in options.items())])


def short(option: str) -> str:
    return option.removeprefix("sampler.")


def table(outcome: Outcome, part: str, options: Sequence[str], metrics: Metrics) -> list[str]:
    """<part>.md and <part>.csv: a row per combination of values, the best of a task and number of steps in bold.

    Args:
        part: entry of the suite's `jobs`, planned by `variants`.
        options: of the columns.
        metrics: in the order wanted; where there are several samples of an input, their diversity comes last.
    """
    summary, columns = _summary(outcome, part, options, metrics)
    if summary.empty:
        return []
    suite, heads = outcome.suite, ["sampler", "steps", *map(short, options)]
    write_csv(outcome.out / f"{part}.csv", summary.drop(columns="method"))
    text = (
        f"# Suite {suite.name}: {', '.join(map(short, options))}; {suite.images} inputs per task, {suite.samples} "
        f"sample{'s' * (suite.samples > 1)} each, {', '.join(suite.models)}\n\n"
        "Means with 95 % bootstrap intervals over inputs; the best of a task and number of steps in bold.\n\n"
    )
    text += sections(summary, columns, lambda rows: rows[heads].astype(str))
    write_text(outcome.out / f"{part}.md", text)
    print(text)
    return [f"{part}.md", f"{part}.csv"]


def figure(outcome: Outcome, part: str, x: str, metrics: Metrics, lines: str | None = None) -> list[str]:
    """<part>.png: each metric against the option `x`, a curve per value of the option `lines`, a row per task."""
    options = [x] if lines is None else [x, lines]
    summary, columns = _summary(outcome, part, options, metrics)
    if summary.empty:
        return []
    most = max(map(len, columns.values()))
    fig, axes = plt.subplots(len(columns), most, figsize=(4.2 * most, 3.3 * len(columns)), squeeze=False)
    for row, (task, shown) in zip(axes, columns.items()):
        rows = summary[summary["task"] == task]
        for ax, column in zip(row, shown):
            _curves(ax, rows, column, short(x), ["sampler", "steps", *map(short, options[1:])])
        row[0].set_title(task.replace("_", " "), fontsize=10)
        if row[0].get_legend_handles_labels()[1]:
            row[0].legend(fontsize=6)
        for ax in row[len(shown) :]:
            ax.set_visible(False)
    fig.tight_layout()
    fig.savefig(outcome.out / f"{part}.png", dpi=130)
    plt.close(fig)
    return [f"{part}.png"]


def _curves(ax, rows: pd.DataFrame, column: Column, x: str, by: Sequence[str]) -> None:
    told = [name for name in by if rows[name].nunique() > 1]  # the rest is the same in all curves
    for key, part in rows.groupby(list(by), sort=False):
        part = part.sort_values(x)
        label = ", ".join(f"{name} {value}" for name, value in zip(by, key) if name in told)
        around = np.abs(part[[f"{column.name}_low", f"{column.name}_high"]].sub(part[column.name], axis=0)).T
        ax.errorbar(part[x], part[column.name], around, marker="o", markersize=4, capsize=2, label=label or None)
    ax.set_xscale("log")
    ticks = sorted(rows[x].unique())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    ax.minorticks_off()
    ax.set_xlabel(x.replace("_", " ")), ax.set_ylabel(column.title)


def _summary(
    outcome: Outcome, part: str, options: Sequence[str], metrics: Metrics
) -> tuple[pd.DataFrame, dict[str, list[Column]]]:
    """`summarise` of the part, with the columns sampler and `short(option)`; and every task's metrics that it has."""
    found, jobs = collect(outcome, [part], metrics), {job.key: job for job in outcome.of(part)}
    tables = {(key[0], " ".join(map(str, key[1::2])), key[2]): rows for key, rows in found.tables.items()}
    summary = summarise(tables, found.names)
    for option in options:
        values = [OmegaConf.select(jobs[key].config, option) for key in found.tables]
        summary.insert(min(3, summary.shape[1]), short(option), values)
    summary.insert(0, "sampler", [key[1] for key in found.tables])
    there = {task: [c for c in columns if summary[c.name].notna().any()] for task, columns in found.columns.items()}
    return summary, there
