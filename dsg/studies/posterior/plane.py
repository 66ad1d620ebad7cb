"""The plane of docs/theory.md: densities, trajectories, a film."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.animation import FuncAnimation, PillowWriter

from dsg.samplers import DPS, Unconditional, sample
from dsg.studies.posterior.ground_truth import GroundTruth
from dsg.suites.figures import WIDTH, plt


def trajectories(known: GroundTruth, runs: pd.DataFrame, steps: int = 100) -> dict[str, np.ndarray]:
    """x_t, and E[x0 | x_t] along it, [2, steps, N, 2], of the first observation.

    Args:
        runs: the rows of this setting, with the best values of DPS and DPS + DSG: those at `steps`, or else at the most
            steps, are taken.
    """
    tuned = runs[runs["value"].notna()]
    at = steps if steps in set(tuned["steps"]) else tuned["steps"].max()
    best = tuned[tuned["steps"] == at].set_index("method")["value"]
    common = {"steps": steps, "clip_denoised": False}
    samplers = {
        "unconditional": Unconditional(**common),
        "DPS": DPS(**common, step_size=float(best["dps"])),
        "DPS + DSG": DPS(**common, spherical=True, guidance_rate=float(best["dps_dsg"])),
        "oracle": Unconditional(**common),
    }
    paths = {}
    for name, sampler in samplers.items():
        noise, seen = known.noise(0, 1), []
        prior = known.posteriors[0] if name == "oracle" else known.prior
        start = noise(0, purpose="start")
        sample(prior, known.task, known.condition_of(0), sampler, start, noise, seen.append)
        parts = [s.x_prev for s in seen], [s.x0 for s in seen]
        paths[name] = torch.stack([torch.stack(part).flatten(2) for part in parts]).numpy()
    return paths


def background(ax, known: GroundTruth) -> None:
    """Densities of prior (grey) and posterior (red) at 1, 2, 4 and 8 nats below their maxima, and the line Ax = y."""
    line = torch.linspace(-1.5, 1.5, 160, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    for mixture, color in ((known.prior, "0.5"), (known.posteriors[0], "C1")):
        density = mixture.log_density(points).reshape(160, 160).T
        levels = (density.max() + torch.tensor([-8.0, -4.0, -2.0, -1.0])).tolist()
        ax.contour(line, line, density, levels=levels, colors=color, linestyles="solid", linewidths=0.6)
    a, b = known.task.matrix(2)[0]
    y = known.condition["y"][0].item()
    normal = np.array([a, b]) / math.hypot(a, b)
    start = normal * y / math.hypot(a, b)
    ends = np.stack([start - 4 * normal[::-1] * [1, -1], start + 4 * normal[::-1] * [1, -1]])
    ax.plot(ends[:, 0], ends[:, 1], "b:", linewidth=0.8)
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(True)


def picture(known: GroundTruth, paths: dict[str, np.ndarray], shown: int = 10):
    """The course of E[x0 | x_t] (lines, from the prior's mean), and the samples (dots)."""
    fig, axes = plt.subplots(1, len(paths), figsize=(WIDTH, 2.4))
    for ax, (name, path) in zip(axes, paths.items()):
        background(ax, known)
        ax.plot(path[1, :, :shown, 0], path[1, :, :shown, 1], color="C0", linewidth=0.7, alpha=0.8)
        ax.plot(path[0, -1, :, 0], path[0, -1, :, 1], "k.", markersize=2)
        ax.set_title(name)
    fig.tight_layout()
    return fig


def film(known: GroundTruth, paths: dict[str, np.ndarray], target: Path, frames: int = 34) -> None:
    """The points from noise to samples."""
    fig, axes = plt.subplots(1, len(paths), figsize=(2.6 * len(paths), 2.9))
    dots = []
    for ax, (name, path) in zip(axes, paths.items()):
        background(ax, known)
        ax.set_title(name, fontsize=9)
        dots.append(ax.plot(path[0, 0, :, 0], path[0, 0, :, 1], "k.", markersize=2.5)[0])
    fig.tight_layout()
    last = next(iter(paths.values())).shape[1] - 1
    moments = [*np.linspace(0, last, frames).round().astype(int), *[last] * 10]  # stays at the end

    def show(k):
        for dot, path in zip(dots, paths.values()):
            dot.set_data(path[0, k, :, 0], path[0, k, :, 1])
        return dots

    FuncAnimation(fig, show, moments, blit=False).save(target, PillowWriter(fps=12), dpi=70)
    plt.close(fig)
