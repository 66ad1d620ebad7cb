"""Which of the values that were tried is taken: a smooth choice, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsg.samplers import Tunable

NEAREST = 5  # trials that the quadratic is fitted to
EXPLAINED = 0.8  # share of their variance that it must explain to be believed
RESAMPLES = 500


@dataclass(frozen=True)
class Choice:
    """Attributes:
    value: of the option that is tuned.
    how: "fit", "pair", "bound" or "only": see `choose`.
    low, high: 95 % bootstrap interval over validation images; the value itself where there are no scores per image.
    """

    value: float
    how: str
    low: float
    high: float

    def text(self) -> str:
        """What is noted behind the value."""
        words = {"fit": "quadratic fit", "pair": "middle of the best pair", "bound": "a bound", "only": "one trial"}
        interval = f", 95 % {self.low:.3g} to {self.high:.3g}" if self.low < self.high else ""
        return words[self.how] + interval


def choose(values: Sequence[float], scores: Sequence[float], tunable: Tunable) -> tuple[float, str]:
    """The value with the best score, less jagged than the best trial, and how it was found.

    Args:
        values: above 0. scores: larger is better; trials that are not finite count for nothing.

    Returns:
        The centre is the geometric mean of the best pair of neighbouring values, by the mean of their scores. "fit":
        the optimum of a quadratic in log(value) through the `NEAREST` trials around the centre, if it has one between
        them and explains enough of their variance. Else "bound": the bound of the option, if that is the best trial
        and one of the pair; else "pair": the centre. "only": there was one trial.

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
    pair, x = values[k : k + 2], np.log(values)
    best = values[np.argmax(scores)]
    if best in (tunable.low, tunable.high) and best in pair:
        return float(best), "bound"
    centre = x[k : k + 2].mean()
    vertex = _vertex(x, scores, centre)
    return (float(np.exp(centre)), "pair") if vertex is None else (float(np.exp(vertex)), "fit")


def _vertex(x: np.ndarray, scores: np.ndarray, centre: float) -> float | None:
    """Where the local quadratic is largest; None if it is not to be believed."""
    near = np.argsort(np.abs(x - centre), kind="stable")[:NEAREST]
    if len(near) < 4:
        return None
    x, scores = x[near], scores[near]
    a, b, c = np.polyfit(x - centre, scores, 2)
    spread = np.square(scores - scores.mean()).sum()
    left = np.square(scores - np.polyval((a, b, c), x - centre)).sum()
    if not a < 0 or left > (1 - EXPLAINED) * spread:
        return None
    vertex = centre - b / (2 * a)
    return vertex if x.min() <= vertex <= x.max() else None


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
