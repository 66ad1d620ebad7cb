"""The runs of a sweep in one table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from omegaconf import DictConfig

SAID = ("task=", "sampler=", "sampler.steps=")  # overrides that have columns of their own
MOST = 4  # metrics


class Finished(NamedTuple):
    """A run of a sweep: its config, what was asked for, and its metrics.json."""

    config: DictConfig
    overrides: Sequence[str]
    summary: Mapping


def comparison(runs: Sequence[Finished]) -> str:
    """A line per run: task, sampler, steps, what else the sweep varied, means with 95 % intervals."""
    common = set.intersection(*({*run.overrides} for run in runs))
    names = list(dict.fromkeys(n for run in runs for n in run.config.metrics if _has(run, n)))[:MOST]
    rows = [["task", "sampler", "steps", "", "images", *names]]
    for config, overrides, summary in runs:
        others = [o for o in overrides if o not in common and not o.startswith(SAID)]
        values = [_value(summary, name) for name in names]
        about = [config.task.name, config.sampler.name, str(config.sampler.steps), " ".join(others)]
        rows.append([*about, str(summary["images"]), *values])
    columns = [column for column in zip(*rows) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns))


def _has(run: Finished, name: str) -> bool:
    return name in run.summary["metrics"] or name in run.summary["set_metrics"]


def _value(summary: Mapping, name: str) -> str:
    if name in summary["set_metrics"]:
        return f"{summary['set_metrics'][name]['value']:.4g}"
    found = summary["metrics"].get(name, {})
    if found.get("mean") is None:
        return "-"
    return f"{found['mean']:.4g}" + ("" if found["low"] is None else f" [{found['low']:.4g}, {found['high']:.4g}]")
