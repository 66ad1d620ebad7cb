"""The results folder of a run: whom it belongs to, what is finished, and rows that several processes can add to.

Every process appends its rows to a file of its own in `parts/`, a JSON record per line, and never rewrites them. The
table is what all parts say together; `per_image.csv` and `metrics.json` are made from it.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image

from dsg.files import file_digest, named, place, process_name, sweep, temporary_name
from dsg.image_files import colours
from dsg.metrics.base import Metric
from dsg.options import fill, locate
from dsg.runs.records import BY, parse_curve, parse_record
from dsg.runs.saved import OWNER, read_plain
from dsg.samplers.base import unused_options

PARTS, SUMMARY = "parts", "metrics.json"
CURVES = ".curves"  # suffix of the parts that hold the loss of every step
FOLDERS = ("images", "condition", "truth", PARTS, "mean", "deviation", "film")
PRESENTATION = {"label", "control"}  # of a sampler: what tables say of it
# options that came later: where they are null, a run and a search are what they were before
LATER = {"start_t", "keep_observed", "feather"}
# of a model: where its file lies (its hash counts) and what changes no more than rounding
SPEED = {"checkpoint", "compile", "channels_last", "cpu_batch", "use_checkpoint"}


def identity(config: Mapping, prior_hash: str, task_hash: str | None) -> dict:
    """What changes a run's images: prior and weights, task and its files, sampler, data, seed, and what is assumed of
    the task; nothing else.

    Batch size, device, switches of speed, logging, `data.limit` and `data.on_error` are not in it, nor are options of
    the sampler without effect. Whether there are several samples is, because their files are numbered then.
    """
    task, sampler = _of_identity(config["task"]), _of_identity(config["sampler"])
    unused = {*unused_options(sampler), *PRESENTATION}
    return {
        "model": {**_of_identity(config["model"]), "weights": prior_hash},
        "task": task if task_hash is None else {**task, "weights": task_hash},
        "sampler": {k: v for k, v in sampler.items() if k not in unused},
        "data": {k: v for k, v in config["data"].items() if k not in ("limit", "on_error", "size")},
        **({"size": config["data"]["size"]} if config["data"].get("size") else {}),
        "samples": "several" if config["samples"] > 1 else "one",
        **({"samples_of": config["samples_of"]} if config.get("samples_of") else {}),
        "seed": config["seed"],
        **({"assumed": config["assumed"]} if config.get("assumed") else {}),
    }


def _of_identity(options: Mapping) -> dict:
    """Options without those of speed, and without later ones that are null."""
    kept = {k: v for k, v in options.items() if k not in SPEED and not (k in LATER and v is None)}
    return {k: _of_identity(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


class Results:
    """The folder `out` of the run `owner` (its `identity`). Nothing is written before `claim`.

    Raises:
        ValueError: if the folder belongs to another run, saying what differs.
    """

    def __init__(self, out: Path, owner: Mapping):
        self.out, self.owner = out, OmegaConf.to_container(OmegaConf.create(dict(owner)))
        self.images, self.condition, self.truth = out / "images", out / "condition", out / "truth"
        self.check_owner()

    @cached_property
    def _part(self) -> Path:
        """The file of this process: numbered when it is first needed, after all that are there.

        Not by time: the clocks of two machines differ.
        """
        number = 1 + max((_number(part) for part in (self.out / PARTS).glob("*")), default=0)
        return self.out / PARTS / f"{number:05}-{process_name()}-{secrets.token_hex(3)}.jsonl"

    def claim(self, config_text: str) -> None:
        """Make the folder this run's, for all processes that work on it.

        Args:
            config_text: YAML of the resolved config; the identity is added.
        """
        for folder in (self.images, self.condition, self.truth, self.out / PARTS):
            folder.mkdir(parents=True, exist_ok=True)
        text = config_text + OmegaConf.to_yaml(OmegaConf.create({"identity": self.owner}))
        temporary = temporary_name(self.out / OWNER)
        try:
            with named(self.out / OWNER):
                temporary.write_text(text, encoding="utf-8")
                place(temporary, self.out / OWNER)
        except FileExistsError:
            self.check_owner()
        finally:
            temporary.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left half-written, in the run's own folders only."""
        for folder in ("", *FOLDERS):
            sweep(self.out / folder)

    def check_owner(self) -> None:
        """Raise a ValueError if the folder belongs to another run."""
        file = self.out / OWNER
        if not file.exists():
            if self.images.is_dir() and any(self.images.iterdir()):
                raise ValueError(f"out={self.out} holds images, but no {OWNER} that says whose: choose another folder")
            return
        before, now = read_plain(self.out).get("identity"), _flat(self.owner)
        if not isinstance(before, dict):
            raise ValueError(f"{file} is damaged: it does not say whose results these are; choose another out")
        later = {k: v for k, v in _defaults(self.owner).items() if k in now}  # not those whose value is a group
        before = {**later, **_flat(before)}  # an older version lacks the options that came later
        differing = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
        if differing:
            k = differing[0]
            raise ValueError(
                f"out={self.out} holds the results of another run: {k} was {before.get(k)}, now {now.get(k)}"
                + f" (and {len(differing) - 1} more)" * (len(differing) > 1)
                + "; choose another out, or remove it"
            )

    def add(self, records: Sequence[Mapping], suffix: str = ".jsonl") -> None:
        """Append records to this process's part: of an image (with `id`, or with `failed` where it did not come out),
        or of the whole set (with `set`); curves to a file of their own (`CURVES`)."""
        part = self._part.with_suffix(suffix)
        part.parent.mkdir(parents=True, exist_ok=True)
        with named(part), open(part, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict]:
        """All that the parts hold, in the order in which their processes began.

        A line that a kill or a full disk cut short, or that no run of ours writes, counts for nothing.
        """
        return [record for _, record in self._lines() if isinstance(record, dict)]

    def notes(self) -> list[str]:
        """The lines that no run of ours writes."""
        return [f"{place}: {found}; it counts for nothing" for place, found in self._lines() if isinstance(found, str)]

    def _lines(self) -> Iterator[tuple[str, dict | str]]:
        """The place of every whole line with its record, or the reason why it is none."""
        for part in self._parts(".jsonl"):
            for number, line in enumerate(part.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                try:
                    record = parse_record(line)
                except ValueError as error:
                    yield f"{part}, line {number}", str(error)
                else:
                    if record is not None:
                        yield "", record

    def curves(self, names: Sequence[str]) -> pd.DataFrame:
        """The mean over these images of what was recorded of their steps: a row per step in the order of sampling, with
        t, loss and, of an inverse problem, residual. Empty if nothing was."""
        lines = (line for part in self._parts(CURVES) for line in part.read_text(errors="replace").splitlines())
        last = {curve["id"]: curve for line in lines if (curve := parse_curve(line)) and curve["id"] in names}
        frames = [pd.DataFrame({k: v for k, v in curve.items() if k != "id"}) for curve in last.values()]
        return pd.concat(frames).groupby("t", as_index=False).mean()[::-1] if frames else pd.DataFrame()

    def _parts(self, suffix: str) -> list[Path]:
        """In the order in which their processes began."""
        return sorted((self.out / PARTS).glob(f"*{suffix}"), key=lambda part: (_number(part), part.name))

    def rows(self) -> dict[str, dict]:
        """By id, all that was said of an image."""
        rows: dict[str, dict] = {}
        for record in self.records():
            if (name := record.get("id")) is not None:
                made_again = "files" in record and rows.get(name, record).get("files") != record["files"]
                rows[name] = record if made_again else {**rows.get(name, {}), **record}
        # metrics of an image whose own record was lost say nothing
        return {name: rows[name] for name in sorted(rows) if "files" in rows[name]}

    def failures(self) -> list[dict]:
        """The last failure of every image that failed, in any process, and has not come out since."""
        rows, failed = self.rows(), {r["failed"]: r for r in self.records() if "failed" in r}
        return [failed[name] for name in sorted(failed) if name not in rows or not self.whole(rows[name])]

    def table(self) -> pd.DataFrame:
        """A row per image, indexed by id."""
        rows = [{k: v for k, v in r.items() if k != "files" and not k.startswith(BY)} for r in self.rows().values()]
        return pd.DataFrame(rows).set_index("id", drop=False) if rows else pd.DataFrame()

    def whole(self, row: Mapping) -> bool:
        """Whether every file of the row is there as it was written."""
        return all(file_digest(self.out / name) == digest for name, digest in row["files"].items())

    def image(self, name: str) -> np.ndarray:
        """The saved image, uint8 [H, W, 3]."""
        with Image.open(self.images / f"{name}.png") as image:
            return np.asarray(colours(image))

    def image_size(self, name: str) -> tuple[int, int]:
        """(width, height) of the saved image."""
        with Image.open(self.images / f"{name}.png") as image:
            return image.size

    def set_record(self, metric: Metric, names: Sequence[str]) -> dict | None:
        """What was computed of exactly these saved images, all together, with the metric's present settings."""
        wanted = {"set": metric.name, "of": self.digest_of(names), "by": metric.fingerprint}
        found = [record for record in self.records() if all(record.get(k) == v for k, v in wanted.items())]
        return found[-1] if found else None

    def new_set_record(self, metric: Metric, names: Sequence[str], numbers: Mapping[str, float]) -> dict:
        about = {"set": metric.name, "of": self.digest_of(names), "by": metric.fingerprint}
        return {**about, **numbers, "images": len(names), **metric.settings()}

    def digest_of(self, names: Sequence[str]) -> str:
        """Identifies a set of saved images."""
        rows = self.rows()
        lines = "".join(f"{name} {rows[name]['files'][f'images/{name}.png']}\n" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def summary(self) -> dict:
        """metrics.json; empty where there is none that can be read."""
        try:
            found = json.loads((self.out / SUMMARY).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def _number(part: Path) -> int:
    number = part.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _defaults(owner: Mapping) -> dict:
    """What the constructors of prior, task and sampler take for those options of `owner` that are not given."""
    built = {part: o["_target_"] for part, o in owner.items() if isinstance(o, Mapping) and "_target_" in o}
    taken = _flat({part: fill({}, locate(target), part, {}) for part, target in built.items()})
    return {option: taken[option] for option in _flat(owner) if option in taken}


def _flat(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
