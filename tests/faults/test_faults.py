"""Runs that are killed, raced, starved of disk and damaged, for real: a few of each. More: scripts/fault_trial.py."""

import random

import pytest

from dsg import faults

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed run, and the seconds that it took."""
    out = tmp_path_factory.mktemp("reference") / "o"
    return out, faults.undisturbed(out)


@pytest.mark.parametrize(
    "seed, logging", [(0, faults.PLAIN), pytest.param(0, faults.LOGGED, marks=SLOW), (1, faults.LOGGED)]
)
def test_a_killed_run_goes_on_to_the_same_results(tmp_path, reference, seed, logging):
    assert faults.killed(tmp_path / "o", reference[0], random.Random(seed), reference[1], logging) is None


@SLOW
def test_a_run_that_is_called_twice_at_once_ends_well_twice(tmp_path, reference):
    assert faults.raced(tmp_path / "o", reference[0]) is None


@SLOW
def test_of_two_runs_into_one_folder_one_is_told_that_it_belongs_to_the_other(tmp_path, reference):
    assert faults.contested(tmp_path / "o", reference[0]) is None


def test_a_run_goes_on_when_there_is_space_again(tmp_path, reference):
    assert faults.filled(tmp_path / "o", reference[0], random.Random(0)) is None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_damaged_file_is_made_again_or_refused(tmp_path, reference, seed):
    assert faults.damaged(tmp_path / "o", reference[0], random.Random(seed)) is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged files
def test_damaged_images_are_read_or_refused_in_one_line(tmp_path):
    rng = random.Random(0)
    assert [wrong for _ in range(500) if (wrong := faults.misread(tmp_path, rng))] == []
