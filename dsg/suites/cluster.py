"""Jobs in a cluster's queue, through submitit, with the settings of configs/launcher/.

A requeued job is run again, and goes on where it was stopped.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from dsg.files import CONFIGS, first_line
from dsg.suites.jobs import Job

FOLDER = CONFIGS / "launcher"
POLL = 10.0  # s


def settings(words: Sequence[str]) -> dict:
    """The options of submitit's executor.

    Args:
        words: a file of configs/launcher/, then options of it: `slurm partition=gpu`.

    Raises:
        ValueError: submitit is missing, or there is no such file or option.
    """
    name, *options = words
    files = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in files:
        raise ValueError(f"launcher {name} is unknown: one of {', '.join(files)}")
    if find_spec("submitit") is None:
        raise ValueError(f"launcher {name} needs submitit: pip install -e '.[slurm]'")
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for option in options:
        key, _, value = option.partition("=")
        full = key if key in found else f"{name}_{key}"
        if full not in found:
            near = difflib.get_close_matches(key, [known.removeprefix(f"{name}_") for known in found], 1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"launcher {name}: {key} is unknown: {guess}one of {', '.join(found)}")
        found[full] = yaml.safe_load(value)
    return {key: value for key, value in found.items() if value is not None}


def check(words: Sequence[str]) -> None:
    """Raises ValueError if these are no settings (`settings`); none are no queue."""
    if words:
        settings(words)


def logs(words: Sequence[str], usual: Path) -> Path:
    """The folder of the jobs' logs: that of the settings, or the usual one."""
    return Path(settings(words).get("folder", usual))


def executor(words: Sequence[str], folder: Path, name: str):
    """submitit's executor with these settings.

    Args:
        folder: of the jobs' logs and pickles; every machine sees it.
        name: of the jobs in the queue.
    """
    from submitit import AutoExecutor

    kind, options = words[0], settings(words)
    options.pop("folder", None)
    own = {key: options.pop(key) for key in [f"{kind}_max_num_timeout"] if key in options}
    found = AutoExecutor(folder=folder / "%j", cluster=kind, **own)
    found.update_parameters(name=name, **options)
    return found


class Requeued:
    """The function that the queue calls: `run(job)`, again with the same job after preemption or the time limit."""

    def __init__(self, run: Callable[[Job], list[str]]):
        self.run = run

    def __call__(self, job: Job) -> list[str]:
        return self.run(job)

    def checkpoint(self, job: Job):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def run_in_queue(
    run: Callable[[Job], list[str]], jobs: Sequence[Job], words: Sequence[str], folder: Path
) -> Iterator[tuple[Job, list[str]]]:
    """Submit all jobs, and yield each with its failures, a line each, when it has ended.

    Raises:
        ValueError: see `settings`.
        RuntimeError: the queue does not take them.
    """
    from submitit.helpers import as_completed

    if not jobs:
        return
    queue = executor(words, folder, "dsg")
    with queue.batch():  # one array of Slurm
        submitted = [queue.submit(Requeued(run), job) for job in jobs]
    by_id = {one.job_id: job for one, job in zip(submitted, jobs)}
    for done in as_completed(submitted, poll_frequency=POLL):
        error = done.exception()  # of a job that was killed
        yield by_id[done.job_id], done.result() if error is None else [f"job {done.job_id}: {first_line(error)}"]
