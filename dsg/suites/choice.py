"""The value that is taken from the trials of a search, and its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsg.samplers import Tunable

RESAMPLES = 500
WORDS = {
    "fit": "quadratic fit", "bound": "not tuned: a bound", "edge": "not tuned: the outermost trial", "only": "one trial"
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Attributes:
    value: of the option that is tuned.
    how: "fit", "bound", "edge" or "only": see `choose`.
    low, high: 95 % bootstrap interval over validation images; the value itself where there are no scores per image.
    """

    value: float
    how: str
    low: float
    high: float

    @property
    def is_tuned(self) -> bool:
        """Whether the value lies inside its bounds and inside what was tried."""
        return self.how not in ("bound", "edge")

    def text(self) -> str:
        """The comment on the value in a tuned table."""
        interval = f", 95 % {self.low:.3g} to {self.high:.3g}" if self.low < self.high else ""
        return WORDS[self.how] + interval


def choose(values: Sequence[float], scores: Sequence[float], tunable: Tunable) -> tuple[float, str]:
    """The value with the best score, and how it was found.

    The centre is the better trial of the best pair of neighbouring values, by the mean of their scores: a single high
    score between two low ones is not followed.

    Args:
        values: above 0. scores: larger is better; trials that are not finite are left out.

    Returns:
        "fit": the optimum of the quadratic in log(value) through the centre and its two neighbours. Where the centre
        is the outermost trial it is taken as it is, and the option is not tuned: "bound" if it is a bound of the
        option, else "edge". "only": there was one trial.

    Raises:
        ValueError: no score is finite.
    """
    values, scores = np.asarray(values, dtype=float), np.asarray(scores, dtype=float)
    order = np.argsort(values)
    values, scores = values[order][np.isfinite(scores[order])], scores[order][np.isfinite(scores[order])]
    if len(values) == 0:
        raise ValueError("no trial has a score")
    if len(values) == 1:
        return float(values[0]), "only"
    k = int(np.argmax(scores[:-1] + scores[1:]))
    centre = k if scores[k] >= scores[k + 1] else k + 1
    if centre in (0, len(values) - 1):
        return float(values[centre]), "bound" if values[centre] in (tunable.low, tunable.high) else "edge"
    near = slice(centre - 1, centre + 2)
    x, y = np.log(values[near] / values[centre]), scores[near]
    a, b, _ = np.polyfit(x, y, 2)
    return float(values[centre] * np.exp(-b / (2 * a) if a < 0 else 0.0)), "fit"


def choice(values: Sequence[float], scores: np.ndarray, tunable: Tunable) -> Choice:
    """`choose` with its interval.

    Args:
        scores: [T, N], a row per value: of every validation image, the mean over seeds.
    """
    scores = np.asarray(scores, dtype=float)
    value, how = choose(values, scores.mean(1), tunable)
    if scores.shape[1] < 2:
        return Choice(value, how, value, value)
    draws = np.random.default_rng(0).integers(0, scores.shape[1], (RESAMPLES, scores.shape[1]))
    found = [choose(values, scores[:, some].mean(1), tunable)[0] for some in draws]
    low, high = np.percentile(found, [2.5, 97.5])
    return Choice(value, how, float(low), float(high))
