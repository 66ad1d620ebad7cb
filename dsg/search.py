"""One-dimensional search for a step size or guidance rate, the same for every method."""

import math

import numpy as np
import pandas as pd

GRID = (-2, -1, 0, 1, 2)  # powers of 2 around the centre


def option_of(sampler: str) -> str:
    """What of a sampler is tuned."""
    return "guidance_rate" if sampler.endswith("_dsg") else "step_size"


def next_value(tried: pd.DataFrame, sampler: str, centre: float) -> float:
    """Where to look next: a grid of factor 2, then beyond it while the best value is at its edge, then beside the best.

    Args:
        tried: the trials so far, columns `value` and `score` (larger is better; NaN: it failed).
        sampler: a guidance rate ends at 1.
        centre: of the first grid.
    """
    limit = 1.0 if sampler.endswith("_dsg") else math.inf
    for value in [min(centre * 2.0**k, limit) for k in GRID]:
        if not np.isclose(tried["value"], value).any():
            return value
    tried = tried.sort_values("value").reset_index(drop=True)
    values, scores = tried["value"], tried["score"].fillna(-math.inf)
    best = int(scores.argmax())
    if best == 0:
        return values[0] / 2
    if best == len(tried) - 1 and values[best] < limit:
        return min(values[best] * 2, limit)
    sides = [i for i in (best - 1, best + 1) if i < len(tried)]
    # into the wider gap beside the best value; into the more promising one where they are alike
    gap = {i: round(abs(math.log(values[i] / values[best])), 3) for i in sides}
    return math.sqrt(values[best] * values[max(sides, key=lambda i: (gap[i], scores[i]))])


def best_of(tried: pd.DataFrame) -> pd.Series:
    """The best trial."""
    return tried.loc[tried["score"].fillna(-math.inf).idxmax()]


def is_inside(tried: pd.DataFrame, sampler: str) -> bool:
    """Whether values on both sides of the best were tried, or it is the largest guidance rate there is."""
    best = best_of(tried)["value"]
    return tried["value"].min() < best < tried["value"].max() or (best == 1.0 and sampler.endswith("_dsg"))
