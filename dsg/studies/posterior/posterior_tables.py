"""The tables of results/theory: the runs, pairs of methods, leaving the sphere against the distance."""

from collections.abc import Iterable, Mapping

import pandas as pd

from dsg.statistics import mean_interval
from dsg.statistics import paired as paired_difference
from dsg.studies.posterior.diagnosis import concentration
from dsg.studies.posterior.ground_truth import METRICS
from dsg.suites.jobs import Job
from dsg.types import Column

DISTANCE = "sliced_wasserstein"
KEY = ["setting", "method", "steps"]
INTERVALS = [f"{name}{bound}" for name in METRICS for bound in ("", "_low", "_high")]
COLUMNS = (
    Column(DISTANCE, "sliced W2"),
    Column("energy", "energy"),
    Column("bias", "bias"),
    Column("covariance_error", "cov.", 2),
    Column("spread", "spread", 2),
    Column("mode_error", "modes"),
    Column("in_region", "in 90 %", 2),
    Column("coverage", "coverage", 2),
    Column("to_truth", "to truth", 2),
)
PAIRED = """
## DSG, its base method and its control, pair by pair

sliced W2 of `method` less that of `minus`, observation by observation: mean, and bounds of its 95 % bootstrap
interval.

"""


def collect(
    jobs: Iterable[Job], base_methods: Mapping[str, str], controls: Mapping[str, str]
) -> dict[str, pd.DataFrame]:
    """What the jobs saved, and what follows from it.

    Args:
        base_methods: of the samplers with DSG, by name.
        controls: of the base methods, by name: their guidance with steps of the sphere's length.

    Returns:
        observations, trials, deviation, diagnosis, points: of the jobs; the last two where there are any.
        runs: a row per method and number of steps: means over observations with intervals, and the best value.
        paired, correlations, concentration: see the functions of these names.
    """
    tables = gathered(jobs)
    by_run = keyed(tables["observations"])
    shown = [*KEY, "bias", *INTERVALS, "diverged", "value", "inside"]
    tables["runs"] = with_means(tables["runs"], by_run)[shown]
    tables["paired"] = paired(by_run, pairs_of(base_methods, controls))
    tables["correlations"] = correlations(tables["trials"], list(base_methods.values()))
    tables["concentration"] = concentration()
    return tables


def gathered(jobs: Iterable[Job]) -> dict[str, pd.DataFrame]:
    """What the jobs saved, by the name of the table."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for job in jobs:
        for name, table in job.tables().items():
            parts.setdefault(name, []).append(table)
    return {name: pd.concat(part, ignore_index=True) for name, part in parts.items()}


def keyed(observations: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """The observations of each run, by (setting, method, steps)."""
    return dict(iter(observations.groupby(KEY, sort=False)))


def with_means(found: pd.DataFrame, by_run: Mapping[tuple, pd.DataFrame]) -> pd.DataFrame:
    """What the jobs found of their runs; and of every metric the mean over observations with its 95 % interval.

    The mean is over what did not diverge; `diverged` counts the other observations.
    """
    rows = []
    for key, table in by_run.items():
        row = {**dict(zip(KEY, key)), "diverged": int(table[DISTANCE].isna().sum())}
        for name in METRICS:
            scores = table[name] if name in table else ()
            row[name], row[f"{name}_low"], row[f"{name}_high"] = mean_interval(scores)
        rows.append(row)
    return found.merge(pd.DataFrame(rows)[[*KEY, *INTERVALS, "diverged"]], on=KEY)


def starred(runs: pd.DataFrame) -> list[str]:
    """The best values; * where it is at the edge of what was tried."""
    if "value" not in runs:
        return [""] * len(runs)
    stars = ["" if inside is True else "*" for inside in runs["inside"]]
    return ["" if pd.isna(value) else f"{value:.3g}{star}" for value, star in zip(runs["value"], stars)]


def told_diverged(texts: Iterable[str], runs: pd.DataFrame) -> list[str]:
    """The means, with the number of observations that they leave out."""
    return [f"{text} ({lost} diverged)" if lost else text for text, lost in zip(texts, runs["diverged"])]


def pairs_of(base_methods: Mapping[str, str], controls: Mapping[str, str]) -> list[tuple[str | None, str | None]]:
    """DSG and its base method, the control and the base method, DSG and the control. Args: as of `collect`."""
    return [
        pair
        for dsg, base in base_methods.items()
        for pair in ((dsg, base), (controls.get(base), base), (dsg, controls.get(base)))
    ]


def paired(by_run: Mapping[tuple, pd.DataFrame], pairs: Iterable[tuple[str | None, str | None]]) -> pd.DataFrame:
    """The first method of each pair minus the second in sliced W2, observation by observation.

    Returns:
        columns setting, method, minus, steps; difference and its 95 % interval (low, high).
    """
    columns = ["setting", "method", "minus", "steps", "difference", "low", "high"]
    distances = {key: table.set_index("observation")[DISTANCE] for key, table in by_run.items()}
    rows = []
    for one, other in pairs:
        for (setting, method, steps), distance in distances.items():
            if method == one and (setting, other, steps) in distances:
                found = paired_difference(distance, distances[setting, other, steps])
                if found.images:
                    rows.append((setting, one, other, steps, found.difference, found.low, found.high))
    return pd.DataFrame(rows, columns=columns)


def differences(compared: pd.DataFrame) -> str:
    """A section of table.md."""
    return PAIRED + compared.to_markdown(index=False, floatfmt="+.3f", intfmt="d") + "\n"


def correlations(trials: pd.DataFrame, base_methods: Iterable[str]) -> pd.DataFrame:
    """Spearman's rank correlation of leaving the sphere (mean |deviation - 1| of a run) with the distance.

    Of each base method in each setting: over all trials, and without those whose guidance is weaker than the best.
    """
    rows = []
    found = trials[trials["method"].isin(base_methods)].dropna(subset=[DISTANCE])
    for (setting, method), part in found.groupby(["setting", "method"], sort=False):
        best = part.loc[part.groupby("steps")[DISTANCE].idxmin()].set_index("steps")["value"]
        strong = part[part["value"] >= part["steps"].map(best)]
        row = {"setting": setting, "base_method": method, "all": _spearman(part)}
        rows.append({**row, "not weaker than the best": _spearman(strong)})
    return pd.DataFrame(rows)


def _spearman(trials: pd.DataFrame) -> float:
    return float(trials["off_sphere"].rank().corr(trials[DISTANCE].rank()))
