"""The suite engine: jobs that fail, that are stopped, groups of suites, dry runs."""

import contextlib
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

from dsg.suites import engine
from dsg.suites.jobs import Job
from dsg.suites.main import main, run_suites
from dsg.suites.speed import Speed
from dsg.suites.suite import Outcome, Suite


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
    assert run_suites([suite]) == 1
    assert (tmp_path / "table.txt").read_text() == "[2, 3]"
    told = capfd.readouterr().err
    assert "numbers job1 1: RuntimeError: it broke" in told and "numbers job2 2: one image was not finite" in told
    assert "2 failed" in told and "job3 3:" not in told
    assert run_suites([suite_of(tmp_path)]) == 0  # what failed is tried again
    assert (tmp_path / "table.txt").read_text() == "[1, 2, 3]"


class Meets(Adds):
    """Notes its GPU, and waits until all others are at work too."""

    def run(self, on_progress) -> list[str]:
        self.file.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        for _ in range(1200):
            if len(list(self.out.glob("*.txt"))) == 2:
                return []
            time.sleep(0.1)
        return ["the other did not come"]


def test_every_visible_gpu_has_a_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    jobs = [Meets(tmp_path, n) for n in (1, 2)]
    assert engine.run(jobs, "a") == []  # both at the same time
    assert sorted(job.file.read_text() for job in jobs) == ["3", "7"]


def test_how_many_workers_there_are(monkeypatch):
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 12)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for gpus, device, asked, count in (
        (4, "auto", None, 4), (4, "cuda", None, 4), (4, "auto", 8, 8), (4, "auto", "all", 4), (4, "cuda:2", None, 1),
        (4, "cpu", "all", 12), (0, "auto", None, 1), (0, "auto", "all", 12),
    ):  # fmt: skip
        monkeypatch.setattr(engine.torch.cuda, "device_count", lambda n=gpus: n)
        assert engine.worker_count(asked, device) == count, (gpus, device, asked)
    monkeypatch.setattr(engine.torch.cuda, "device_count", lambda: 4)
    assert engine.visible_gpus("auto") == ["0", "1", "2", "3"]
    monkeypatch.setenv("WORLD_SIZE", "4")  # torchrun has as many processes already
    assert engine.worker_count(None, "auto") == 1


class Waits(Adds):
    """Is begun, and never ends by itself."""

    def run(self, on_progress) -> list[str]:
        self.file.touch()
        while True:
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["ctrl-c", "killed"])
def test_workers_end_with_the_suite_and_begin_no_other_job(tmp_path, end):
    code = (
        "from pathlib import Path; from test_engine import Waits; from dsg.suites import engine\n"
        f"jobs = [Waits(Path({str(tmp_path)!r}), n) for n in range(1, 13)]\n"
        "if __name__ == '__main__': engine.run(jobs, 'a', workers=2)"
    )
    (tmp_path / "main.py").write_text(code)  # a file: workers read it again
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    program = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment, start_new_session=True)
    try:
        while len(list(tmp_path.glob("*.txt"))) < 2:
            time.sleep(0.1)
        if end == "ctrl-c":
            os.killpg(program.pid, signal.SIGINT)  # as a terminal does
        else:
            program.kill()
        assert program.wait(60) != 0
        with pytest.raises(ProcessLookupError):  # nobody is left of the group
            for _ in range(600):
                os.killpg(program.pid, 0)
                time.sleep(0.1)
        assert len(list(tmp_path.glob("*.txt"))) == 2
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)


class Watched(Adds):
    """Tells a half of its work, and goes on when somebody has seen it."""

    def run(self, on_progress) -> list[str]:
        on_progress(self.number / 2)
        for _ in range(600):
            if (self.out / "seen").exists():
                self.file.write_text("")
                return []
            time.sleep(0.1)
        return ["nobody saw it"]


@pytest.mark.slow
def test_the_bar_moves_while_a_worker_is_at_its_job(tmp_path, monkeypatch):
    class Bar(engine.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False})  # there is none where nobody sees it

        def update(self, n=1):
            super().update(n)
            if self.n == 8:
                (tmp_path / "seen").touch()
            ends.append(self.n)

    ends = []
    monkeypatch.setattr(engine, "tqdm", Bar)
    assert engine.run([Watched(tmp_path, 16)], "a", workers=2) == []
    assert 8 in ends and ends[-1] == 16


def test_everything_is_checked_before_anything_is_begun(tmp_path, capsys):
    out = tmp_path / "o"
    assert run_suites([suite_of(out, _3="check")]) == 2
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
    suite.yaml["tables"] += [{"_target_": "dsg.suites.figures.grid"}]
    assert run_suites([suite]) == 1
    assert "dsg.suites.figures.grid: TypeError" in capfd.readouterr().err
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
    monkeypatch.setattr("dsg.suites.run_jobs.speed_of", lambda *_: Speed(0.5, "ffhq256: half a second"))
    options = ["--suite=faceid", "--images=2"]
    assert main([*options, f"--out={tmp_path / 'o'}", "--dry"]) == 2
    told = capsys.readouterr().out
    for name in ("fetch_checkpoints.py celebahq256", "prepare_data.py celebahq", "fetch_checkpoints.py arcface"):
        assert f"python scripts/{name}" in told.split("missing: ", 1)[1]
    assert "faceid mpgd_dsg 100" in told and "left out: fid: python scripts/fetch_checkpoints.py fid_inception" in told
    # 7 samplers, 100 steps; guided for t > 100: 89 (index 89 is t = 890) of FreeDoM's three go back, none of MPGD's
    (passes,) = re.findall(r"left: ([\d,]+) forward passes.*about (\d+) minutes here", told)
    assert int(passes[0].replace(",", "")) == 2 * (7 * 100 + 2 * 3 * 89) and int(passes[1]) == round(2 * 1234 / 120)
    assert "speed: ffhq256: half a second" in told
    assert not (tmp_path / "o").exists()
