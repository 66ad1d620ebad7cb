"""The suite engine, its plans and its tables, small."""

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
from dsg.benchmark.main import main, run_suite
from dsg.benchmark.methods import Method, style
from dsg.benchmark.plan import plan
from dsg.benchmark.statistics import paired, summarise
from dsg.benchmark.suite import FOLDER, Outcome, Suite, load, names
from dsg.benchmark.tables import method_and_steps, sections
from dsg.metrics.base import Column

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


def test_a_base_method_and_its_dsg_share_a_colour_and_differ_in_the_line():
    base, dsg = style(Method("dps")), style(Method("my_dsg_variant", "dps", spherical=True))
    assert base["color"] == dsg["color"] and (base["linestyle"], dsg["linestyle"]) == ("--", "-")
    assert (base["label"], dsg["label"]) == ("DPS", "DPS + DSG")
    rival = style(Method("diffrgd", "dps"))  # compared with DPS, but another method
    assert rival["color"] != base["color"] and rival["linestyle"] == "--"


# --- plans


def test_every_suite_names_functions_that_exist():
    for name in names():
        suite = load(name)
        for spec in [*suite.yaml["jobs"].values(), *suite.yaml["tables"], *suite.yaml.get("figures", [])]:
            module, _, function = spec["_target_"].rpartition(".")
            assert callable(getattr(__import__(module, fromlist=[function]), function)), f"{FOLDER / name}: {spec}"


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


@pytest.mark.parametrize("workers", [1, 2])
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


def test_everything_is_checked_before_anything_is_begun(tmp_path, capsys):
    out = tmp_path / "o"
    assert run_suite(suite_of(out, _3="check")) == 2
    assert "error: no number 3" in capsys.readouterr().err and not out.exists()


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


def test_a_dry_run_says_what_is_missing_and_how_to_get_it(tmp_path, capsys):
    options = ["--suite=ffhq256", "--tasks", "super_resolution", "--steps=20 1000"]
    assert main([*options, f"--out={tmp_path / 'o'}", "--dry"]) == 2
    told = capsys.readouterr().out
    assert "python scripts/fetch_checkpoints.py ffhq256" in told and "super_resolution dps_dsg 1000" in told
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
