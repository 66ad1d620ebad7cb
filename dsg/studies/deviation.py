"""How far each step of a run leaves the sphere, recorded while it runs."""

from pathlib import Path

import pandas as pd

from dsg.files import write_text
from dsg.samplers import GuidedState, StepState
from dsg.studies.posterior.premises import manifold_deviation
from dsg.suites.figures import WIDTH, label_ends, plt, runs, save
from dsg.suites.methods import styles
from dsg.suites.suite import Outcome

FILE = "manifold_deviation.csv"


class ManifoldDeviation:
    """A callback that records `manifold_deviation`, per image and step, in a CSV in the folder `out` of the run.

    Steps of samplers that say nothing of a mean and a sigma are left out.
    """

    def __init__(self, out: Path):
        self.path, self.rows = out / FILE, []

    def __call__(self, state: StepState, names: list[str]) -> None:
        deviation = manifold_deviation(state) if isinstance(state, GuidedState) else None
        if deviation is not None:
            where = {"index": state.index, "t": state.t, "repeat": state.repeat}
            self.rows += [{"id": n, **where, "deviation": d} for n, d in zip(names, deviation.tolist())]
        if state.index == 0 and self.rows:
            self.save()

    def save(self) -> None:
        """Add what has been recorded to the CSV: after every batch, so that a killed run keeps it."""
        new = pd.DataFrame(self.rows)
        if self.path.exists():
            new = pd.concat([read(self.path.parent), new])
        new = new.drop_duplicates(["id", "index", "repeat"], keep="last")
        write_text(self.path, new.to_csv(index=False, float_format="%.5g"))
        self.rows = []


def read(out: Path) -> pd.DataFrame | None:
    """What was recorded of the run in the folder `out`: id, index, t, repeat, deviation."""
    path = out / FILE
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False, na_values=[""]) if path.exists() else None


def figure(outcome: Outcome, part: str, task: str) -> list[str]:
    """manifold_deviation.png: |x_prev - mean| / (sqrt(n) sigma) against t, a panel per step count: 1 on the sphere."""
    steps, found = outcome.suite.steps, [job for job in runs(outcome, part) if job.section == task]
    looks = styles(dict.fromkeys(job.method for job in found))
    fig, axes = plt.subplots(1, len(steps), figsize=(WIDTH, 3.4), squeeze=False)
    for ax, n in zip(axes[0], steps):
        for job in found:
            deviation = read(job.out) if job.steps == n else None
            if deviation is not None:
                mean = deviation.groupby("t")["deviation"].mean().sort_index(ascending=False)
                ax.plot(mean.index, mean.values, **{**looks[job.method.name], "marker": None})
        ax.invert_xaxis()
        ax.set(
            title=f"{task.replace('_', ' ')}, {n} steps",
            xlabel="t",
            ylabel=r"$|x_{prev}-\mu|\,/\,(\sqrt{n}\,\sigma_t)$",
        )
        label_ends(ax)
    return save(fig, outcome.out / "manifold_deviation.png")
