"""The suite engine, its plans and its tables, small."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, script
from omegaconf import OmegaConf
from PIL import Image

from dsg.samplers import DPS, Unconditional
from dsg.samplers.denoise_oracle import DenoiseOracle
from dsg.suites import figures, plan_report
from dsg.suites.frame import COLUMNS
from dsg.suites.main import main
from dsg.suites.methods import Method, styles
from dsg.suites.plan import image_job, plan
from dsg.suites.protocol import ReportJob
from dsg.suites.suite import function_of, load, members, names, read
from dsg.suites.tables import latex, markdown, papers, section
from dsg.types import Column

PSNR, LPIPS = Column("psnr", "PSNR [dB]", 2, True), Column("lpips_vgg", "LPIPS", 3, False)
WRITTEN = "table.md table.tex table.csv paired.csv grid.png steps.png step_sizes.png manifold_deviation.png".split()


# --- tables


COLUMNS_OF = {"psnr": PSNR, "lpips_vgg": LPIPS}
METHODS = {m.name: m for m in (Method("dps", label="DPS"), Method("dps_dsg", "dps", "additive", "DPS + DSG"))}


def tidy(*rows):
    """A frame of (task, method, metric, mean, level)."""
    found = []
    for task, method, metric, mean, level in rows:
        row = {"suite": "s", "view": "steps", "task": task, "level": level, "method": method, "steps": level}
        found.append({**row, "value": "", "metric": metric, "mean": mean, "low": mean - 1, "high": mean + 1, "n": 3})
    return pd.DataFrame(found, columns=COLUMNS)


def test_the_best_is_in_bold_and_missing_metrics_have_no_column():
    frame = tidy(("inpaint", "dps", "psnr", 23.0, 20), ("inpaint", "dps_dsg", "psnr", 24.0, 20))
    text = markdown(section(frame, [PSNR, LPIPS], METHODS))
    assert "**24.00** [23.00, 25.00]" in text and "**23.00**" not in text and "LPIPS" not in text


def test_nothing_is_best_without_a_direction_or_without_another_method():
    unknown = Column("mine", "mine")
    frame = tidy(("inpaint", "dps", "mine", 1.0, 20), ("inpaint", "dps_dsg", "mine", 2.0, 20))
    assert "**" not in markdown(section(frame, [unknown], METHODS))
    assert "**" not in markdown(section(tidy(("inpaint", "dps", "psnr", 23.0, 20)), [PSNR], METHODS))


def test_what_is_not_guided_is_never_in_bold():
    methods = {**METHODS, "dps_dsg": Method("dps_dsg", guided=False), "mpgd": Method("mpgd")}
    frame = tidy(*(("inpaint", m, "psnr", v, 20) for m, v in (("dps", 23.0), ("dps_dsg", 24.0), ("mpgd", 22.0))))
    text = markdown(section(frame, [PSNR], methods))
    assert "**23.00**" in text and "**24.00**" not in text


def test_a_paper_has_methods_as_rows_and_tasks_as_groups_of_columns():
    rows = [
        (t, m, "psnr", v, n) for n in (20, 50) for t in ("inpaint", "hdr") for m, v in (("dps", 23), ("dps_dsg", 24))
    ]
    frame = tidy(*rows)
    frame.loc[frame["method"] == "dps", "value"] = "step_size=3.1"
    found = papers(frame, COLUMNS_OF, METHODS)
    assert [table.caption for table in found] == ["s, 20 steps", "s, 50 steps"]
    assert list(found[0].rows) == ["DPS", "DPS + DSG"] and [t for t, _ in found[0].columns] == ["inpaint", "hdr"]
    text = latex(found)
    assert r"DPS + DSG & \textbf{24.00} & \textbf{24.00} \\" in text and r"step\_size=3.1" in text


def test_a_method_is_guided_if_its_sampler_is():
    assert [Method.of(sampler).guided for sampler in (DPS(), DenoiseOracle(), Unconditional())] == [True, False, False]


def test_a_base_method_its_control_and_its_dsg_share_a_colour_and_differ_in_the_line():
    methods = [Method("base"), Method("other", "base", "third"), Method("third", "base"), Method("rival", "base")]
    looks = styles(methods)
    assert len({looks[name]["color"] for name in ("base", "other", "third")}) == 1
    assert [looks[name]["linestyle"] for name in ("base", "other", "third")] == ["--", "-", ":"]
    assert looks["rival"]["color"] != looks["base"]["color"] and looks["rival"]["label"] == "rival"


# --- plans


def test_every_suite_names_functions_that_exist():
    for name in {member for suite in names() for member in members(suite)}:
        yaml = read(name)
        for spec in [*yaml["jobs"].values(), *yaml["tables"], *yaml.get("figures", [])]:
            assert callable(function_of(spec if isinstance(spec, str) else spec["_target_"])), f"{name}: {spec}"
    with pytest.raises(ValueError, match="plan.gird: no such function"):
        function_of("plan.gird")


def test_a_suite_stands_on_another_and_has_a_smoke_size():
    full, small = read("imagenet256"), read("imagenet256", smoke=True)
    assert full["images"] == 1000 and full["steps"] == [20, 50, 100, 1000] and full["models"] == ["imagenet256"]
    assert set(full["jobs"]) == set(small["jobs"]) == {"baselines", "grid", "values"}  # curve is null
    assert full["jobs"]["values"]["images"] == 16 and small["jobs"]["values"]["images"] == 2  # interpolated afterwards
    assert small["models"] == ["gaussian_mixture"] and small["tasks"] == full["tasks"] and "smoke" not in small
    assert small["out"] != full["out"]
    without = read("control", smoke=True)  # `benchmark` has views.compute, also in its smoke size
    assert without["views"]["compute"] is None and without["tuning"]["store"] == "results/smoke-size/tuning-control"
    with pytest.raises(ValueError, match="theory has no smoke size"):
        read("theory", smoke=True)


def test_the_smoke_sizes_of_the_paper_s_suites_are_on_embedded_models():
    for name in [*members("paper"), "published"]:
        small = load(name, smoke=True)
        embedded = set(small.models) <= {"avatars64", "gaussian_mixture"}
        assert embedded and small.images == 2 and max(small.steps, default=4) == 4


def test_models_are_chosen_on_the_command_line(tmp_path):
    jobs = plan(load("published", models=["imagenet256"], out=tmp_path))
    assert {job.model for job in jobs} == {"imagenet256"} and {job.sampler for job in jobs} == {"dps", "diffpir"}
    both = load("clip", out=tmp_path)
    prompts = {model: image_job(both, model, "clip_text", "mpgd", 20).options for model in both.models}
    assert "task.prompt=data/prompts/things.txt" in prompts["imagenet256"]
    assert "task.prompt=data/prompts/things.txt" not in prompts["ffhq256"]


def test_an_ablation_has_every_combination_of_values(tmp_path):
    jobs = plan(load("ablation", smoke=True, out=tmp_path, tasks=["inpaint"]))
    jobs = [job for job in jobs if job.part == "ablation"]
    assert [job.value for job in jobs] == [f"interval={i},guidance_rate={g}" for i in (1, 2) for g in (0.1, 0.5)]
    assert [(j.config.sampler.interval, j.config.sampler.guidance_rate) for j in jobs[:2]] == [(1, 0.1), (1, 0.5)]
    assert len({job.out for job in jobs}) == 4


def test_a_plan_has_every_combination_once(tmp_path):
    suite = load("embedded", images=9, steps=[20, 50], out=tmp_path)
    jobs = plan(suite)
    assert len({job.key for job in jobs}) == len(jobs)
    by_part = pd.Series([job.part for job in jobs]).value_counts()
    # further steps: 50 is in the grid already; values: four factors of nine methods, but DSG's rate ends at 1
    assert by_part["grid"] == 3 * 2 * 10 and by_part["curve"] == 10 and by_part["baselines"] == 3
    values = [job for job in jobs if job.part == "values"]
    assert {job.sampler for job in values} == set(suite.samplers) - {"unconditional"}
    assert all(job.images == 8 and job.value != pytest.approx(tuned_value(jobs, job)) for job in values)
    assert max(job.value for job in values if job.method.control) <= 1


def test_any_suite_can_choose_its_values_first(tmp_path):
    suite = load("ffhq256", tune=True, steps=[20], out=tmp_path)
    searches = [job.search for job in plan(suite) if isinstance(job, ReportJob) and job.search]
    assert {search.sampler for search in searches} == set(suite.samplers) - {"unconditional"}
    assert {(search.images, search.count, search.criterion) for search in searches} == {(32, 9, "psnr")}
    assert all(f"data.root={ROOT / 'data/ffhq256_val'}" in search.options for search in searches)
    varied = plan(load("ablation", smoke=True, tune=True, out=tmp_path))
    assert not any(isinstance(job, ReportJob) for job in varied)
    assert not any(isinstance(job, ReportJob) for job in plan(load("faceid", tune=True, out=tmp_path)))  # no truth


@pytest.mark.slow
def test_a_suite_is_reported_at_the_values_that_it_chose(tmp_path):
    options = ["--suite=smoke", "--tune", f"--out={tmp_path}", "--wandb=disabled", "--tuning", "images=2", "trials=5"]
    done = reproduce(*options)
    assert done.returncode == 0, done.stderr
    choices = pd.read_csv(tmp_path / "choices.csv").set_index("method")["value"]
    table = pd.read_csv(tmp_path / "table.csv")
    value = table[(table["method"] == "dps_dsg") & (table["metric"] == "psnr")]["value"].item()
    assert value == f"guidance_rate={choices['dps_dsg']:.3g}"


def tuned_value(jobs, job):
    tuned = (j for j in jobs if j.part == "grid" and j.key == job.key[:3])
    return next(tuned).chosen_value


def test_a_sampler_s_bounds_limit_the_values_around_its_tuned_one(tmp_path):
    jobs = plan(load("smoke", out=tmp_path))
    (dps,) = [job for job in jobs if job.part == "values" and job.sampler == "dps"]
    assert dps.value == pytest.approx(0.5 * tuned_value(jobs, dps)) and dps.out.name == f"dps-4-{dps.value}"


@pytest.mark.parametrize(
    "options, words",
    [
        (["--suite", "ffhq256", "--tasks", "inpaint", "--steps=20"], "python scripts/fetch_checkpoints.py ffhq256"),
        (["--steps", "2000"], "2 to 1000"),
        (["--images", "0"], "2 or more"),
        (["--suite", "smoke", "--images", "500"], "there are 256"),
        (["--device", "tpu"], "device=tpu"),
        (["--suite", "theory", "--steps", "20"], "not apply to suite theory"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, capsys, options, words):
    try:
        code = main([f"--out={tmp_path / 'o'}", *options])
    except SystemExit as exit:  # argparse's
        code = exit.code
    told = capsys.readouterr().err
    assert code == 2 and words in told and not (tmp_path / "o").exists()
    assert len([line for line in told.splitlines() if "error: " in line]) == 1


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("embedded", {"tasks": ["inpant"]}, "--tasks inpant: suite embedded has inpaint, super_resolution"),
        ("embedded", {"options": ["sampler.etaa=1"]}, "etaa"),
        ("embedded", {"options": ["sampler.steps=9"]}, "the plan sets sampler.steps; --steps changes it"),
        ("embedded", {"options": ["seed=1", "samples=3"]}, "the plan sets samples"),
        ("headline", {"options": ["seed=1"]}, "the plan sets seed; --tuning seeds= changes it"),
        ("semantic", {"samples": 1}, "--samples: 2 or more"),
        ("semantic", {"steps": [20, 50]}, "takes one number"),
        ("theory", {"images": 4}, "--images does not apply"),
        ("theory", {"options": ["task.sigma=0.2"]}, "--options does not apply"),
        ("theory_rivals", {"device": "cuda"}, "--device cuda: suite theory_rivals runs on the CPU"),
    ],
)
def test_a_suite_refuses_what_it_does_not_have(name, options, words):
    with pytest.raises(ValueError, match=words):
        plan(load(name, **options))


def test_a_part_does_not_take_the_place_of_the_whole(tmp_path):
    whole = {"tasks": ["inpaint", "super_resolution"], "steps": [20, 100], "images": 4, "out": tmp_path}
    suite, more = (load("embedded", **{**whole, "images": images}) for images in (4, 8))
    jobs = plan(suite)
    plan_report.record(suite, jobs)
    plan_report.check(suite, jobs)
    plan_report.check(more, plan(more))
    for less, words in (
        ({"tasks": ["inpaint"]}, "tables of more than that, super_resolution "),
        ({"steps": [20]}, "tables of more than that, "),
        ({"images": 2}, "tables of 4 images: as many, or another --out"),
    ):
        part, elsewhere = (load("embedded", **{**whole, **less, "out": out}) for out in (tmp_path, tmp_path / "o"))
        jobs = plan(part)
        with pytest.raises(ValueError, match=words):
            plan_report.check(part, jobs)
        plan_report.check(elsewhere, jobs)


def test_the_committed_tables_are_guarded():
    for folder in ("headline", "suite-benchmark", "theory", "factors"):
        assert json.loads((ROOT / "results" / folder / plan_report.FILE).read_text())["jobs"]
    done = reproduce("--suite=headline", "--tasks", "inpaint", "--dry")
    assert done.returncode == 2 and "results/headline has tables of more than that" in done.stdout + done.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_the_figure_of_samples_shows_what_there_is(tmp_path, monkeypatch, count):
    """With one sample per condition the images' names have no number."""
    names = ["00000"] if count == 1 else ["00000_0", "00000_1"]
    for folder, shown in (("condition", ["00000"]), ("images", names)):
        (tmp_path / folder).mkdir()
        for name in shown:
            Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / folder / f"{name}.png")
    job = SimpleNamespace(ids=["00000"], out=tmp_path, method=Method("mpgd", label="MPGD"))
    drawn = []
    monkeypatch.setattr(figures.plt, "close", drawn.append)
    figures.samples_of("faceid", [job], tmp_path, 6)
    assert [len(ax.images) for ax in drawn[0].axes] == [1, 1, count - 1]
    assert "MPGD" in [drawn[0].axes[1].get_title(loc=loc) for loc in ("left", "center")]


# --- a suite of runs


def reproduce(*options):
    return script("scripts/reproduce.py", *options)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite that was killed in the middle; its folder, and what goes on with it."""
    out = tmp_path_factory.mktemp("suite")
    options = ["--suite=smoke", "--images=2", "--steps=2", f"--out={out}", "--wandb=disabled"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/reproduce.py"), *options], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while not list(out.glob("runs/*/unconditional*/metrics.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return out, lambda: reproduce(*options)


@pytest.mark.slow
def test_a_killed_suite_goes_on_leaves_its_tables_and_then_only_draws(suite):
    out, call = suite
    before = times(out)
    assert before and not (out / "table.md").exists()
    done = call()
    assert done.returncode == 0, done.stderr
    for name in WRITTEN:
        assert (out / name).stat().st_size > 0
    table = pd.read_csv(out / "table.csv")
    assert set(table["method"]) >= {"unconditional", "dps", "dps_dsg"} and (table["n"] == 2).all()
    rows = table[table["method"].isin(["unconditional", "dps", "dps_dsg"]) & table["value"].isna()]
    for row in rows.itertuples():
        config = OmegaConf.load(out / "runs" / row.task / f"{row.method}-{row.steps}" / "config.yaml")
        assert (config.task.name, config.sampler.name, config.sampler.steps) == (row.task, row.method, row.steps)
    complete = times(out)
    assert complete.items() > before.items()  # what was there was not made again
    again = call()
    assert again.returncode == 0 and "evaluation" not in again.stderr  # no bar: nothing was left to do
    assert times(out) == complete


def times(out):
    found = out.glob("runs/*/*/images/*.png")
    return {path: path.stat().st_mtime_ns for path in found if "baseline" not in str(path)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*members("paper"), "published"])
def test_every_experiment_of_the_paper_runs_small_on_embedded_models(tmp_path, name):
    done = reproduce(f"--suite={name}", "--smoke", f"--out={tmp_path}", "--wandb=disabled")
    assert done.returncode == 0, done.stderr
    written = done.stdout.strip().splitlines()[-1].split(": ")[1].split(", ")
    assert any(file.endswith(".md") for file in written) and any(file.endswith(".csv") for file in written)
    assert all((tmp_path / file).stat().st_size > 0 for file in written)
    assert len(list(tmp_path.rglob("metrics.json"))) >= 4
