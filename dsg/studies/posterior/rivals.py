"""What the suite `theory_rivals` writes: CSV files, table.md, and the histograms of ranks."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.studies.posterior.calibration import BINS, LIMIT
from dsg.studies.posterior.posterior_jobs import Guided
from dsg.studies.posterior.posterior_tables import (
    DISTANCE,
    KEY,
    differences,
    gathered,
    keyed,
    paired,
    pairs_of,
    starred,
    told_diverged,
    with_means,
)
from dsg.suites.methods import Method
from dsg.suites.suite import Outcome

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HEAD = """# All samplers against exact posteriors, at equal compute

Written by `make reproduce SUITE=theory_rivals`; docs/theory.md explains it.

Every sampler takes as many steps as fit into {budgets} forward passes per sample; a backward pass counts two. For each
number of steps its value is the best of {tuning[trials]} trials, by sliced Wasserstein distance on
{tuning[observations]} observations x {tuning[samples]} samples. The numbers are means over {report[observations]} other
observations x {report[samples]} samples; ranks are of {calibration[observations]} further truths among
{calibration[samples]} samples each.

| column | meaning |
|---|---|
| compute | forward passes + 2 x backward passes per sample |
| value | of the option that was tuned; * if the best is at the edge of what was tried |
| sliced W2 | sliced 2-Wasserstein distance / standard deviation of the posterior, with its 95 % interval |
| bias | error of the mean / standard deviation of the posterior, less what so many samples have by chance |
| spread | tr Cov / that of the posterior |
| modes | total variation between component weights |
| coverage | share of the truth's coordinates in the samples' central 90 % intervals |
| chi2 | of the histogram of ranks, over its degrees of freedom, mean over directions; about 1 if calibrated |
| p | how often a calibrated sampler has a larger one; below {limit}: not calibrated |

`exact`: other exact samples, the floor. `oracle`: the unconditional sampler under the true conditional score.
`shuffled`: exact samples, ranked among the truths of other observations, which the test must find.
"""
COLUMNS = {"bias": 3, "spread": 2, "mode_error": 3, "coverage": 2, "chi2": 2, "p": 3}
TITLES = {"mode_error": "modes"}
REFERENCES = ("exact", "shuffled", "oracle")


def write(outcome: Outcome) -> list[str]:
    """Every table, and the figure, of what is finished. Returns the names of the files."""
    out, jobs = outcome.out, [job for job in outcome.jobs if job.tables()]
    tables = gathered(jobs)
    methods = {job.method: Method.of(job.build()) for job in jobs if isinstance(job, Guided)}
    computes = {job.key: job.compute for job in jobs if isinstance(job, Guided)}
    runs = summary(tables, computes)
    for name, table in {"runs": runs, **{n: tables[n] for n in ("observations", "trials") if n in tables}}.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.5g"))
    write_text(out / "ranks.csv", spread_out(tables["ranks"]).to_csv(index=False, float_format="%.5g"))
    compared = paired(keyed(tables["observations"]), pairs(methods, outcome.suite.yaml["controls"]))
    write_text(out / "paired.csv", compared.to_csv(index=False, float_format="%.5g"))
    write_text(out / "table.md", markdown(runs, compared, outcome.suite.yaml))
    histograms(tables["ranks"], methods, outcome.suite.yaml).savefig(out / "ranks.png", dpi=130)
    plt.close("all")
    return ["table.md", "runs.csv", "observations.csv", "trials.csv", "paired.csv", "ranks.csv", "ranks.png"]


def pairs(methods: Mapping[str, Method], controls: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Of the names of the samplers with DSG, their base methods and the controls."""
    control_of = {methods[name].base_method: name for name in controls if name in methods}
    return pairs_of({name: m.base_method for name, m in methods.items() if m.control}, control_of)


def summary(tables: Mapping[str, pd.DataFrame], computes: Mapping[tuple, int]) -> pd.DataFrame:
    """A row per setting, method and number of steps: what it cost, means over observations with intervals, ranks."""
    merged = with_means(tables["runs"], keyed(tables["observations"]))
    merged = merged.merge(tables["ranks"][[*KEY, "chi2", "p"]], on=KEY, how="left")
    passes = [computes.get(k, k[2]) for k in merged[KEY].itertuples(index=False, name=None)]
    merged.insert(3, "compute", passes)
    return merged


def spread_out(ranks: pd.DataFrame) -> pd.DataFrame:
    """The histograms with a column per bin: of the ranks, and the bounds within which calibrated samplers stay."""
    columns = {
        f"{name}_{k}": ranks[name].map(lambda values, k=k: values[k])
        for name in ("histogram", "low", "high")
        for k in range(BINS)
    }
    return ranks.drop(columns=["histogram", "low", "high"]).assign(**columns)


def markdown(runs: pd.DataFrame, compared: pd.DataFrame, yaml: Mapping) -> str:
    """table.md: a table per setting, then the differences."""
    budgets = " or ".join(map(str, yaml["budgets"]))
    text = HEAD.format(**{**yaml, "budgets": budgets}, limit=LIMIT)
    for setting, part in runs.groupby("setting", sort=False):
        table = part[["method"]].assign(
            steps=part["steps"].replace(0, "-"), compute=part["compute"].replace(0, "-"), value=starred(part)
        )
        bounds = zip(part[DISTANCE], part[f"{DISTANCE}_low"], part[f"{DISTANCE}_high"])
        means = ["" if np.isnan(mean) else f"{mean:.3f} [{a:.3f}, {b:.3f}]" for mean, a, b in bounds]
        table["sliced W2"] = told_diverged(means, part)
        for name, digits in COLUMNS.items():
            table[TITLES.get(name, name)] = part[name].map(lambda v, d=digits: "" if pd.isna(v) else f"{v:.{d}f}")
        options = " ".join(yaml["tasks"][setting]["options"])
        text += f"\n## {setting}\n\n`{options}`\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"
    return text + differences(compared)


def histograms(ranks: pd.DataFrame, methods: Mapping[str, Method], yaml: Mapping):
    """Small multiples: a row per setting, a column per method, at its most steps; grey is where calibrated ones are."""
    at_most = ranks.loc[ranks.groupby(["setting", "method"], sort=False)["steps"].idxmax()]
    settings = list(dict.fromkeys(ranks["setting"]))
    names = [m for m in [*REFERENCES, *methods] if m in set(ranks["method"])]
    size = (1.05 * len(names) + 0.6, 1.05 * len(settings) + 0.7)
    fig, axes = plt.subplots(len(settings), len(names), figsize=size, squeeze=False)
    rows = at_most.set_index(["setting", "method"])
    for r, setting in enumerate(settings):
        for c, name in enumerate(names):
            ax = axes[r, c]
            ax.set_xticks([]), ax.set_yticks([]), ax.set_ylim(0, 3)
            if (setting, name) in rows.index:
                panel(ax, rows.loc[(setting, name)], "k" if name in REFERENCES else "tab:blue")
            if r == 0:
                label = methods[name].label if name in methods else name
                ax.set_title(short(label), fontsize=8)
            if c == 0:
                ax.set_ylabel(setting, fontsize=8)
    fig.suptitle(
        f"Ranks of {yaml['calibration']['observations']} truths among {yaml['calibration']['samples']} samples "
        f"(top of a panel: 3 times uniform); p of the test", fontsize=9,
    )  # fmt: skip
    fig.tight_layout(pad=0.4)
    return fig


def short(label: str) -> str:
    """For the narrow panels."""
    briefly = {" + ": "\n+ ", ", additive": ",\nadditive", "Trust Sampling": "Trust"}
    for long, brief in briefly.items():
        label = label.replace(long, brief)
    return label


def panel(ax, row: pd.Series, color: str) -> None:
    """Shares over those of a uniform distribution, cut at the top."""
    at = np.arange(BINS)
    shares, low, high = (np.array(row[name]) * BINS for name in ("histogram", "low", "high"))
    ax.bar(at, shares, 0.9, color=color, alpha=0.8)
    ax.fill_between([-0.5, BINS - 0.5], *band(low, high), color="0.5", alpha=0.4, linewidth=0)
    ax.text(0.5, 0.97, f"p = {row['p']:.3f}", transform=ax.transAxes, ha="center", va="top", fontsize=7)


def band(low: Sequence[float], high: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(low)), float(np.mean(high))
