"""How far samples are from the truth, against how much they differ, as each method's knob turns."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dsg import image_files as images
from dsg.files import resolve, write_text
from dsg.metrics.distribution import kernel_distance
from dsg.metrics.semantic import load_evaluator
from dsg.statistics import by_image, mean_interval
from dsg.suites.figures import WIDTH, legends_above, plain_ticks, plt, save
from dsg.suites.methods import Method, families, styles_in_panel
from dsg.suites.protocol import Extra, ReportJob, outcome_of
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome
from dsg.suites.tables import markdown as as_markdown
from dsg.suites.tables import number, write_csv
from dsg.suites.views import MMSE

HEAD = """# Distortion against diversity: {task}, {steps} steps, {images} test images, {samples} samples each

{outcome} Every method is also run at {factors} times its value. Distances are root mean squares over pixels in [-1, 1];
means with 95 % intervals over images.

| column | meaning |
|---|---|
| sample to truth | distance of a sample from the truth |
| mean to truth | distance of the mean of the {samples} samples from the truth |
| spread | distance between two samples of an image |
| to the reference | distance of that mean from the reference: the mean of {others} other {reference} |
| kernel | squared maximum mean discrepancy between the samples and real faces of others |

kernel: by KID's formula in the features of the prior's evaluator. It is unbiased, so that it may come out below 0.

Were those samples of the posterior, the reference would be near the MMSE point: no estimate is nearer to the truth on
average. A row whose mean is nearer shows that they are not. Samples of the exact posterior are sqrt 2 times as far from
the truth as the MMSE point, and as far from each other as from the truth. "Other": samples of equal number have equal
noise in all methods, so the reference leaves out the numbers of the rows.
"""


class Distances(NamedTuple):
    """Distances of one image; root mean squares over pixels in [-1, 1]."""

    sample: float  # of a sample from the truth
    mean: float  # of the mean of the samples from the truth
    spread: float  # between two samples
    to_reference: float  # of the mean of the samples from the reference


def distances(samples: np.ndarray, truth: np.ndarray, reference: np.ndarray | None = None) -> Distances:
    """Args: samples [K, ...], K >= 2; truth and reference like one of them; values in [-1, 1]."""
    x, truth = samples.reshape(len(samples), -1), truth.reshape(-1)
    squared = np.square(x - x.mean(0)).sum(0) / (len(x) - 1)  # unbiased: half the mean square between two samples
    middle = x.mean(0)
    to_reference = np.nan if reference is None else _rms(middle - reference.reshape(-1))
    return Distances(_rms(x - truth), _rms(middle - truth), float(np.sqrt(2 * squared.mean())), to_reference)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x).mean()))


def write(outcome: Outcome, part: str) -> list[str]:
    """tradeoff.csv, tradeoff.md and tradeoff.png: what the suite's `tradeoff` asks for (`dsg.suites.views`)."""
    spec, jobs = outcome.suite.yaml["tradeoff"], [job for job in outcome.of(part) if job.extras]
    rows = table(jobs, spec)
    if rows.empty:
        return []
    write_csv(outcome.out / "tradeoff.csv", rows)
    methods = {job.report.sampler: job.report.method for job in jobs}
    write_text(outcome.out / "tradeoff.md", markdown(rows, outcome, spec, methods))
    return ["tradeoff.md", "tradeoff.csv", *save(figure(rows, methods), outcome.out / "tradeoff.png")]


def table(jobs: Sequence[ReportJob], spec: Mapping) -> pd.DataFrame:
    """A row per method and factor, and one of the reference."""
    runs = {(job.report.sampler, extra.name): (job.ready(extra.name), extra) for job in jobs for extra in job.extras}
    runs = {key: pair for key, pair in runs.items() if pair[0] is not None}
    count = spec["samples"]
    points = next((means(run, count) for (_, name), (run, _) in runs.items() if name == MMSE), {})
    rows = []
    for (sampler, name), (run, extra) in runs.items():
        if name == MMSE:
            found = {i: Distances(np.nan, _rms(x - truth_of(run, i)), 0.0, 0.0) for i, x in points.items()}
            rows.append(row_of(MMSE, extra, run, found))
        if name != MMSE or sampler not in spec["samplers"]:
            found = {i: distances(samples_of(run, i)[:count], truth_of(run, i), points.get(i)) for i in ids(run)}
            psnr = by_image(run.tables()["images"], "psnr").mean()
            rows.append({**row_of(sampler, extra, run, found), "psnr": psnr, "kernel": kernel(run, spec)})
    return pd.DataFrame(rows)


def row_of(method: str, extra: Extra, run: ImageJob, found: Mapping[str, Distances]) -> dict:
    row = {"method": method, "factor": extra.factor, "images": len(found)}
    if run.tunable is not None:
        row["value"] = run.chosen_value
    for column in Distances._fields:
        values = np.array([getattr(one, column) for one in found.values()])
        row[column], row[f"{column}_low"], row[f"{column}_high"] = mean_interval(values)
    return row


def ids(run: ImageJob) -> list[str]:
    """The ids of the images that have all their samples."""
    counts = run.tables()["images"].groupby("image").size()
    return list(counts.index[counts == run.samples])


def samples_of(run: ImageJob, name: str) -> np.ndarray:
    """[K, H, W, 3] in [-1, 1]."""
    return np.stack([run.results.image(f"{name}_{k}") for k in range(run.samples)]) / 127.5 - 1


def truth_of(run: ImageJob, name: str) -> np.ndarray:
    path = run.results.truth / f"{name}.png"
    return images.as_array(path) / 127.5 - 1


def means(run: ImageJob, first: int) -> dict[str, np.ndarray]:
    """By image, the mean of its samples from number `first` on."""
    return {name: samples_of(run, name)[first:].mean(0) for name in ids(run)}


def kernel(run: ImageJob, spec: Mapping) -> float:
    """`kernel_distance` of all samples from the faces in the folder `real`, in the features of `evaluator`."""
    evaluator = load_evaluator(spec["evaluator"])
    pixels = np.stack([run.results.image(f"{name}_{k}") for name in ids(run) for k in range(run.samples)])
    real = images.load(resolve(spec["real"]), pixels.shape[1])
    ours, theirs = (evaluator.features(x).double().numpy() for x in (pixels, np.stack(list(real.values()))))
    return kernel_distance(ours, theirs)


def markdown(rows: pd.DataFrame, outcome: Outcome, spec: Mapping, methods: Mapping[str, Method]) -> str:
    reference = f"samples of {methods[spec['mmse']['sampler']].label}"
    text = HEAD.format(
        task=spec["task"].replace("_", " "), steps=spec["steps"], images=int(rows["images"].max()),
        samples=spec["samples"], outcome=outcome_of(outcome.suite.yaml["tuning"]),
        others=spec["mmse"]["samples"] - spec["samples"], reference=reference,
        factors=", ".join(f"{f:g}" for f in spec["factors"]),
    )  # fmt: skip
    titles = {"sample": "sample to truth", "mean": "mean to truth", "spread": "spread"}
    titles["to_reference"] = "to the reference"
    shown = {"method": rows["method"].map(lambda m: f"mean of {reference}" if m == MMSE else methods[m].label)}
    shown |= {"x its value": rows["factor"].map("{:g}".format)}
    for column, title in titles.items():
        for bound in ("", "_low", "_high"):
            shown[title + bound.replace("_", ", ")] = [number(v, 3) for v in rows[column + bound]]
    shown |= {"PSNR [dB]": [number(v, 2) for v in rows["psnr"]], "kernel": [number(v, 4) for v in rows["kernel"]]}
    return f"{text}\n{as_markdown(pd.DataFrame(shown))}"


def figure(rows: pd.DataFrame, methods: Mapping[str, Method]):
    """A panel per base method and its variants: how much samples differ, over how far they are from the truth, against
    that distance; a curve per method along its knob, the chosen value a large point. Dotted: the reference's distance.
    """
    groups = families((method for name, method in methods.items() if name in set(rows["method"])), most=5)
    fig, axes = plt.subplots(1, len(groups), figsize=(WIDTH, 4.4), squeeze=False, sharex=True, sharey=True)
    for ax, group in zip(axes[0], groups):
        for name, look in styles_in_panel(group).items():
            part = rows[rows["method"] == name].sort_values("factor")
            ax.plot(part["sample"], part["spread"] / part["sample"], **look)
            chosen = part[part["factor"] == 1]
            large = {"marker": look["marker"], "color": look["color"], "markersize": 9}
            ax.plot(chosen["sample"], chosen["spread"] / chosen["sample"], **large)
        ax.axhline(1, color="0.7", linewidth=1, zorder=0)
        for reference in rows.loc[rows["method"] == MMSE, "mean"]:
            ax.axvline(reference, color="k", linestyle=":", linewidth=1)
        ax.set_xscale("log")
        plain_ticks(ax.xaxis)
    axes[0, 0].set(ylabel="distance between two samples\n/ distance to the truth")
    axes[0, 0].set_ylim(bottom=0)
    legends_above(axes)
    fig.supxlabel("RMS distance of a sample to the truth (dotted: of the posterior's mean)", fontsize=9)
    return fig
