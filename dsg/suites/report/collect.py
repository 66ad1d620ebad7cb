"""What the folders of finished runs say, as plain data for the page and the tables."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from dsg.files import first_line
from dsg.layers import files, read
from dsg.runs.evaluation import find_runs
from dsg.runs.prepare import build
from dsg.runs.results import OWNER, SUMMARY
from dsg.runs.saved import literal, read_saved
from dsg.runs.summary import NOT_METRICS, PER_IMAGE, means, means_of_sets
from dsg.samplers import Cost
from dsg.suites.collect import DIVERSITY
from dsg.suites.methods import COLORS, Method, method_named
from dsg.suites.methods import color as color_of
from dsg.suites.report.command import command, overrides, variant
from dsg.suites.report.expected import Published, published
from dsg.types import Column
from tasks.inverse import LinearInverseProblem

TABLE = "per_image.csv"


@dataclass
class Entry:
    """A row of the report: a run, or images of a suite that no sampler made.

    Attributes:
        folder: of its files; `path` is how the page calls it.
        method: what its row is called; `family` gives it its colour; `spherical`: whether it is one with DSG.
        steps: 0 where there are none.
        summary: `metrics.json`, or the same made from its table.
        sampler, base_method, group: names, as in its config; None where no sampler made it.
        options: what sets it apart from the method's values in configs/, by short name.
        images: the rows of its table, in the order of their ids.
        published: figures of others by the same protocol, by metric.
    """

    folder: Path
    path: str
    model: str
    task: str
    method: str
    family: str
    spherical: bool
    steps: int
    summary: dict
    images: list[dict]
    columns: dict[str, Column]
    command: str | None = None
    base_method: str | None = None
    sampler: str | None = None
    group: str | None = None
    options: dict[str, object] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)
    samples: int = 1

    @property
    def label(self) -> str:
        """The method, and what sets this run of it apart."""
        return ", ".join([self.method, *(f"{name} {short(value)}" for name, value in self.options.items())])

    @property
    def metrics(self) -> dict[str, dict]:
        """Name -> mean, low, high; few metrics of the whole set have an interval."""
        return {**self.summary["metrics"], **means_of_sets(self.summary)}

    @property
    def compute(self) -> float | None:
        """Of an image, in forward passes."""
        forward, backward = self.summary["network_evaluations"], self.summary["backward_passes"]
        return None if forward is None else Cost(forward, backward or 0).compute


def collect(folders: Sequence[Path], config_dirs: Sequence[str] = ()) -> tuple[list[Entry], list[str]]:
    """The runs at and below `folders`, with the baselines beside them, and a line for each that cannot be shown.

    Raises:
        ValueError: there is no finished run.
    """
    entries, skipped, runs = [], [], find_runs(folders)
    for out in runs:
        try:
            entries.append(read_run(out, name_of(out, folders), config_dirs))
        except (ValueError, OSError, KeyError, TypeError) as error:
            skipped.append(f"{name_of(out, folders)}: {first_line(error)}")
    if not entries:
        raise ValueError(f"{skipped[0]} (no run is finished)")
    tell_apart(entries)
    entries = [*beside(entries, folders, config_dirs), *entries]
    order = {task: k for k, task in enumerate(dict.fromkeys((e.model, e.task) for e in entries if e.sampler))}
    rank = {family: k for k, family in enumerate(COLORS)}
    return sorted(
        entries, key=lambda e: (order[e.model, e.task], e.steps, rank.get(e.family, len(rank)), e.spherical)
    ), skipped


def read_run(out: Path, path: str, config_dirs: Sequence[str] = ()) -> Entry:
    """Raises ValueError, OSError: it is not finished, or its files are damaged."""
    text = (out / OWNER).read_text(encoding="utf-8")
    config, _ = read_saved(out, config_dirs)
    if not (out / SUMMARY).exists():
        raise ValueError(f"not finished: no {SUMMARY}")
    summary, method = json.loads((out / SUMMARY).read_text(encoding="utf-8")), method_of(config["sampler"])
    names = {**summary["metrics"], **summary["set_metrics"]}
    ids = set(summary["image_ids"])
    options = variant(overrides(text, config_dirs))
    return Entry(
        out, path, config["model"]["name"], config["task"]["name"], method.label, method.family, method.spherical,
        config["sampler"].get("steps", 0), summary, [row for row in rows_of(out) if row["id"] in ids],
        columns_of(config, names, config_dirs), command(text, config_dirs), method.base_method, method.name,
        config.get("wandb", {}).get("group"),
        {name.removeprefix("sampler."): value for name, value in options.items()},
        published(config, summary["network_evaluations"]), config["samples"],
    )  # fmt: skip


def tell_apart(entries: Sequence[Entry]) -> None:
    """Let the labels of runs that would have the same one say how many images and samples they have, or where they are.

    A table has one row of a label.
    """
    telling = (lambda e: {"images": e.summary["images"], "samples": e.samples}, lambda e: {"folder": e.path})
    for more in telling:
        alike: dict[tuple, list[Entry]] = {}
        for entry in entries:
            alike.setdefault((entry.model, entry.task, entry.steps, entry.label), []).append(entry)
        for entry in (entry for same in alike.values() if len(same) > 1 for entry in same):
            entry.options |= more(entry)


def beside(entries: Sequence[Entry], folders: Sequence[Path], config_dirs: Sequence[str] = ()) -> list[Entry]:
    """Folders beside the runs of a suite that hold a table and no config: the baseline without a prior, real images."""
    found = []
    for like in {entry.folder.parent: entry for entry in reversed(entries)}.values():
        inside = any(like.folder.parent.resolve().is_relative_to(folder.resolve()) for folder in folders)
        for file in sorted(like.folder.parent.glob(f"*/{TABLE}")) if inside else ():
            if not (file.parent / OWNER).exists():
                found.append(reference(file.parent, name_of(file.parent, folders), like, config_dirs))
    return found


def reference(out: Path, path: str, like: Entry, config_dirs: Sequence[str] = ()) -> Entry:
    rows = rows_of(out)
    table = pd.DataFrame(rows)
    mean = {name: float(table[name].mean()) if name in table else None for name in PER_IMAGE.values()}
    summary = {
        "images": len(rows), "metrics": means(table), "set_metrics": {}, "versions": {}, "failures": [],
        **{name: mean[column] for name, column in PER_IMAGE.items()},
    }  # fmt: skip
    built = _built(read_saved(like.folder, config_dirs)[0]["task"])
    restored = built.baseline_title if isinstance(built, LinearInverseProblem) else out.name
    title = "real images" if out.name == "real" else restored
    return Entry(out, path, like.model, like.task, title, title, False, 0, summary, rows, like.columns)


def rows_of(out: Path) -> list[dict]:
    """The rows of its table, None where there is no number; none if there is no table."""
    if not (out / TABLE).exists():
        return []
    text = {"id": str, "image": str, "input": str, "prompt": str}
    table = pd.read_csv(out / TABLE, dtype=text, keep_default_na=False, na_values=[""], float_precision="round_trip")
    if "id" not in table:
        table = table.assign(id=table["image"])
    return table.astype(object).where(table.notna(), None).sort_values("id").to_dict("records")


def numbers(row: Mapping) -> dict[str, float]:
    """The finite metrics of one image: JSON has no others (PSNR of an exact copy)."""
    found = {k: v for k, v in row.items() if k not in NOT_METRICS and isinstance(v, (int, float)) and math.isfinite(v)}
    return {k: float(f"{v:.6g}") for k, v in found.items()}


def name_of(out: Path, folders: Sequence[Path]) -> str:
    """Its path within the folder that was asked for, which itself goes by its name."""
    for folder in folders:
        if out.resolve().is_relative_to(folder.resolve()):
            inside = out.resolve().relative_to(folder.resolve()).as_posix()
            return folder.resolve().name if inside == "." else inside.removeprefix("runs/")
    return out.as_posix()


def method_of(sampler: Mapping) -> Method:
    """Of a sampler's config."""
    label = sampler.get("label") or method_named(sampler["name"]).label  # a run of before has none
    return Method(sampler["name"], sampler.get("base_method"), sampler.get("spherical") is True, label=label)


def columns_of(config: Mapping, names: Iterable[str], config_dirs: Sequence[str] = ()) -> dict[str, Column]:
    """How the metrics of these names are shown; a metric of one's own has its YAML in `config_dirs`."""
    task = _built(config["task"])
    known = {} if task is None else {column.name: column for column in task.columns}
    known[DIVERSITY.name] = DIVERSITY
    configs = {name: read("metric", name, config_dirs) for name in files("metric", config_dirs)} | config["metrics"]
    wanted = [name for name in names if name not in known and name in configs]
    for metric in (_built(configs[name]) for name in wanted):
        if metric is not None:
            known[metric.name] = metric.column
    return {name: known.get(name, Column(name, name)) for name in names}


def color(family: str) -> str:
    """The method's colour in figures, as CSS has it."""
    from matplotlib.colors import to_hex

    return to_hex(color_of(family))


def short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _built(config: Mapping):
    return _build(json.dumps(config))


@cache
def _build(config: str):
    """The object, without its networks, of what `read_saved` lets pass; None if its code or files are not here."""
    try:
        return build(OmegaConf.create(literal(json.loads(config))))
    except Exception:  # whatever the constructor of somebody's class raises
        return None
