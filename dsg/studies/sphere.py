"""The suite `sphere`: what a step off the sphere costs, which rates the constraint allows, radius and rate together.

A step of DSG has the length of one radius, sqrt(n) sigma; `sampler.radius` multiplies it. The additive step of rho
radii is nearly orthogonal to the noise, so that it ends at sqrt(1 + rho^2) radii. It turns the noise by the angle of
DSG at rate g where rho = g/(1 - g).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dsg.files import resolve, write_text
from dsg.statistics import by_image, mean_interval, paired
from dsg.suites.figures import WIDTH, plt, save
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome
from dsg.suites.tables import markdown, number, write_csv

METRICS = ("psnr", "haarpsi")
DIGITS = {"psnr": 2, "haarpsi": 4}
WITHIN = 1.0  # dB: rates are good that are so near the best
RUN = ["task", "method", "steps"]


def write(outcome: Outcome, trials: str) -> list[str]:
    """table.md, four CSVs of it: radius, angle, rates, together; and images.csv, the scores of every image.

    Args:
        trials: table of the trials from which the range of good rates is read, `results/tuning-fine/avatars64.csv`.
    """
    scores = load(outcome)
    tables = {
        "radius": against_one(scores[scores["part"].isin(["radius", "few_steps", "bases", "more_steps"])]),
        "angle": same_angle(scores),
        "rates": good_rates(trials, [job.method for job in outcome.jobs], outcome.suite.tasks, outcome.suite.steps),
        "together": together(scores),
    }
    abouts = {
        "radius": "DSG at radius c minus DSG at radius 1, the rate as tuned for 1",
        "angle": "DSG at rate g minus the additive step of the same angle; radius: median over steps, mean over images",
        "rates": f"Step sizes or rates within {WITHIN:g} dB of the best, from the trials on validation faces",
        "together": "Radius and rate chosen together minus the rate at radius 1, on test faces",
    }  # fmt: skip
    write_csv(outcome.out / "images.csv", scores)
    text, written = "", ["images.csv"]
    for name, table in tables.items():
        if len(table):
            write_csv(outcome.out / f"{name}.csv", table)
            text += f"## {name.capitalize()}\n\n{abouts[name]}.\n\n{markdown(shown(table), list(table.columns[3:]))}\n"
            written.append(f"{name}.csv")
    write_text(outcome.out / "table.md", text)
    return [*written, "table.md"]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of numbers as texts."""
    digits = table["metric"].map(DIGITS) if "metric" in table else pd.Series(2, table.index)
    signed = {"difference", "low", "high"} if "difference" in table else set()
    texts = {}
    for name, column in table.items():
        if pd.api.types.is_float_dtype(column):
            found = [number(v, d, "+" if name in signed else "") for v, d in zip(column, digits)]
            texts[name] = found if name in ("dsg", "additive", *signed) else [f"{value:.3g}" for value in column]
        else:
            texts[name] = column
    return pd.DataFrame(texts)


def load(outcome: Outcome) -> pd.DataFrame:
    """A row per run and image: part, task, method, steps, control, c, g (rate or step size), scores."""
    tables = []
    for job in outcome.jobs:
        if isinstance(job, ImageJob) and "images" in (found := job.tables()):
            sampler, table = job.config.sampler, found["images"]
            about = {"part": job.part, "task": job.task, "method": job.sampler, "steps": job.steps}
            about |= {"control": job.method.control, "c": float(sampler.radius), "g": job.chosen_value}
            tables.append(table[["image", "radius", *METRICS]].assign(**about))
    return pd.concat(tables, ignore_index=True)


def against_one(scores: pd.DataFrame) -> pd.DataFrame:
    """Differences to radius 1, image by image; the last rows of a method are means over its tasks."""
    rows = []
    for (method, steps), runs in scores.groupby(["method", "steps"], sort=False):
        for metric in METRICS:
            changes = {
                (task, c): by_image(one, metric) - by_image(of_task[of_task["c"] == 1], metric)
                for task, of_task in runs.groupby("task", sort=False)
                for c, one in of_task.groupby("c")
                if c != 1
            }
            for c in sorted({c for _, c in changes}):
                each = {task: change.dropna() for (task, value), change in changes.items() if value == c}
                each |= {f"mean of {len(each)}": sum(each.values()) / len(each)} if len(each) > 1 else {}
                for task, change in each.items():
                    about = {"task": task, "method": method, "steps": steps, "radius": c, "metric": metric}
                    rows.append({**about, **interval_of(change)})
    return pd.DataFrame(rows).sort_values(["method", "steps", "metric", "task"], kind="stable", ignore_index=True)


def interval_of(change: pd.Series) -> dict:
    change = change.dropna()
    mean, low, high = mean_interval(change.to_numpy())
    return {"difference": mean, "low": low, "high": high, "n": len(change)}


def same_angle(scores: pd.DataFrame) -> pd.DataFrame:
    """DSG and the additive step at the same g, image by image."""
    ours, rows = scores[scores["part"].isin(["rate", "rate_bases"])], []
    controls = scores[scores["part"].isin(["additive", "additive_bases"])]
    for (task, method, steps, g), one in ours.groupby([*RUN, "g"], sort=False):
        same = (
            (controls["method"] == one["control"].iloc[0]) & (controls["task"] == task) & (controls["steps"] == steps)
        )
        other = controls[same & np.isclose(controls["g"], g / (1 - g), rtol=1e-3)]
        if other.empty:
            continue
        for metric in METRICS:
            a, b = by_image(one, metric), by_image(other, metric)
            about = {"task": task, "method": method, "steps": steps, "g": g, "control_radius": other["radius"].mean()}
            found = paired(a, b)._asdict()
            found = {name: found[name] for name in ("difference", "low", "high", "images")}
            rows.append({**about, "metric": metric, "dsg": a.mean(), "additive": b.mean(), **found})
    return pd.DataFrame(rows)


def good_rates(trials: str, methods, tasks: Sequence[str], steps: Sequence[int]) -> pd.DataFrame:
    """The range of values around the best trial within `WITHIN` dB of it, interpolated in log(value).

    Bounds are NaN where the trials do not reach so far; `factor` is then a lower bound.
    """
    table, rows = pd.read_csv(resolve(trials)), []
    names = [name for method in dict.fromkeys(methods) for name in (method.base_method, method.control, method.name)]
    table = table[table["steps"].isin(steps) & table["task"].isin(tasks) & table["sampler"].isin(filter(None, names))]
    for (task, method, count), group in table.groupby(["task", "sampler", "steps"]):
        group = group.sort_values("value")
        x, y = np.log(group["value"].to_numpy()), group["psnr"].to_numpy() - group["psnr"].max() + WITHIN
        best = int(y.argmax())
        low, high = crossing(x[best::-1], y[best::-1]), crossing(x[best:], y[best:])
        least, most = np.exp(x[0] if np.isnan(low) else low), np.exp(x[-1] if np.isnan(high) else high)
        rows.append({"task": task, "method": method, "steps": count, "best": np.exp(x[best]), "low": np.exp(low),
                     "high": np.exp(high), "factor": most / least})  # fmt: skip
    return pd.DataFrame(rows)


def crossing(x: np.ndarray, y: np.ndarray) -> float:
    """Where y, above 0 at first, first falls to 0; NaN if it does not."""
    below = np.flatnonzero(y < 0)
    if not len(below):
        return np.nan
    k = below[0]
    return float(x[k - 1] + (x[k] - x[k - 1]) * y[k - 1] / (y[k - 1] - y[k]))


def together(scores: pd.DataFrame) -> pd.DataFrame:
    """On test faces: the best (radius, rate) of the validation faces minus the best rate at radius 1."""
    rows = []
    for (task, method, steps), tried in scores[scores["part"] == "tried"].groupby(RUN, sort=False):
        test = scores[(scores["part"] == "chosen") & (scores["task"] == task) & (scores["method"] == method)]
        means = tried.groupby(["c", "g"])["psnr"].mean()
        best, usual = means.idxmax(), (1.0, means[1.0].idxmax())
        at = {point: test[(test["c"] == point[0]) & (test["g"] == point[1])] for point in (best, usual)}
        if any(one.empty for one in at.values()):
            continue
        for metric in METRICS:
            about = {"task": task, "method": method, "steps": steps, "radius": best[0], "rate": best[1]}
            found = interval_of(by_image(at[best], metric) - by_image(at[usual], metric))
            rows.append({**about, "rate_at_1": usual[1], "metric": metric, **found})
    return pd.DataFrame(rows)


# --- figures


def against_radius(outcome: Outcome) -> list[str]:
    """radius.png: PSNR against the radius, minus that at radius 1: by task, by number of steps, by base method."""
    table = against_one(load(outcome).pipe(lambda t: t[t["part"].isin(["radius", "few_steps", "bases", "more_steps"])]))
    table = table[table["metric"] == "psnr"]
    usual = (table["method"] == "mpgd_dsg") & (table["steps"] == outcome.suite.steps[0])
    means = table["task"].str.startswith("mean") | (len(outcome.suite.tasks) == 1)
    panels = {
        f"MPGD + DSG, {outcome.suite.steps[0]} steps": (table[usual & ~table["task"].str.startswith("mean")], "task"),
        "MPGD + DSG, mean of the tasks": (table[means & (table["method"] == "mpgd_dsg")], "steps"),
        f"mean of the tasks, {outcome.suite.steps[0]} steps": (
            table[means & (table["steps"] == outcome.suite.steps[0])], "method",
        ),
    }  # fmt: skip
    panels = {title: (part, by) for title, (part, by) in panels.items() if part[by].nunique() > 1 or by == "task"}
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    labels = {job.method.name: job.method.label for job in outcome.jobs}
    for ax, (title, (part, curve)) in zip(axes[0], panels.items()):
        for name, points in part.groupby(curve, sort=False):
            one = {"radius": 1.0, "difference": 0.0, "low": 0.0, "high": 0.0}
            points = pd.concat([points, pd.DataFrame([one])]).sort_values("radius")
            points = points[points["radius"] <= 1.2]
            text = f"{name} steps" if curve == "steps" else labels.get(name, str(name).replace("_", " "))
            (line,) = ax.plot(points["radius"], points["difference"], marker="o", markersize=3, label=text)
            ax.fill_between(points["radius"], points["low"], points["high"], alpha=0.12, color=line.get_color())
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        ax.set(xlabel="radius c", title=title)
        ax.legend(loc="lower left", frameon=False)
    axes[0, 0].set_ylabel("PSNR minus that at c = 1 [dB]")
    return save(fig, outcome.out / "radius.png")


def against_angle(outcome: Outcome) -> list[str]:
    """angle.png: MPGD + DSG and the additive step of the same angle, PSNR above, the measured radius below."""
    table = same_angle(load(outcome))
    table = table[(table["metric"] == "psnr") & (table["method"] == "mpgd_dsg")] if len(table) else table
    if table.empty:
        return []
    tasks = list(dict.fromkeys(table["task"]))
    fig, axes = plt.subplots(
        2, len(tasks), figsize=(WIDTH, 4.2), sharex=True, squeeze=False, height_ratios=[2, 1], sharey="row"
    )
    for column, task in zip(axes.T, tasks):
        part = table[table["task"] == task].sort_values("g")
        for name, radius, label in (("dsg", np.ones(len(part)), "DSG"), ("additive", part["control_radius"], "added")):
            column[0].plot(part["g"], part[name], marker="o", markersize=3, label=label)
            column[1].plot(part["g"], radius, marker="o", markersize=3, label=label)
        column[0].set_title(task.replace("_", " "))
        column[1].set(xlabel="rate g", ylim=(0.9, 2.1))
    axes[0, 0].set_ylabel("PSNR [dB]")
    axes[1, 0].set_ylabel("radius")
    axes[0, 0].legend(loc="lower left", frameon=False)
    return save(fig, outcome.out / "angle.png")
