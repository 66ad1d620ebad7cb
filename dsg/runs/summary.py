"""What a run comes to: `per_image.csv`, and `metrics.json` with means, intervals, versions and failures."""

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.runs.results import SUMMARY, Results
from dsg.statistics import INTERVAL, mean_interval
from dsg.types import Column

DIVERSITY = Column("diversity", "diversity", 3)
MADE_WITH = ("code", "torch", "device")
OF_THE_BATCH = ["batch_size", "peak_memory"]  # in the parts; of the images they say nothing
NOT_METRICS = {
    "id", "image", "sample", "input", "prompt", "seconds", "network_evaluations", "backward_passes", "radius",
    *OF_THE_BATCH,
    *MADE_WITH,
}  # fmt: skip


def write_summary(run) -> None:
    """Both files, over the images that this run asks for; files that would not change are left alone.

    Another process may add records between the reading and the writing: then they are written anew, or the older
    table would stay if that process wrote first.
    """
    count = None
    while count != (count := len(run.results.records())):
        _write_summary(run)


def _write_summary(run) -> None:
    table = run.results.table()
    if len(table):
        columns = table.drop(columns=OF_THE_BATCH, errors="ignore")
        write_text(run.results.out / "per_image.csv", columns.to_csv(index=False, float_format="%.6g"))
        table = table.loc[table.index.intersection([item.name for item in run.items])]
    if run.samples > 1 and len(table):
        table = table.assign(**{DIVERSITY.name: diversity(run.results, table)})
    summary = {
        "images": int(table["image"].nunique()) if len(table) else 0,
        "metrics": means(table),
        "set_metrics": set_metrics(run, table),
        **{name: _mean(table, key) for name, key in PER_IMAGE.items()},
        "radius": _number(table["radius"].median()) if "radius" in table else None,
        "speed": speed(table),
        "failures": failures(run),
        "interval": INTERVAL,
        **about(run),
        "image_ids": list(table.index),
        "versions": {k: sorted(table[k].unique()) for k in MADE_WITH} if len(table) else {},
    }
    write_text(run.results.out / SUMMARY, json.dumps(summary, indent=1) + "\n")


def about(run) -> dict:
    """What a report says of a run besides its numbers, so that it need not build one of its objects."""
    before = run.results.summary()
    kept = before.get("columns") if isinstance(before.get("columns"), dict) else {}
    columns = [*run.task.columns, *(metric.column for metric in run.metrics), DIVERSITY]
    found = {"columns": {**kept, **{column.name: asdict(column) for column in columns}}}
    found |= {name: before.get(name) for name in ("method", "overrides", "config_dirs")}
    if run.sources is not None:
        found |= {"overrides": run.sources.overrides, "config_dirs": run.sources.config_dirs}
    if run.sampler is not None:  # evaluate.py has none
        names = ("label", "base_method", "control", "guided")
        found["method"] = {name: getattr(run.sampler, name) for name in names}
    return found


# overrides that have places of their own in names and tables, and those that change no image
SHOWN = ("model", "task", "sampler", "sampler.steps", "data.limit", "samples", "metrics")
ASIDE = ("batch_size", "device", "out", "wandb", "save_film", "average")


def run_name(model: str, task: str, sampler: str, steps: int, overrides: Mapping[str, object]) -> str:
    """The name of a run among others: avatars64/inpaint/dps_dsg/100 guidance_rate=0.5."""
    return " ".join([f"{model}/{task}/{sampler}/{steps}", *(f"{k}={v}" for k, v in options_of(overrides).items())])


def options_of(overrides: Mapping[str, object]) -> dict[str, object]:
    """What the user chose besides model, task, sampler and steps, by short name."""
    own = {k: v for k, v in overrides.items() if k not in SHOWN and k.split(".")[0] not in ASIDE}
    return {name.removeprefix("sampler."): value for name, value in own.items()}


PER_IMAGE = {
    "seconds_per_image": "seconds", "network_evaluations": "network_evaluations", "backward_passes": "backward_passes"
}  # fmt: skip


def means_of_sets(summary: Mapping) -> dict[str, dict]:
    """Metrics of the whole set like those of single images: mean, low and high, where a metric has such an interval."""
    found = summary["set_metrics"].items()
    return {name: {"mean": one["value"], "low": one.get("low"), "high": one.get("high")} for name, one in found}


def failures(run) -> list[dict]:
    """The images of this run that failed, on all shards, and where in the sampling."""
    asked = {item.name for item in run.items}
    found = [record for record in run.results.failures() if record["failed"] in asked]
    return [{"id": r["failed"], "step_index": r["step_index"], "t": r["t"]} for r in found]


def speed(table: pd.DataFrame) -> dict[str, float | int | None]:
    """What one process did, of the time that it sampled, and how much memory it took at most.

    peak_memory_gib is of tensors on a GPU; on a CPU it is of the whole process. A network evaluation is a forward pass
    of one image; backward passes are not counted, but take their time.
    """
    seconds = table["seconds"].sum() if len(table) else 0.0
    evaluations = table["network_evaluations"].sum() if seconds else 0.0
    most = {name: table[name].max() if name in table else np.nan for name in OF_THE_BATCH}  # older runs have none
    return {
        "images_per_second": _number(len(table) / seconds) if seconds else None,
        "network_evaluations_per_second": _number(evaluations / seconds) if seconds else None,
        "peak_memory_gib": _number(most["peak_memory"]),
        "batch_size": int(most["batch_size"]) if np.isfinite(most["batch_size"]) else None,
    }


def means(table: pd.DataFrame) -> dict[str, dict]:
    """Mean and 95 % interval of every metric over images (samples of one are not independent); one image has no
    interval."""
    found = {}
    for name in [column for column in table.columns if column not in NOT_METRICS]:
        values = table.groupby("image")[name].mean().to_numpy()
        mean, low, high = mean_interval(values)
        several = np.isfinite(values).sum() > 1
        found[name] = {
            "mean": _number(mean), "low": _number(low) if several else None, "high": _number(high) if several else None
        }  # fmt: skip
    return found


def set_metrics(run, table: pd.DataFrame) -> dict[str, dict]:
    """What was computed of exactly these images, with its settings; also what scripts/evaluate.py added."""
    names = [item.name for item in run.items if item.name in table.index]
    if not names:
        return {}
    own = {metric.name: run.results.set_record(metric, names) for metric in run.metrics if metric.scope == "set"}
    of = run.results.digest_of(names)
    added = {r["set"]: r for r in run.results.records() if r.get("of") == of and r.get("set") not in (None, *own)}
    found = {name: record for name, record in {**own, **added}.items() if record is not None}
    return {name: {k: v for k, v in r.items() if k not in ("set", "of", "by")} for name, r in found.items()}


def diversity(results: Results, table: pd.DataFrame) -> pd.Series:
    """Mean distance (RMS over pixels in [-1, 1]) of each sample to the other samples of its condition; NaN for a
    single one."""
    distances = pd.Series(np.nan, index=table.index)
    for _, names in table.groupby("image").groups.items():
        if len(names) > 1:
            x = np.stack([results.image(name) for name in names]).reshape(len(names), -1) / 127.5
            between = [np.sqrt(np.square(x - one).mean(1)).sum() for one in x]  # row by row: images may be large
            distances[names] = np.array(between) / (len(names) - 1)
    return distances


def _mean(table: pd.DataFrame, column: str) -> float | None:
    return _number(table[column].mean()) if len(table) else None


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
