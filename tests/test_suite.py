"""The suite engine, its plans and its tables, small."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from dsg.benchmark import engine
from dsg.benchmark.jobs import Job
from dsg.benchmark.main import main, run_suite, run_suites
from dsg.benchmark.methods import Method, style
from dsg.benchmark.plan import plan
from dsg.benchmark.speed import Speed
from dsg.benchmark.statistics import paired, summarise
from dsg.benchmark.suite import FOLDER, Outcome, Suite, load, members, names, read
from dsg.benchmark.tables import method_and_steps, sections
from dsg.metrics.base import Column
from dsg.samplers import DPS, Unconditional
from dsg.samplers.denoise_oracle import DenoiseOracle

PSNR, LPIPS = Column("psnr", "PSNR [dB]", 2, True), Column("lpips_vgg", "LPIPS", 3, False)
WRITTEN = "table.md table.csv paired.csv grid.png steps.png step_sizes.png manifold_deviation.png".split()


# --- statistics and tables


def tables():
    """Two methods on three images; with DSG every image is 1 dB better."""
    base = pd.DataFrame(
        {"image": ["a", "b", "c"], "psnr": [20.0, 22.0, 27.0], "seconds": 1.0, "network_evaluations": 20}
    )
    better = base.iloc[::-1].assign(psnr=base["psnr"] + 1)
    return {("inpaint", "dps", 20): base, ("inpaint", "dps_dsg", 20): better}


def test_paired_differences_are_by_image():
    row = paired(tables(), {"inpaint": ["psnr"]}, {"dps_dsg": "dps"}).iloc[0]
    assert (row["difference"], row["low"], row["high"], row["higher"], row["images"]) == (1, 1, 1, 3, 3)
    assert (row["method"], row["base_method"], row["lower"]) == ("dps_dsg", "dps", 0)


def test_samples_of_one_image_are_not_independent():
    """Ten samples of each of three images: the interval is that of three."""
    once = tables()
    often = {key: pd.concat([table] * 10) for key, table in once.items()}
    one, ten = (summarise(t, {"inpaint": ["psnr"]}) for t in (once, often))
    pd.testing.assert_frame_equal(one.drop(columns="samples"), ten.drop(columns="samples"))
    assert list(ten["samples"]) == [30, 30]


def test_the_best_is_in_bold_and_missing_metrics_have_no_column():
    text = markdown(lambda method: True)
    assert "**24.00**" in text and "**23.00**" not in text and "LPIPS" not in text


def test_what_does_not_compete_is_never_in_bold():
    text = markdown(lambda method: method == "dps")
    assert "**23.00**" in text and "**24.00**" not in text


def markdown(competes):
    summary = summarise(tables(), {"inpaint": ["psnr", "lpips_vgg"]})
    return sections(summary, {"inpaint": [PSNR, LPIPS]}, method_and_steps, competes)


def test_a_method_is_guided_if_its_sampler_is():
    assert [Method.of(sampler).guided for sampler in (DPS(), DenoiseOracle(), Unconditional())] == [True, False, False]


def test_a_base_method_and_its_dsg_share_a_colour_and_differ_in_the_line():
    base, dsg = style(Method("dps")), style(Method("my_dsg_variant", "dps", spherical=True))
    assert base["color"] == dsg["color"] and (base["linestyle"], dsg["linestyle"]) == ("--", "-")
    assert (base["label"], dsg["label"]) == ("DPS", "DPS + DSG")
    rival = style(Method("diffrgd", "dps"))  # compared with DPS, but another method
    assert rival["color"] != base["color"] and rival["linestyle"] == "--"


# --- plans


def test_every_suite_names_functions_that_exist():
    for name in {member for suite in names() for member in members(suite)}:
        suite = load(name)
        for spec in [*suite.yaml["jobs"].values(), *suite.yaml["tables"], *suite.yaml.get("figures", [])]:
            module, _, function = spec["_target_"].rpartition(".")
            assert callable(getattr(__import__(module, fromlist=[function]), function)), f"{FOLDER / name}: {spec}"


def test_a_suite_stands_on_its_base_and_has_a_smoke_size():
    full, small = read("imagenet256"), read("imagenet256", smoke=True)
    assert full["images"] == 1000 and full["steps"] == [20, 50, 100, 1000] and full["models"] == ["imagenet256"]
    assert set(full["jobs"]) == set(small["jobs"]) == {"baselines", "grid", "values"}  # of base/linear.yaml
    assert full["jobs"]["values"]["images"] == 16 and small["jobs"]["values"]["images"] == 2  # interpolated afterwards
    assert small["models"] == ["gaussian_mixture"] and small["tasks"] == full["tasks"] and "smoke" not in small
    assert small["out"] != full["out"]
    with pytest.raises(ValueError, match="theory has no smoke size"):
        read("theory", smoke=True)


def test_the_smoke_sizes_of_the_paper_s_suites_are_on_embedded_models():
    for name in [*members("paper"), *members("published")]:
        small = load(name, smoke=True)
        assert (
            set(small.models) <= {"avatars64", "gaussian_mixture"}
            and small.images == 2
            and max(small.steps, default=4) == 4
        )


def test_an_ablation_has_every_combination_of_values(tmp_path):
    jobs = plan(load("ablation", smoke=True, out=tmp_path, tasks=["inpaint"]))
    assert [job.value for job in jobs] == [f"interval={i},guidance_rate={g}" for i in (1, 2) for g in (0.1, 0.5)]
    assert [(j.config.sampler.interval, j.config.sampler.guidance_rate) for j in jobs[:2]] == [(1, 0.1), (1, 0.5)]
    assert len({job.out for job in jobs}) == 4


def test_a_plan_has_every_combination_once(tmp_path):
    suite = load("embedded", images=9, steps=[20, 50], out=tmp_path)
    jobs = plan(suite)
    assert len({job.key for job in jobs}) == len(jobs)
    by_part = pd.Series([job.part for job in jobs]).value_counts()
    # further steps: 50 is in the grid already; values: four factors of six methods, but DSG's rate ends at 1
    assert by_part["grid"] == 3 * 2 * 7 and by_part["curve"] == 7 and by_part["baselines"] == 3
    values = [job for job in jobs if job.part == "values"]
    assert {job.sampler for job in values} == set(suite.samplers) - {"unconditional"}
    assert all(job.images == 8 and job.value != pytest.approx(tuned_value(jobs, job)) for job in values)
    assert max(job.value for job in values if job.method.spherical) <= 1


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
        ("embedded", {"workers": 0}, "--workers: 1 or more"),
        ("semantic", {"samples": 1}, "--samples: 2 or more"),
        ("semantic", {"steps": [20, 50]}, "takes one number"),
        ("theory", {"images": 4}, "--images does not apply"),
        ("theory", {"most_steps": 10}, "another --out"),
    ],
)
def test_a_suite_refuses_what_it_does_not_have(name, options, words):
    with pytest.raises(ValueError, match=words):
        plan(load(name, **options))


# --- the engine


class Adds(Job):
    """Writes its number; fails, or fails in part, if it is told to."""

    def __init__(self, out: Path, number: int, fault: str = ""):
        self.out, self.number, self.fault = out, number, fault
        self.steps, self.key = number, ("numbers", f"job{number}", number)

    @property
    def file(self) -> Path:
        return self.out / f"{self.number}.txt"

    def check(self) -> None:
        if self.fault == "check":
            raise FileNotFoundError(f"no number {self.number}")

    def finished(self) -> bool:
        return self.file.exists()

    def work(self) -> float:
        return self.number

    def run(self, on_progress) -> list[str]:
        if self.fault == "run":
            raise RuntimeError("it broke\nin the middle")
        self.file.write_text(str(self.number))
        on_progress(self.number)
        return ["one image was not finite"] if self.fault == "part" else []

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"numbers": pd.DataFrame({"number": [self.number]})} if self.file.exists() else {}


def adding(suite: Suite, faults: dict) -> list[Adds]:
    return [Adds(suite.out, n, faults.get(n, "")) for n in (1, 2, 3)]


def listing(outcome: Outcome) -> list[str]:
    numbers = [job.number for job in outcome.jobs if job.tables()]
    (outcome.out / "table.txt").write_text(f"{numbers}")
    return ["table.txt"]


def suite_of(out, **faults):
    jobs = {"all": {"_target_": f"{__name__}.adding", "faults": {int(k[1:]): v for k, v in faults.items()}}}
    yaml = {"jobs": jobs, "tables": [{"_target_": f"{__name__}.listing"}]}
    return Suite("numbers", out, yaml)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failing_job_does_not_stop_the_others_and_fails_the_suite(tmp_path, capfd, workers):
    suite = suite_of(tmp_path, _1="run", _2="part")
    suite.workers = workers
    assert run_suite(suite) == 1
    assert (tmp_path / "table.txt").read_text() == "[2, 3]"
    told = capfd.readouterr().err
    assert "numbers job1 1: RuntimeError: it broke" in told and "numbers job2 2: one image was not finite" in told
    assert "2 failed" in told and "job3 3:" not in told
    assert run_suite(suite_of(tmp_path)) == 0  # what failed is tried again
    assert (tmp_path / "table.txt").read_text() == "[1, 2, 3]"


class Waits(Adds):
    """Is begun, and never ends by itself."""

    def run(self, on_progress) -> list[str]:
        self.file.touch()
        while True:
            time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_begins_no_other_job(tmp_path):
    code = (
        "from pathlib import Path; from test_suite import Waits; from dsg.benchmark import engine\n"
        f"jobs = [Waits(Path({str(tmp_path)!r}), n) for n in range(1, 13)]\n"
        "if __name__ == '__main__': engine.run(jobs, 'a', workers=2)"
    )
    (tmp_path / "main.py").write_text(code)  # a file: workers read it again
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    program = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment, start_new_session=True)
    try:
        while len(list(tmp_path.glob("*.txt"))) < 2:
            time.sleep(0.1)
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
        assert program.wait(60) != 0
        assert len(list(tmp_path.glob("*.txt"))) == 2
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)


def test_everything_is_checked_before_anything_is_begun(tmp_path, capsys):
    out = tmp_path / "o"
    assert run_suite(suite_of(out, _3="check")) == 2
    assert "error: no number 3" in capsys.readouterr().err and not out.exists()


def group_of(out, *faults):
    suites = [suite_of(out / name, **fault) for name, fault in zip("ab", faults)]
    for suite in suites:
        suite.name = suite.out.name
    return suites


def test_a_group_goes_on_past_a_failing_suite_and_lists_it_at_the_end(tmp_path, capfd):
    assert run_suites(group_of(tmp_path, {"_2": "run"}, {})) == 1
    told = capfd.readouterr().err
    assert told.strip().splitlines()[-2:] == [
        "failed: a: numbers job2 2: RuntimeError: it broke",
        "1 failed; the same command tries them again",
    ]
    assert [(tmp_path / n / "table.txt").read_text() for n in "ab"] == ["[1, 3]", "[1, 2, 3]"]
    assert run_suites(group_of(tmp_path, {}, {})) == 0


def test_a_group_is_not_begun_if_a_suite_lacks_something_unless_the_others_are_asked_for(tmp_path, capfd):
    assert run_suites(group_of(tmp_path, {"_1": "check"}, {})) == 2
    assert "error: no number 1" in capfd.readouterr().err and not (tmp_path / "b").exists()
    assert run_suites(group_of(tmp_path, {"_1": "check"}, {}), ready=True) == 1
    assert "failed: a: not begun: no number 1" in capfd.readouterr().err
    assert (tmp_path / "b/table.txt").exists() and not (tmp_path / "a").exists()


def test_the_plan_of_a_group_ends_with_all_of_it(tmp_path, capsys):
    assert run_suites(group_of(tmp_path, {"_1": "check"}, {}), dry=True) == 2
    told = capsys.readouterr().out
    assert "## a: " in told and "## b: " in told
    assert told.split("## all 2 suites")[1].split() == (
        "6 jobs, 0 finished; left: 12 forward passes (a backward pass counts as two) missing: no number 1".split()
    )


def test_a_table_that_fails_is_listed_like_a_run(tmp_path, capfd):
    (suite, _) = group_of(tmp_path, {}, {})
    suite.yaml["tables"] += [{"_target_": "dsg.benchmark.figures.grid"}]
    assert run_suite(suite) == 1
    assert "dsg.benchmark.figures.grid: TypeError" in capfd.readouterr().err
    assert (tmp_path / "a/table.txt").exists()


def test_one_error_of_many_jobs_is_told_once(tmp_path):
    class Missing(Adds):
        def check(self) -> None:
            raise FileNotFoundError("no checkpoint")

    assert engine.check([Missing(tmp_path, n) for n in (1, 2)]) == ["no checkpoint"]


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path, capsys):
    assert main(["--suite=smoke", f"--out={tmp_path / 'o'}", "--dry"]) == 0
    told = capsys.readouterr().out
    assert "9 jobs, 0 finished" in told and "inpaint dps_dsg 4" in told
    # 2 images x (8 runs of 4 or 3 steps; DPS back through each, DSG not through the last)
    assert f"{2 * ((4 + 4 + 4 + 3 + 3 + 3 + 4 + 4) + 2 * (4 + 3 + 3 + 2 + 4 + 3))} forward passes" in told
    assert not (tmp_path / "o").exists()


def test_a_dry_run_says_what_is_missing_and_how_to_get_it(tmp_path, capsys, monkeypatch):
    """All of it, not only the first thing; and the work is told all the same."""
    monkeypatch.setattr("dsg.benchmark.image_jobs.speed_of", lambda *_: Speed(0.5, "ffhq256: half a second"))
    options = ["--suite=faceid", "--images=2"]
    assert main([*options, f"--out={tmp_path / 'o'}", "--dry"]) == 2
    told = capsys.readouterr().out
    for name in ("fetch_checkpoints.py celebahq256", "prepare_data.py celebahq", "fetch_checkpoints.py arcface"):
        assert f"python scripts/{name}" in told.split("missing: ", 1)[1]
    assert "faceid mpgd_dsg 100" in told and "left out: fid: python scripts/fetch_checkpoints.py fid_inception" in told
    # 5 samplers, 100 steps; guided for t > 100: 89 (FreeDoM's code: index 89 is t = 890) steps go back, MPGD's do not
    (passes,) = re.findall(r"left: ([\d,]+) forward passes.*about (\d+) minutes here", told)
    assert int(passes[0].replace(",", "")) == 2 * (5 * 100 + 2 * 2 * 89) and int(passes[1]) == round(2 * 856 / 120)
    assert "speed: ffhq256: half a second" in told
    assert not (tmp_path / "o").exists()


# --- a suite of runs


def reproduce(*options):
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite that was killed in the middle; its folder, and what goes on with it."""
    out = tmp_path_factory.mktemp("suite")
    options = ["--suite=smoke", "--images=2", "--steps=2", f"--out={out}", "--wandb=disabled"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/reproduce.py"), *options], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/*/metrics.json")) and time.monotonic() < deadline:
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
    assert set(table["method"]) == {"A^T y", "unconditional", "dps", "dps_dsg"} and (table["images"] == 2).all()
    assert list(table["backward_passes"]) == [0, 0, 2, 1]  # DSG takes no gradient at the last step
    complete = times(out)
    assert complete.items() > before.items()  # what was there was not made again
    again = call()
    assert again.returncode == 0 and "evaluation" not in again.stderr  # no bar: nothing was left to do
    assert times(out) == complete


def times(out):
    found = out.glob("runs/*/*/images/*.png")
    return {path: path.stat().st_mtime_ns for path in found if "baseline" not in str(path)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*members("paper"), *members("published")])
def test_every_experiment_of_the_paper_runs_small_on_embedded_models(tmp_path, name):
    done = reproduce(f"--suite={name}", "--smoke", f"--out={tmp_path}", "--wandb=disabled")
    assert done.returncode == 0, done.stderr
    written = done.stdout.strip().splitlines()[-1].split(": ")[1].split(", ")
    assert any(file.endswith(".md") for file in written) and any(file.endswith(".csv") for file in written)
    assert all((tmp_path / file).stat().st_size > 0 for file in written)
    assert len(list(tmp_path.rglob("metrics.json"))) >= 4
