"""The tables of the suites `theory` and `theory_rivals`: CSV files and table.md."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.statistics import INTERVAL, mean_interval
from dsg.statistics import paired as paired_difference
from dsg.studies.posterior.ground_truth import METRICS
from dsg.studies.posterior.posterior_jobs import Guided
from dsg.studies.posterior.premises import concentration
from dsg.studies.posterior.ranks import BINS, LIMIT
from dsg.suites.methods import Method
from dsg.suites.suite import Outcome
from dsg.suites.tables import markdown, number, with_interval
from dsg.types import Column

DISTANCE = "sliced_wasserstein"
KEY = ["setting", "method", "steps"]
INTERVALS = [f"{name}{bound}" for name in METRICS for bound in ("", "_low", "_high")]
COLUMNS = {  # and what they are
    Column("compute", "compute", 0): "forward passes + 2 x backward passes per sample",
    Column("value", "value"): "step size or guidance rate; * if the best is at the edge of what was tried",
    Column(DISTANCE, "sliced W2"):
        "sliced 2-Wasserstein distance / standard deviation of the posterior, with its 95 % interval; without "
        "observations that diverged",
    Column("energy", "energy"): "energy distance / mean distance between samples of the posterior",
    Column("bias", "bias"):
        "error of the mean / standard deviation of the posterior, less what so many samples have by chance",
    Column("covariance_error", "cov.", 2): "relative error of the covariance",
    Column("spread", "spread", 2): "tr Cov / that of the posterior",
    Column("mode_error", "modes"): "total variation between component weights",
    Column("in_region", "in 90 %", 2): "share of samples in the exact 90 % highest-density region",
    Column("coverage", "coverage", 2): "share of the truth's coordinates in the samples' central 90 % intervals",
    Column("to_truth", "to truth", 2):
        "mean squared distance to the truth / 2 tr C of the posterior: 1 for its samples, .5 for its mean",
    Column("chi2", "chi2", 2): "of the histogram of ranks, over its degrees of freedom; about 1 if calibrated",
    Column("p", "p"): f"how often a calibrated sampler has a larger chi2; below {LIMIT}: not calibrated",
}  # fmt: skip
METHODS = {
    "exact": "other exact samples: the floor",
    "oracle": "the unconditional sampler under the true conditional score",
    "shuffled": "exact samples, ranked with the truths of other observations: the test of ranks must reject them",
    "additive": "the control of DPS: steps of the sphere's length without the sphere. `freedom_additive`, "
    "`mpgd_additive`: those of FreeDoM and MPGD",
    "dps_open": "DPS without guidance at the last step",
    "direction_dsg": "DPS + DSG along the exact direction",
    "length": "DPS with steps of the exact length",
}


def collect(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """The tables that the jobs have saved, and those that follow from them.

    Returns:
        observations, trials, deviation, diagnosis, points, ranks: of the jobs, where there are any.
        runs: a row per method and number of steps: means over observations with intervals, and the best value.
        paired, correlations: see the functions of these names.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for job in outcome.jobs:
        for name, table in job.tables().items():
            parts.setdefault(name, []).append(table)
    tables = {name: pd.concat(part, ignore_index=True) for name, part in parts.items()}
    computes = {job.key: job.compute for job in outcome.jobs if isinstance(job, Guided)}
    methods = methods_of(outcome).values()
    tables["runs"] = runs(tables, computes)
    tables["paired"] = paired(tables["observations"], methods)
    tables["correlations"] = correlations(tables, [m.base_method for m in methods if m.control])
    return tables


def methods_of(outcome: Outcome) -> dict[str, Method]:
    """The guided samplers that are compared, by name; without the ablations."""
    jobs = [job for job in outcome.jobs if isinstance(job, Guided) and job.method == job.sampler]
    found = {job.method: Method.of(job.build()) for job in jobs}
    return {name: method for name, method in found.items() if method.guided}


def write(outcome: Outcome, files: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Write <name>.csv of the tables that there are, and table.md.

    Args:
        files: names of tables, see `collect`; and "concentration".
        columns: names of `COLUMNS`, those of table.md.
    """
    tables = collect(outcome)
    text = theory_markdown(tables, outcome.suite.yaml, [c for c in COLUMNS if c.name in columns])
    if "concentration" in files:
        tables["concentration"] = concentration()
    if "ranks" in tables:
        tables["ranks"] = spread_out(tables["ranks"])
    written = [name for name in files if name in tables]
    for name in written:
        write_text(outcome.out / f"{name}.csv", tables[name].to_csv(index=False, float_format="%.5g"))
    write_text(outcome.out / "table.md", text)
    return ["table.md", *(f"{name}.csv" for name in written)]


# --- tables


def runs(tables: Mapping[str, pd.DataFrame], computes: Mapping[tuple, int]) -> pd.DataFrame:
    """A row per setting, method and number of steps: means over the observations that did not diverge, with their 95 %
    intervals; `diverged` counts the others. With ranks, its compute and the test of its ranks.

    Args:
        computes: by key; a method without one takes a forward pass per step.
    """
    rows = []
    for key, table in tables["observations"].groupby(KEY, sort=False):
        row = dict(zip(KEY, key))
        for name in METRICS:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = mean_interval(table[name])
        rows.append({**row, "diverged": int(table[DISTANCE].isna().sum())})
    found = tables["runs"].merge(pd.DataFrame(rows), on=KEY)
    if "ranks" not in tables:
        return found.reindex(columns=[*KEY, "bias", *INTERVALS, "diverged", "value", "inside"])
    found.insert(3, "compute", [computes.get(key, key[2]) for key in found[KEY].itertuples(index=False, name=None)])
    return found.merge(tables["ranks"][[*KEY, "chi2", "p"]], on=KEY, how="left")


def paired(observations: pd.DataFrame, methods: Iterable[Method]) -> pd.DataFrame:
    """DSG minus its base method, its control minus the base method, DSG minus the control: in sliced W2, observation by
    observation.

    Returns:
        columns setting, method, minus, steps; difference and its 95 % interval (low, high).
    """
    distances = {key: table.set_index("observation")[DISTANCE] for key, table in observations.groupby(KEY, sort=False)}
    rows = []
    for dsg in methods:
        pairs = ((dsg.name, dsg.base_method), (dsg.control, dsg.base_method), (dsg.name, dsg.control))
        for one, other in pairs if dsg.control else ():
            for (setting, method, steps), distance in distances.items():
                if method == one and (setting, other, steps) in distances:
                    found = paired_difference(distance, distances[setting, other, steps])
                    if found.images:
                        rows.append((setting, one, other, steps, found.difference, found.low, found.high))
    return pd.DataFrame(rows, columns=["setting", "method", "minus", "steps", "difference", "low", "high"])


def correlations(tables: Mapping[str, pd.DataFrame], base_methods: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of leaving the sphere (mean |deviation - 1| of a run) with the distance.

    Of each base method in each setting: over all trials, and without those whose guidance is weaker than the best.
    """
    rows = []
    trials = tables.get("trials", pd.DataFrame(columns=[*KEY, DISTANCE]))
    found = trials[trials["method"].isin(base_methods)].dropna(subset=[DISTANCE])
    for (setting, method), part in found.groupby(["setting", "method"], sort=False):
        best = part.loc[part.groupby("steps")[DISTANCE].idxmin()].set_index("steps")["value"]
        strong = part[part["value"] >= part["steps"].map(best)]
        row = {"setting": setting, "base_method": method, "all": _spearman(part)}
        rows.append({**row, "not weaker than the best": _spearman(strong)})
    return pd.DataFrame(rows)


def _spearman(trials: pd.DataFrame) -> float:
    return float(trials["off_sphere"].rank().corr(trials[DISTANCE].rank()))


def spread_out(ranks: pd.DataFrame) -> pd.DataFrame:
    """The histograms of ranks and the bounds within which calibrated samplers stay, with a column per bin."""
    names = ("histogram", "low", "high")
    columns = {f"{name}_{k}": ranks[name].str[k] for name in names for k in range(BINS)}
    return ranks.drop(columns=list(names)).assign(**columns)


# --- table.md


def theory_markdown(tables: Mapping[str, pd.DataFrame], yaml: Mapping, columns: Sequence[Column]) -> str:
    """A table per setting, then the differences and the correlations."""
    text = head(yaml, columns, set(tables["runs"]["method"]))
    for setting, part in tables["runs"].groupby("setting", sort=False):
        options = " ".join(yaml["tasks"][setting]["options"])
        text += f"\n## {setting}\n\n`{options}`\n\n{markdown(section(part, columns))}"
    compared = tables["paired"]
    bounds = compared[["difference", "low", "high"]].itertuples(index=False)
    shown = compared[["setting", "method", "minus", "steps"]].assign(
        difference=[with_interval(*row, 3, "+") for row in bounds]
    )
    text += (
        "\n## DSG, its base method and its control, pair by pair\n\n"
        f"sliced W2 of `method` less that of `minus`, observation by observation: mean and interval ({INTERVAL}).\n\n"
        f"{markdown(shown)}"
    )
    if "deviation" in tables and len(tables["correlations"]):
        text += (
            "\n## Leaving the sphere, and the distance to the posterior\n\n"
            "Rank correlation of mean |deviation - 1| with sliced W2, over trials: every step size, at every number of "
            f"steps.\n\n{markdown(tables['correlations'].map(lambda v: v if isinstance(v, str) else number(v, 2)))}"
        )
    return text


def head(yaml: Mapping, columns: Sequence[Column], methods: set[str]) -> str:
    counts = {part: "{observations} {} x {samples} samples".format("{}", **yaml[part]) for part in ("tuning", "report")}
    budgets = " or ".join(map(str, yaml.get("budgets", ())))
    steps = f"Every sampler takes as many steps as fit into {budgets} forward passes per sample.\n" if budgets else ""
    ranked = "Ranks are of {observations} further truths among {samples} samples each.\n"
    ranked = ranked.format(**yaml["calibration"]) if "calibration" in yaml else ""
    meanings = pd.DataFrame({"column": [c.title for c in columns], "meaning": [COLUMNS[c] for c in columns]})
    shown = {name: text for name, text in METHODS.items() if name in methods}
    return (
        "# Samplers against exact posteriors\n\ndocs/theory.md explains it.\n\n"
        f"{steps}Each method is tuned for each number of steps: its value is the best of {yaml['tuning']['trials']} "
        f"trials,\nby sliced W2 on {counts['tuning'].format('observations')}.\n"
        f"The numbers are means over {counts['report'].format('other observations')}.\n{ranked}"
        "Settings with other counts: see the suite's YAML in configs/suite.\n\n"
        f"{markdown(meanings)}\n" + "".join(f"- `{name}`: {text}.\n" for name, text in shown.items())
    )


def section(part: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The rows of a setting as texts."""
    table = pd.DataFrame({"method": part["method"], "steps": part["steps"].replace(0, "-")})
    for column in columns:
        texts = part[column.name].map(lambda value, c=column: number(value, c.digits))
        if column.name == "compute":
            texts = texts.replace("0", "-")
        elif column.name == "value":
            stars = np.where(part["inside"].fillna(True).astype(bool), "", "*")
            texts = [f"{v:.3g}{star}" if v == v else "" for v, star in zip(part["value"], stars)]
        elif column.name == DISTANCE:
            names = [DISTANCE, f"{DISTANCE}_low", f"{DISTANCE}_high", "diverged"]
            texts = [
                with_interval(*row[:3], column.digits) + (f" ({row[3]} diverged)" if row[3] else "")
                for row in part[names].itertuples(index=False, name=None)
            ]
        table[column.title] = texts
    return table
