"""The trials of searches: a CSV of means, a line per trial that is only appended, and a CSV of scores per image."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from dsg.files import write_text

KEY = ("task", "sampler", "steps")
SCORES = ("haarpsi", "psnr", "selector")  # larger is better
COLUMNS = (*KEY, "images", "value", "haarpsi", "psnr", "weights", "selector", "seeds", "settings", "criterion")
WORDS = {"weights": str, "settings": str, "criterion": str}
ANOTHER = "another store of trials (--store, or --tuning store=FOLDER)"
PER_IMAGE = (*KEY, "weights", "value", "seed", "score", "per_image")


class Trials:
    """The file `path`, with `COLUMNS`; and beside it <stem>-images.csv, with `PER_IMAGE`: a line per trial, seed and
    score, with the scores of the images in their order.

    Several processes may add to them; each sees what the others have added.
    """

    def __init__(self, path: Path):
        self.path, self.images_path = path, path.with_name(f"{path.stem}-images.csv")
        self._text, self._table = None, pd.DataFrame(columns=list(COLUMNS))

    @property
    def table(self) -> pd.DataFrame:
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else None
        if text is not None and text != self._text:
            # one seed was all there was before there was a column for it
            table = pd.read_csv(StringIO(text), dtype=WORDS).reindex(columns=list(COLUMNS))
            self._text, self._table = text, table.fillna({"seeds": 1})
        return self._table

    def of(self, key: tuple, weights: str, criterion: str) -> pd.DataFrame:
        """The trials of (task, sampler, steps) with these weights, their `score` by the criterion.

        Trials of a search by another criterion are left out: the choice must not depend on who searched before. Older
        lines name no criterion, and are taken. A value that two processes tried at once is taken once.
        """
        t = _select(self.table, key, weights)
        t = t[t["criterion"].isna() | (t["criterion"] == criterion)].drop_duplicates("value", keep="last")
        return t.assign(score=t[criterion].astype(float))

    def per_image(self, key: tuple, weights: str, criterion: str) -> pd.DataFrame:
        """A row per value of these trials, a column per validation image: means over the seeds. Empty if unknown."""
        if not self.images_path.exists():
            return pd.DataFrame()
        t = _select(pd.read_csv(self.images_path, dtype={"weights": str}), key, weights)
        t = t[(t["score"] == criterion) & t["value"].isin(self.of(key, weights, criterion)["value"])]
        t = t.drop_duplicates(["value", "seed"], keep="last")
        rows = {v: np.mean([_numbers(s) for s in part["per_image"]], axis=0) for v, part in t.groupby("value")}
        return pd.DataFrame.from_dict(rows, orient="index")

    def check_size(self, task: str, weights: str, **size: int) -> None:
        """Scores of other images or seeds do not compare, and are not thrown away: raises ValueError.

        Args:
            size: images, seeds.
        """
        t = self.table[(self.table["task"] == task) & (self.table["weights"] == weights)]
        for name, wanted in size.items():
            for other in t[name].unique():
                if other != wanted:
                    tuned = f"{task} was tuned on {other:.0f} {name}"
                    raise ValueError(f"{self.path}: {tuned}: --{name} {other:.0f}, or {ANOTHER}")

    def check_settings(self, key: tuple, weights: str, settings: str) -> None:
        """Scores of another problem do not compare either: raises ValueError. Older lines say nothing of theirs.

        Args:
            settings: a hash of the task's options, the sampler's others, and the data.
        """
        others = _select(self.table, key, weights)["settings"].dropna()
        if not others.isin([settings]).all():
            what = "{} {} {}".format(*key)
            raise ValueError(f"{self.path}: {what} was tuned with other options of task, sampler or data: {ANOTHER}")

    def add(self, row: Mapping[str, object], per_image: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Add a trial.

        Args:
            row: its `COLUMNS`; a score that is unknown is left out.
            per_image: by seed and name of the score, a number per image.
        """
        about = {name: row[name] for name in (*KEY, "weights", "value")}
        lines = [
            {**about, "seed": seed, "score": name, "per_image": " ".join(f"{v:.5g}" for v in values)}
            for seed, scores in per_image.items()
            for name, values in scores.items()
        ]
        with locked(self.path):
            _append(self.images_path, pd.DataFrame(lines, columns=list(PER_IMAGE)))
            _append(self.path, pd.DataFrame([row], columns=list(COLUMNS)))


def locked(path: Path) -> FileLock:
    """A lock for which other writers of this file wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def _append(path: Path, rows: pd.DataFrame) -> None:
    first = path.open(encoding="utf-8").readline().strip().split(",") if path.exists() else []
    rows = rows.reindex(columns=[*rows.columns, *(name for name in first if name not in rows.columns)])
    if first and first != list(rows.columns):  # an older file has other columns: it keeps them
        old = pd.read_csv(path, dtype=str, keep_default_na=False).reindex(columns=rows.columns)
        write_text(path, old.to_csv(index=False))
    if len(rows):
        with open(path, "a", encoding="utf-8") as file:
            if first and not path.read_bytes().endswith(b"\n"):  # a full disk cut the last line
                file.write("\n")
            file.write(rows.to_csv(index=False, header=file.tell() == 0, float_format="%.6g"))


def _select(t: pd.DataFrame, key: tuple, weights: str) -> pd.DataFrame:
    return t[(t["task"] == key[0]) & (t["sampler"] == key[1]) & (t["steps"] == key[2]) & (t["weights"] == weights)]


def _numbers(text: str) -> np.ndarray:
    return np.array(str(text).split(), dtype=float)
