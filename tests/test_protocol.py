"""The protocol of suites: the smooth choice, intervals that include it, and what the tables say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dsg.samplers import Tunable
from dsg.statistics import verdict
from dsg.studies import tradeoff
from dsg.studies.tradeoff import distances
from dsg.suites import frame
from dsg.suites.choice import Choice, choice, choose
from dsg.suites.methods import Method
from dsg.suites.nested import Measured, interval
from dsg.suites.protocol import CHOSEN, HIGH, LOW, Extra, outcome_of, recorded_choice
from dsg.suites.suite import load
from dsg.suites.trials import Trials
from dsg.suites.views import MMSE, jobs, places_of
from dsg.types import Column

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
    value, how = choose([*GRID, 32.0], [20.0, 25.0, 25.2, 21.0, 25.5, 20.0], SIZE)
    assert how == "fit" and 2 < value < 4


def test_trials_far_from_the_best_do_not_move_the_choice():
    near = [27.0, 27.1, 27.0]
    for far in (-10.0, 26.9):
        value, how = choose([2, 4, 8, 16, 32], [far, *near, far], SIZE)
        assert how == "fit" and value == pytest.approx(8.0)


def test_a_value_at_a_bound_or_at_the_edge_of_what_was_tried_is_not_tuned():
    assert choose([0.25, 0.5, 1.0], [1, 2, 3], RATE) == (1.0, "bound")
    assert choose([0.25, 0.5, 1.0], [1, 2, 3], SIZE) == (1.0, "edge")  # no bound there
    scores = np.array([[1, 1], [2, 2], [3, 3]])
    for tunable, word in ((RATE, "not tuned: a bound"), (SIZE, "not tuned: the outermost trial")):
        found = choice([0.25, 0.5, 1.0], scores, tunable)
        assert not found.is_tuned and found.text() == word
    assert choice(GRID, np.stack([parabola(3.0)] * 2, axis=1), SIZE).is_tuned


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


# --- intervals


def measured(shift=0.0, spread=0.0):
    """Scores that do not depend on the value, of 40 test images."""
    test = np.random.default_rng(0).normal(30, 1, (1, 40)) + shift
    optima = 4 * np.exp(np.random.default_rng(1).normal(0, spread, 30))
    return Measured([4.0], test, SIZE, GRID, np.stack([parabola(o) for o in optima], axis=1))


def test_with_one_candidate_a_nested_interval_is_the_bootstrap_s():
    low, high = interval(measured().resampled())
    sd = measured().test.std() / 40**0.5
    assert low < measured().test.mean() < high and high - low == pytest.approx(2 * 1.96 * sd, rel=0.15)
    assert interval(measured(0.5).resampled() - measured().resampled()) == pytest.approx((0.5, 0.5))  # the same images


def test_an_unsure_choice_widens_the_interval():
    """The test score is a slope in log(value): what the choice varies by is what the score varies by."""
    candidates = np.array([4.0, 1.0, 16.0])
    slope = np.log(candidates / 4)[:, None] + np.zeros((3, 40))
    sure, unsure = measured(spread=0.0), measured(spread=0.8)
    widths = []
    for one in (sure, unsure):
        both = Measured(candidates, 30 + slope, SIZE, one.values, one.validation)
        low, high = interval(both.resampled())
        widths.append(high - low)
    assert widths[0] == pytest.approx(0, abs=1e-6)
    assert widths[1] == pytest.approx(2 * 1.96 * 0.8 / 30**0.5, rel=0.3)


@pytest.mark.parametrize(
    "low, high, word",
    [
        (0.2, 0.5, "higher"),
        (-0.5, -0.2, "lower"),
        (0.01, 0.05, "higher, within the margin"),
        (-0.09, 0.09, "no difference"),
        (-0.05, 0.2, "open"),
    ],
)
def test_what_an_interval_says(low, high, word):
    assert verdict(low, high, 0.1) == word


# --- distortion and diversity


def test_samples_of_a_posterior_are_root_2_from_the_truth_and_from_each_other():
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 1, 30_000)
    truth, samples = mean + rng.normal(0, 0.2, mean.shape), mean + rng.normal(0, 0.2, (4, *mean.shape))
    found = distances(samples, truth, reference=mean)
    assert found.sample == pytest.approx(0.2 * 2**0.5, rel=0.02) == found.spread
    assert found.mean == pytest.approx(0.2 * (1 + 1 / 4) ** 0.5, rel=0.02)
    assert found.to_reference == pytest.approx(0.2 / 4**0.5, rel=0.02)


def test_the_reference_leaves_out_the_samples_that_share_their_noise_with_the_rows(monkeypatch):
    """The first two samples of the reference are those of the row: their distance to it must not be 0."""
    values = {"x1": [1.0, 3.0], MMSE: [1.0, 3.0, 7.0, 9.0]}
    made = {}
    for name, numbers in values.items():
        table = pd.DataFrame({"image": ["a"] * len(numbers), "psnr": 20.0})
        made[name] = SimpleNamespace(
            sampler="dps", samples=len(numbers), tunable=None, tables=lambda t=table: {"images": t}, numbers=numbers
        )
    monkeypatch.setattr(tradeoff, "samples_of", lambda run, name: np.array(run.numbers)[:, None])
    monkeypatch.setattr(tradeoff, "truth_of", lambda run, name: np.array([5.0]))
    monkeypatch.setattr(tradeoff, "kernel", lambda run, spec: 0.0)
    extras = [Extra("x1", 1, 2, 1.0), Extra(MMSE, 1, 4)]
    job = SimpleNamespace(report=made["x1"], extras=extras, ready=made.get)
    rows = tradeoff.table([job], {"samples": 2, "samplers": ["dps"]}).set_index("method")
    assert rows.loc["dps", "to_reference"] == pytest.approx(6.0)  # 2 from the mean of 7 and 9
    assert rows.loc[MMSE, "mean"] == pytest.approx(3.0)


# --- the views


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    suite = load("benchmark", smoke=True, out=tmp_path_factory.mktemp("b"), tasks=["hdr"], steps=[4, 10])
    suite.yaml["tuning"]["store"] = str(suite.out / "store")
    suite.yaml["views"]["compute"]["samplers"] = ["dps", "mpgd", "ddrm", "diffpir"]
    suite.yaml["views"]["steps"]["samplers"] = ["unconditional", "dps"]
    return suite


@pytest.fixture(scope="module")
def places(small):
    return places_of(small)


@pytest.fixture(scope="module")
def made(small):
    return jobs(small)


def test_equal_compute_is_the_most_steps_that_fit_into_dps_s_passes(places):
    found = {(c.view, c.level, c.sampler): c for c in places}
    assert {c.level for c in found.values() if c.view == "compute"} == {12, 30}
    assert found["compute", 12, "dps"].steps == 4 and found["compute", 30, "mpgd"].steps == 30
    assert found["steps", 10, "dps"].steps == 10


def test_rivals_run_at_the_number_of_steps_of_their_yaml(tmp_path):
    suite = load("benchmark_own", out=tmp_path, tasks=["denoise"])
    suite.yaml["views"]["own"]["samplers"] = ["daps", "sitcom"]
    assert [(c.view, c.sampler, c.steps) for c in places_of(suite)] == [("own", "daps", 200), ("own", "sitcom", 20)]
    assert [job.search for job in jobs(suite)] == [None, None]  # as released


def test_what_a_sampler_refuses_is_left_blank_with_its_reason(places, made):
    refused = {c.sampler: c.refused for c in places if c.refused}
    assert set(refused) == {"ddrm", "diffpir"} and "needs a linear operator" in refused["diffpir"]
    assert {job.report.sampler for job in made}.isdisjoint(refused)


def test_the_size_of_the_searches_is_an_option(tmp_path):
    suite = load("benchmark", out=tmp_path, tuning=["images=64", "seeds=3", "store=elsewhere"])
    assert suite.yaml["tuning"]["store"] == "elsewhere"
    assert (suite.yaml["tuning"]["images"], suite.yaml["tuning"]["seeds"]) == (64, 3)
    assert "64 validation images with 3 noise seeds" in outcome_of(suite.yaml["tuning"])
    for name, wrong in (("benchmark", "images=none"), ("benchmark", "faces=3"), ("embedded", "images=3")):
        with pytest.raises(ValueError, match="--tuning"):
            load(name, tuning=[wrong])


def test_every_place_has_one_job_and_all_searches_are_given_the_same(places, made):
    assert {job.key for job in made} == {place.key for place in places if not place.refused}
    searches = [job.search for job in made if job.search]
    assert {(s.count, s.images, s.seeds, s.criterion) for s in searches} == {(5, 2, 1, "psnr")}
    assert len(searches) == len(made) - 2  # nothing is tuned of unconditional samples


def test_the_chosen_value_and_the_ends_of_its_interval_are_reported(made, tmp_path):
    (job,) = [job for job in made if job.key == ("hdr", "dps", 4)]
    job.search.trials, job.nested, job.search.weights = Trials(tmp_path / "a.csv"), True, "w"
    assert job.runs() == {}
    about = dict(zip(("task", "sampler", "steps"), job.search.key), images=2, seeds=1, weights="w")
    for value in GRID:
        each = np.array([parabola(3.0, value), parabola(5.0, value)])
        job.search.trials.add({**about, "value": value, "psnr": each.mean()}, {0: {"psnr": each}})
    values = {name: run.chosen_value for name, run in job.runs().items()}
    expected = {CHOSEN: 15**0.5, LOW: 3.0, HIGH: 5.0}
    assert values == pytest.approx(expected, rel=1e-2) and len({run.out for run in job.runs().values()}) == 3


def test_a_choice_that_a_suite_has_reported_stays(made, tmp_path):
    """The rule may change; results that are there do not."""
    (job,) = [job for job in made if job.key == ("hdr", "dps", 4)]
    search = job.search
    row = {"task": "hdr", "method": "dps", "steps": 4, "option": "step_size", "value": 7.5, "how": "pair", "low": 6.0,
           "high": 9.0, "criterion": search.criterion, "trials": len(search.tried()), "images": search.images,
           "seeds": search.seeds}  # fmt: skip
    pd.DataFrame([row]).to_csv(tmp_path / "choices.csv", index=False)
    assert recorded_choice([tmp_path / "none.csv", tmp_path / "choices.csv"], search) == Choice(7.5, "pair", 6.0, 9.0)
    pd.DataFrame([{**row, "trials": 1 + row["trials"]}]).to_csv(tmp_path / "choices.csv", index=False)
    assert recorded_choice([tmp_path / "none.csv", tmp_path / "choices.csv"], search) is None


@pytest.mark.parametrize("name", ["benchmark_small", "headline", "denoise"])
def test_committed_suites_restore_at_the_values_of_their_tables(name):
    """make reproduce compares with the committed scores."""
    suite = load(name, tasks=["denoise" if name == "denoise" else "super_resolution"])
    table = "results/suite-benchmark" if name == "benchmark_small" else f"results/{name}"
    recorded = pd.read_csv(ROOT / table / "choices.csv").set_index(["task", "method", "steps"])
    searched = [job for job in jobs(suite) if job.search]
    for job in searched:
        job.search.check()
        assert job.chosen().value == recorded.loc[job.key, "value"], job.key
    assert len(searched) > 8


def test_where_an_image_failed_at_one_value_there_is_no_nested_interval(made, monkeypatch):
    (job,) = [job for job in made if job.key == ("hdr", "dps", 4)]
    every = pd.DataFrame({"image": ["a", "b"], "psnr": [20.0, 30.0]})
    runs = {name: SimpleNamespace(chosen_value=value) for name, value in ((CHOSEN, 3.0), (LOW, 1.0), (HIGH, 9.0))}
    monkeypatch.setattr(job, "runs", lambda: runs, raising=False)
    for high, scores in ((every, [[20, 30]] * 3), (every[:1], None), (every[::-1], [[20, 30]] * 3)):
        tables = {CHOSEN: every, LOW: every, HIGH: high}
        monkeypatch.setattr(job, "tables", lambda t=tables: t, raising=False)
        found = job.measured("psnr")
        assert found is None if scores is None else found.test.tolist() == scores


def test_the_mean_over_tasks_resamples_the_same_faces(monkeypatch):
    """Face by face, one task gains what the other loses: each difference is wide, and their mean is 1 for sure."""
    faces = pd.Series(np.random.default_rng(0).normal(0, 1, 40), index=[f"{k:02d}" for k in range(40)])
    found = frame.Collected(SimpleNamespace(name="s", yaml={}))
    for task, sign in (("hdr", 1), ("denoise", -1)):
        found.columns[task] = [Column("psnr", "PSNR", 2, True)]
        for sampler, psnr in (("dps", 30 + 0 * faces), ("dps_dsg", 31 + sign * faces)):
            cell = frame.Cell("steps", task, 4, Method(sampler, {"dps_dsg": "dps"}.get(sampler)), 4, None)
            cell.images = pd.DataFrame({"image": psnr.index, "psnr": psnr.to_numpy()})
            cell.run, cell.scores = cell, psnr
            found.cells.append(cell)
    again = lambda suite, cell, metric: Measured([1.0], cell.scores.to_numpy()[None]).resampled()  # noqa: E731
    monkeypatch.setattr(frame, "resampled", again)
    rows = frame.differences(found, None, {"psnr": 0.1}).set_index("task")
    assert rows.loc["mean of 2", ["difference", "nested_low", "nested_high"]].tolist() == pytest.approx([1, 1, 1])
    for task in ("hdr", "denoise"):
        assert rows.loc[task, "nested_high"] - rows.loc[task, "nested_low"] > 0.4  # 2 x 1.96 / sqrt(40) is .62
    assert set(rows["nested_verdict"]) == {"higher"}


def test_the_scores_of_every_test_image_are_kept(tmp_path):
    table = pd.DataFrame({"image": ["a", "a", "b"], "sample": [0, 1, 0], "psnr": [20.0, 22.0, 30.0]})
    runs = {name: SimpleNamespace(chosen_value=value) for name, value in ((CHOSEN, 0.2), (LOW, 0.1))}
    report = SimpleNamespace(task="hdr", sampler="dps_dsg")
    tables = {**dict.fromkeys(runs, table), "trials": pd.DataFrame()}
    job = SimpleNamespace(report=report, steps=4, search=True, runs=lambda: runs, tables=lambda: tables)
    each = frame.per_image([job], ["psnr", "lpips_vgg"])
    assert each.columns.tolist() == ["task", "method", "steps", "at", "value", "image", "psnr"]
    assert each[["at", "value", "image", "psnr"]].values.tolist() == [
        [CHOSEN, 0.2, "a", 21.0], [CHOSEN, 0.2, "b", 30.0], [LOW, 0.1, "a", 21.0], [LOW, 0.1, "b", 30.0]
    ]  # fmt: skip
