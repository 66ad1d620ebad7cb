"""The pictures of a suite."""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

QUALITY = {"psnr": "PSNR [dB]", "haarpsi": "HaarPSI"}
COLORS = {"unconditional": "0.6", "dps": "tab:blue", "freedom": "tab:green", "mpgd": "tab:orange"}


def style(method: str) -> dict:
    """A colour per host; solid with DSG, dashed without."""
    host = method.removesuffix("_dsg")
    dsg = method.endswith("_dsg")
    return {
        "color": COLORS.get(host, "k"),
        "linestyle": "-" if dsg else "--",
        "marker": "o" if dsg else "s",
        "markersize": 4,
        "label": host.upper().replace("FREEDOM", "FreeDoM").replace("UNCONDITIONAL", "unconditional")
        + (" + DSG" if dsg else ""),
    }


def grid(out: Path, suite, steps: list[int], target: Path, faces: int = 3) -> None:
    """Condition, baseline, every method at the fewest steps, truth: `faces` rows per task."""
    n = min(steps)
    methods = list(suite.samplers)
    titles = ["condition", "no prior", *(style(m)["label"] for m in methods), "truth"]
    rows = [(task, name) for task in suite.tasks for name in _names(out, task, n)[:faces]]
    fig, axes = plt.subplots(len(rows), len(titles), figsize=(1.15 * len(titles), 1.2 * len(rows) + 0.3), squeeze=False)
    for r, (task, name) in enumerate(rows):
        cells = out / "cells" / task
        files = [
            cells / f"dps-{n}/condition/{name}.png",
            cells / f"baseline/images/{name}.png",
            *(cells / f"{m}-{n}/images/{name}.png" for m in methods),
            cells / f"dps-{n}/truth/{name}.png",
        ]
        for c, file in enumerate(files):
            ax = axes[r, c]
            ax.set_xticks([]), ax.set_yticks([])
            if file.exists():
                ax.imshow(np.asarray(Image.open(file)), interpolation="nearest")
            if r == 0:
                ax.set_title(titles[c], fontsize=7)
            if c == 0:
                ax.set_ylabel(task.replace("_", " "), fontsize=7)
    fig.suptitle(f"{n} steps", fontsize=9)
    _save(fig, target)


def samples(task: str, cases, methods: dict, target: Path) -> None:
    """A row per condition: the reference or prompt, then two samples of every method (label -> its `Results`)."""
    fig, axes = plt.subplots(
        len(cases), 1 + 2 * len(methods), figsize=(1.5 + 1.75 * len(methods), 0.95 * len(cases) + 0.4), squeeze=False
    )
    for ax in axes.flat:
        ax.set_xticks([]), ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)
    for r, case in enumerate(cases):
        results = next(iter(methods.values()))
        if (results.condition / f"{case.id}.png").exists():
            axes[r, 0].imshow(np.asarray(Image.open(results.condition / f"{case.id}.png")), interpolation="nearest")
        elif case.prompt:
            axes[r, 0].text(0.5, 0.5, textwrap.fill(case.prompt, 17), ha="center", va="center", fontsize=6)
        for m, (name, results) in enumerate(methods.items()):
            for k in range(2):
                ax = axes[r, 1 + 2 * m + k]
                ax.imshow(np.asarray(Image.open(results.images / f"{case.id}_{k}.png")), interpolation="nearest")
                if r == 0 and k == 0:
                    ax.set_title(name, fontsize=8, loc="left")
    axes[0, 0].set_title("prompt" if cases[0].reference is None else "reference", fontsize=8)
    fig.suptitle(task.replace("_", " "), fontsize=9)
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.9, 0.03, 0.03)
    fig.savefig(target, dpi=130)
    plt.close(fig)


def _names(out: Path, task: str, steps: int) -> list[str]:
    return sorted(p.stem for p in (out / "cells" / task / f"dps-{steps}" / "images").glob("*.png"))


def against_steps(summary: pd.DataFrame, target: Path, task: str) -> None:
    """Quality against the number of steps, the paper's main claim."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, (name, title) in zip(axes, QUALITY.items()):
        for method, part in summary[summary["method"] != "unconditional"].groupby("method", sort=False):
            part = part.sort_values("steps")
            ax.plot(part["steps"], part[name], **style(method))
            ax.fill_between(
                part["steps"], part[f"{name}_low"], part[f"{name}_high"], color=style(method)["color"], alpha=0.08
            )
        ax.set_xscale("log")
        ax.set_xticks(sorted(summary["steps"].unique()), [str(s) for s in sorted(summary["steps"].unique())])
        ax.minorticks_off()
        ax.set_xlabel("steps"), ax.set_ylabel(title)
    axes[0].legend(fontsize=7)
    fig.suptitle(task.replace("_", " "), fontsize=10)
    _save(fig, target)


def against_step_size(table: pd.DataFrame, target: Path, title: str) -> None:
    """Quality against the step size or guidance rate, in units of the tuned value."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, (name, label) in zip(axes, QUALITY.items()):
        for method, part in table.groupby("method", sort=False):
            part = part.sort_values("factor")
            ax.plot(part["factor"], part[name], **style(method))
        ax.set_xscale("log", base=2)
        ax.set_xlabel("step size or guidance rate / its tuned value"), ax.set_ylabel(label)
    axes[0].legend(fontsize=7)
    fig.suptitle(title.replace("_", " "), fontsize=10)
    _save(fig, target)


def manifold_deviation(tables: dict[tuple, pd.DataFrame], task: str, steps: list[int], target: Path) -> None:
    """|x_prev - mean| / (sqrt(n) sigma) against t, a panel per step count: 1 on the sphere."""
    fig, axes = plt.subplots(1, len(steps), figsize=(4.5 * len(steps), 3.6), squeeze=False)
    for ax, n in zip(axes[0], steps):
        for (name, method, count), table in tables.items():
            if name == task and count == n:
                mean = table.groupby("t")["deviation"].mean()
                ax.plot(mean.index, mean.values, **{**style(method), "marker": None})
        ax.invert_xaxis(), ax.set_title(f"{task.replace('_', ' ')}, {n} steps", fontsize=10)
        ax.set_xlabel("t"), ax.set_ylabel(r"$|x_{prev}-\mu|\,/\,(\sqrt{n}\,\sigma_t)$")
    axes[0, 0].legend(fontsize=7)
    _save(fig, target)


def _save(fig, target: Path) -> None:
    fig.tight_layout()
    fig.savefig(target, dpi=130)
    plt.close(fig)
