"""Ranks of truths among samples: exact samples pass the test, the oracle passes, everything else that should fails."""

import pandas as pd
import pytest
import torch

from dsg.priors.gaussian_mixture import seeded
from dsg.samplers import DPS, Unconditional
from dsg.schedule import NoiseSchedule, linear_betas
from dsg.studies.posterior import posterior_plan, ranks
from dsg.studies.posterior.ground_truth import GroundTruth
from dsg.studies.posterior.ranks import BINS, chi_square, histograms, pooled_ranks, rank_test
from dsg.suites.main import draw
from dsg.suites.suite import load
from dsg.suites.views import most_steps
from tasks.matrix import Matrix


@pytest.fixture(scope="module")
def known():
    prior = seeded(dimension=6, components=3, rank=2, floor=0.15, spread=0.5, scale=0.7)
    return GroundTruth(prior, Matrix("linear", sigma=0.2, rows=2), observations=60, samples=19)


def test_ranks_are_counted_from_below():
    truths, points = torch.tensor([[0.5], [-9.0]]), torch.tensor([[[0.1], [0.2], [0.9]], [[1.0], [2.0], [3.0]]])
    found = pooled_ranks(truths, points, torch.ones(1, 1, dtype=torch.float64))
    assert found[:, 0, 0].tolist() == [2, 0] and found[0, :, 0].tolist() == [2, 0, 1, 3]
    counts = histograms(torch.tensor([[0], [1], [19], [18]]), 19)
    assert counts.shape == (1, BINS) and counts[0, 0] == counts[0, -1] == 2
    assert chi_square(counts).item() == pytest.approx((2 * 1.6**2 / 0.4 + 8 * 0.4) / 9)


def test_exact_samples_pass_and_the_oracle_does(known):
    exact = rank_test(known.truths, known.floor())
    assert exact.calibrated and exact.chi2 == pytest.approx(1, abs=0.5)
    assert sum(exact.histogram) == pytest.approx(1) and len(exact.low) == len(exact.high) == BINS
    some = GroundTruth(known.prior, known.task, observations=25, samples=19)
    assert rank_test(some.truths, some.oracle(Unconditional(steps=100, clip_denoised=False))).calibrated


def test_a_sampler_that_knows_nothing_of_y_is_calibrated_too(known):
    """Ranks do not tell: truths are draws of the prior as well. That is why distances stand beside them."""
    points = known.prior.sample(60 * 19, torch.Generator().manual_seed(5)).reshape(60, 19, 6)
    assert rank_test(known.truths, points).calibrated
    assert (
        known.compare(points)["sliced_wasserstein"].mean()
        > 2 * known.compare(known.floor())["sliced_wasserstein"].mean()
    )


def test_p_is_uniform_for_exact_samples(monkeypatch):
    """The share of p below .2 over many independent sets is about .2: the test is exact, neither slack nor strict."""
    monkeypatch.setattr(ranks, "RESAMPLES", 99)
    g = torch.Generator().manual_seed(0)
    found = []
    for k in range(60):
        pool = torch.randn(30, 20, 6, generator=g) * torch.rand(30, 1, 6, generator=g)
        found.append(rank_test(pool[:, 0], pool[:, 1:], seed=k).p)
    assert 0.07 < sum(p < 0.2 for p in found) / 60 < 0.37


@pytest.mark.parametrize("name", ["shuffled", "narrow", "wide", "biased", "dps"])
def test_what_is_not_calibrated_fails(known, name):
    exact = known.floor()
    mean = exact.mean(1, keepdim=True)
    points = {
        "shuffled": lambda: exact.roll(1, 0),
        "narrow": lambda: mean + 0.5 * (exact - mean),
        "wide": lambda: mean + 2 * (exact - mean),
        "biased": lambda: exact + 0.3,
        "dps": lambda: known.run(DPS(steps=20, clip_denoised=False, step_size=2.0)),
    }[name]()
    found = rank_test(known.truths, points)
    assert not found.calibrated and found.p < 0.01 and found.chi2 > 1
    outer = found.histogram[0] + found.histogram[-1]
    assert {"narrow": outer > 0.25, "wide": outer < 0.15}.get(name, True)


def test_numbers_that_do_not_suit_are_refused(known):
    with pytest.raises(ValueError, match="18 samples"):
        rank_test(known.truths, known.floor()[:, :18])
    with pytest.raises(ValueError, match="not finite"):
        rank_test(known.truths, torch.full((60, 19, 6), torch.nan))


def test_directions_are_the_same_every_time():
    u = ranks.directions(6)
    assert torch.equal(u, ranks.directions(6)) and u.shape == (6, ranks.DIRECTIONS)
    torch.testing.assert_close(u.norm(dim=0), torch.ones(ranks.DIRECTIONS, dtype=u.dtype))


# --- the suite


def test_a_budget_is_filled_and_not_passed():
    def build(steps):
        return DPS(steps=steps)

    schedule = NoiseSchedule(linear_betas())
    assert most_steps(build, schedule, 60) == 20 and most_steps(build, schedule, 62) == 20
    assert most_steps(build, schedule, 5) is None  # two steps take six
    assert most_steps(build, schedule, 5000) == 1000  # there are no more noise levels


@pytest.mark.slow
def test_the_suite_ranks_every_sampler(tmp_path):
    """One setting at tiny size, in this process: every job runs, and tables and figure have all of them."""
    suite = load("theory_rivals", tasks=["ambiguous64"], out=tmp_path)
    few = {"budgets": [60], "oracle_steps": [5], "tuning": {"observations": 1, "samples": 5, "trials": 1},
           "report": {"observations": 2, "samples": 6}, "calibration": {"observations": 4, "samples": 9}}  # fmt: skip
    suite.yaml = {**suite.yaml, **few}
    suite.samplers = ["mpgd_dsg", "diffpir", "ddrm"]
    jobs = posterior_plan.rivals(suite)
    assert [job.method for job in jobs] == ["exact", "shuffled", "oracle", *suite.samplers]
    for job in jobs:
        job.check()
        assert job.run(lambda done: None) == []
    names = draw(suite, jobs, failures := [])
    assert not failures and all((tmp_path / name).stat().st_size > 0 for name in names)
    runs = pd.read_csv(tmp_path / "runs.csv").set_index("method")
    assert list(runs.index) == [job.method for job in jobs] and runs["p"].between(0, 1).all()
    assert (runs["compute"].drop(["exact", "shuffled", "oracle"]) <= 60).all() and runs.loc["diffpir", "compute"] == 60
    assert "sliced W2" in (tmp_path / "table.md").read_text()
