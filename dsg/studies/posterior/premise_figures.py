"""The figures on the paper's premises: length of the steps, concentration, Jensen gap, manifold."""

import matplotlib
import pandas as pd

from dsg.studies.posterior.figure_parts import DISTANCE, TITLES, Guided, Tables, readable
from dsg.suites.methods import Method, styles

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def deviation(tables: Tables, settings: list[str], guided: Guided):
    """Length of the steps against t at the best value, and how that goes with the distance over all values tried."""
    curves = tables["deviation"]
    setting = "linear64" if "linear64" in settings else settings[-1]
    counts = [n for n in (20, 100) if n in set(curves["steps"])] or [curves["steps"].max()]
    fig, axes = plt.subplots(1, len(counts) + 1, figsize=(4.3 * (len(counts) + 1), 3.6))
    looks = {
        name: {**look, "marker": None}
        for name, look in styles([Method("unconditional", guided=False), *guided.values()]).items()
    }
    for ax, steps in zip(axes, counts):
        part = curves[(curves["setting"] == setting) & (curves["steps"] == steps)]
        for method, curve in part[part["method"].isin(looks)].groupby("method"):
            mean = curve.groupby("t")["deviation"].mean()
            ax.plot(mean.index, mean.values, **looks[method])
        if "diagnosis" in tables:
            true = tables["diagnosis"]
            true = true[(true["setting"] == setting) & (true["steps"] == steps)].dropna(subset=["true_radius"])
            ax.plot(true["t"], true["true_radius"], "k:", label=r"exact $p(x_{prev}|x_t)$")
        ax.invert_xaxis(), ax.set_yscale("log"), ax.set_xlabel("t"), readable(ax.yaxis)
        ax.set_title(f"{TITLES.get(setting, setting)}, {steps} steps", fontsize=10)
        ax.set_ylabel(r"$|x_{prev}-\mu|\,/\,(\sqrt{n}\,\sigma_t)$")
    axes[0].legend(fontsize=7)
    trials = tables["trials"]
    distance_against_deviation(axes[-1], trials[trials["setting"] == setting], guided)
    axes[-1].set_title(f"{TITLES.get(setting, setting)}: all step sizes and steps", fontsize=10)
    fig.tight_layout()
    return fig


def distance_against_deviation(ax, trials: pd.DataFrame, guided: Guided) -> None:
    """A dot per trial of the base methods: DSG does not leave the sphere."""
    for method, part in trials.groupby("method"):
        if method in guided and not guided[method].control:
            look = {k: styles(guided.values())[method][k] for k in ("color", "label")}
            ax.scatter(part["off_sphere"], part["sliced_wasserstein"], s=12, **look)
    ax.set_xscale("log"), ax.set_yscale("log"), ax.legend(fontsize=7)
    ax.set_xlabel("mean |deviation - 1| of a run"), ax.set_ylabel(DISTANCE)
    readable(ax.yaxis)


def concentration(table: pd.DataFrame):
    """How often |z|^2 leaves Laurent and Massart's bounds."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    titles = {"above": r"$|z|^2 \geq n + 2\sqrt{nx} + 2x$", "below": r"$|z|^2 \leq n - 2\sqrt{nx}$"}
    for ax, (side, title) in zip(axes, titles.items()):
        for n, part in table.groupby("n"):
            seen = part[part[side] > 0]
            label = f"n = {n}, sampled std of |z|/sqrt(n): {part['radius_std'].iloc[0]:.4f}"
            ax.plot(seen["x"], seen[side], marker="o", markersize=3, label=label)
        ax.plot(part["x"], part["bound"], "k--", label="Laurent-Massart: exp(-x)")
        ax.set_yscale("log"), ax.set_xlabel("x"), ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("how often")
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=7, ncol=3, loc="lower center")
    fig.tight_layout(rect=(0, 0.12, 1, 1))
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
    axes[0].set_yscale("log")
    axes[0].set_title(r"$f=|y-Ax_0|^2/2$: closed form (line), Monte Carlo (dots)", fontsize=10)
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
