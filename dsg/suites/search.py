"""One-dimensional search for the value of a sampler's `Tunable`, the same for every method."""

import math

import numpy as np
import pandas as pd

from dsg.samplers import Tunable

GRID = (-2, -1, 0, 1, 2)  # powers of 2 around the centre
BEYOND = 4  # trials more than were asked for, at most, while the best value is at the edge of what was tried


def next_value(tried: pd.DataFrame, tunable: Tunable, centre: float) -> float:
    """The next trial: on a grid of factor 2, then beyond it while the best value is at its edge, then next to the best.

    Args:
        tried: the trials so far, columns `value` and `score` (larger is better; NaN: it failed).
        tunable: its bounds are kept.
        centre: of the first grid.
    """
    for value in [_bounded(centre * 2.0**k, tunable) for k in GRID]:
        if len(tried) < len(GRID) and not np.isclose(tried["value"], value).any():
            return value
    tried = tried.sort_values("value").reset_index(drop=True)
    values, scores = tried["value"], tried["score"].fillna(-math.inf)
    best = int(scores.argmax())
    if best == 0 and values[best] > tunable.low:
        return _bounded(values[0] / 2, tunable)
    if best == len(tried) - 1 and values[best] < tunable.high:
        return _bounded(values[best] * 2, tunable)
    sides = [i for i in (best - 1, best + 1) if 0 <= i < len(tried)]
    # into the wider gap beside the best value; into the more promising one where they are alike
    gap = {i: round(abs(math.log(values[i] / values[best])), 3) for i in sides}
    return math.sqrt(values[best] * values[max(sides, key=lambda i: (gap[i], scores[i]))])


def has_ended(tried: pd.DataFrame, tunable: Tunable, count: int) -> bool:
    """Whether there are `count` trials, and the best is none of the outermost, or `BEYOND` more have not helped.

    A count that is less than the grid is taken as it is.
    """
    if len(tried) < count or count < len(GRID) or tried["score"].isna().all():
        return len(tried) >= count
    return len(tried) >= count + BEYOND or is_inside(tried, tunable)


def best_of(tried: pd.DataFrame) -> pd.Series:
    """The best trial."""
    return tried.loc[tried["score"].fillna(-math.inf).idxmax()]


def is_inside(tried: pd.DataFrame, tunable: Tunable) -> bool:
    """Whether values on both sides of the best were tried, or it is at a bound that cannot be passed."""
    best = best_of(tried)["value"]
    return tried["value"].min() < best < tried["value"].max() or best in (tunable.low, tunable.high)


def _bounded(value: float, tunable: Tunable) -> float:
    return min(max(value, tunable.low), tunable.high)
