"""Figures of suites of runs. A suite's YAML names them under `figures`.

Each writes a file, or one per task, in the suite's folder and returns their names.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from dsg.metrics.image import COLUMNS
from dsg.runs.statistics import by_image, summarise
from dsg.studies.deviation import read as read_deviation
from dsg.suites.collect import collect
from dsg.suites.methods import style
from dsg.suites.protocol import CHOSEN, ReportJob
from dsg.suites.references import Baseline
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

QUALITY = {name: COLUMNS[name].title for name in ("psnr", "haarpsi")}


def runs(outcome: Outcome, *parts: str) -> list[ImageJob]:
    """The runs of these parts that have saved something; of a tuned one, that at the chosen value."""
    jobs = [job.ready(CHOSEN) if isinstance(job, ReportJob) else job for job in outcome.of(*parts)]
    return [job for job in jobs if isinstance(job, ImageJob) and job.tables()]


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
            rows.append((task, [*files, first / f"truth/{name}.png"]))
    titles = ["condition", *(["no prior"] if without else []), *(method.label for method in methods), "truth"]
    fig, axes = plt.subplots(len(rows), len(titles), figsize=(1.15 * len(titles), 1.2 * len(rows) + 0.3), squeeze=False)
    for r, (task, files) in enumerate(rows):
        for c, file in enumerate(files):
            ax = axes[r, c]
            ax.set_xticks([]), ax.set_yticks([])
            if file.is_file():
                ax.imshow(np.asarray(Image.open(file)), interpolation="nearest")
            if r == 0:
                ax.set_title(textwrap.fill(titles[c], 18), fontsize=7)
            if c == 0:
                ax.set_ylabel(task.replace("_", " "), fontsize=7)
    fig.suptitle(f"{fewest} steps", fontsize=9)
    return _save(fig, outcome.out / "grid.png")


def samples(outcome: Outcome, part: str, rows: int = 6) -> list[str]:
    """<task>.png: a row per condition, the reference or prompt, then two samples of every method."""
    found = runs(outcome, part)
    names = []
    for task in dict.fromkeys(job.section for job in found):
        names += _samples_of(task, [job for job in found if job.section == task], outcome.out, rows)
    return names


def _samples_of(task: str, jobs: Sequence[ImageJob], out: Path, rows: int) -> list[str]:
    ids, width = list(jobs[0].ids)[:rows], 1 + 2 * len(jobs)
    height = 0.95 * len(ids) + 0.4
    fig, axes = plt.subplots(len(ids), width, figsize=(1.5 + 1.75 * len(jobs), height), squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([]), ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)
    for r, name in enumerate(ids):
        _show_condition(axes[r, 0], jobs[0].out / "condition", name)
        for m, job in enumerate(jobs):
            # of one sample per condition the name has no number
            files = [job.out / f"images/{stem}.png" for stem in (name, f"{name}_0", f"{name}_1")]
            for k, file in enumerate([file for file in files if file.is_file()][:2]):
                axes[r, 1 + 2 * m + k].imshow(np.asarray(Image.open(file)), interpolation="nearest")
    for m, job in enumerate(jobs):
        title = job.method.label if job.method.guided else "no guidance"
        axes[0, 1 + 2 * m].set_title(title, fontsize=8, loc="left")
    has_picture = (jobs[0].out / f"condition/{ids[0]}.png").exists()
    axes[0, 0].set_title("reference" if has_picture else "prompt", fontsize=8)
    fig.suptitle(task.replace("_", " "), fontsize=9)
    fig.subplots_adjust(0.01, 0.01, 0.99, min(0.9, 1 - 0.5 / height), 0.03, 0.03)
    target = out / f"{task.replace('/', '-')}.png"
    fig.savefig(target, dpi=130)
    plt.close(fig)
    return [target.name]


def _show_condition(ax, folder: Path, name: str) -> None:
    picture, prompt = folder / f"{name}.png", folder / f"{name}.txt"
    if picture.exists():
        ax.imshow(np.asarray(Image.open(picture)), interpolation="nearest")
    elif prompt.exists():
        text = textwrap.fill(prompt.read_text(encoding="utf-8").strip(), 17)
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=6)


def against_steps(outcome: Outcome, parts: Sequence[str], task: str, images: int) -> list[str]:
    """steps.png: quality against the number of steps, the paper's main claim, on a task's first `images` images."""
    found = collect(outcome, parts, list(QUALITY))
    some = {
        key: table[table["image"].isin(sorted(table["image"].unique())[:images])]
        for key, table in found.tables.items()
        if key[0] == task and key[1] in found.methods and found.methods[key[1]].guided
    }
    if not some:
        return []
    summary = summarise(some, found.names)
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, (name, title) in zip(axes, QUALITY.items()):
        for method, part in summary.groupby("method", sort=False):
            part, look = part.sort_values("steps"), style(found.methods[method])
            ax.plot(part["steps"], part[name], **look)
            ax.fill_between(part["steps"], part[f"{name}_low"], part[f"{name}_high"], color=look["color"], alpha=0.08)
        ax.set_xscale("log")
        counts = sorted(summary["steps"].unique())
        ax.set_xticks(counts, [str(s) for s in counts])
        ax.minorticks_off()
        ax.set_xlabel("steps"), ax.set_ylabel(title)
    axes[0].legend(fontsize=7)
    fig.suptitle(task.replace("_", " "), fontsize=10)
    return _save(fig, outcome.out / "steps.png")


def against_value(outcome: Outcome, parts: Sequence[str], task: str, steps: int, images: int) -> list[str]:
    """step_sizes.png: quality against the step size or guidance rate over its tuned value, on the first images."""
    table = relative_values([j for j in runs(outcome, *parts) if (j.section, j.steps) == (task, steps)], images)
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, (name, label) in zip(axes, QUALITY.items()):
        for method, part in table.groupby("method", sort=False):
            part = part.sort_values("factor")
            ax.plot(part["factor"], part[name], **style(method))
        ax.set_xscale("log", base=2)
        ax.set_xlabel("step size or guidance rate / its tuned value"), ax.set_ylabel(label)
    axes[0].legend(fontsize=7)
    fig.suptitle(f"{task}, {steps} steps".replace("_", " "), fontsize=10)
    return _save(fig, outcome.out / "step_sizes.png")


def relative_values(jobs: Sequence[ImageJob], images: int) -> pd.DataFrame:
    """Mean quality of each method by value / tuned value."""
    tuned = {job.method: job.chosen_value for job in jobs if job.value is None and job.tunable is not None}
    rows = []
    for job in jobs:
        if job.method in tuned:
            table = job.tables()["images"]
            quality = {name: by_image(table, name).iloc[:images].mean() for name in QUALITY}
            rows.append({"method": job.method, "factor": job.chosen_value / tuned[job.method], **quality})
    return pd.DataFrame(rows, columns=["method", "factor", *QUALITY])


def manifold_deviation(outcome: Outcome, part: str, task: str) -> list[str]:
    """manifold_deviation.png: |x_prev - mean| / (sqrt(n) sigma) against t, a panel per step count: 1 on the sphere."""
    steps, found = outcome.suite.steps, [job for job in runs(outcome, part) if job.section == task]
    fig, axes = plt.subplots(1, len(steps), figsize=(4.5 * len(steps), 3.6), squeeze=False)
    for ax, n in zip(axes[0], steps):
        for job in found:
            deviation = read_deviation(job.out) if job.steps == n else None
            if deviation is not None:
                mean = deviation.groupby("t")["deviation"].mean()
                ax.plot(mean.index, mean.values, **{**style(job.method), "marker": None})
        ax.invert_xaxis(), ax.set_title(f"{task.replace('_', ' ')}, {n} steps", fontsize=10)
        ax.set_xlabel("t"), ax.set_ylabel(r"$|x_{prev}-\mu|\,/\,(\sqrt{n}\,\sigma_t)$")
    axes[0, 0].legend(fontsize=7)
    return _save(fig, outcome.out / "manifold_deviation.png")


def _save(fig, target: Path) -> list[str]:
    fig.tight_layout()
    fig.savefig(target, dpi=130)
    plt.close(fig)
    return [target.name]
