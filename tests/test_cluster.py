"""Sweeps and suites in a cluster's queue, with submitit's local one; what Slurm is told, with a stand-in for sbatch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

import dsg.launcher
from dsg.cli import parse
from dsg.runs.comparison import Finished
from dsg.runs.outcomes import Outcome, Outcomes
from dsg.suites import cluster, engine
from dsg.suites.jobs import Job
from dsg.suites.main import main as reproduce

needs_submitit = pytest.mark.skipif(dsg.launcher.find_spec("submitit") is None, reason="the extra slurm is missing")


class Note(Job):
    """Writes its number into a file; a negative one cannot."""

    steps = 0

    def __init__(self, folder: Path, number: int):
        self.folder, self.number, self.key = folder, number, ("note", number)

    def check(self):
        pass

    def finished(self):
        return (self.folder / str(self.number)).exists()

    def work(self):
        return 1

    def run(self, on_progress):
        if self.number < 0:
            raise ValueError(f"{self.number} is negative")
        (self.folder / str(self.number)).write_text(str(os.getpid()))
        return []

    def tables(self):
        return {}


def test_a_launcher_without_its_package_or_without_a_sweep_is_one_line(monkeypatch, capsys):
    with pytest.raises(ValueError, match="^hydra/launcher=slurm is for sweeps: add -m, for a single run too$"):
        parse(["hydra/launcher=slurm"])
    assert parse(["-m", "hydra/launcher=basic"]).launcher is None and parse([]).launcher is None
    monkeypatch.setattr(dsg.launcher, "find_spec", lambda name: None)
    for arguments in (["-m", "hydra/launcher=slurm"], ["hydra/launcher=submitit_local", "--multirun"]):
        with pytest.raises(ValueError, match=r"needs hydra-submitit-launcher: pip install -e '.\[slurm\]'$"):
            parse(arguments)
    with pytest.raises(SystemExit):
        reproduce(["--suite", "smoke", "--launcher", "slurm"])
    assert "needs hydra-submitit-launcher" in capsys.readouterr().err.splitlines()[-1]


def test_outcomes_come_back_in_the_order_of_the_sweep_and_the_last_word_counts(tmp_path):
    outcomes = Outcomes(tmp_path)
    finished = Finished(OmegaConf.create({"task": {"name": "inpaint"}}), ["seed=1"], {"images": 2})
    outcomes.add(10, Outcome(2, ["seed=10"]))
    outcomes.add(1, Outcome(1, ["seed=1"]))
    outcomes.add(1, Outcome(0, ["seed=1"], finished))  # it was requeued
    first, second = outcomes.take()
    assert first == Outcome(0, ["seed=1"], finished) and second == Outcome(2, ["seed=10"])
    assert not list(tmp_path.iterdir()) and outcomes.take() == []


@needs_submitit
def test_slurm_is_told_partition_gpus_time_and_to_requeue(tmp_path, monkeypatch):
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    chosen = cluster.settings(["slurm", "partition=gpu", "timeout_min=90"])
    queue = cluster.executor(chosen, tmp_path / "queue", "suite")
    with queue.batch():
        jobs = [queue.submit(cluster.Requeued(engine._alone), Note(tmp_path, n)) for n in range(3)]
    assert [job.job_id for job in jobs] == ["7_0", "7_1", "7_2"]
    lines = (tmp_path / "queue/7/7_submission.sh").read_text().splitlines()
    for option in ("partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=8", "mem=32GB", "requeue",
                   "signal=USR2@120", "array=0-2%3"):  # fmt: skip
        assert f"#SBATCH --{option}" in lines, option
    with pytest.raises(ValueError, match="^--launcher slurm partitoin=gpu: .*partitoin"):
        cluster.settings(["slurm", "partitoin=gpu"])


@needs_submitit
@pytest.mark.slow
def test_jobs_of_a_suite_run_in_the_queue_and_a_failing_one_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
    monkeypatch.setattr(cluster, "POLL", 0.1)
    jobs = [Note(tmp_path, number) for number in (1, -1, 2)]
    failures = engine.run(jobs, "suite x", launcher=["submitit_local", "timeout_min=5"], folder=tmp_path / "queue")
    assert failures == ["note -1: ValueError: -1 is negative"]
    assert int((tmp_path / "1").read_text()) not in (os.getpid(), int((tmp_path / "2").read_text()))
    assert engine.run(jobs[::2], "suite x", launcher=["submitit_local"], folder=tmp_path / "queue") == []


SWEEP = ["-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20", "sampler.steps=3", "metrics=[psnr]",
         "wandb.mode=disabled", "batch_size=1"]  # fmt: skip


def launched(tmp_path, *options):
    command = [sys.executable, "run.py", *SWEEP, f"hydra.sweep.dir={tmp_path / 'sweep'}", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@needs_submitit
@pytest.mark.slow
def test_a_sweep_in_the_queue_ends_with_its_table_and_the_worst_exit_code(tmp_path):
    """Values with commas and quotes arrive as they were written."""
    (tmp_path / "it's, two").mkdir()
    process = launched(tmp_path, "sampler=dps,dps_dsg", "sampler.window=[0,1000]", "data.limit=2",
                       "task.sigma=0.05,-1", f"out={tmp_path}/it's, two/${{sampler.name}}")  # fmt: skip
    out, err = process.communicate(timeout=580)
    assert process.returncode == 2, err  # sigma=-1
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["inpaint", "dps"], ["inpaint", "dps_dsg"]]
    assert err.count("failed, exit code 2: ") == 2 and "task.sigma=-1" in err
    for name in ("dps", "dps_dsg"):
        assert json.loads((tmp_path / "it's, two" / name / "metrics.json").read_text())["images"] == 2
    assert "task.sigma=-1" in "".join(log.read_text() for log in (tmp_path / "sweep/.submitit").rglob("*_log.err"))


def running_in(folder):
    """Ids of the processes that run a job of the queue in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if "submitit.core._submit" in words and str(folder) in words:
            found.append(int(entry.parent.name))
    return found


def struck(folder, run, number):
    """A sweep of one run, whose job is sent the signal when the first images are there."""
    process = launched(folder, "sampler=mpgd", "sampler.steps=20", "data.limit=6", f"out={run}")
    deadline = time.monotonic() + 300
    while not list((run / "parts").glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (job,) = running_in(folder / "sweep")
    os.kill(job, number)
    return process


@needs_submitit
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the job's process in /proc")
def test_a_job_that_is_preempted_is_requeued_and_goes_on_where_it_was(tmp_path):
    run = tmp_path / "run"
    process = struck(
        tmp_path, run, signal.SIGUSR2
    )  # as Slurm does, ahead of a preemption or of the end of the job's time
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    log = "".join(file.read_text() for file in (tmp_path / "sweep/.submitit").rglob("*_log.*"))
    assert "this job is preempted" in log and "Requeued job" in log
    assert len(list((run / "parts").glob("*.jsonl"))) == 2  # two processes, each of which made some
    assert json.loads((run / "metrics.json").read_text())["images"] == 6


@needs_submitit
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the job's process in /proc")
def test_a_job_that_is_killed_is_one_line_and_keeps_what_it_made(tmp_path):
    run = tmp_path / "run"
    process = struck(tmp_path, run, signal.SIGKILL)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("failed: Job") and err.endswith("; the same command goes on\n")
    assert 0 < len(list((run / "images").glob("*.png"))) < 6
