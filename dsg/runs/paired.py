"""Two finished runs, image by image."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dsg.runs.summary import NOT_METRICS
from dsg.statistics import Difference, by_image, paired


class Comparison(NamedTuple):
    """A metric of two runs, over the images that both have.

    Attributes:
        first, second: means over these images.
        difference: second run minus first.
    """

    metric: str
    first: float
    second: float
    difference: Difference


def compare(first: Path, second: Path, margins: Mapping[str, float] | None = None) -> list[Comparison]:
    """Every metric that both runs have, image by image (samples of one image are averaged).

    Raises:
        ValueError: a run has no table, the two share no image, or an image of one name is not the same in both; a
            margin for a metric that they do not share.
    """
    a, b = (_table(out) for out in (first, second))
    shared = sorted({*a["image"]} & {*b["image"]})
    if not shared:
        raise ValueError(f"{first} and {second} share no image")
    inputs = [table.groupby("image")["input"].first()[shared] for table in (a, b)]
    if (changed := inputs[0] != inputs[1]).any():
        raise ValueError(f"image {changed.idxmax()} is not the same in {first} and {second}")
    numeric = [set(table.select_dtypes("number").columns) - (NOT_METRICS - {"seconds"}) for table in (a, b)]
    names = [name for name in a.columns if name in numeric[0] & numeric[1]]
    if unknown := [name for name in margins or {} if name not in names]:
        raise ValueError(f"--margin {unknown[0]}: the runs share {', '.join(names)}")
    return [_compared(name, a, b, shared, (margins or {}).get(name, 0.0)) for name in names]


def _compared(name: str, a: pd.DataFrame, b: pd.DataFrame, shared: list[str], margin: float) -> Comparison:
    values = pd.DataFrame({"a": by_image(a, name), "b": by_image(b, name)}).loc[shared].dropna()
    return Comparison(name, values["a"].mean(), values["b"].mean(), paired(values["b"], values["a"], margin))


def _table(out: Path) -> pd.DataFrame:
    try:
        types = {"id": str, "image": str, "input": str}  # an image may be called NA
        table = pd.read_csv(out / "per_image.csv", dtype=types, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise ValueError(f"{out}: no per_image.csv there") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise ValueError(f"{out / 'per_image.csv'} is damaged; the run's command writes it again") from None
    if missing := {"id", "image", "input"} - set(table.columns):
        raise ValueError(f"{out / 'per_image.csv'} has no column {sorted(missing)[0]}")
    return table
