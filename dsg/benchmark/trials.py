"""The trials of a search, a line each in a CSV that is only ever appended to."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

KEY = ("task", "sampler", "steps")
COLUMNS = (*KEY, "images", "value", "haarpsi", "psnr", "weights", "evaluator")


class Trials:
    """The file `path`, with `COLUMNS`. haarpsi, psnr and evaluator are scores, larger is better; empty if unknown."""

    def __init__(self, path: Path):
        self.path = path
        self.table = pd.read_csv(path, dtype={"weights": str}) if path.exists() else pd.DataFrame(columns=list(COLUMNS))

    def of(self, key: tuple, weights: str, criterion: str) -> pd.DataFrame:
        """The trials of (task, sampler, steps) with these weights, their `score` by the criterion."""
        t = self.table.assign(score=self.table[criterion].astype(float))
        return t[(t["task"] == key[0]) & (t["sampler"] == key[1]) & (t["steps"] == key[2]) & (t["weights"] == weights)]

    def steps_of(self, task: str, sampler: str) -> list[int]:
        t = self.table
        return sorted(t.loc[(t["task"] == task) & (t["sampler"] == sampler), "steps"].unique())

    def check_images(self, task: str, weights: str, images: int) -> None:
        """Scores on other images do not compare, and are not thrown away: raises ValueError."""
        t = self.table[(self.table["task"] == task) & (self.table["weights"] == weights)]
        for other in t["images"].unique():
            if other != images:
                raise ValueError(
                    f"{self.path}: {task} was tuned on {other} images: --images {other}, or remove its lines"
                )

    def add(self, row: Mapping[str, object]) -> None:
        new = pd.DataFrame([row], columns=list(COLUMNS))
        self.table = new if self.table.empty else pd.concat([self.table, new], ignore_index=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(new.to_csv(index=False, header=file.tell() == 0, float_format="%.6g"))


def nearest(steps: int, counts: list[int]) -> int | None:
    """Of other numbers of steps, by ratio."""
    return min(counts, key=lambda n: abs(math.log(n / steps)), default=None)
