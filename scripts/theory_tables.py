"""The tables of results/theory: DSG against its host, leaving the sphere against the posterior error, everything as Markdown."""

import numpy as np
import pandas as pd

from dsg.metrics import bootstrap


def correlations(trials: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of leaving the sphere (mean |deviation - 1| of a run) with the distance to the posterior, of
    each host in each setting: over all trials, and without those whose guidance is weaker than the best."""
    rows = []
    hosts = trials[trials["method"].isin(["dps", "freedom", "mpgd"])].dropna(subset=["sliced_wasserstein"])
    for (setting, method), part in hosts.groupby(["setting", "method"], sort=False):
        best = part.loc[part.groupby("steps")["sliced_wasserstein"].idxmin()].set_index("steps")["value"]
        strong = part[part["value"] >= part["steps"].map(best)]
        rows.append(
            {"setting": setting, "host": method, "all": _spearman(part), "not weaker than the best": _spearman(strong)}
        )
    return pd.DataFrame(rows)


def _spearman(trials: pd.DataFrame) -> float:
    return float(trials["off_sphere"].rank().corr(trials["sliced_wasserstein"].rank()))


def paired(observations: pd.DataFrame, samplers: list[str]) -> pd.DataFrame:
    """DSG minus its host in sliced W2, measurement by measurement, with 95 % bootstrap intervals."""
    rows = []
    by = observations.set_index(["setting", "method", "steps"])["sliced_wasserstein"]
    for setting, method, steps in by.index.unique():
        host = (setting, method.removesuffix("_dsg"), steps)
        if method in samplers and method.endswith("_dsg") and host in by.index:
            difference = by[(setting, method, steps)].to_numpy() - by[host].to_numpy()
            mean, low, high = bootstrap(difference)
            rows.append(
                {"setting": setting, "host": host[1], "steps": steps, "difference": mean, "low": low, "high": high}
            )
    return pd.DataFrame(rows)


COLUMNS = {
    "sliced_wasserstein": ("sliced W2", 3), "energy": ("energy", 3), "bias": ("bias", 3), "covariance_error": ("cov.", 2),
    "spread": ("spread", 2), "mode_error": ("modes", 3), "in_region": ("in 90 %", 2), "coverage": ("coverage", 2), "to_truth": ("to truth", 2),
}  # fmt: skip
HEAD = """# Samplers against exact posteriors

Written by `make reproduce SUITE=theory`; what it means is in docs/theory.md. Each method at the value that is best for its number of steps (sliced
Wasserstein, {trials} trials, {tuning} measurements x {tuning_samples} samples); the numbers are of {report} other measurements x {samples} samples (plane and faces768: other counts, in configs/suite/theory.yaml), means over measurements.

sliced W2: sliced 2-Wasserstein distance over the posterior's standard deviation. energy: energy distance over the mean distance of posterior samples.
bias: error of the posterior mean over the posterior's standard deviation, without what so many samples have by chance; cov.: relative error of the covariance. spread: tr Cov over the posterior's. modes: total variation of the component weights.
in 90 %: share of samples in the exact 90 % highest-density region. coverage: of the truth by the samples' central 90 % intervals. to truth: mean squared distance to
the true x0, over twice the posterior's tr C: 1 for posterior samples, .5 for the posterior mean. exact: other exact samples, the floor. oracle: the unconditional sampler under the true conditional score. dps_open,
direction_dsg, length: configs/suite/theory.yaml. *: best value at the edge of what was tried.
"""


def markdown(tables: dict[str, pd.DataFrame], suite: dict) -> str:
    parts = suite["tuning"], suite["report"]
    text = HEAD.format(
        trials=parts[0]["trials"], tuning=parts[0]["observations"], tuning_samples=parts[0]["samples"],
        report=parts[1]["observations"], samples=parts[1]["samples"],
    )  # fmt: skip
    for setting, part in tables["cells"].groupby("setting", sort=False):
        value = [
            ("" if np.isnan(v) else f"{v:.3g}" + ("" if str(i) == "True" else "*"))
            for v, i in zip(part["value"], part["inside"])
        ]
        table = part[["method"]].assign(steps=part["steps"].replace(0, "-"), value=value)
        for name, (title, digits) in COLUMNS.items():
            table[title] = part[name].map(f"{{:.{digits}f}}".format)
        text += f"\n## {setting}\n\n{' '.join(suite['settings'][setting]['options'])}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"
    text += "\n## DSG minus its host\n\nsliced W2, measurement by measurement: mean and 95 % bootstrap interval.\n\n"
    text += tables["paired"].to_markdown(index=False, floatfmt="+.3f", intfmt="d") + "\n"
    text += "\n## Leaving the sphere, and the distance to the posterior\n\nRank correlation over trials (every step size, at every number of steps) of"
    text += " mean |deviation - 1| with sliced W2.\n\n"
    return text + tables["correlations"].to_markdown(index=False, floatfmt=".2f") + "\n"
