"""Jobs of a suite on a cluster, each a job of its queue, with the settings of run.py's sweeps: configs/hydra/launcher/.

The queue is the cluster's (Slurm through submitit). Nothing is decided here but that a requeued job is run again, which
goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dsg import launcher
from dsg.cli import explain
from dsg.files import first_line
from dsg.layers import CONFIGS
from dsg.suites.jobs import Job

OWN = ("_target_", "submitit_folder", "max_num_timeout", "name")  # not handed on as they are
POLL = 10.0  # s


def settings(words: Sequence[str]) -> DictConfig:
    """Args:
        words: a file of configs/hydra/launcher/ or a launcher of submitit, then options: `slurm partition=gpu`.

    Raises:
        ValueError: its package is missing, or an option is unknown.
    """
    name, *options = words
    launcher.check(name)
    overrides = [f"{launcher.OPTION}{name}", *(f"hydra.launcher.{option}" for option in options)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", overrides, return_hydra_config=True).hydra.launcher
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"--launcher {' '.join(words)}: {explain(error)}") from None


def executor(chosen: DictConfig, folder: Path, name: str):
    """submitit's executor with these settings.

    Args:
        chosen: by `settings`.
        folder: of the jobs' logs and pickles; every machine sees it.
        name: of the jobs in the queue.
    """
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor

    kind = chosen["_target_"].rpartition(".")[2].removesuffix("Launcher").lower()  # slurm, or local
    retries = {f"{kind}_max_num_timeout": chosen["max_num_timeout"]} if "max_num_timeout" in chosen else {}
    found = AutoExecutor(folder=folder / "%j", cluster=kind, **retries)
    shared = set(OmegaConf.structured(BaseQueueConf).keys())
    options = {k: v for k, v in OmegaConf.to_container(chosen.copy()).items() if k not in OWN}
    found.update_parameters(name=name, **{k if k in shared else f"{kind}_{k}": v for k, v in options.items()})
    return found


class Requeued:
    """What the queue runs: `run(job)`, again with the same job when it was preempted or its time was up."""

    def __init__(self, run: Callable[[Job], list[str]]):
        self.run = run

    def __call__(self, job: Job) -> list[str]:
        return self.run(job)

    def checkpoint(self, job: Job):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def in_queue(
    run: Callable[[Job], list[str]], jobs: Sequence[Job], words: Sequence[str], folder: Path, poll: float = POLL
) -> Iterator[tuple[Job, list[str]]]:
    """Submit all jobs; each, when it has ended, with what failed in it, a line each.

    Raises:
        ValueError: see `settings`.
        RuntimeError: the queue does not take them.
    """
    from submitit.helpers import as_completed

    if not jobs:
        return
    queue = executor(settings(words), folder, "suite")
    with queue.batch():  # of Slurm: one array
        submitted = [queue.submit(Requeued(run), job) for job in jobs]
    by_id = {one.job_id: job for one, job in zip(submitted, jobs)}
    for done in as_completed(submitted, poll_frequency=poll):
        error = done.exception()  # of a job that was killed
        told = f"job {done.job_id}: {first_line(error)}"
        yield by_id[done.job_id], done.result() if error is None else [told]
