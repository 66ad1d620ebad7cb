"""The protocol of suites: the smooth choice, intervals that include it, and what the tables say."""

import numpy as np
import pytest

from dsg.benchmark.choice import choice, choose
from dsg.samplers import Tunable

SIZE, RATE = Tunable("step_size", 4.0), Tunable("guidance_rate", 0.2, high=1.0)
GRID = np.array([1, 2, 4, 8, 16], dtype=float)


def parabola(optimum, values=GRID):
    return 30 - np.log(np.asarray(values) / optimum) ** 2


@pytest.mark.parametrize("optimum", [2.7, 4.0, 6.1])
def test_on_a_parabola_the_choice_is_its_optimum(optimum):
    value, how = choose(GRID[::-1], parabola(optimum)[::-1], SIZE)  # in any order
    assert how == "fit" and value == pytest.approx(optimum)


def test_one_lucky_trial_is_not_chosen():
    """Jagged: the highest score stands between two low ones, the best pair elsewhere."""
    scores = [20.0, 25.0, 25.2, 21.0, 25.5]
    value, how = choose(GRID, scores, SIZE)
    assert how == "pair" and value == pytest.approx(2 * 2**0.5)


def test_a_cliff_is_not_fitted_by_a_parabola():
    value, how = choose([2, 4, 8, 16, 32], [27.0, 27.1, 27.2, 27.1, -10.0], SIZE)
    assert 4 <= value <= 16


def test_a_rising_curve_ends_at_its_bound():
    assert choose([0.25, 0.5, 1.0], [1, 2, 3], RATE) == (1.0, "bound")
    assert choose([0.25, 0.5, 1.0], [1, 2, 3], SIZE) == (pytest.approx(0.5**0.5), "pair")  # no bound there


def test_failed_trials_count_for_nothing():
    scores = np.r_[parabola(3.0), np.nan]
    assert choose([*GRID, 32], scores, SIZE)[0] == pytest.approx(3.0)
    assert choose([1, 2], [np.nan, 1.0], SIZE) == (2.0, "only")
    with pytest.raises(ValueError, match="no trial has a score"):
        choose([1.0], [np.nan], SIZE)


def test_the_interval_of_a_choice_covers_the_images_optima_and_shrinks_with_their_number():
    def of(count):
        optima = np.exp(np.random.default_rng(1).normal(np.log(4), 0.3, count))
        return choice(GRID, np.stack([parabola(o) for o in optima], axis=1), SIZE)

    few, many = of(8), of(128)
    for found in (few, many):
        assert found.low < found.value < found.high and found.low < 4.0 < found.high
    # the mean of parabolas has its optimum at the geometric mean: standard error .3/sqrt(count)
    assert np.log(many.high / many.low) == pytest.approx(2 * 1.96 * 0.3 / 128**0.5, rel=0.25)
    assert few.high / few.low > many.high / many.low
