"""The card's figure."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from dsg.avatars64.drawing import PARTS
from dsg.avatars64.guidance_card.clip import GROUP
from dsg.avatars64.guidance_card.people import People
from tasks.segmentation import colored

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

WORDS = (
    f"CLIP: the caption found first among {GROUP}.  "
    "Evaluator: the attributes it recognises (red: wrong, with [the true one])"
)
MAPS = "Label maps: rendered, by the guidance network, the evaluator and the selector (black: wrong pixels)"
PAIRS = "Identity: distance of two images (green: told right at the threshold, red: wrong)"


def figure(
    path: Path,
    people: People,
    retrieved: Sequence[str],
    answers: pd.DataFrame,
    maps: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, float, bool, np.ndarray, np.ndarray]],
) -> None:
    """Captions and attributes of the first faces; label maps; pairs with their distances.

    Args:
        maps: uint8 [N, H, W] by what found them.
        pairs: (title, distance, told right, image, image).
    """
    fig = plt.figure(figsize=(13, 13.7), facecolor="white")
    top, middle, bottom = fig.subfigures(3, 1, height_ratios=[5.1, 5.5, 3.1])
    draw_words(top, people, retrieved, answers)
    draw_maps(middle, people, maps)
    draw_pairs(bottom, pairs)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def show(ax, pixels: np.ndarray) -> None:
    ax.imshow(pixels, interpolation="nearest")
    ax.set_xticks([]), ax.set_yticks([])
    for side in ax.spines.values():
        side.set_color("0.8")


def heading(part, text: str) -> None:
    part.text(0.012, 0.985, text, fontsize=11, weight="bold", va="top")


def draw_words(part, people: People, retrieved: Sequence[str], answers: pd.DataFrame, count: int = 5) -> None:
    heading(part, WORDS)
    axes = part.subplots(1, count)
    part.subplots_adjust(0.012, 0.5, 0.988, 0.93, wspace=0.1)
    for i, ax in enumerate(axes):
        show(ax, people.first[i])
        lines = textwrap.wrap(retrieved[i], 38)
        ax.text(0, -0.05, "\n".join(lines), transform=ax.transAxes, fontsize=8, style="italic", va="top")
        for k, name in enumerate(answers):
            wrong = answers[name][i] != people.rows[i][name]
            text = f"{name.replace('_', ' ')}: {answers[name][i].replace('_', ' ').lower()}"
            text += f"  [{people.rows[i][name].replace('_', ' ').lower()}]" if wrong else ""
            color = "tab:red" if wrong else "0.25"
            ax.text(0, -0.33 - 0.073 * k, text, transform=ax.transAxes, fontsize=7.2, va="top", color=color)


def draw_maps(part, people: People, maps: Mapping[str, np.ndarray], count: int = 12) -> None:
    heading(part, MAPS)
    axes = part.subplots(2 + len(maps), count)
    part.subplots_adjust(0.052, 0.01, 0.988, 0.93, wspace=0.04, hspace=0.04)
    truth = people.parts
    for i in range(count):
        show(axes[0, i], people.first[i])
        show(axes[1, i], colored(truth[i], len(PARTS)))
        for ax, found in zip(axes[2:, i], maps.values()):
            map_ = colored(found[i], len(PARTS))
            map_[found[i] != truth[i]] = 0
            show(ax, map_)
    for ax, name in zip(axes[:, 0], ("face", "rendered", *maps)):
        ax.set_ylabel(name, fontsize=8)


def draw_pairs(part, pairs: Sequence[tuple[str, float, bool, np.ndarray, np.ndarray]], columns: int = 6) -> None:
    heading(part, PAIRS)
    axes = part.subplots(2, columns)
    part.subplots_adjust(0.012, 0.01, 0.988, 0.86, wspace=0.06, hspace=0.12)
    for ax, (name, distance, right, a, b) in zip(axes.flat, pairs):
        show(ax, np.concatenate([a, np.full((64, 3, 3), 255, np.uint8), b], 1))
        ax.set_title(f"{name}: {distance:.2f}", fontsize=8.5, color="tab:green" if right else "tab:red", pad=3)
