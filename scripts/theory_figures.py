"""The figures of docs/theory.md, from the tables of scripts/theory.py."""

import itertools
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import theory_plane
from matplotlib import ticker

from dsg.figures import style
from dsg.ground_truth import GroundTruth

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

GUIDED = ["dps", "dps_dsg", "freedom", "freedom_dsg", "mpgd", "mpgd_dsg"]
ORACLE = {"color": "k", "linestyle": "-", "marker": "^", "markersize": 4, "label": "oracle"}
SHOWN = {"plane": "2-D", "linear64": "64-D, 16 measurements", "ambiguous64": "64-D, 2 noisy measurements"}


def readable(*axes) -> None:
    """Log axes with plain numbers at 1, 2, 5."""
    for axis in axes:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def legend_below(fig, ax, room: float = 0.06) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, fontsize=8, ncol=len(labels), loc="lower center")
    fig.tight_layout(rect=(0, room, 1, 1))


def draw(tables: dict[str, pd.DataFrame], out: Path, known: dict[str, GroundTruth]) -> list[str]:
    """Every figure, as PNG and PDF. Returns the names of the files."""
    cells, names = tables["cells"], []
    shown = [s for s in SHOWN if s in set(cells["setting"])] or list(cells["setting"].unique()[:3])
    figures = {
        "steps": lambda: against_steps(cells, shown),
        "values": lambda: against_value(tables["trials"], cells, shown),
        "calibration": lambda: calibration(cells),
        "deviation": lambda: deviation(tables, shown),
        "ablations": lambda: ablations(cells),
        "concentration": lambda: concentration(tables["concentration"]),
    }
    if "diagnosis" in tables and len(tables["diagnosis"]):
        finest = tables["diagnosis"][tables["diagnosis"]["steps"] == tables["diagnosis"]["steps"].max()]
        figures |= {"jensen": lambda: jensen(finest), "manifold": lambda: manifold(finest)}
    if "plane" in set(cells["setting"]):
        paths = theory_plane.trajectories(known["plane"], cells[cells["setting"] == "plane"])
        figures["plane"] = lambda: theory_plane.picture(known["plane"], paths)
    if "points" in tables and len(tables["points"]):
        figures["faces"] = lambda: faces(tables["points"])
    for name, figure in figures.items():
        fig = figure()
        for suffix in ("png", "pdf"):
            fig.savefig(out / f"{name}.{suffix}", dpi=130, metadata={"CreationDate": None} if suffix == "pdf" else None)
        plt.close(fig)
        names.append(f"{name}.png")
    if "plane" in figures:
        theory_plane.film(known["plane"], paths, out / "plane.gif")
        names.append("plane.gif")
    return names


def against_steps(cells: pd.DataFrame, settings: list[str]):
    """Distance to the posterior, error of its mean, spread, against the number of steps."""
    measures = {
        "sliced_wasserstein": "sliced $W_2$ / std",
        "bias": "bias of the mean / std",
        "spread": "spread (1 is right)",
    }
    fig, axes = plt.subplots(len(settings), 3, figsize=(12, 3.1 * len(settings)), squeeze=False)
    for row, setting in zip(axes, settings):
        part = cells[(cells["setting"] == setting) & cells["method"].isin([*GUIDED, "oracle", "exact"])]
        for ax, (name, title) in zip(row, measures.items()):
            for method, curve in part[part["steps"] > 0].groupby("method"):
                curve = curve.sort_values("steps")
                look = ORACLE if method == "oracle" else style(method)
                ax.plot(curve["steps"], curve[name].clip(lower=0.01), **look)
                if name != "bias":
                    band = curve[f"{name}_low"], curve[f"{name}_high"]
                    ax.fill_between(curve["steps"], *band, color=look["color"], alpha=0.07)
            exact = max(part[part["method"] == "exact"][name].iloc[0], 0.01)
            ax.axhline(exact, color="k", linestyle=":", linewidth=1, label="exact")
            ax.set_xscale("log"), ax.set_yscale("log"), ax.set_xlabel("steps"), ax.set_ylabel(title)
            readable(ax.xaxis, ax.yaxis)
            ax.set_title(SHOWN.get(setting, setting), fontsize=10)
    legend_below(fig, axes[0, 0], 0.03)
    return fig


def against_value(trials: pd.DataFrame, cells: pd.DataFrame, settings: list[str]):
    """Distance to the posterior against step size, or guidance rate: at 20 and 100 steps."""
    counts = [n for n in (20, 100) if n in set(trials["steps"])] or sorted(trials["steps"].unique())[:2]
    fig, axes = plt.subplots(len(counts), len(settings), figsize=(4 * len(settings), 3.1 * len(counts)), squeeze=False)
    for row, steps in zip(axes, counts):
        for ax, setting in zip(row, settings):
            part = trials[(trials["setting"] == setting) & (trials["steps"] == steps) & trials["method"].isin(GUIDED)]
            for method, curve in part.groupby("method"):
                curve = curve.sort_values("value")
                ax.plot(curve["value"], curve["sliced_wasserstein"], **style(method))
            oracle = cells[(cells["setting"] == setting) & (cells["method"] == "oracle") & (cells["steps"] == steps)]
            if len(oracle):
                ax.axhline(oracle["sliced_wasserstein"].iloc[0], color="k", linewidth=1, label="oracle")
            (
                ax.set_xscale("log"),
                ax.set_yscale("log"),
                ax.set_title(f"{SHOWN.get(setting, setting)}, {steps} steps", fontsize=10),
            )
            ax.set_xlabel("step size, or guidance rate of DSG"), ax.set_ylabel("sliced $W_2$ / std")
            readable(ax.xaxis, ax.yaxis)
    legend_below(fig, axes[0, 0], 0.04)
    return fig


def calibration(cells: pd.DataFrame):
    """Coverage of the truth, share in the exact region, mode weights, distance to the truth: every setting, at 100 steps or the most there are."""
    steps = 100 if 100 in set(cells["steps"]) else cells["steps"].max()
    part = cells[(cells["steps"] == steps) | (cells["method"] == "exact")]
    settings = list(part["setting"].unique())
    order = ["exact", "oracle", *GUIDED]
    measures = {
        "coverage": "coverage of central 90 % intervals",
        "in_region": "share in the exact 90 % region",
        "mode_error": "error of mode weights",
        "to_truth": "squared distance to the truth / 2 tr C",
    }
    fig, axes = plt.subplots(1, 4, figsize=(16, 4.2))
    for ax, (name, title) in zip(axes, measures.items()):
        for k, method in enumerate(order):
            rows = part[part["method"] == method].set_index("setting")[name].reindex(settings)
            look = (
                style(method)
                if method in GUIDED
                else {"color": "k", "label": method, "marker": "^" if method == "oracle" else "_"}
            )
            filled = method.endswith("_dsg") or method not in GUIDED
            ax.scatter(np.arange(len(settings)) + (k - 3.5) * 0.09, rows, s=26, color=look["color"], marker=look["marker"],
                       facecolors=None if filled else "none", label=look["label"])  # fmt: skip
        for level in {"coverage": [0.9], "in_region": [0.9], "to_truth": [1, 0.5]}.get(name, []):
            ax.axhline(level, color="k", linestyle=":", linewidth=1)
        (
            ax.set_xticks(range(len(settings)), settings, rotation=30, ha="right", fontsize=8),
            ax.set_title(title, fontsize=10),
        )
    axes[3].set_yscale("log"), readable(axes[3].yaxis)
    legend_below(fig, axes[0])
    return fig


ABLATED = {  # method: marker, colour, label
    "oracle": ("^", "k", "oracle"),
    "dps": ("s", "tab:blue", "DPS"),
    "dps_open": ("D", "tab:cyan", "DPS, last step unguided"),
    "length": ("v", "tab:purple", "DPS's direction, exact length"),
    "dps_dsg": ("o", "tab:blue", "DPS + DSG"),
    "direction_dsg": ("*", "tab:red", "exact direction + DSG"),
}


def ablations(cells: pd.DataFrame):
    """Distance and bias of the mean with the direction, or the length, of the guidance made exact."""
    settings = list(cells[cells["method"] == "direction_dsg"]["setting"].unique()) or list(cells["setting"].unique())
    counts = [n for n in (20, 100) if n in set(cells["steps"])] or [cells["steps"].max()]
    fig, axes = plt.subplots(1, 2 * len(counts), figsize=(4 * 2 * len(counts), 3.8), squeeze=False)
    for ax, (steps, name) in zip(axes[0], itertools.product(counts, ("sliced_wasserstein", "bias"))):
        part = cells[cells["steps"] == steps]
        for k, (method, (marker, color, label)) in enumerate(ABLATED.items()):
            rows = part[part["method"] == method].set_index("setting")[name].reindex(settings).clip(lower=0.01)
            ax.scatter(np.arange(len(settings)) + (k - 2.5) * 0.1, rows, s=28, marker=marker, color=color, label=label)
        ax.set_xticks(range(len(settings)), settings, rotation=30, ha="right", fontsize=8)
        ax.set_yscale("log"), readable(ax.yaxis)
        ax.set_title(
            f"{steps} steps: " + {"bias": "bias of the mean / std"}.get(name, "sliced $W_2$ / std"), fontsize=10
        )
    legend_below(fig, axes[0, 0])
    return fig


def deviation(tables: dict[str, pd.DataFrame], settings: list[str]):
    """Length of the steps against t at the best value, and how that goes with the posterior error over all values tried."""
    curves, trials = tables["deviation"], tables["trials"]
    setting = "linear64" if "linear64" in settings else settings[-1]
    counts = [n for n in (20, 100) if n in set(curves["steps"])] or [curves["steps"].max()]
    fig, axes = plt.subplots(1, len(counts) + 1, figsize=(4.3 * (len(counts) + 1), 3.6))
    for ax, steps in zip(axes, counts):
        part = curves[(curves["setting"] == setting) & (curves["steps"] == steps)]
        for method, curve in part[part["method"].isin(["unconditional", *GUIDED])].groupby("method"):
            mean = curve.groupby("t")["deviation"].mean()
            ax.plot(mean.index, mean.values, **{**style(method), "marker": None})
        if "diagnosis" in tables:
            true = tables["diagnosis"]
            true = true[(true["setting"] == setting) & (true["steps"] == steps)].dropna(subset=["true_radius"])
            ax.plot(true["t"], true["true_radius"], "k:", label=r"exact $p(x_{prev}|x_t)$")
        ax.invert_xaxis(), ax.set_yscale("log"), ax.set_xlabel("t"), readable(ax.yaxis)
        ax.set_title(f"{SHOWN.get(setting, setting)}, {steps} steps", fontsize=10)
        ax.set_ylabel(r"$|x_{prev}-\mu|\,/\,(\sqrt{n}\,\sigma_t)$")
    axes[0].legend(fontsize=7)
    hosts = trials[trials["method"].isin(["dps", "freedom", "mpgd"]) & (trials["setting"] == setting)]
    for method, part in hosts.groupby("method"):
        axes[-1].scatter(
            part["off_sphere"],
            part["sliced_wasserstein"],
            s=12,
            color=style(method)["color"],
            label=style(method)["label"],
        )
    axes[-1].set_xscale("log"), axes[-1].set_yscale("log"), axes[-1].legend(fontsize=7)
    axes[-1].set_xlabel("mean |deviation - 1| of a run"), axes[-1].set_ylabel("sliced $W_2$ / std")
    readable(axes[-1].yaxis)
    axes[-1].set_title(f"{SHOWN.get(setting, setting)}: all step sizes and steps", fontsize=10)
    fig.tight_layout()
    return fig


def concentration(table: pd.DataFrame):
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for ax, side, title in zip(
        axes, ("above", "below"), (r"$|z|^2 \geq n + 2\sqrt{nx} + 2x$", r"$|z|^2 \leq n - 2\sqrt{nx}$")
    ):
        for n, part in table.groupby("n"):
            seen = part[part[side] > 0]
            ax.plot(
                seen["x"],
                seen[side],
                marker="o",
                markersize=3,
                label=f"n = {n}, std of |z|/sqrt(n): {part['radius_std'].iloc[0]:.4f}",
            )
        ax.plot(part["x"], part["bound"], "k--", label="Laurent-Massart: exp(-x)")
        ax.set_yscale("log"), ax.set_xlabel("x"), ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("how often"), axes[0].legend(fontsize=7)
    fig.tight_layout()
    return fig


def jensen(table: pd.DataFrame):
    """The gap of the squared loss with its closed form and lower bound, and that of the norm that DPS uses."""
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    for k, (setting, part) in enumerate(table.groupby("setting", sort=False)):
        color = f"C{k}"
        axes[0].plot(part["t"], part["gap_quadratic_exact"], color=color, label=setting)
        axes[0].plot(part["t"], part["gap_quadratic"], ".", color=color, markersize=3)
        if part["gap_bound"].max() > 0:
            axes[0].plot(part["t"], part["gap_bound"], "--", color=color, label=f"{setting}: lower bound")
        axes[1].plot(part["t"], part["gap_norm"], color=color, label=setting)
    (
        axes[0].set_yscale("log"),
        axes[0].set_title(r"$f=|y-Ax_0|^2/2$: closed form (line), Monte Carlo (dots)", fontsize=10),
    )
    axes[1].set_title(r"$f=|y-Ax_0|$, as DPS uses it: gap / $E f$", fontsize=10)
    for ax in axes:
        ax.invert_xaxis(), ax.set_xlabel("t"), ax.legend(fontsize=7)
    axes[0].set_ylabel(r"$E f(x_0) - f(E x_0)$")
    fig.tight_layout()
    return fig


def manifold(table: pd.DataFrame):
    """Where the linear-manifold assumption fails, and how far the guidance points from the exact one."""
    fig, axes = plt.subplots(1, 3, figsize=(13.5, 4))
    for k, (setting, part) in enumerate(table.groupby("setting", sort=False)):
        axes[0].plot(part["t"], part["off_manifold"], color=f"C{k}", label=setting)
        for ax, name in zip(axes[1:], ("tangent", "cosine")):
            ax.plot(part["t"], part[f"{name}_through"], color=f"C{k}")
            ax.plot(part["t"], part[f"{name}_beside"], "--", color=f"C{k}")
    axes[0].set_title(r"distance of $E[x_0|x_t]$ to the manifold / floor", fontsize=10)
    axes[1].set_title("share of the gradient along the manifold", fontsize=10)
    axes[2].set_title(r"cosine of the guidance with $\nabla\log p(y|x_t)$", fontsize=10)
    for ax in axes:
        ax.invert_xaxis(), ax.set_xlabel("t")
    for ax in axes[1:]:
        ax.plot([], [], "k-", label="gradient at $x_t$, through the denoiser (DPS, FreeDoM)")
        ax.plot([], [], "k--", label="gradient at $x_0$ (MPGD)")
    handles, labels = (a + b for a, b in zip(*(ax.get_legend_handles_labels() for ax in axes[:2])))
    fig.legend(handles, labels, fontsize=8, ncol=len(labels), loc="lower center")
    fig.tight_layout(rect=(0, 0.06, 1, 1))
    return fig


def faces(points: pd.DataFrame):
    """Truth, measurement, posterior mean, exact samples and those of every method (at the most steps): rows of one measurement each."""
    most = points["steps"].max()
    columns = [
        ("exact", "truth"),
        ("exact", "y"),
        ("exact", "posterior mean"),
        ("exact", "sample 0"),
        ("exact", "sample 1"),
    ]
    columns += [(m, f"sample {k}") for m in ("oracle", *GUIDED) for k in (0, 1)]
    chosen = points[(points["steps"] == most) | (points["method"] == "exact")].set_index(
        ["method", "name", "observation"]
    )["values"]
    rows = sorted({k[2] for k in chosen.index})
    fig, axes = plt.subplots(len(rows), len(columns), figsize=(0.85 * len(columns), 0.95 * len(rows)), squeeze=False)
    for r, c in itertools.product(range(len(rows)), range(len(columns))):
        method, name = columns[c]
        values = np.array(chosen[(method, name, rows[r])])
        side = round(math.sqrt(len(values) / 3))
        axes[r, c].imshow(
            (values.reshape(3, side, side).transpose(1, 2, 0).clip(-1, 1) + 1) / 2, interpolation="nearest"
        )
        axes[r, c].axis("off")
        if r == 0:
            label = (
                name
                if method == "exact" and not name.startswith("sample")
                else style(method)["label"]
                if method in GUIDED
                else method
            )
            axes[r, c].set_title(label.replace(" + ", "\n+ "), fontsize=7)
    fig.tight_layout(pad=0.3)
    return fig
