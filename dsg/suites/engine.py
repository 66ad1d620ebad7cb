"""Runs jobs: here, in processes (one per GPU) or in a cluster's queue. A failing job does not stop the others."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm import tqdm

from dsg.files import first_line
from dsg.runs.shards import shard_of_this_process
from dsg.suites import cluster
from dsg.suites.jobs import Job, Progress

EXPECTED = (ValueError, OSError)  # reported in one line; anything else with its traceback


def plan_and_check(plan: Callable[[], Sequence[Job]]) -> tuple[Sequence[Job], list[str]]:
    """The jobs of a plan, and the errors of the plan and of its jobs, each once, in one line."""
    try:
        jobs = plan()
    except EXPECTED as error:
        return [], [first_line(error)]
    return jobs, check(jobs)


def check(jobs: Sequence[Job]) -> list[str]:
    """The errors of the jobs, each once, in one line."""
    errors: dict[str, None] = {}
    for job in tqdm(jobs, "checking", unit="job", leave=False, delay=3, disable=None):
        errors |= dict.fromkeys(errors_of(job))
    return list(errors)


def errors_of(job: Job) -> list[str]:
    """Check a job. Returns its error, and all that is missing for it; nothing if it can be run."""
    try:
        job.check()
    except EXPECTED as error:
        return [first_line(error), *job.missing()]
    return []


# --- how many processes, and which GPU each of them has


def visible_gpus(device: str) -> list[str]:
    """The GPUs that jobs with this `device` may be spread over, by their names in CUDA_VISIBLE_DEVICES.

    There are none for the CPU, for one GPU by its index, and under torchrun, which has given this process its own.
    """
    if device not in ("auto", "cuda") or shard_of_this_process()[1] > 1:
        return []
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(index) for index in range(count)])[:count]


def worker_count(asked: int | str | None, device: str) -> int:
    """The number of processes.

    Args:
        asked: a number; None: one per GPU, or this process alone; "all": one per GPU, or per core where there is none.
    """
    if isinstance(asked, int):
        return asked
    usual = (os.cpu_count() or 1) if asked == "all" else 1
    return len(visible_gpus(device)) or usual


# --- running


def run(
    jobs: Sequence[Job],
    title: str,
    workers: int | str | None = None,
    device: str = "auto",
    launcher: Sequence[str] = (),
    folder: Path | None = None,
) -> list[str]:
    """Run what is not finished under one progress bar.

    Args:
        jobs: checked.
        workers: see `worker_count`. One is this process; of several, each has a GPU of its own if there is one.
        device: of the jobs.
        launcher: the queue that runs them instead (`dsg.suites.cluster.settings`).
        folder: of that queue's logs.

    Returns:
        the failures, a line each that begins with the job's key.
    """
    todo, count = [job for job in jobs if not job.finished()], worker_count(workers, device)
    total = sum(job.work() for job in todo)
    bar = tqdm(total=total, unit="evaluation", unit_scale=True, desc=title, disable=total == 0 or None, smoothing=0.02)
    with bar:
        if launcher:
            return _run_in_queue(todo, bar, launcher, folder)
        return _run_here(todo, bar) if count == 1 else _run_in_workers(todo, bar, count, visible_gpus(device))


def _run_here(todo: Sequence[Job], bar: tqdm) -> list[str]:
    failures = []
    for job in todo:
        bar.set_postfix_str(job.key_text)
        before, work = bar.n, job.work()
        failures += _report(job, _attempt(job, bar.update))
        bar.update(before + work - bar.n)  # a failure leaves some of its work undone
    return failures


def _run_in_workers(todo: Sequence[Job], bar: tqdm, workers: int, gpus: Sequence[str]) -> list[str]:
    failures, context, workers = [], get_context("spawn"), min(workers, len(todo) or 1)
    done = context.Value("d", 0.0)  # of the bar, by all workers
    devices = context.SimpleQueue()
    for k in range(workers):
        devices.put(gpus[k % len(gpus)] if gpus else None)
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, context, _begin, (done, devices, threads)) as pool:
        longest_first = sorted(todo, key=lambda job: -job.work())  # so that no worker waits at the end
        futures = {pool.submit(_run_in_worker, job): job for job in longest_first}
        left = set(futures)
        try:
            while left:
                ended, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                for future in ended:
                    bar.set_postfix_str(futures[future].key_text)
                    # a worker that was killed raises here, for every job that it leaves undone
                    failed = future.result() if future.exception() is None else [_one_line(future.exception())]
                    failures += _report(futures[future], failed)
                bar.update(done.value - bar.n)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _run_in_queue(todo: Sequence[Job], bar: tqdm, launcher: Sequence[str], folder: Path) -> list[str]:
    failures, folder = [], cluster.logs(launcher, folder)
    if todo:
        tqdm.write(f"{len(todo)} jobs by {launcher[0]}; their logs: {folder}", file=sys.stderr)
    try:
        for job, failed in cluster.run_in_queue(_attempt, todo, launcher, folder):
            bar.set_postfix_str(job.key_text)
            failures += _report(job, failed)
            bar.update(job.work())
    except RuntimeError as error:  # the queue does not take them
        failures.append(f"{launcher[0]}: {first_line(error)}")
    return failures


def _attempt(job: Job, on_progress: Progress = lambda done: None) -> list[str]:
    """Run a job. Returns its failures; an exception is one."""
    try:
        return job.run(on_progress)
    except Exception as error:
        return [_one_line(error)]


def _begin(done, devices, threads: int) -> None:
    """Prepare a worker: its GPU, its threads, and the counter of progress that it shares with the others.

    It ends when its parent does.
    """
    global _done
    _done, gpu = done, devices.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA has not been used here yet
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """A parent that was killed cannot stop its workers; they would go on with a job that is nobody's."""
    parent.join()
    os._exit(1)


def _run_in_worker(job: Job) -> list[str]:
    work, reported = job.work(), 0.0

    def add(progress: float) -> None:
        nonlocal reported
        reported += progress
        with _done.get_lock():
            _done.value += progress

    try:
        failed = _attempt(job, add)
    except KeyboardInterrupt:  # Ctrl-C reaches the workers too; the pool would go on with the next job
        os._exit(130)
    add(work - reported)  # a failure leaves some of its work undone
    return failed


def _one_line(error: BaseException) -> str:
    if not isinstance(error, EXPECTED):
        traceback.print_exception(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _report(job: Job, failed: Sequence[str]) -> list[str]:
    lines = [f"{job.key_text}: {line}" for line in failed]
    for line in lines:
        tqdm.write(f"failed: {line}", file=sys.stderr)
    return lines
