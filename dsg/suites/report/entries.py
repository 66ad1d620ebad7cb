"""The folders of finished runs as plain data, for the page, the tables and the W&B report.

Everything is read from `config.yaml`, `metrics.json` and `per_image.csv`; no object that they name is built.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from dsg.files import first_line
from dsg.runs.evaluation import find_runs
from dsg.runs.results import OWNER, SUMMARY
from dsg.runs.summary import NOT_METRICS, means_of_sets, options_of
from dsg.samplers import Cost
from dsg.suites.frame import COLUMNS
from dsg.suites.methods import Method
from dsg.types import Column

TABLE = "per_image.csv"


@dataclass
class Entry:
    """A row of the report: a run, or images of a suite that no sampler made.

    Attributes:
        folder: of its files; `path` is how the page calls it.
        method: `is_run` is false where no sampler made the images.
        steps: 0 where there are none.
        summary: `metrics.json`.
        options: what sets it apart from the other runs of its task, by short name.
        images: the rows of its table, in the order of their ids.
        group: of W&B.
    """

    folder: Path
    path: str
    model: str
    task: str
    method: Method
    steps: int
    summary: dict
    images: list[dict] = field(default_factory=list)
    columns: dict[str, Column] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    samples: int = 1
    group: str | None = None
    is_run: bool = True

    @property
    def label(self) -> str:
        """The method, and what sets this run of it apart."""
        return ", ".join([self.method.label, *(f"{name} {short(value)}" for name, value in self.options.items())])

    @property
    def metrics(self) -> dict[str, dict]:
        """Name -> mean, low, high; few metrics of the whole set have an interval."""
        return {**self.summary["metrics"], **means_of_sets(self.summary)}

    @property
    def compute(self) -> float | None:
        """The cost of an image, in forward passes."""
        forward, backward = self.summary["network_evaluations"], self.summary["backward_passes"]
        return None if forward is None else Cost(forward, backward or 0).compute

    @property
    def command(self) -> str | None:
        """As typed into a shell; None where it is not known."""
        overrides = self.summary.get("overrides")
        if overrides is None:
            return None
        folders = [text for folder in self.summary.get("config_dirs") or () for text in ("--config-dir", folder)]
        return shlex.join(["python", "run.py", *folders, *(f"{k}={word(v)}" for k, v in overrides.items())])


def word(value: object) -> str:
    """As dsg/cli.py reads it: a text stands as it is."""
    if isinstance(value, list):
        return "[" + ",".join(map(word, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_entries(folders: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """The runs at and below `folders`, with the baselines in folders next to them, and a line for each that cannot be
    shown.

    Raises:
        ValueError: there is no finished run.
    """
    runs, skipped = [], []
    for out in find_runs(folders):
        try:
            runs.append(read_run(out, name_of(out, folders)))
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            skipped.append(f"{name_of(out, folders)}: {first_line(error)}")
    if not runs:
        raise ValueError(f"{skipped[0]} (no run is finished)")
    tell_apart(runs)
    order = {task: k for k, task in enumerate(dict.fromkeys((e.model, e.task) for e in runs))}
    rank = {name: k for k, name in enumerate(method_order(runs))}
    entries = [*references(runs, folders), *runs]
    return sorted(entries, key=lambda e: (order[e.model, e.task], e.steps, rank.get(e.method.name, -1))), skipped


def method_order(entries: Sequence[Entry]) -> list[str]:
    """Names of methods: unguided ones, then each base method with those that are compared with it."""
    methods = {entry.method.name: entry.method for entry in entries}

    def key(method: Method) -> tuple:
        return (
            method.guided,
            method.base_method or method.name,
            method.base_method is not None,
            method.control is not None,
        )

    return [method.name for method in sorted(methods.values(), key=key)]


def read_run(out: Path, path: str) -> Entry:
    """Raises ValueError, OSError, KeyError: it is not finished, or its files are damaged."""
    config = read_config(out)
    if not (out / SUMMARY).exists():
        raise ValueError(f"not finished: no {SUMMARY}")
    summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    ids, sampler = set(summary["image_ids"]), config["sampler"]
    known = {"base_method": sampler.get("base_method"), **(summary.get("method") or {})}
    return Entry(
        out, path, config["model"]["name"], config["task"]["name"], Method(sampler["name"], **known),
        sampler.get("steps", 0), summary, [row for row in rows_of(out) if row["id"] in ids], columns_of(summary),
        options_of(summary.get("overrides") or {}), config["samples"],
        (config.get("wandb") or {}).get("group"),
    )  # fmt: skip


def read_config(out: Path) -> dict:
    """Raises ValueError: it is no config of a run."""
    try:
        config = yaml.safe_load((out / OWNER).read_text(encoding="utf-8"))
        if all("name" in config[part] for part in ("model", "task", "sampler")) and "samples" in config:
            return config
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{OWNER} is damaged: it is no config of a run")


def columns_of(summary: Mapping) -> dict[str, Column]:
    """How its metrics are shown; by their names alone where the run does not say."""
    known = summary.get("columns") or {}
    names = {**summary["metrics"], **summary["set_metrics"]}
    return {name: Column(**known[name]) if name in known else Column(name, name) for name in names}


def tell_apart(entries: Sequence[Entry]) -> None:
    """Keep of the options those that differ between the runs of a task. Let the labels of runs that would have the same
    one say how many images and samples they have, or where they are: a table has one row of a label.
    """
    for same in grouped(entries, lambda e: (e.model, e.task)):
        chosen = [{f"{k}={v}" for k, v in e.options.items()} for e in same]
        common = set.intersection(*chosen) if len(same) > 1 else set()
        for entry in same:
            entry.options = {k: v for k, v in entry.options.items() if f"{k}={v}" not in common}
    telling = (lambda e: {"images": e.summary["images"], "samples": e.samples}, lambda e: {"folder": e.path})
    for more in telling:
        for same in grouped(entries, lambda e: (e.model, e.task, e.steps, e.label)):
            for entry in same if len(same) > 1 else ():
                entry.options |= more(entry)


def grouped(entries: Sequence[Entry], key) -> list[list[Entry]]:
    found: dict[tuple, list[Entry]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return list(found.values())


def references(runs: Sequence[Entry], folders: Sequence[Path]) -> list[Entry]:
    """Folders next to the runs of a suite with metrics and no config: the baseline without a prior, real images."""
    found = []
    for like in {entry.folder.parent: entry for entry in reversed(runs)}.values():
        inside = any(like.folder.parent.resolve().is_relative_to(folder.resolve()) for folder in folders)
        for file in sorted(like.folder.parent.glob(f"*/{SUMMARY}")) if inside else ():
            out = file.parent
            if not (out / OWNER).exists():
                summary = json.loads(file.read_text(encoding="utf-8"))
                method = Method(out.name, **summary["method"])
                found.append(Entry(out, name_of(out, folders), like.model, like.task, method, 0, summary, rows_of(out),
                                   like.columns, is_run=False))  # fmt: skip
    return found


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


def frame_of(entries: Sequence[Entry]) -> pd.DataFrame:
    """The entries as a frame (`dsg.suites.frame`) of equal steps. Numbers of steps that one method alone has are its
    own. Of each method, task and number of steps there is the run without options of its own, if there is one, else
    all."""
    usual = {(e.model, e.task, e.method.name, e.steps) for e in entries if not e.options}
    shown = [e for e in entries if not e.options or (e.model, e.task, e.method.name, e.steps) not in usual]
    several = len({entry.model for entry in entries}) > 1
    counts = pd.Series({(e.steps, e.method.name): 1 for e in shown if e.is_run}).groupby(level=0).size()
    rows = []
    for e in shown:
        equal = not e.is_run or counts[e.steps] > 1 or len(counts) == 1
        view, level = ("steps", e.steps) if equal else ("own", 0)
        value = ", ".join(f"{name}={short(v)}" for name, v in e.options.items())
        row = {"suite": e.model, "view": view, "task": f"{e.model}/{e.task}" if several else e.task, "level": level}
        row |= {"method": e.method.name, "steps": e.steps, "value": value}
        for name, one in e.metrics.items():
            if one["mean"] is not None:
                rows.append({**row, "metric": name, **one, "n": e.summary["images"]})
    return pd.DataFrame(rows, columns=COLUMNS)
