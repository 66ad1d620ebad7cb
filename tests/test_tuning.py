"""The search for a step size or guidance rate, and the one entry that it writes."""

import difflib
import multiprocessing
import runpy
import shlex
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dsg.samplers import Tunable
from dsg.suites import engine
from dsg.suites.search import BEYOND, has_ended, is_inside, next_value
from dsg.suites.trials import Trials
from dsg.suites.tuning_plan import copy_table, plan
from dsg.tuned import read_table, set_value
from tasks.networks.evaluator import hash_of

STEP_SIZE, RATE = Tunable("step_size", 4.0), Tunable("guidance_rate", 0.2, high=1.0)


def test_the_tuner_finds_an_optimum_far_from_its_grid():
    """On a curve whose best value is known: the grid is extended until the optimum is inside, then refined."""
    for optimum in (0.3, 4.0, 60.0):
        tried = pd.DataFrame(columns=["value", "score"], dtype=float)
        for _ in range(12):
            value = next_value(tried, STEP_SIZE, 4.0)
            assert not np.isclose(tried["value"], value).any()  # no trial is spent twice
            tried.loc[len(tried)] = [value, -(np.log(value / optimum) ** 2)]
        best = tried["value"][tried["score"].idxmax()]
        assert abs(np.log(best / optimum)) < np.log(1.5)
        assert tried["value"].min() < best < tried["value"].max()


@pytest.mark.parametrize("sign, bound", [(1, 1.0), (-1, 0.05)])
def test_values_are_tuned_within_their_bounds(sign, bound):
    tunable = Tunable("guidance_rate", 0.2, low=0.05, high=1.0)
    tried = pd.DataFrame(columns=["value", "score"], dtype=float)
    for _ in range(10):
        value = next_value(tried, tunable, 0.8 if sign > 0 else 0.1)
        tried.loc[len(tried)] = [value, sign * value]  # the larger, or the smaller, the better
    assert tried["value"].between(0.05, 1.0).all() and bound in set(tried["value"]) and len(set(tried["value"])) == 10
    assert is_inside(tried, tunable)


def trials_of(values, best):
    return pd.DataFrame({"value": values, "score": [-abs(np.log(v / best)) for v in values]})


def test_a_search_goes_on_while_the_best_value_is_the_outermost():
    grid, beyond = [1.0, 2.0, 4.0, 8.0, 16.0], [32.0, 64.0, 128.0, 256.0]
    assert has_ended(trials_of(grid, best=4.0), STEP_SIZE, 5)
    assert not has_ended(trials_of(grid, best=30.0), STEP_SIZE, 5)
    assert next_value(trials_of(grid, best=30.0), STEP_SIZE, 100.0) == 32.0  # the grid's centre is spent
    assert not has_ended(trials_of(grid + beyond[:1], best=40.0), STEP_SIZE, 5)
    assert has_ended(trials_of(grid + beyond[:2], best=40.0), STEP_SIZE, 5)
    assert len(beyond) == BEYOND and has_ended(trials_of(grid + beyond, best=1e4), STEP_SIZE, 5)
    assert has_ended(trials_of([0.25, 0.5, 1.0], best=9.0), RATE, 3)  # no grid was asked for
    assert has_ended(trials_of(grid, best=4.0).assign(score=np.nan), STEP_SIZE, 5)


def test_a_bound_is_not_passed():
    assert has_ended(trials_of([0.0625, 0.125, 0.25, 0.5, 1.0], best=3.0), RATE, 5)


# --- the table

TABLE = """task,sampler,steps,option,value,source
any,any,any,clip_denoised,true,of all
inpaint,dps,1000,kernel,ddpm,released
inpaint,dps,1000,step_size,0.5,"released, 1,000 steps"
super_resolution,mpgd,20,step_size,17.5,released
super_resolution,mpgd,100,step_size,4.0,
"""


def changed_lines(before, after):
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-"]


def test_a_row_s_value_and_source_change_and_nothing_else():
    text = set_value(TABLE, "inpaint", "dps", 1000, "step_size", 0.73149, "HaarPSI 0.9, 8 trials")
    assert changed_lines(TABLE, text) == [
        '- inpaint,dps,1000,step_size,0.5,"released, 1,000 steps"',
        '+ inpaint,dps,1000,step_size,0.7315,"HaarPSI 0.9, 8 trials"',
    ]


@pytest.mark.parametrize(
    "task, sampler, steps, before",
    [
        ("super_resolution", "mpgd", 50, "super_resolution,mpgd,100,"),
        ("super_resolution", "mpgd", 10, "super_resolution,mpgd,20,"),
        ("super_resolution", "mpgd", 200, ""),
        ("inpaint", "freedom", 20, "super_resolution,mpgd,20,"),
        ("hdr", "dps", 20, ""),
    ],
)
def test_a_new_row_stands_in_its_place(task, sampler, steps, before):
    text = set_value(TABLE, task, sampler, steps, "step_size", 3.0, "n")
    row = f"{task},{sampler},{steps},step_size,3,n"
    assert changed_lines(TABLE, text) == [f"+ {row}"]
    assert text.partition(f"{row}\n")[2].startswith(before) and text.endswith("\n")
    assert bool(before) or text.endswith(f"{row}\n")


def test_a_table_begins_with_its_first_row():
    text = set_value("", "inpaint", "dps", 20, "step_size", 3.14159, "n")
    assert text == "task,sampler,steps,option,value,source\ninpaint,dps,20,step_size,3.142,n\n"


# --- searches


DOCUMENTED = [
    line.strip()
    for file in ("scripts/tune.py", "docs/protocol.md")
    for line in (ROOT / file).read_text().splitlines()
    if line.startswith("    python scripts/tune.py") and "ffhq" not in line
]


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_documented_search_is_not_refused(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True)[1:])
    args = vars(runpy.run_path(str(ROOT / "scripts/tune.py"))["parse_args"]())
    for option in ("dry", "workers", "launcher"):
        args.pop(option)
    jobs = plan(**args)
    assert engine.check(list({job.task: job for job in jobs}.values())) == [] and len(DOCUMENTED) > 4


def test_tuning_does_not_mix_scores_on_other_images(tmp_path):
    (job,) = jobs_of(tmp_path, images=3)
    job.check()
    about = {"task": "super_resolution", "sampler": "dps", "steps": 20, "images": 3, "seeds": 1, "value": 4.0}
    job.trials.add({**about, "haarpsi": 0.5, "weights": job.weights}, {})
    before = (tmp_path / "avatars64.csv").read_bytes()
    (error,) = engine.check(jobs_of(tmp_path, images=2))
    assert "super_resolution was tuned on 3 images: --images 3, or another store" in error
    assert (tmp_path / "avatars64.csv").read_bytes() == before


def test_tuning_does_not_mix_scores_of_other_problems(tmp_path):
    (job,) = jobs_of(tmp_path)
    job.check()
    about = {"task": "super_resolution", "sampler": "mpgd", "steps": 20, "images": 2, "seeds": 1, "value": 4.0}
    line = {**about, "haarpsi": 0.5, "weights": job.weights}
    job.trials.add(line, {})  # of before there was a column
    assert engine.check(jobs_of(tmp_path)) == []
    job.trials.add({**line, "value": 8.0, "settings": job.settings}, {})
    assert engine.check(jobs_of(tmp_path)) == []
    before = (tmp_path / "avatars64.csv").read_bytes()
    (other,) = jobs_of(tmp_path)
    others = (
        "task.sigma=0.3",
        "task.factor=8",
        "sampler.eta=0.1",
        "data.root=data/avatars64/test",
        "assumed.sigma=0.3",
    )
    for option in others:
        (error,) = engine.check([replace(other, options=[*other.options, option])])
        assert "super_resolution mpgd 20 was tuned with other options of task, sampler or data" in error, option
    for option in ("sampler.step_size=3", "seed=4", "batch_size=2"):  # the search's own, or nothing to a score
        assert engine.check([replace(other, options=[*other.options, option])]) == [], option
    assert (tmp_path / "avatars64.csv").read_bytes() == before


def test_trials_of_one_criterion_do_not_change_the_choice_by_another(tmp_path):
    (job,) = jobs_of(tmp_path, criterion="psnr")
    job.check()
    about = {"task": "super_resolution", "sampler": "mpgd", "steps": 20, "images": 2, "seeds": 1}
    about |= {"weights": job.weights, "settings": job.settings}
    for value, psnr in zip((1.0, 2.0, 4.0, 8.0, 16.0), (20.0, 24.0, 26.0, 24.0, 20.0)):
        scores = {"psnr": np.full(2, psnr), "haarpsi": np.full(2, 0.5)}
        job.trials.add({**about, "value": value, "psnr": psnr, "haarpsi": 0.5, "criterion": "psnr"}, {0: scores})
    before = job.choice()
    (other,) = jobs_of(tmp_path, criterion="haarpsi")
    other.check()
    assert other.tried().empty and not other.is_searched()
    scores = {"psnr": np.full(2, 99.0), "haarpsi": np.full(2, 0.9)}
    job.trials.add({**about, "value": 12.0, "psnr": 99.0, "haarpsi": 0.9, "criterion": "haarpsi"}, {0: scores})
    assert job.choice() == before and list(other.tried()["value"]) == [12.0]


def jobs_of(out, model="avatars64", sampler="mpgd", trials=2, **options):
    usual = {"tasks": ["super_resolution"], "steps": [20], "criterion": None, "data": None, "images": 2}
    return plan(model=model, samplers=[sampler], trials=trials, device="cpu", out=out, **{**usual, **options})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sampler": "unconditional"}, "sampler=unconditional has nothing to tune"),
        ({"tasks": ["clip_text"], "criterion": "psnr"}, "task=clip_text has no truth"),
        ({"criterion": "selector"}, "no selector for task=super_resolution"),
        ({"model": "photos"}, "--data: model=photos has no validation images"),
        ({"model": "ffhq256", "data": "data/avatars64/val"}, "python scripts/fetch_checkpoints.py ffhq256"),
        ({"images": 1000}, "there are"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_work_starts(tmp_path, options, words):
    try:
        errors = engine.check(jobs_of(tmp_path / "o", **options))
    except ValueError as error:
        errors = [str(error)]
    assert len(errors) == 1 and words in errors[0] and not (tmp_path / "o").exists()


def test_a_search_changes_one_entry_goes_on_and_stops(tmp_path):
    configs = ROOT / "configs/tuned/avatars64.csv"
    before = configs.read_text()
    copy_table("avatars64", tmp_path)
    run_all(jobs_of(tmp_path, trials=1))
    run_all(jobs_of(tmp_path))
    trials = pd.read_csv(tmp_path / "avatars64.csv")
    assert len(trials) == 2 and trials["haarpsi"].between(0, 1).all()  # the first was not spent again
    best = trials.loc[trials["haarpsi"].idxmax(), "value"]  # of two, the outermost
    removed, added = changed_lines(before, (tmp_path / "tuned/avatars64.csv").read_text())
    old = read_table(configs)["super_resolution", "mpgd", "20"]["step_size"]
    row = "super_resolution,mpgd,20,step_size"
    assert removed.startswith(f"- {row},{old:.4g},") and added.startswith(f'+ {row},{best:.4g},"HaarPSI')
    (job,) = jobs_of(tmp_path)
    job.check()
    assert job.finished() and configs.read_text() == before


def run_all(jobs):
    assert engine.check(jobs) == [] and engine.run(jobs, "tuning") == []


def test_every_trial_leaves_a_score_per_image_and_seed(tmp_path):
    jobs = jobs_of(tmp_path, "gaussian_mixture", "dps_dsg", trials=1, steps=[2], criterion="psnr", seeds=2)
    run_all(jobs)
    lines = pd.read_csv(tmp_path / "gaussian_mixture-images.csv")
    psnr = lines[lines["score"] == "psnr"].sort_values("seed")
    assert list(psnr["seed"]) == [0, 1] and psnr["per_image"].nunique() == 2
    each = jobs[0].trials.per_image(jobs[0].key, jobs[0].weights, "psnr")
    assert each.shape == (1, 2) and each.to_numpy().mean() == pytest.approx(jobs[0].tried()["psnr"].item(), abs=1e-3)
    (other,) = jobs_of(tmp_path, "gaussian_mixture", "dps_dsg", trials=1, steps=[2], criterion="psnr", seeds=3)
    with pytest.raises(ValueError, match="super_resolution was tuned on 2 seeds: --seeds 2"):
        other.check()


def test_a_file_of_trials_without_seeds_is_read_and_goes_on(tmp_path):
    old = "task,sampler,steps,images,value,haarpsi,psnr,weights,evaluator\nhdr,dps,20,8,4,0.9,25,0123,\n"
    (tmp_path / "a.csv").write_text(old)
    trials = Trials(tmp_path / "a.csv")
    assert list(trials.of(("hdr", "dps", 20), "0123", "psnr")["seeds"]) == [1]
    about = {"task": "hdr", "sampler": "dps", "steps": 20, "images": 8, "seeds": 3, "value": 8.0, "weights": "0123"}
    trials.add({**about, "psnr": 26.0}, {})
    assert list(trials.of(("hdr", "dps", 20), "0123", "psnr")["score"]) == [25, 26]
    assert list(trials.table["seeds"]) == [1, 3]
    assert pd.read_csv(tmp_path / "a.csv")["evaluator"].isna().all()  # a column of old


def test_another_prior_is_tuned_by_psnr(tmp_path):
    """A search beside other searches: its own centre, its own bounds."""
    jobs = jobs_of(tmp_path, "gaussian_mixture", "dps_dsg", trials=1, steps=[2], criterion="psnr")
    run_all(jobs)
    (row,) = pd.read_csv(tmp_path / "gaussian_mixture.csv").to_dict("records")
    assert row["value"] == pytest.approx(0.05) and row["psnr"] > 5
    assert ',"PSNR' in (tmp_path / "tuned/gaussian_mixture.csv").read_text()


def test_the_selector_s_score_tunes_semantic_tasks(tmp_path):
    jobs = jobs_of(tmp_path, sampler="freedom", trials=1, tasks=["segmentation"], steps=[2])
    run_all(jobs)
    (row,) = pd.read_csv(tmp_path / "avatars64.csv").to_dict("records")
    assert row["weights"].split("+")[2] == hash_of("checkpoints/avatars64/selector")[:10]  # other selectors do not mix
    assert 0 < row["selector"] < 1 and row["value"] == pytest.approx(0.1 / 4) and np.isnan(row["haarpsi"])


def add_trials(path, worker):
    for k in range(10):
        about = {"task": "hdr", "sampler": "dps", "steps": 20, "images": 2, "seeds": 1, "weights": "w"}
        row = {**about, "value": 1.0 + worker + 2 * k, "psnr": 20.0}
        Trials(path).add(row, {0: {"psnr": np.array([20.0, 20.0])}})


def test_several_processes_add_to_one_store(tmp_path):
    processes = [multiprocessing.Process(target=add_trials, args=(tmp_path / "a.csv", k)) for k in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    trials = Trials(tmp_path / "a.csv")
    assert sorted(trials.of(("hdr", "dps", 20), "w", "psnr")["value"]) == list(range(1, 21))
    assert len(trials.per_image(("hdr", "dps", 20), "w", "psnr")) == 20


def test_a_value_that_two_processes_tried_counts_once(tmp_path):
    """Two workers in step would else end a search of five trials after three values."""
    for _ in range(2):
        add_trials(tmp_path / "a.csv", 0)
    found = Trials(tmp_path / "a.csv").of(("hdr", "dps", 20), "w", "psnr")
    assert found["value"].tolist() == [1.0 + 2 * k for k in range(10)]


def test_a_line_that_a_full_disk_cut_is_not_joined_to_the_next(tmp_path):
    add_trials(tmp_path / "a.csv", 0)
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text[: text.rindex(",20,")])
    add_trials(tmp_path / "a.csv", 1)
    assert len(Trials(tmp_path / "a.csv").table) == 20
