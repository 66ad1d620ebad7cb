"""A figure of PSNR against compute, a panel per task, from the tables of several suites at equal compute.

    python scripts/plot_compute.py results/suite-benchmark results/suite-benchmark-50 results/suite-benchmark-100 \
        --out results/suite-benchmark-100/compute.png

A suite's views.csv has the numbers (docs/protocol.md). A point is a mean over test images with its 95 % interval, at a
budget of forward passes (a backward pass counts two). Shown are the tasks that all suites have.
"""

import math
import sys
from functools import partial
from pathlib import Path

import matplotlib
import pandas as pd

from dsg.arguments import Parser, exit_code
from dsg.suites.methods import method_named, style

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

METHODS = "dps additive dps_dsg mpgd mpgd_additive mpgd_dsg diffrgd trust daps diffpir reddiff sitcom ddrm".split()


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = Parser(__doc__)
    parser.add_argument("suites", nargs="+", type=Path, help="folders of suites, each with a views.csv")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names of samplers (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args(arguments)
    return exit_code(partial(write, args.suites, args.methods, args.out))


def write(suites: list[Path], methods: list[str], out: Path) -> None:
    """Raises ValueError: a folder is none of a suite at equal compute, a method is not there, no task is in all."""
    table = pd.concat([read(suite) for suite in suites], ignore_index=True)
    if unknown := [name for name in methods if name not in set(table["method"])]:
        raise ValueError(f"--methods {unknown[0]}: these suites have {', '.join(table['method'].unique())}")
    budgets = table.groupby("task")["level"].nunique()
    tasks = [task for task in dict.fromkeys(table["task"]) if budgets[task] == budgets.max()]
    draw(table, tasks, methods).savefig(out, dpi=110)
    print(out)


def read(suite: Path) -> pd.DataFrame:
    file = suite / "views.csv"
    if not file.exists():
        raise ValueError(f"{suite}: no views.csv: it is no folder of a suite with views")
    table = pd.read_csv(file)
    return table[table["view"] == "compute"].dropna(subset="psnr")


def draw(table: pd.DataFrame, tasks: list[str], methods: list[str]):
    fig, axes = plt.subplots(1, len(tasks), figsize=(4.6 * len(tasks), 4.4), squeeze=False)
    for ax, task in zip(axes[0], tasks):
        for name in methods:
            curve = table[(table["task"] == task) & (table["method"] == name)].sort_values("level")
            look = style(method_named(name))
            ax.plot(curve["level"], curve["psnr"], **look)
            ax.fill_between(curve["level"], curve["psnr_low"], curve["psnr_high"], color=look["color"], alpha=0.07)
        budgets = sorted(table["level"].unique())
        ax.set(xscale="log", title=task.replace("_", " "), xlabel="forward passes + 2 x backward passes")
        ax.set_xticks(budgets, [f"{budget:g}" for budget in budgets]), ax.minorticks_off()
    axes[0, 0].set_ylabel("PSNR [dB]")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    columns = 2 * len(tasks) + 1
    fig.legend(handles, labels, fontsize=8, ncol=columns, loc="lower center")
    fig.tight_layout(rect=(0, 0.02 + 0.045 * math.ceil(len(labels) / columns), 1, 1))
    return fig


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
