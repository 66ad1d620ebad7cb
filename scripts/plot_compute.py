"""A figure of PSNR against compute, a panel per task, from the tables of several suites at equal compute.

    python scripts/plot_compute.py results/suite-benchmark results/suite-benchmark-50 results/suite-benchmark-100 \
        --out results/suite-benchmark-100/compute.png

A suite's table.csv has the numbers (docs/protocol.md). A point is a mean over test images with its 95 % interval, at a
budget of forward passes (a backward pass counts two). Shown are the tasks that all suites have.
"""

import sys
from functools import partial
from pathlib import Path

import pandas as pd

from dsg.arguments import Parser, exit_code
from dsg.config import load
from dsg.runs.prepare import build
from dsg.suites.figures import WIDTH, label_ends, plt
from dsg.suites.methods import Method, styles

METHODS = "dps additive dps_dsg mpgd_dsg diffpir ddrm".split()


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = Parser(__doc__)
    parser.add_argument("suites", nargs="+", type=Path, help="folders of suites, each with a table.csv")
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
    """The PSNR at equal compute: columns task, method, level, mean, low, high."""
    if not (suite / "table.csv").exists():
        raise ValueError(f"{suite}: no table.csv: it is no folder of a suite with views")
    table = pd.read_csv(suite / "table.csv").query("metric == 'psnr'")
    return table[table["view"] == "compute"].dropna(subset="mean")


def draw(table: pd.DataFrame, tasks: list[str], methods: list[str]):
    looks = styles(Method.of(build(load([f"sampler={name}"]).sampler)) for name in methods)
    columns = min(len(tasks), 2)
    rows = -(-len(tasks) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, 3.4 * rows), squeeze=False)
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    for ax, task in zip(axes.flat, tasks):
        for name in methods:
            curve = table[(table["task"] == task) & (table["method"] == name)].sort_values("level")
            ax.plot(curve["level"], curve["mean"], **looks[name])
            band = curve["low"].astype(float), curve["high"].astype(float)
            ax.fill_between(curve["level"], *band, color=looks[name]["color"], alpha=0.1, linewidth=0)
        budgets = sorted(table["level"].unique())
        ax.set(xscale="log", title=task.replace("_", " "), xlabel="forward passes + 2 x backward passes")
        ax.set_xticks(budgets, [f"{budget:g}" for budget in budgets]), ax.minorticks_off()
        ax.set_ylabel("PSNR [dB]")
        label_ends(ax)
    fig.tight_layout()
    return fig


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
