"""Intervals that include the choice of the tuned value: validation images are resampled, the value is chosen again, and
then test images are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dsg.samplers import Tunable
from dsg.suites.choice import choose

RESAMPLES = 1000


@dataclass
class Measured:
    """The scores of a method on validation and test images.

    Attributes:
        candidates: [C] values that it was reported at, the chosen one first. test: [C, M], a row per candidate, of
            every test image.
        tunable: its option; None if nothing is tuned: then there is one candidate, whatever it is called.
        values, validation: [T] and [T, N], the trials, of every validation image.
    """

    candidates: Sequence[float]
    test: np.ndarray
    tunable: Tunable | None = None
    values: Sequence[float] = ()
    validation: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def chosen_again(self, some: np.ndarray) -> np.ndarray:
        """[M], the test scores at the value that these validation images would have chosen.

        Between candidates they are interpolated in log(value); beyond them they are those of the outermost.
        """
        if self.tunable is None or len(self.candidates) == 1:
            return self.test[0]
        value, _ = choose(self.values, self.validation[:, some].mean(1), self.tunable)
        order = np.argsort(self.candidates)
        x, rows = np.log(np.asarray(self.candidates)[order]), self.test[order]
        at = float(np.interp(np.log(value), x, np.arange(len(x))))
        below = min(int(at), len(x) - 2)
        return rows[below] + (at - below) * (rows[below + 1] - rows[below])

    def resampled(self, resamples: int = RESAMPLES) -> np.ndarray:
        """[R], the mean of the test scores, each time of other images and at the value chosen again.

        The k-th time has the same images for every method that has as many. So differences of methods, and means over
        tasks with the same images, may be taken resample by resample.
        """
        validation, test = np.random.default_rng(0), np.random.default_rng(1)
        n, m = self.validation.shape[1], self.test.shape[1]
        again = (self.chosen_again(validation.integers(0, n or 1, n)) for _ in range(resamples))
        return np.array([scores[test.integers(0, m, m)].mean() for scores in again])


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)
