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

from dsg.cli import parse
from dsg.suites import cluster, engine
from dsg.suites.jobs import Job
from dsg.suites.main import main as reproduce

needs_submitit = pytest.mark.skipif(cluster.find_spec("submitit") is None, reason="the extra slurm is missing")


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
    with pytest.raises(ValueError, match="are for sweeps: add -m, for a single run too$"):
        parse(["launcher=slurm"])
    line = parse(["-m", "launcher=slurm", "seed=0,1", "launcher.partition=gpu", "--workers", "3"])
    assert line.launcher == ["slurm", "partition=gpu"] and line.overrides == ["seed=0,1"] and line.workers == 3
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs submitit: pip install -e '.\[slurm\]'$"):
        cluster.check(["slurm"])
    with pytest.raises(SystemExit):
        reproduce(["--suite", "smoke", "--launcher", "slurm"])
    assert "needs submitit" in capsys.readouterr().err.splitlines()[-1]


@needs_submitit
def test_slurm_gets_partition_gpus_time_and_requeueing(tmp_path, monkeypatch):
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    queue = cluster.executor(["slurm", "partition=gpu", "timeout_min=90"], tmp_path / "queue", "suite")
    with queue.batch():
        jobs = [queue.submit(cluster.Requeued(engine._attempt), Note(tmp_path, n)) for n in range(3)]
    assert [job.job_id for job in jobs] == ["7_0", "7_1", "7_2"]
    lines = (tmp_path / "queue/7/7_submission.sh").read_text().splitlines()
    for option in ("partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=8", "mem=32GB", "requeue",
                   "signal=USR2@120", "array=0-2%3"):  # fmt: skip
        assert f"#SBATCH --{option}" in lines, option
    for words in (["slurm", "partitoin=gpu"], ["slurn"]):
        with pytest.raises(ValueError, match="^launcher slur. ?.*is unknown"):
            cluster.settings(words)


@needs_submitit
@pytest.mark.slow
def test_jobs_of_a_suite_run_in_the_queue_and_a_failing_one_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
    monkeypatch.setattr(cluster, "POLL", 0.1)
    jobs = [Note(tmp_path, number) for number in (1, -1, 2)]
    failures = engine.run(jobs, "suite x", launcher=["local", "timeout_min=5"], folder=tmp_path / "queue")
    assert failures == ["note -1: ValueError: -1 is negative"]
    assert int((tmp_path / "1").read_text()) not in (os.getpid(), int((tmp_path / "2").read_text()))
    assert engine.run(jobs[::2], "suite x", launcher=["local"], folder=tmp_path / "queue") == []


SWEEP = ["-m", "launcher=local", "launcher.timeout_min=20", "sampler.steps=3", "metrics=[psnr]",
         "wandb.mode=disabled", "batch_size=1"]  # fmt: skip


def launched(folder, *options):
    command = [sys.executable, "run.py", *SWEEP, f"launcher.folder={folder / 'queue'}", *options]
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
    assert err.count("error: sampler=") == 2 and "task.sigma=-1" in err
    for name in ("dps", "dps_dsg"):
        assert json.loads((tmp_path / "it's, two" / name / "metrics.json").read_text())["images"] == 2


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
    (job,) = running_in(folder / "queue")
    os.kill(job, number)
    return process


@needs_submitit
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the job's process in /proc")
def test_a_job_that_is_preempted_is_requeued_and_goes_on_where_it_was(tmp_path):
    run = tmp_path / "run"
    process = struck(tmp_path, run, signal.SIGUSR2)  # as Slurm does, ahead of a preemption or of the time limit
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    log = "".join(file.read_text() for file in (tmp_path / "queue").rglob("*_log.*"))
    assert "this job is preempted" in log and "Requeued job" in log
    assert len(list((run / "parts").glob("*.jsonl"))) == 2  # two processes, each of which made some
    assert json.loads((run / "metrics.json").read_text())["images"] == 6


@needs_submitit
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the job's process in /proc")
def test_a_job_that_is_killed_is_one_line_and_keeps_what_it_made(tmp_path):
    run = tmp_path / "run"
    process = struck(tmp_path, run, signal.SIGKILL)
    _, err = process.communicate(timeout=280)
    assert process.returncode in (1, 2) and "Traceback" not in err, err
    assert "failed: " in err and " sampler=mpgd " in err, err
    assert 0 < len(list((run / "images").glob("*.png"))) < 6
