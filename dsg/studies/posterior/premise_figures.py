"""The figures of docs/theory.md on the paper's premises: length of the steps, concentration, Jensen gap, manifold."""

from collections.abc import Mapping, Sequence

import pandas as pd

from dsg.studies.posterior import premises
from dsg.suites.figures import WIDTH, plain_ticks, plt
from dsg.suites.methods import Method, styles

DEVIATION = r"$|x_{prev}-\mu|\,/\,(\sqrt{n}\,\sigma_t)$"


def deviation(tables: Mapping[str, pd.DataFrame], settings: Sequence[str], methods: Mapping[str, Method]):
    """Length of the base methods' steps against t at the best value, and the distance over all values tried; DSG's
    steps are all of length 1."""
    setting = "linear64" if "linear64" in settings else settings[-1]
    here = {name: table[table["setting"] == setting] for name, table in tables.items() if "setting" in table}
    curves, trials, true = here["deviation"], here["trials"], here.get("diagnosis")
    counts = [n for n in (20, 100) if n in set(curves["steps"])] or [curves["steps"].max()]
    looks, bases = styles(methods.values()), [m.base_method for m in methods.values() if m.control]
    fig, axes = plt.subplots(1, len(counts) + 1, figsize=(WIDTH, 3.3))
    for ax, steps in zip(axes, counts):
        for method in bases:
            curve = curves[(curves["method"] == method) & (curves["steps"] == steps)]
            mean = curve.groupby("t")["deviation"].mean()
            ax.plot(mean.index, mean.values, **{**looks[method], "marker": None})
        ax.axhline(1, color="k", linewidth=1, label="with DSG")
        if true is not None:
            exact = true[true["steps"] == steps].dropna(subset=["true_radius"])
            ax.plot(exact["t"], exact["true_radius"], "k:", label=r"exact $p(x_{prev}|x_t)$")
        ax.invert_xaxis()
        ax.set(yscale="log", xlabel="t", ylabel=DEVIATION, title=f"{setting}, {steps} steps")
        plain_ticks(ax.yaxis)
    axes[0].legend()
    for method in bases:
        part = trials[trials["method"] == method]
        look = {key: looks[method][key] for key in ("color", "label")}
        axes[-1].scatter(part["off_sphere"], part["sliced_wasserstein"], s=10, **look)
    axes[-1].set(xscale="log", yscale="log", xlabel="mean |deviation - 1| of a run", ylabel="sliced $W_2$ / std")
    plain_ticks(axes[-1].yaxis)
    axes[-1].set_title(f"{setting}, all trials")
    axes[-1].legend()
    fig.tight_layout()
    return fig


def concentration():
    """How often |z|^2 leaves Laurent and Massart's bounds."""
    table = premises.concentration()
    fig, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.6), sharey=True)
    titles = {"above": r"$|z|^2 \geq n + 2\sqrt{nx} + 2x$", "below": r"$|z|^2 \leq n - 2\sqrt{nx}$"}
    for ax, (side, title) in zip(axes, titles.items()):
        for n, part in table.groupby("n"):
            seen = part[part[side] > 0]
            label = f"n = {n}, sampled std of |z|/sqrt(n): {part['radius_std'].iloc[0]:.4f}"
            ax.plot(seen["x"], seen[side], marker="o", markersize=3, label=label)
        ax.plot(part["x"], part["bound"], "k--", label="Laurent-Massart: exp(-x)")
        ax.set(yscale="log", xlabel="x", title=title)
    axes[0].set_ylabel("how often")
    fig.legend(*axes[0].get_legend_handles_labels(), ncol=3, loc="lower center")
    fig.tight_layout(rect=(0, 0.14, 1, 1))
    return fig


def jensen(table: pd.DataFrame):
    """The gap of the squared loss with its closed form and lower bound, and that of the norm that DPS uses."""
    fig, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.8))
    for k, (setting, part) in enumerate(table.groupby("setting", sort=False)):
        color = f"C{k}"
        axes[0].plot(part["t"], part["gap_quadratic_exact"], color=color, label=setting)
        axes[0].plot(part["t"], part["gap_quadratic"], ".", color=color, markersize=3)
        if part["gap_bound"].max() > 0:
            axes[0].plot(part["t"], part["gap_bound"], "--", color=color, label=f"{setting}: lower bound")
        axes[1].plot(part["t"], part["gap_norm"], color=color, label=setting)
    axes[0].set_yscale("log")
    axes[0].set_title(r"$f=|y-Ax_0|^2/2$: closed form (line), Monte Carlo (dots)")
    axes[1].set_title(r"$f=|y-Ax_0|$, as DPS uses it: gap / $E f$")
    for ax in axes:
        ax.invert_xaxis(), ax.set_xlabel("t")
    axes[0].legend()
    axes[0].set_ylabel(r"$E f(x_0) - f(E x_0)$")
    fig.tight_layout()
    return fig


def manifold(table: pd.DataFrame):
    """Where the linear-manifold assumption fails, and how far the guidance points from the exact one."""
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.6))
    for k, (setting, part) in enumerate(table.groupby("setting", sort=False)):
        axes[0].plot(part["t"], part["off_manifold"], color=f"C{k}", label=setting)
        for ax, name in zip(axes[1:], ("tangent", "cosine")):
            ax.plot(part["t"], part[f"{name}_through"], color=f"C{k}")
            ax.plot(part["t"], part[f"{name}_beside"], "--", color=f"C{k}")
    axes[0].set_title("distance of $E[x_0|x_t]$\nto the manifold / floor")
    axes[1].set_title("share of the gradient\nalong the manifold")
    axes[2].set_title("cosine of the guidance\n" r"with $\nabla\log p(y|x_t)$")
    for ax in axes:
        ax.invert_xaxis(), ax.set_xlabel("t")
    axes[0].legend()
    axes[1].plot([], [], "k-", label="gradient at $x_t$, through the denoiser (DPS, FreeDoM)")
    axes[1].plot([], [], "k--", label="gradient at $x_0$ (MPGD)")
    fig.tight_layout(rect=(0, 0.09, 1, 1))
    fig.legend(*axes[1].get_legend_handles_labels(), ncol=2, loc="lower center")
    return fig
