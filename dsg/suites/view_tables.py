"""The tables of the benchmark: two views, paired differences with an equivalence margin, what was chosen, what was
refused."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.metrics.image import COLUMNS
from dsg.runs.statistics import bootstrap, by_image
from dsg.samplers import Cost
from dsg.suites.methods import method_named
from dsg.suites.nested import RESAMPLES, interval
from dsg.suites.protocol import CHOSEN, HIGH, LOW, ReportJob, outcome_of
from dsg.suites.suite import Outcome, Suite
from dsg.suites.tables import write_csv
from dsg.suites.views import Place, is_headline, places_of
from dsg.types import Column

MARGIN = 0.1  # dB of PSNR
UNKNOWN = np.full(RESAMPLES, np.nan)
LEVELS = {"steps": "Equal steps", "compute": "Equal compute", "own": "Own number of steps"}
NOTES = {
    "steps": "Every sampler takes as many steps.",
    "compute": "Every sampler takes as many steps as fit into the budget: forward passes + 2 x backward passes per "
    "image, at most. What it took is what was counted (a sampler may stop early).",
    "own": "The number of steps of each sampler's YAML.",
}


def write(outcome: Outcome, part: str, metrics: Sequence[str], margin: float = MARGIN) -> list[str]:
    """table.md; views.csv, a row per place; paired.csv, the differences; choices.csv, what was tuned; images.csv, a row
    per test image, from which intervals can be had again.

    Args:
        part: entry of the suite's `jobs`, planned by `dsg.suites.views.jobs`.
        metrics: in the order wanted; the first one is compared with the base method.
        margin: of equivalence, in the unit of the first metric.
    """
    jobs = {job.key: job for job in outcome.of(part)}
    places = places_of(outcome.suite)
    views, compared = summary(places, jobs, metrics), differences(outcome.suite, places, jobs, metrics[0], margin)
    chosen = choices(jobs.values())
    tables = {"views": views, "paired": compared, "choices": chosen, "images": per_image(jobs.values(), metrics)}
    written = [name for name, table in tables.items() if len(table)]
    for name in written:
        write_csv(outcome.out / f"{name}.csv", tables[name])
    text = markdown(outcome.suite, views, compared, chosen, metrics, margin)
    write_text(outcome.out / "table.md", text)
    print(text)
    return ["table.md", *(f"{name}.csv" for name in written)]


def summary(places: Sequence[Place], jobs: Mapping[tuple, ReportJob], metrics: Sequence[str]) -> pd.DataFrame:
    """A row per place: means with intervals, compute as it was counted, the value; or why there is nothing."""
    rows = []
    for place in places:
        row = {
            "view": place.view,
            "task": place.task,
            "level": place.level,
            "method": place.sampler,
            "steps": place.steps,
        }
        table = images_of(jobs, place)
        if table is not None:
            row["images"] = table["image"].nunique()
            row["compute"] = Cost(table["network_evaluations"].mean(), table["backward_passes"].mean()).compute
            row["seconds"] = table["seconds"].mean()
            for name in metrics:
                if name in table:
                    row[name], row[f"{name}_low"], row[f"{name}_high"] = bootstrap(by_image(table, name).to_numpy())
        rows.append({**row, "refused": place.refused})
    return pd.DataFrame(rows)


def images_of(jobs: Mapping[tuple, ReportJob], place: Place) -> pd.DataFrame | None:
    return jobs[place.key].tables().get(CHOSEN) if place.key in jobs else None


def differences(
    suite: Suite, places: Sequence[Place], jobs: Mapping[tuple, ReportJob], metric: str, margin: float
) -> pd.DataFrame:
    """Each method minus the one that it is compared with at the same place, image by image.

    The YAML's `also` names pairs [method, compared with] beside the base methods. The columns nested_low,
    nested_high and nested_verdict, of headline rows, include the choice of both values. Last come means over the tasks
    that both do.
    """
    at = {(c.view, c.task, c.level, c.sampler): c for c in places}
    again = functools.cache(lambda place: resampled(suite, jobs, place, metric))
    rows, changes = [], {}
    for place in places:
        for base in compared_with(suite, jobs, place):
            other = at.get((place.view, place.task, place.level, base))
            a, b = images_of(jobs, place), None if other is None else images_of(jobs, other)
            if a is None or b is None:
                continue
            one, two = by_image(a, metric), by_image(b, metric)
            change = (one - two).dropna()
            with_choice = again(place) - again(other) if len(one) == len(two) == len(change) else UNKNOWN
            changes.setdefault((place.view, place.level, place.sampler, base), []).append((change, with_choice))
            row = {"view": place.view, "task": place.task, "level": place.level, "method": place.sampler, "base": base}
            rows.append(row | about_change(change, metric, margin) | nested_of(with_choice, margin))
    for (view, level, method, base), parts in changes.items():
        if len(parts) > 1:
            row = {"view": view, "task": f"mean of {len(parts)}", "level": level, "method": method, "base": base}
            change, with_choice = (sum(part) / len(parts) for part in zip(*parts))
            rows.append(row | about_change(change.dropna(), metric, margin) | nested_of(with_choice, margin))
    return pd.DataFrame(rows)


def about_change(change: pd.Series, metric: str, margin: float) -> dict:
    """Of a difference per image."""
    mean, low, high = bootstrap(change.to_numpy())
    found = {"metric": metric, "difference": mean, "low": low, "high": high, "images": len(change)}
    return found | {"higher": int((change > 0).sum()), "verdict": verdict(low, high, margin)}


def compared_with(suite: Suite, jobs: Mapping[tuple, ReportJob], place: Place) -> list[str]:
    if place.key not in jobs:
        return []
    base = jobs[place.key].report.method.base_method
    also = [other for method, other in suite.yaml.get("also", ()) if method == place.sampler]
    return ([base] if base else []) + also


def resampled(suite: Suite, jobs: Mapping[tuple, ReportJob], place: Place, metric: str) -> np.ndarray:
    """[R], as `dsg.suites.nested` has it; NaN where that was not asked for, or is not there."""
    measured = jobs[place.key].measured(metric) if is_headline(suite, place) else None
    return UNKNOWN if measured is None else measured.resampled()


def nested_of(resampled: np.ndarray, margin: float) -> dict[str, object]:
    """The interval with the choice in it, and what it says; empty where it was not asked for."""
    if np.isnan(resampled).any():
        return {}
    low, high = interval(resampled)
    return {"nested_low": low, "nested_high": high, "nested_verdict": verdict(low, high, margin)}


def verdict(low: float, high: float, margin: float) -> str:
    """What an interval of a difference says: "higher", "lower", "no difference" if it lies within the margin, and
    "open" if it says neither."""
    inside = -margin < low and high < margin
    if low > 0 or high < 0:
        return ("higher" if low > 0 else "lower") + (", within the margin" if inside else "")
    return "no difference" if inside else "open"


def choices(jobs: Sequence[ReportJob]) -> pd.DataFrame:
    """What was tuned: value, interval, how it was chosen, on how much."""
    rows = []
    for job in jobs:
        found = job.chosen()
        if found is not None:
            search = job.search
            row = {"task": job.report.task, "method": search.key[1], "steps": job.steps}
            row |= {"option": search.tunable.option, **vars(found), "criterion": search.criterion}
            rows.append({**row, "trials": len(search.tried()), "images": search.images, "seeds": search.seeds})
    return pd.DataFrame(rows)


def per_image(jobs: Iterable[ReportJob], metrics: Sequence[str]) -> pd.DataFrame:
    """A row per test image, at the chosen value and at the ends of its interval (column `at`)."""
    tables = []
    for job in jobs:
        runs = job.runs()
        for name, table in job.tables().items():
            if name in (CHOSEN, LOW, HIGH):
                about = {"task": job.report.task, "method": job.report.sampler, "steps": job.steps, "at": name}
                about["value"] = runs[name].chosen_value if job.search else None
                scores = {metric: by_image(table, metric) for metric in metrics if metric in table}
                each = pd.DataFrame(scores).rename_axis("image").reset_index()
                tables.append(pd.concat([pd.DataFrame([about] * len(each)), each], axis=1))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# --- as Markdown


def markdown(
    suite: Suite, views: pd.DataFrame, compared: pd.DataFrame, chosen: pd.DataFrame, metrics: Sequence[str],
    margin: float,
) -> str:  # fmt: skip
    text = (
        f"# Suite {suite.name}: the first {suite.images} test images of {', '.join(suite.models)}\n\n"
        f"{outcome_of(suite.yaml['tuning'])} Means with 95 % bootstrap intervals over images (low, high). "
        f'The margin of equivalence is {margin:g} {unit(metrics[0])}: "no difference" is said where the interval lies '
        'within it, "open" where it says neither that nor which is better. compute: forward passes + 2 x backward '
        "passes per image, counted.\n"
    )
    for view, rows in views.groupby("view", sort=False):
        text += f"\n## {LEVELS[view]}\n\n{NOTES[view]}\n"
        for task, part in rows.groupby("task", sort=False):
            text += f"\n### {task.replace('_', ' ')}\n\n{table_of(part, chosen, metrics, view)}\n"
    if len(compared):
        text += f"\n## Differences in {column_of(metrics[0]).title}, image by image\n\n{difference_table(compared)}\n"
    refused = views.dropna(subset="refused")[["task", "method", "refused"]].drop_duplicates()
    if len(refused):
        lines = refused.rename(columns={"refused": "why there is nothing"})
        text += f"\n## Left blank\n\n{lines.to_markdown(index=False, disable_numparse=True)}\n"
    return text


def column_of(metric: str) -> Column:
    return COLUMNS.get(metric, Column(metric, metric))


def unit(metric: str) -> str:
    return "dB" if metric == "psnr" else column_of(metric).title


def table_of(part: pd.DataFrame, chosen: pd.DataFrame, metrics: Sequence[str], view: str) -> str:
    """A row per place of one view and task, a number per cell; the best of a level in bold."""
    columns = {} if view == "own" else {{"steps": "equal steps", "compute": "budget"}[view]: part["level"]}
    columns |= {"method": part["method"].map(label)}
    columns |= {"steps": part["steps"].map(number(0)), "compute": part.get("compute", np.nan * part["level"])}
    columns["compute"] = columns["compute"].map(number(0))
    columns["value"] = [value_of(chosen, row) for row in part.itertuples()]
    for name in metrics:
        if name in part and part[name].notna().any():
            column = column_of(name)
            columns[column.title] = bold_best(part, column)
            bounds = {b: part[f"{name}_{b}"].map(number(column.digits)) for b in ("low", "high")}
            columns |= {f"{column.title}, {b}": texts for b, texts in bounds.items()}
    return pd.DataFrame(columns).to_markdown(index=False, disable_numparse=True)


def bold_best(part: pd.DataFrame, column: Column) -> list[str]:
    values = part[column.name]
    texts = values.map(number(column.digits))
    if column.larger_is_better is None:
        return texts.tolist()
    best = part.groupby("level")[column.name].transform("max" if column.larger_is_better else "min")
    return [f"**{text}**" if text and v == b else text for text, v, b in zip(texts, values, best)]


def difference_table(compared: pd.DataFrame) -> str:
    shown = compared.drop(columns="metric").rename(columns={"level": "steps or budget"})
    shown["method"], shown["base"] = shown["method"].map(label), shown["base"].map(label)
    for name in ("difference", "low", "high", "nested_low", "nested_high"):
        if name in shown:
            shown[name] = shown[name].map(lambda v: "" if pd.isna(v) else f"{v:+.2f}")
    words = {"base": "compared with"} | {
        f"nested_{name}": f"{name} with the choice" for name in ("low", "high", "verdict")
    }
    if "nested_verdict" in shown:
        shown["nested_verdict"] = shown["nested_verdict"].fillna("")
    return shown.rename(columns=words).to_markdown(index=False, disable_numparse=True)


def value_of(chosen: pd.DataFrame, row) -> str:
    if chosen.empty or pd.isna(row.steps):
        return ""
    found = chosen[(chosen["task"] == row.task) & (chosen["method"] == row.method) & (chosen["steps"] == row.steps)]
    return f"{found['value'].item():.3g}" if len(found) else ""


def label(name: str) -> str:
    """Of a sampler's name, as in figures."""
    return method_named(name).label


def number(digits: int):
    return lambda value: "" if pd.isna(value) else f"{value:.{digits}f}"
