"""The figures of docs/theory.md on samplers against posteriors."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from dsg.studies.posterior import plane, posterior_plan, premise_figures
from dsg.studies.posterior.ranks import BINS, LIMIT
from dsg.studies.posterior.theory_tables import DISTANCE, collect, methods_of
from dsg.suites.figures import WIDTH, legends_above, plain_ticks, plt
from dsg.suites.methods import Method, families, styles, styles_in_panel
from dsg.suites.suite import Outcome

Methods = Mapping[str, Method]  # the guided samplers, by name
Tables = Mapping[str, pd.DataFrame]

SETTINGS = ("plane", "linear64", "ambiguous64")  # with a panel each
TITLES = {DISTANCE: "sliced $W_2$ / std", "bias": "bias of the mean / std", "spread": "spread (1 is right)"}
ORACLE = {"oracle": {"color": "k", "linestyle": "-", "marker": "^", "markersize": 4, "label": "oracle"}}
REFERENCES = ("exact", "shuffled", "oracle")
ABLATED = {  # method: marker, colour, label
    "oracle": ("^", "k", "oracle"),
    "dps": ("s", "C0", "DPS"),
    "dps_open": ("D", "C4", "DPS, last step unguided"),
    "length": ("v", "C3", "DPS's direction, exact length"),
    "dps_dsg": ("o", "C1", "DPS + DSG"),
    "direction_dsg": ("*", "C5", "exact direction + DSG"),
}


def draw(outcome: Outcome) -> list[str]:
    """Every figure that there are numbers for, as PNG and PDF, and the film of the plane. Returns their names."""
    suite, tables, methods = outcome.suite, collect(outcome), methods_of(outcome)
    figures, names = figures_of(tables, methods), []
    if "plane" in suite.tasks:
        known = posterior_plan.setting(suite, "plane").truth("tuning")
        paths = plane.trajectories(known, tables["runs"][tables["runs"]["setting"] == "plane"])
        figures["plane"] = lambda: plane.picture(known, paths)
        plane.film(known, paths, outcome.out / "plane.gif")
        names.append("plane.gif")
    return names + save_all(figures, outcome.out)


def save_all(figures: Mapping[str, Callable], out: Path) -> list[str]:
    """Save each figure as PNG and PDF. Returns the names of the PNGs."""
    for name, figure in figures.items():
        fig = figure()
        fig.savefig(out / f"{name}.png")
        fig.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
        plt.close(fig)
    return [f"{name}.png" for name in figures]


def figures_of(tables: Tables, methods: Methods) -> dict[str, Callable]:
    """name -> a function that draws the figure."""
    runs = tables["runs"]
    settings = [s for s in SETTINGS if s in set(runs["setting"])] or list(runs["setting"].unique()[:3])
    figures = {
        "steps": lambda: against_steps(runs, settings, methods),
        "values": lambda: against_value(tables["trials"], runs, settings, methods),
        "calibration": lambda: calibration(runs, methods),
        "ablations": lambda: ablations(runs),
        "deviation": lambda: premise_figures.deviation(tables, settings, methods),
        "concentration": premise_figures.concentration,
    }
    if "diagnosis" in tables:
        finest = tables["diagnosis"][tables["diagnosis"]["steps"] == tables["diagnosis"]["steps"].max()]
        figures["jensen"] = lambda: premise_figures.jensen(finest)
        figures["manifold"] = lambda: premise_figures.manifold(finest[finest["setting"].isin(settings)])
    if "points" in tables:
        figures["faces"] = lambda: faces(tables["points"], methods)
    return figures


# --- a base method, its control and DSG in a panel


def against_steps(runs: pd.DataFrame, settings: Sequence[str], methods: Methods):
    """Distance to the posterior against the number of steps, a row per setting and a column per base method; then bias
    and spread of one setting."""
    detailed = "linear64" if "linear64" in settings else settings[-1]
    rows = [*((s, DISTANCE) for s in settings), (detailed, "bias"), (detailed, "spread")]
    fig, axes, groups = family_panels(methods, len(rows))
    for (row, (setting, metric)), (column, group) in product(enumerate(rows), enumerate(groups)):
        ax, part = axes[row, column], runs[runs["setting"] == setting]
        for method, look in {**ORACLE, **styles_in_panel(group)}.items():
            curve = part[part["method"] == method].sort_values("steps")
            ax.plot(curve["steps"], curve[metric].clip(lower=0.01), **look)
            if f"{metric}_low" in curve:
                ax.fill_between(curve["steps"], curve[f"{metric}_low"].clip(lower=0.01), curve[f"{metric}_high"],
                                color=look["color"], alpha=0.1, linewidth=0)  # fmt: skip
        exact = part[part["method"] == "exact"][metric].iloc[0]
        ax.axhline(max(exact, 0.01), color="k", linestyle=":", linewidth=1, label="exact")
        ax.set(xscale="log", yscale="log", title=setting, xlabel="steps" if row == len(rows) - 1 else "")
        plain_ticks(ax.xaxis, ax.yaxis)
        if column == 0:
            ax.set_ylabel(TITLES[metric])
    legends_above(axes)
    fig.tight_layout()
    return fig


def against_value(trials: pd.DataFrame, runs: pd.DataFrame, settings: Sequence[str], methods: Methods):
    """Distance to the posterior against step size, or guidance rate, at 100 steps or the most there are."""
    steps = usual_steps(trials)[-1]
    trials, runs = (table[table["steps"] == steps] for table in (trials, runs))
    fig, axes, groups = family_panels(methods, len(settings))
    for (row, setting), (column, group) in product(enumerate(settings), enumerate(groups)):
        ax, tried = axes[row, column], trials[trials["setting"] == setting]
        for method, look in styles_in_panel(group).items():
            curve = tried[tried["method"] == method].sort_values("value")
            ax.plot(curve["value"], curve[DISTANCE], **look)
        oracle = runs[(runs["setting"] == setting) & (runs["method"] == "oracle")]
        for distance in oracle[DISTANCE]:
            ax.axhline(distance, color="k", linewidth=1, label="oracle")
        xlabel = "step size, or rate of DSG and control" if row == len(settings) - 1 else ""
        ax.set(xscale="log", yscale="log", title=f"{setting}, {steps} steps", xlabel=xlabel)
        plain_ticks(ax.xaxis, ax.yaxis)
        if column == 0:
            ax.set_ylabel(TITLES[DISTANCE])
    legends_above(axes)
    fig.tight_layout()
    return fig


def family_panels(methods: Methods, rows: int):
    """Figure, axes [rows, families], and the families: a base method with all that are compared with it."""
    groups = families(methods.values())
    size = (WIDTH, 2.2 * rows + 0.3)
    fig, axes = plt.subplots(rows, len(groups), figsize=size, squeeze=False, sharey="row")
    return fig, axes, groups


def usual_steps(table: pd.DataFrame) -> list[int]:
    """20 and 100 steps, or the most there are."""
    return [n for n in (20, 100) if n in set(table["steps"])] or [table["steps"].max()]


# --- dots: every setting


def calibration(runs: pd.DataFrame, methods: Methods):
    """Coverage of the truth, share in the exact region, mode weights, distance to the truth, at 100 steps or the most
    there are; DSG and base methods."""
    panels = {
        "coverage": ("coverage of central 90 % intervals", [0.9]),
        "in_region": ("share in the exact 90 % region", [0.9]),
        "mode_error": ("error of mode weights", []),
        "to_truth": ("squared distance to the truth / 2 tr C", [1, 0.5]),
    }
    part = runs[(runs["steps"] == usual_steps(runs)[-1]) | (runs["method"] == "exact")]
    controls, looks = {m.control for m in methods.values()}, styles(methods.values())
    dots = {"exact": ("_", "k", "exact", "k"), "oracle": ("^", "k", "oracle", "k")}
    for name, method in methods.items():
        look = looks[name]
        if name not in controls:
            filled = look["color"] if method.control else "none"
            dots[name] = (look["marker"], look["color"], look["label"], filled)
    fig, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.6))
    for ax, (name, (title, ideal)) in zip(axes.flat, panels.items()):
        dot_panel(ax, part, name, list(part["setting"].unique()), dots)
        for level in ideal:
            ax.axhline(level, color="k", linestyle=":", linewidth=1)
        ax.set_title(title)
    axes[1, 1].set_yscale("log"), plain_ticks(axes[1, 1].yaxis)
    return with_legend_below(fig, axes[0, 0])


def ablations(runs: pd.DataFrame):
    """Distance and bias of the mean with the direction, or the length, of the guidance made exact."""
    settings = list(runs[runs["method"] == "direction_dsg"]["setting"].unique()) or list(runs["setting"].unique())
    dots = {method: (marker, color, label, color) for method, (marker, color, label) in ABLATED.items()}
    counts = usual_steps(runs)
    fig, axes = plt.subplots(len(counts), 2, figsize=(WIDTH, 2.9 * len(counts) + 0.6), squeeze=False)
    for (row, steps), (column, name) in product(enumerate(counts), enumerate((DISTANCE, "bias"))):
        ax, part = axes[row, column], runs[runs["steps"] == steps]
        dot_panel(ax, part.assign(**{name: part[name].clip(lower=0.01)}), name, settings, dots)
        ax.set(yscale="log", title=f"{steps} steps: {TITLES[name]}")
        plain_ticks(ax.yaxis)
    return with_legend_below(fig, axes[0, 0])


def dot_panel(ax, part: pd.DataFrame, metric: str, settings: Sequence[str], dots: Mapping[str, tuple]) -> None:
    """A dot per setting and method. Args: dots: by method marker, edge colour, label, face colour."""
    for k, (method, (marker, color, label, face)) in enumerate(dots.items()):
        rows = part[part["method"] == method].set_index("setting")[metric].reindex(settings)
        at = np.arange(len(settings)) + (k - (len(dots) - 1) / 2) * 0.1
        edge = {} if marker == "_" else {"facecolors": face, "edgecolors": color}
        ax.scatter(at, rows, s=26, marker=marker, label=label, **(edge or {"color": color}))
    ax.set_xticks(range(len(settings)), settings, rotation=20, ha="right")


def with_legend_below(fig, ax):
    fig.set_layout_engine("constrained")
    fig.legend(*ax.get_legend_handles_labels(), ncol=4, loc="outside lower center")
    return fig


# --- ranks, and faces


def ranks(outcome: Outcome) -> list[str]:
    """ranks.png, see `rank_strips`."""
    counts = outcome.suite.yaml["calibration"]
    fig = rank_strips(collect(outcome)["ranks"], methods_of(outcome), counts)
    return save_all({"ranks": lambda: fig}, outcome.out)[:1]


def rank_strips(table: pd.DataFrame, methods: Methods, counts: Mapping[str, int]):
    """A panel per setting, a row per method at its most steps: the share of the truths in each bin of ranks, over that
    of a uniform distribution, as a colour; and p of the test, bold where a sampler is not calibrated."""
    settings = list(dict.fromkeys(table["setting"]))
    names = [name for name in [*REFERENCES, *methods] if name in set(table["method"])]
    labels = [methods[name].label if name in methods else name for name in names]
    key = ["setting", "method"]
    most = table.loc[table.groupby(key, sort=False)["steps"].idxmax()].set_index(key)
    size = (WIDTH, 0.27 * len(names) + 1.4)
    fig, axes = plt.subplots(1, len(settings), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for ax, setting in zip(axes[0], settings):
        shares = np.full((len(names), BINS), np.nan)
        for k, name in enumerate(names):
            if (setting, name) in most.index:
                row = most.loc[(setting, name)]
                shares[k] = np.array(row["histogram"]) * BINS
                weight = "bold" if row["p"] < LIMIT else "normal"
                ax.text(BINS - 0.3, k, f"{row['p']:.3f}", va="center", fontsize=8, fontweight=weight)
        image = ax.imshow(np.log2(shares.clip(0.25, 4)), cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
        ax.set(title=setting, xlabel="rank, in tenths", xticks=[0, BINS - 1], xticklabels=["lowest", "highest"])
        ax.set_yticks(range(len(names)), labels)
        ax.text(BINS - 0.3, -0.75, "p", fontsize=8, style="italic")
        ax.grid(False)
        ax.spines[:].set_visible(False)
    bar = fig.colorbar(image, ax=axes, ticks=range(-2, 3), fraction=0.03, pad=0.05)
    bar.set_ticklabels(["1/4", "1/2", "1", "2", "4"])
    bar.set_label("share of the truths over a uniform one")
    fig.suptitle("Ranks of {observations} truths among {samples} samples; bold p: not calibrated".format(**counts))
    return fig


def faces(points: pd.DataFrame, methods: Methods):
    """A row per measurement: truth, measurement, posterior mean, then two samples each: exact and of every method."""
    controls = {m.control for m in methods.values()}
    labels = {"exact": "exact", "oracle": "oracle"}
    labels |= {name: m.label for name, m in methods.items() if name not in controls}
    columns = [("exact", name, name.replace(" ", "\n")) for name in ("truth", "y", "posterior mean")]
    for method, label in labels.items():
        columns += [(method, "sample 0", label.replace(" + ", "\n+ ")), (method, "sample 1", "")]
    chosen = points[(points["steps"] == points["steps"].max()) | (points["method"] == "exact")]
    values = chosen.set_index(["method", "name", "observation"])["values"]
    rows = sorted(chosen["observation"].unique())
    side = WIDTH / len(columns)
    fig, axes = plt.subplots(len(rows), len(columns), figsize=(WIDTH, side * len(rows) + 0.5), squeeze=False)
    for (r, observation), (c, (method, name, label)) in product(enumerate(rows), enumerate(columns)):
        ax, flat = axes[r, c], np.array(values[method, name, observation])
        size = round(math.sqrt(len(flat) / 3))
        ax.imshow((flat.reshape(3, size, size).transpose(1, 2, 0).clip(-1, 1) + 1) / 2, interpolation="nearest")
        ax.axis("off")
        if r == 0 and label:
            ax.set_title(label, fontsize=7.5, x=0.5 if c < 3 else 1.05)  # over both samples
    fig.subplots_adjust(0.005, 0.01, 0.995, 1 - 0.45 / (side * len(rows) + 0.5), 0.05, 0.05)
    return fig
