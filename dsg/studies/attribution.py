"""Shares of a gain: what each factor contributes between two cells, image by image, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.statistics import by_image, mean_interval, verdict
from dsg.studies.factors import Cell, Path, paths
from dsg.suites.figures import WIDTH, plt, save
from dsg.suites.protocol import CHOSEN, outcome_of
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome
from dsg.suites.tables import markdown as as_markdown
from dsg.suites.tables import number, write_csv

MARGIN = 0.1  # dB of PSNR
PSNR, DISTANCE = "PSNR [dB]", "sliced W2 [sd]"
TOTAL = "all together"
TITLES = {
    "gradient": "gradient beside the network", "length": "length of the step", "place": "projection to the sphere",
    "noise": "noise replaced", "eta": "eta", "last": "last step unguided",
}  # fmt: skip


def weights(factors: Sequence[str], factor: str) -> dict[frozenset, float]:
    """The Shapley value of a factor as a sum over cells: by the factors that are switched, what the cell counts.

    It is what switching the factor gains, averaged over all orders in which the factors can be switched. The shares
    of all factors add up to the difference of the ends.
    """
    others, n = [f for f in factors if f != factor], len(factors)
    found: dict[frozenset, float] = {}
    for size in range(n):
        share = factorial(size) * factorial(n - 1 - size) / factorial(n)
        for before in combinations(others, size):
            found[frozenset({*before, factor})] = share
            found[frozenset(before)] = -share
    return found


def shares(path: Path, scores: Callable[[Cell], pd.Series]) -> dict[str, pd.Series]:
    """By factor, its share for every image that has a score in all cells; `TOTAL`: of all together.

    The last step is switched first. Parts that need a sphere leave it unguided in any case, so after one of them it
    would have nothing left to change, and they would be credited with what it does.

    Args:
        scores: of a cell, a number per image.
    """
    known = pd.concat({cell: scores(cell) for cell in path.cells}, axis=1).dropna()  # an image may have failed in one
    found, first = {}, [f for f in path.factors if f == "last"]
    rest = [f for f in path.factors if f not in first]
    for factor in rest:
        parts = weights(rest, factor)
        found[factor] = sum(share * known[path.cell(changed.union(first))] for changed, share in parts.items())
    for factor in first:
        found[factor] = known[path.cell({factor})] - known[path.start]
    found[TOTAL] = known[path.end] - known[path.start]
    return found


def write(outcome: Outcome, part: str, mixture: str) -> list[str]:
    """factors.csv, what every cell came to; shares.csv, shares.png; and what-makes-dsg-work.md, the page's tables.

    Args:
        part, mixture: entries of the suite's `jobs`: of images, and of mixtures.
    """
    measured = {**of_images(outcome, part), **of_mixtures(outcome, mixture)}
    cells, found = cell_table(measured), share_table(paths(outcome.suite), measured)
    if cells.empty:
        return []
    write_csv(outcome.out / "factors.csv", cells)
    write_csv(outcome.out / "shares.csv", found)
    write_text(outcome.out / "what-makes-dsg-work.md", markdown(outcome, cells, found))
    names = ["factors.csv", "shares.csv", "what-makes-dsg-work.md"]
    return names + (figure(found, outcome) if len(found) else [])


Measured = Mapping[tuple, Mapping[Cell, pd.Series]]  # by (metric, task, steps), of each cell a number per image


def of_images(outcome: Outcome, part: str) -> dict[tuple, dict[Cell, pd.Series]]:
    """PSNR."""
    found: dict[tuple, dict[Cell, pd.Series]] = {}
    by_name = {(c.sampler, c.name): c for path in paths(outcome.suite) for c in (cell.run for cell in path.cells)}
    for job in outcome.of(part):
        table = job.tables().get(CHOSEN)
        if table is not None:
            run: ImageJob = job.report
            scores = found.setdefault((PSNR, run.task, run.steps), {})
            scores[by_name[run.sampler, str(run.value)]] = by_image(table, "psnr")
    return found


def of_mixtures(outcome: Outcome, part: str) -> dict[tuple, dict[Cell, pd.Series]]:
    """Distance to the exact posterior, of every observation."""
    found: dict[tuple, dict[Cell, pd.Series]] = {}
    by_name = {f"{c.sampler},{c.name}": c for path in paths(outcome.suite) for c in (x.run for x in path.cells)}
    for job in outcome.of(part):
        table = job.tables().get("observations")
        if table is not None and job.method in by_name:
            setting, _, steps = job.key
            scores = found.setdefault((DISTANCE, setting, steps), {})
            scores[by_name[job.method]] = table.set_index("observation")["sliced_wasserstein"]
    return found


def cell_table(measured: Measured) -> pd.DataFrame:
    """A row per place and cell: its levels, mean and interval."""
    rows = []
    for (metric, task, steps), scores in measured.items():
        for cell, each in scores.items():
            mean, low, high = mean_interval(each.to_numpy())
            row = {"metric": metric, "task": task, "steps": steps, **vars(cell)}
            rows.append({**row, "mean": mean, "low": low, "high": high, "images": len(each)})
    return pd.DataFrame(rows)


def share_table(paths: Sequence[Path], measured: Measured) -> pd.DataFrame:
    """A row per path, place and factor: its share with interval and verdict; paths that lack a cell are left out."""
    rows = []
    for path in paths:
        for (metric, task, steps), scores in measured.items():
            if not all(cell.run in scores for cell in path.cells):
                continue
            for factor, each in shares(path, lambda cell, scores=scores: scores[cell.run]).items():
                mean, low, high = mean_interval(each.to_numpy())
                row = {"path": path.name, "metric": metric, "task": task, "steps": steps, "factor": factor}
                row |= {"share": mean, "low": low, "high": high, "images": len(each)}
                rows.append({**row, "verdict": verdict(low, high, MARGIN if metric == PSNR else 0.0)})
    return pd.DataFrame(rows)


def markdown(outcome: Outcome, cells: pd.DataFrame, found: pd.DataFrame) -> str:
    """The tables of the page docs/what-makes-dsg-work.md, ready to be put there."""
    suite = outcome.suite
    mixture = suite.yaml["mixture"]
    text = (
        "# What makes DSG work: the shares of its parts\n\n"
        f"Written by `python scripts/reproduce.py --suite {suite.name}`, on the first {suite.images} test images of "
        f"{', '.join(suite.models)}. {outcome_of(suite.yaml['tuning'])} On mixtures: the value with the least distance "
        f"of {mixture['tuning']['trials']} trials on {mixture['tuning']['observations']} observations, reported on "
        f"{mixture['report']['observations']} others.\n\n"
        "A share is what switching a factor changes, averaged over all orders in which the factors of its path can be "
        "switched, the last step first; the shares of a path add up to the whole. low and high are 95 % "
        "intervals over images or observations, of values as they were chosen. More PSNR is better, less distance (in "
        f'standard deviations of the posterior) is better; "no difference" is said within {MARGIN:g} dB.\n'
    )
    for path in paths(suite):
        part = found[found["path"] == path.name] if len(found) else found
        if len(part):
            text += f"\n## {path.name}\n\n{words(path)}\n\n{shares_as_markdown(part)}\n"
    return text + f"\n## Every cell\n\n{cells_as_markdown(cells)}\n"


def words(path: Path) -> str:
    same = [f"{f}: {getattr(path.start, f)}" for f in vars(path.start) if f not in path.factors]
    changes = [f"{f}: {getattr(path.start, f)} -> {getattr(path.end, f)}" for f in path.factors]
    return f"{'; '.join(changes)}. The same in all: {'; '.join(same)}."


def shares_as_markdown(part: pd.DataFrame) -> str:
    shown = part[["metric", "task", "steps", "factor"]].copy()
    shown["factor"] = shown["factor"].map(lambda name: TITLES.get(name, f"**{name}**"))
    for name in ("share", "low", "high"):
        shown[name] = part[name].map("{:+.3f}".format)
    return as_markdown(shown.assign(images=part["images"], verdict=part["verdict"]))


def cells_as_markdown(cells: pd.DataFrame) -> str:
    return as_markdown(
        cells.assign(**{name: cells[name].map(lambda v: number(v, 3)) for name in ("mean", "low", "high")})
    )


def figure(found: pd.DataFrame, outcome: Outcome) -> list[str]:
    """shares.png: a row per path and number of steps, a panel per metric; bars of the shares, factor by factor."""
    names = [path.name for path in paths(outcome.suite) if len(path.factors) > 1 and path.name in set(found["path"])]
    rows = [(name, steps) for name in names for steps in dict.fromkeys(found["steps"])]
    metrics = list(dict.fromkeys(found["metric"]))
    if not names:
        return []
    fig, axes = plt.subplots(len(rows), len(metrics), figsize=(WIDTH, 2.6 * len(rows)), squeeze=False)
    for row, (name, steps) in zip(axes, rows):
        for ax, metric in zip(row, metrics):
            bars(ax, found[(found["path"] == name) & (found["metric"] == metric) & (found["steps"] == steps)])
            ax.set_xlabel(f"share: {metric}, {'more' if metric == PSNR else 'less'} is better")
            ax.set_title(f"{name}, {steps} steps", fontsize=9, loc="left")
    return save(fig, outcome.out / "shares.png")


def bars(ax, part: pd.DataFrame) -> None:
    """A group of bars per factor, one per task."""
    tasks, factors = list(dict.fromkeys(part["task"])), list(dict.fromkeys(part["factor"]))
    height = 0.8 / max(len(tasks), 1)
    for k, task in enumerate(tasks):
        rows = part[part["task"] == task].set_index("factor").loc[factors]
        y = np.arange(len(factors)) + (k - (len(tasks) - 1) / 2) * height
        around = np.abs(rows[["low", "high"]].sub(rows["share"], axis=0)).T
        ax.barh(y, rows["share"], height, xerr=around, capsize=2, color=f"C{k}", label=task.replace("_", " "))
    ax.axvline(0, color="k", linewidth=0.8)
    ax.set_yticks(range(len(factors)), [TITLES.get(factor, factor) for factor in factors])
    ax.invert_yaxis()
    ax.legend(fontsize=7.5)
