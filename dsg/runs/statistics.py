"""What finished runs show: means with intervals, and differences to the method that each is compared with.

Tables are by key (task, method, steps). Each has a row per image, or per sample of one: samples of one image are not
independent, so that everything is computed from the means over them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

COUNTS = ("network_evaluations", "seconds", "backward_passes")


def bootstrap(values: np.ndarray, resamples: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of the finite values, and its percentile bootstrap interval (seeded); NaN if there are none."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    tail = 50 * (1 - level)
    low, high = np.percentile(values[draws].mean(1), [tail, 100 - tail])
    return float(values.mean()), float(low), float(high)


def by_image(table: pd.DataFrame, name: str) -> pd.Series:
    """The means of a column over the samples of each image; empty if there is no such column."""
    return table.groupby("image")[name].mean() if name in table else pd.Series(dtype=float)


def summarise(tables: Mapping[tuple, pd.DataFrame], metrics: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A row per table: mean and 95 % interval of each metric over images, and what it cost per sample.

    Args:
        metrics: names, by task.

    Returns:
        columns task, method, steps, images, samples, of each metric <name>, <name>_low, <name>_high, then
        network_evaluations, seconds, backward_passes; NaN where a table has none.
    """
    rows = []
    for (task, method, steps), table in tables.items():
        row = {"task": task, "method": method, "steps": steps}
        row |= {"images": table["image"].nunique(), "samples": len(table)}
        for name in metrics[task]:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = bootstrap(by_image(table, name).to_numpy())
        row |= {name: table[name].mean() if name in table else np.nan for name in COUNTS}
        rows.append(row)
    return pd.DataFrame(rows)


def paired(
    tables: Mapping[tuple, pd.DataFrame], metrics: Mapping[str, Sequence[str]], base_methods: Mapping[str, str]
) -> pd.DataFrame:
    """Each method minus its base method, image by image.

    Args:
        metrics: names, by task.
        base_methods: method -> whom it is compared with; the others are compared with nobody.

    Returns:
        columns task, base_method, steps, metric; mean difference and its 95 % interval (difference, low, high); on how
        many of the images it is above 0 (higher, images); method; on how many below 0 (lower).
    """
    rows = []
    for (task, method, steps), table in tables.items():
        base = tables.get((task, base_methods.get(method), steps))
        if base is None:
            continue
        for name in metrics[task]:
            difference = (by_image(table, name) - by_image(base, name)).dropna()
            if difference.empty:
                continue
            mean, low, high = bootstrap(difference.to_numpy())
            row = {"task": task, "base_method": base_methods[method], "steps": steps, "metric": name}
            row |= {"difference": mean, "low": low, "high": high}
            row |= {"higher": int((difference > 0).sum()), "images": len(difference)}
            rows.append({**row, "method": method, "lower": int((difference < 0).sum())})
    return pd.DataFrame(rows)
