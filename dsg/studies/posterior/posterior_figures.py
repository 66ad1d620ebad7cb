"""The figures on samplers against posteriors."""

import itertools
import math

import matplotlib
import numpy as np
import pandas as pd

from dsg.studies.posterior.figure_parts import BIAS, DISTANCE, TITLES, Guided, legend_below, readable, two_counts
from dsg.suites.methods import styles

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ORACLE = {"color": "k", "linestyle": "-", "marker": "^", "markersize": 4, "label": "oracle"}
ABLATED = {  # method: marker, colour, label
    "oracle": ("^", "k", "oracle"),
    "dps": ("s", "tab:blue", "DPS"),
    "dps_open": ("D", "tab:cyan", "DPS, last step unguided"),
    "length": ("v", "tab:purple", "DPS's direction, exact length"),
    "additive": ("P", "navy", "DPS, additive"),
    "dps_dsg": ("o", "tab:blue", "DPS + DSG"),
    "direction_dsg": ("*", "tab:red", "exact direction + DSG"),
}


def against_steps(runs: pd.DataFrame, settings: list[str], guided: Guided):
    """Distance to the posterior, error of its mean, spread, against the number of steps."""
    titles = {"sliced_wasserstein": DISTANCE, "bias": BIAS, "spread": "spread (1 is right)"}
    fig, axes = plt.subplots(len(settings), 3, figsize=(12, 3.1 * len(settings)), squeeze=False)
    for row, setting in zip(axes, settings):
        part = runs[runs["setting"] == setting]
        for ax, (name, title) in zip(row, titles.items()):
            shown = part[part["method"].isin([*guided, "oracle"])]
            for method, curve in shown.groupby("method"):
                curve = curve.sort_values("steps")
                look = ORACLE if method == "oracle" else styles(guided.values())[method]
                ax.plot(curve["steps"], curve[name].clip(lower=0.01), **look)
                if name != "bias":
                    band = curve[f"{name}_low"], curve[f"{name}_high"]
                    ax.fill_between(curve["steps"], *band, color=look["color"], alpha=0.07)
            exact = max(part[part["method"] == "exact"][name].iloc[0], 0.01)
            ax.axhline(exact, color="k", linestyle=":", linewidth=1, label="exact")
            ax.set(xscale="log", yscale="log", xlabel="steps", ylabel=title)
            readable(ax.xaxis, ax.yaxis)
            ax.set_title(TITLES.get(setting, setting), fontsize=10)
    legend_below(fig, axes[0, 0], 0.05)
    return fig


def against_value(trials: pd.DataFrame, runs: pd.DataFrame, settings: list[str], guided: Guided):
    """Distance to the posterior against step size, or guidance rate: at 20 and 100 steps."""
    counts = two_counts(trials)
    fig, axes = plt.subplots(len(counts), len(settings), figsize=(4 * len(settings), 3.1 * len(counts)), squeeze=False)
    for (row, steps), (column, setting) in itertools.product(enumerate(counts), enumerate(settings)):
        ax = axes[row, column]
        here = (table[(table["setting"] == setting) & (table["steps"] == steps)] for table in (trials, runs))
        tried, run = here
        for method, curve in tried[tried["method"].isin(guided)].groupby("method"):
            curve = curve.sort_values("value")
            ax.plot(curve["value"], curve["sliced_wasserstein"], **styles(guided.values())[method])
        oracle = run[run["method"] == "oracle"]
        if len(oracle):
            ax.axhline(oracle["sliced_wasserstein"].iloc[0], color="k", linewidth=1, label="oracle")
        ax.set(xscale="log", yscale="log", xlabel="step size, or rate of DSG and controls", ylabel=DISTANCE)
        ax.set_title(f"{TITLES.get(setting, setting)}, {steps} steps", fontsize=10)
        readable(ax.xaxis, ax.yaxis)
    legend_below(fig, axes[0, 0], 0.08)
    return fig


def calibration(runs: pd.DataFrame, guided: Guided):
    """Coverage of the truth, share in the exact region, mode weights, distance to the truth.

    Every setting, at 100 steps or the most there are.
    """
    steps = 100 if 100 in set(runs["steps"]) else runs["steps"].max()
    part = runs[(runs["steps"] == steps) | (runs["method"] == "exact")]
    settings = list(part["setting"].unique())
    titles = {
        "coverage": "coverage of central 90 % intervals",
        "in_region": "share in the exact 90 % region",
        "mode_error": "error of mode weights",
        "to_truth": "squared distance to the truth / 2 tr C",
    }
    ideal = {"coverage": [0.9], "in_region": [0.9], "to_truth": [1, 0.5], "mode_error": []}
    looks = {"exact": {"color": "k", "marker": "_"}, "oracle": {"color": "k", "marker": "^"}}
    for method, sampler in guided.items():
        looks[method] = {k: styles(guided.values())[method][k] for k in ("color", "marker", "label")}
        looks[method]["facecolors"] = None if sampler.control else "none"
    fig, axes = plt.subplots(1, 4, figsize=(16, 4.2))
    for ax, (name, title) in zip(axes, titles.items()):
        for k, (method, look) in enumerate(looks.items()):
            rows = part[part["method"] == method].set_index("setting")[name].reindex(settings)
            ax.scatter(np.arange(len(settings)) + (k - 3.5) * 0.09, rows, s=26, **{"label": method, **look})
        for level in ideal[name]:
            ax.axhline(level, color="k", linestyle=":", linewidth=1)
        ax.set_xticks(range(len(settings)), settings, rotation=30, ha="right", fontsize=8)
        ax.set_title(title, fontsize=10)
    axes[3].set_yscale("log"), readable(axes[3].yaxis)
    legend_below(fig, axes[0])
    return fig


def ablations(runs: pd.DataFrame):
    """Distance and bias of the mean with the direction, or the length, of the guidance made exact."""
    ablated = runs["method"] == "direction_dsg"
    settings = list(runs[ablated]["setting"].unique()) or list(runs["setting"].unique())
    counts = [n for n in (20, 100) if n in set(runs["steps"])] or [runs["steps"].max()]
    fig, axes = plt.subplots(1, 2 * len(counts), figsize=(4 * 2 * len(counts), 3.8), squeeze=False)
    columns = itertools.product(counts, {"sliced_wasserstein": DISTANCE, "bias": BIAS}.items())
    for ax, (steps, (name, title)) in zip(axes[0], columns):
        part = runs[runs["steps"] == steps]
        for k, (method, (marker, color, label)) in enumerate(ABLATED.items()):
            rows = part[part["method"] == method].set_index("setting")[name].reindex(settings).clip(lower=0.01)
            at = np.arange(len(settings)) + (k - (len(ABLATED) - 1) / 2) * 0.1
            ax.scatter(at, rows, s=28, marker=marker, color=color, label=label)
        ax.set_xticks(range(len(settings)), settings, rotation=30, ha="right", fontsize=8)
        ax.set_yscale("log"), readable(ax.yaxis)
        ax.set_title(f"{steps} steps: {title}", fontsize=10)
    legend_below(fig, axes[0, 0])
    return fig


def faces(points: pd.DataFrame, guided: Guided):
    """A row per measurement: truth, measurement, posterior mean, exact samples, samples of every method."""
    columns = {("exact", name): name for name in ("truth", "y", "posterior mean")}
    labels = {"exact": "exact", "oracle": "oracle", **{m: s.label for m, s in guided.items()}}
    columns |= {(method, f"sample {k}"): label for method, label in labels.items() for k in (0, 1)}
    chosen = points[(points["steps"] == points["steps"].max()) | (points["method"] == "exact")]
    values = chosen.set_index(["method", "name", "observation"])["values"]
    rows = sorted(chosen["observation"].unique())
    fig, axes = plt.subplots(len(rows), len(columns), figsize=(0.85 * len(columns), 0.95 * len(rows)), squeeze=False)
    for (r, observation), (c, (key, label)) in itertools.product(enumerate(rows), enumerate(columns.items())):
        flat = np.array(values[(*key, observation)])
        side = round(math.sqrt(len(flat) / 3))
        pixels = (flat.reshape(3, side, side).transpose(1, 2, 0).clip(-1, 1) + 1) / 2
        axes[r, c].imshow(pixels, interpolation="nearest")
        axes[r, c].axis("off")
        if r == 0:
            axes[r, c].set_title(label.replace(" + ", "\n+ "), fontsize=7)
    fig.tight_layout(pad=0.3)
    return fig
