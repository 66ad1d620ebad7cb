"""Jobs from a plan to their end: all are checked before work starts, and a failing one does not stop the others."""

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
from dsg.suites import cluster
from dsg.suites.jobs import Job, Progress

EXPECTED = (ValueError, OSError)  # one clear line; anything else is told with where it happened


def planned(plan: Callable[[], Sequence[Job]]) -> tuple[Sequence[Job], list[str]]:
    """The jobs of a plan; and what is wrong with it, or with any of them, each error once, in one line."""
    try:
        jobs = plan()
    except EXPECTED as error:
        return [], [first_line(error)]
    return jobs, check(jobs)


def check(jobs: Sequence[Job]) -> list[str]:
    """What is wrong with any of the jobs, each error once, in one line."""
    errors = {}
    for job in tqdm(jobs, "checking", unit="job", leave=False, delay=3):
        try:
            job.check()
        except EXPECTED as error:
            errors |= dict.fromkeys([first_line(error), *job.missing()])
    return list(errors)


def run(
    jobs: Sequence[Job], title: str, workers: int = 1, launcher: Sequence[str] = (), folder: Path | None = None
) -> list[str]:
    """Run what is not finished under one progress bar.

    Args:
        jobs: checked.
        workers: processes, one thread each; 1 is this process, with its threads.
        launcher: the queue that runs them instead (`dsg.suites.cluster.settings`).
        folder: of that queue's logs.

    Returns:
        what failed, a line each that begins with the job's key.
    """
    todo = [job for job in jobs if not job.finished()]
    total = sum(job.work() for job in todo)
    bar = tqdm(total=total, unit="evaluation", unit_scale=True, desc=title, disable=total == 0, smoothing=0.02)
    with bar:
        if launcher:
            return _in_queue(todo, bar, launcher, folder)
        return _here(todo, bar) if workers == 1 else _in_workers(todo, bar, workers)


def _here(todo: Sequence[Job], bar: tqdm) -> list[str]:
    failures = []
    for job in todo:
        bar.set_postfix_str(_words(job))
        before, work = bar.n, job.work()
        try:
            failed = job.run(bar.update)
        except Exception as error:
            failed = [_told(error)]
        failures += _report(job, failed)
        bar.update(before + work - bar.n)  # what a failure left undone is not waited for
    return failures


def _in_workers(todo: Sequence[Job], bar: tqdm, workers: int) -> list[str]:
    failures, context = [], get_context("spawn")
    done = context.Value("d", 0.0)  # of the bar, by all workers
    with ProcessPoolExecutor(workers, context, _begin, (done,)) as pool:
        longest_first = sorted(todo, key=lambda job: -job.work())  # so that no core waits at the end
        futures = {pool.submit(_in_worker, job): job for job in longest_first}
        left = set(futures)
        try:
            while left:
                ended, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                for future in ended:
                    bar.set_postfix_str(_words(futures[future]))
                    # a worker that was killed raises here, for every job that it leaves undone
                    failed = future.result() if future.exception() is None else [_told(future.exception())]
                    failures += _report(futures[future], failed)
                bar.update(done.value - bar.n)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _in_queue(todo: Sequence[Job], bar: tqdm, launcher: Sequence[str], folder: Path) -> list[str]:
    failures = []
    if todo:
        tqdm.write(f"{len(todo)} jobs by {launcher[0]}; their logs: {folder}", file=sys.stderr)
    try:
        for job, failed in cluster.in_queue(_alone, todo, launcher, folder):
            bar.set_postfix_str(_words(job))
            failures += _report(job, failed)
            bar.update(job.work())
    except RuntimeError as error:  # the queue does not take them
        failures.append(f"{launcher[0]}: {first_line(error)}")
    return failures


def _alone(job: Job, on_progress: Progress = lambda done: None) -> list[str]:
    """In another process; in a queue nobody listens to the progress."""
    try:
        return job.run(on_progress)
    except Exception as error:
        return [_told(error)]


def _begin(done) -> None:
    """A worker: one thread, a counter of progress that it shares with the others; it ends when its parent does."""
    global _done
    _done = done
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """A parent that was killed can tell its workers nothing; they would go on with a job that is nobody's."""
    parent.join()
    os._exit(1)


def _in_worker(job: Job) -> list[str]:
    work, told = job.work(), 0.0

    def add(progress: float) -> None:
        nonlocal told
        told += progress
        with _done.get_lock():
            _done.value += progress

    try:
        failed = _alone(job, add)
    except KeyboardInterrupt:  # Ctrl-C reaches the workers too; the pool would go on with the next job
        os._exit(130)
    add(work - told)  # what a failure left undone is not waited for
    return failed


def _told(error: BaseException) -> str:
    if not isinstance(error, EXPECTED):
        traceback.print_exception(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _report(job: Job, failed: Sequence[str]) -> list[str]:
    lines = [f"{_words(job)}: {line}" for line in failed]
    for line in lines:
        tqdm.write(f"failed: {line}", file=sys.stderr)
    return lines


def _words(job: Job) -> str:
    return " ".join(str(part) for part in job.key)
