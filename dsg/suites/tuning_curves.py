"""The curves that scripts/tune.py draws of its trials."""

import itertools
import math
from pathlib import Path

import matplotlib
import pandas as pd

from dsg import config as configs
from dsg.runs.prepare import build
from dsg.suites.methods import Method, styles
from dsg.suites.tuning import TITLES

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def draw(trials: pd.DataFrame, model: str, out: Path) -> list[str]:
    """<model>.png of what restores, <model>-semantic.png: score against value, a panel per task and number of steps."""
    names, semantic = [], trials["selector"].notna()
    for part, score, suffix in ((trials[~semantic], "haarpsi", ""), (trials[semantic], "selector", "-semantic")):
        if len(part):
            names.append(f"{model}{suffix}.png")
            _draw(part, score, out / names[-1])
    return names


def _draw(trials: pd.DataFrame, score: str, target: Path) -> None:
    samplers = trials["sampler"].unique()
    looks = styles(Method.of(build(configs.load([f"sampler={name}"]).sampler)) for name in samplers)
    panels = list(trials.sort_values("steps", kind="stable").groupby(["steps", "task"], sort=False))
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows + 0.6), squeeze=False)
    for ax, panel in itertools.zip_longest(axes.flat, panels):
        if panel is None:
            ax.axis("off")
            continue
        (steps, task), part = panel
        for sampler, curve in part.groupby("sampler", sort=False):
            curve = curve.sort_values("value")
            ax.plot(curve["value"], curve[score].astype(float), **looks[sampler])
        ax.set_xscale("log"), ax.set_title(f"{task.replace('_', ' ')}, {steps} steps", fontsize=9)
        ax.set_xlabel("step size, or rate of DSG and controls", fontsize=8)
        ax.set_ylabel({**TITLES, "selector": "selector's score"}[score], fontsize=8)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes.flat), key=lambda pair: len(pair[1]))
    fig.legend(handles, labels, fontsize=8, ncol=5, loc="upper center")
    fig.tight_layout(rect=(0, 0, 1, 1 - 0.5 / (3 * rows + 0.6)))
    fig.savefig(target, dpi=110)
    plt.close(fig)
