"""Whether a suite gave the committed scores again, on another processor too."""

from pathlib import Path

import pandas as pd

from dsg.suites.suite import Outcome

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = ["task", "method", "steps", "at", "image"]
SAME = 0.01  # dB: what rounding does to a score
LEAST = 0.85  # share of the scores that must be the same; clamping makes the others chaotic
MEAN = 0.5  # dB: by how much a method's mean may move then


def show(outcome: Outcome, reference: str) -> list[str]:
    """Print how near PSNR is to the committed table `reference`, whose runs are those of this suite and more."""
    found = outcome.out / "images.csv"
    if found.is_file():
        print(compared(*(pd.read_csv(file, dtype={"image": str}) for file in (found, REPOSITORY / reference))))
    return []


def compared(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """`reproduced within 0.01 dB: ...` or `not reproduced ...`, and the methods whose scores moved.

    Scores that only one table has are left out.
    """
    both = ours.merge(theirs, on=KEY, suffixes=("", "_committed")).dropna(subset=["psnr", "psnr_committed"])
    if both.empty:
        return "nothing to compare with the committed scores"
    moved = both["psnr"] - both["psnr_committed"]
    same = moved.abs() <= SAME
    means = moved.groupby(both["method"]).mean().abs()
    counts = f"{same.sum()} of {len(both)} scores, and the methods' means within {means.max():.2g} dB"
    others = ", ".join(f"{method} ({number})" for method, number in both["method"][~same].value_counts().items())
    good = same.mean() >= LEAST and means.max() <= MEAN
    more = f"; scores beyond it: {others}" if others else ""
    return f"{'' if good else 'not '}reproduced within {SAME} dB: {counts}{more}"
