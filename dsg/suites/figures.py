"""Figures of suites of runs. A suite's YAML names them under `figures`.

Each writes a file, or one per task, in the suite's folder and returns their names.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image

from dsg.statistics import by_image, mean_interval
from dsg.suites.frame import Cell, Metrics, collect
from dsg.suites.methods import styles
from dsg.suites.protocol import CHOSEN, ReportJob
from dsg.suites.references import Baseline
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome
from dsg.types import Column

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

plt.style.use(Path(__file__).with_name("results.mplstyle"))
WIDTH = 9.0  # inches, at most


def runs(outcome: Outcome, *parts: str) -> list[ImageJob]:
    """The runs of these parts that have saved something; of a tuned one, that at the chosen value."""
    jobs = [job.ready(CHOSEN) if isinstance(job, ReportJob) else job for job in outcome.of(*parts)]
    return [job for job in jobs if isinstance(job, ImageJob) and job.tables()]


def save(fig, target: Path, tight: bool = True) -> list[str]:
    if tight:
        fig.tight_layout()
    fig.savefig(target)
    plt.close(fig)
    return [target.name]


# --- curves


def label_ends(ax, gap: float = 0.055) -> None:
    """Write each line's label at its right end, in its colour; labels that would overlap are moved apart."""
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_") and len(line.get_xdata())]
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = [to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1])) for line in lines]
    order = sorted(range(len(lines)), key=lambda k: ends[k][1])
    heights: list[float] = []
    for k in order:
        heights.append(max(ends[k][1], heights[-1] + gap) if heights else ends[k][1])
    above = max(heights[-1] - 1, 0) if heights else 0
    for k, height in zip(order, heights):
        ax.annotate(
            lines[k].get_label(), ends[k], (1.02, height - above), "axes fraction", "axes fraction",
            color=lines[k].get_color(), va="center", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def legends_above(axes) -> None:
    """A legend above each column of panels, where no curve runs below it, of all that is drawn in the column.

    Args: axes: [rows, columns].
    """
    for column in axes.T:
        found = {label: handle for ax in column for handle, label in zip(*ax.get_legend_handles_labels())}
        column[0].legend(found.values(), found, loc="lower center", bbox_to_anchor=(0.5, 1), borderaxespad=2.5)


def plain_ticks(*axes) -> None:
    """Plain numbers on log axes: at 1, 2, 5, and between these where the axis is short."""
    for axis in axes:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 5 * low else range(1, 10)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(NullFormatter())


def curves(
    points: pd.DataFrame,
    columns: Mapping[str, Sequence[Column]],
    looks: Mapping[str, dict],
    xlabel: str,
    base: int = 10,
):
    """A row of panels per task, a panel per metric, a curve with its band per `curve`.

    Args:
        points: columns task, curve, x, metric, mean, low, high.
    """
    most = max(map(len, columns.values()))
    fig, axes = plt.subplots(len(columns), most, figsize=(WIDTH, 3.4 * len(columns)), squeeze=False)
    for row, (task, shown) in zip(axes, columns.items()):
        for ax, column in zip(row, shown):
            part = points[(points["task"] == task) & (points["metric"] == column.name)]
            for name, curve in part.groupby("curve", sort=False):
                curve, look = curve.sort_values("x"), looks[name]
                ax.plot(curve["x"], curve["mean"], **look)
                ax.fill_between(curve["x"], curve["low"], curve["high"], color=look["color"], alpha=0.1, linewidth=0)
            ax.set_xscale("log", base=base)
            ticks = sorted(part["x"].unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
            ax.set(xlabel=xlabel, ylabel=column.title, title=task.replace("_", " "))
            label_ends(ax)
        for ax in row[len(shown) :]:
            ax.set_visible(False)
    return fig


def points_of(cells: Iterable[Cell], columns: Sequence[Column], curve, x, images: int | None = None) -> pd.DataFrame:
    """The points of `curves`.

    Args:
        curve, x: functions of a cell.
        images: only the first so many.
    """
    rows = []
    for cell in cells:
        for column in columns:
            mean, low, high = mean_interval(by_image(cell.images, column.name).iloc[:images].to_numpy())
            row = {"task": cell.task, "curve": curve(cell), "x": x(cell), "metric": column.name}
            rows.append({**row, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def against_steps(
    outcome: Outcome, parts: Sequence[str], task: str, images: int, metrics: Metrics = ("psnr", "haarpsi")
) -> list[str]:
    """steps.png: the first two metrics against the number of steps, on a task's first `images` images."""
    found = collect(outcome, parts, metrics)
    cells = [cell for cell in found.finished if cell.task == task and cell.method.guided]
    if not cells:
        return []
    columns = found.columns[task][:2]
    points = points_of(cells, columns, lambda cell: cell.method.name, lambda cell: cell.steps, images)
    looks = styles(dict.fromkeys(cell.method for cell in cells))
    return save(curves(points, {task: columns}, looks, "steps"), outcome.out / "steps.png")


def against_value(
    outcome: Outcome, parts: Sequence[str], task: str, steps: int, images: int, metrics: Metrics = ("psnr", "haarpsi")
) -> list[str]:
    """step_sizes.png: the first two metrics against the step size or guidance rate over its tuned value."""
    found = collect(outcome, parts, metrics)
    cells = [
        cell for cell in found.finished if (cell.task, cell.steps) == (task, steps) and isinstance(cell.run, ImageJob)
    ]
    tuned = {c.method.name: c.run.chosen_value for c in cells if not c.value and c.run.tunable is not None}
    cells = [cell for cell in cells if cell.method.name in tuned]
    if not cells:
        return []
    columns = found.columns[task][:2]
    factor = lambda cell: cell.run.chosen_value / tuned[cell.method.name]  # noqa: E731
    points = points_of(cells, columns, lambda cell: cell.method.name, factor, images)
    looks = styles(dict.fromkeys(cell.method for cell in cells))
    fig = curves(points, {task: columns}, looks, "step size or guidance rate / its tuned value", base=2)
    return save(fig, outcome.out / "step_sizes.png")


def against_option(outcome: Outcome, part: str, x: str, metrics: Metrics = (), lines: str | None = None) -> list[str]:
    """<part>.png: each metric against the option `x` of `dsg.suites.variants`, a curve per value of `lines`."""
    found = collect(outcome, [part], metrics)
    if not found.finished:
        return []

    def curve(cell: Cell) -> str:
        other = (
            "" if lines is None else f", {lines.removeprefix('sampler.')} {OmegaConf.select(cell.run.config, lines)}"
        )
        return f"{cell.method.label}{other}" + (f", {cell.steps} steps" if len(outcome.suite.steps) > 1 else "")

    columns = {
        task: [c for c in shown if c.name in first_of(metrics, task, shown)] for task, shown in found.columns.items()
    }
    points = pd.concat(
        points_of([c for c in found.finished if c.task == task], shown, curve,
                  lambda cell: OmegaConf.select(cell.run.config, x))
        for task, shown in columns.items()
    )  # fmt: skip
    names = list(dict.fromkeys(points["curve"]))
    looks = {name: {"color": f"C{k}", "marker": "o", "label": name} for k, name in enumerate(names)}
    fig = curves(points, columns, looks, x.removeprefix("sampler.").replace("_", " "))
    return save(fig, outcome.out / f"{part}.png")


def first_of(metrics: Metrics, task: str, columns: Sequence[Column]) -> list[str]:
    """The names that were asked for; all if none were. Diversity, where there is one, always."""
    asked = metrics.get(task.rpartition("/")[2], ()) if isinstance(metrics, Mapping) else metrics
    return [*asked, "diversity"] if asked else [column.name for column in columns]


# --- images


def grid(outcome: Outcome, part: str, baselines: str | None = None, faces: int = 3) -> list[str]:
    """grid.png: condition, baseline if there is one, every method at the fewest steps, truth; `faces` rows per task."""
    fewest = min(outcome.suite.steps)
    found = [job for job in runs(outcome, part) if job.steps == fewest]
    methods = list(dict.fromkeys(job.method for job in found))
    without = {job.section: job.out for job in outcome.of(baselines or "") if isinstance(job, Baseline)}
    rows = []
    for task in dict.fromkeys(job.section for job in found):
        of_task = {job.method: job.out for job in found if job.section == task}
        first, ids = next(iter(of_task.values())), sorted(next(j for j in found if j.section == task).ids)
        for name in ids[:faces]:
            files = [first / f"condition/{name}.png"]
            files += [without.get(task, Path()) / f"images/{name}.png"] if without else []
            files += [of_task[m] / f"images/{name}.png" if m in of_task else Path() for m in methods]
            rows.append((task.replace("_", " "), [*files, first / f"truth/{name}.png"]))
    titles = ["condition", *(["no prior"] if without else []), *(method.label for method in methods), "truth"]
    return save(image_grid(rows, titles, f"{fewest} steps"), outcome.out / "grid.png", tight=False)


def samples(outcome: Outcome, part: str, rows: int = 6) -> list[str]:
    """<task>.png: a row per condition, the reference or prompt, then two samples of every method."""
    found, names = runs(outcome, part), []
    for task in dict.fromkeys(job.section for job in found):
        names += samples_of(task, [job for job in found if job.section == task], outcome.out, rows)
    return names


def samples_of(task: str, jobs: Sequence[ImageJob], out: Path, rows: int) -> list[str]:
    shown = []
    for name in list(jobs[0].ids)[:rows]:
        cells: list[Path] = [condition_of(jobs[0].out / "condition", name)]
        for job in jobs:
            # with one sample per condition the name has no number
            files = [job.out / f"images/{stem}.png" for stem in (name, f"{name}_0", f"{name}_1")]
            there = [file for file in files if file.is_file()][:2]
            cells += [*there, *[Path()] * (2 - len(there))]
        shown.append(("", cells))
    several = any((job.out / f"images/{jobs[0].ids[0]}_1.png").is_file() for job in jobs)
    titles = ["prompt" if shown[0][1][0].suffix == ".txt" else "reference"]
    for job in jobs:
        titles += [job.method.label, "second sample" if several else ""]
    return save(image_grid(shown, titles, task.replace("_", " ")), out / f"{task.replace('/', '-')}.png", tight=False)


def condition_of(folder: Path, name: str) -> Path:
    """The image, or the prompt's file."""
    image = folder / f"{name}.png"
    return image if image.exists() else folder / f"{name}.txt"


def image_grid(rows: Sequence[tuple[str, Sequence[Path]]], titles: Sequence[str], title: str):
    """Rows of images with a name each, below the titles; of .txt files the text; blank where there is no file."""
    columns = len(titles)
    side = min(WIDTH / columns, 1.3)
    fig, axes = plt.subplots(len(rows), columns, figsize=(side * columns, side * len(rows) + 0.7), squeeze=False)
    for r, (name, files) in enumerate(rows):
        for c, file in enumerate(files):
            ax = axes[r, c]
            ax.set_xticks([]), ax.set_yticks([]), ax.grid(False)
            for spine in ax.spines.values():
                spine.set_visible(False)
            if file.suffix == ".txt" and file.is_file():
                text = textwrap.fill(file.read_text(encoding="utf-8").strip(), 16)
                ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=7)
            elif file.is_file():
                ax.imshow(np.asarray(Image.open(file)), interpolation="nearest")
            if r == 0:
                ax.set_title(textwrap.fill(titles[c], 13), fontsize=8)
            if c == 0:
                ax.set_ylabel(textwrap.fill(name, 14), fontsize=8)
    fig.suptitle(title, fontsize=10)
    fig.subplots_adjust(0.05, 0.01, 0.99, 1 - 0.62 / (side * len(rows) + 0.7), 0.04, 0.04)
    return fig
