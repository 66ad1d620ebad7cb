"""Intervals that include the choice of the tuned value: validation images are resampled, the value is chosen again, and
then test images are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dsg.benchmark.choice import choose
from dsg.samplers import Tunable

RESAMPLES = 1000


@dataclass
class Measured:
    """What was measured of a method.

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


def nested_bootstrap(
    method: Measured, base: Measured | None = None, validation_images: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Mean over test images of a method, or of its difference to `base`; 95 % percentile interval.

    Both are given the same resampled images. The mean is that at the chosen values.

    Args:
        base: measured on the same images.
        validation_images: N, of both.
    """
    rng, both = np.random.default_rng(0), [method] if base is None else [method, base]
    signs, images = (1, -1), method.test.shape[1]
    found = np.empty(resamples)
    for k in range(resamples):
        some, tested = rng.integers(0, validation_images or 1, validation_images), rng.integers(0, images, images)
        found[k] = sum(sign * one.chosen_again(some)[tested].mean() for sign, one in zip(signs, both))
    mean = sum(sign * one.test[0].mean() for sign, one in zip(signs, both))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(mean), float(low), float(high)
