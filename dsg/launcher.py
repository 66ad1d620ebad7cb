"""Where the runs of a sweep go: Hydra's launchers. In this process, unless `hydra/launcher=` says otherwise."""

from collections.abc import Sequence
from importlib.util import find_spec

OPTION = "hydra/launcher="


def chosen(overrides: Sequence[str]) -> str | None:
    """The launcher that the command line names; None for Hydra's own, which runs one after the other."""
    named = [override.removeprefix(OPTION) for override in overrides if override.startswith(OPTION)]
    return named[-1] if named and named[-1] != "basic" else None


def check(launcher: str, several: bool = True) -> None:
    """Args:
        several: whether the command line asks for a sweep.

    Raises:
        ValueError: its package is missing, or it would not be used.
    """
    if not several:
        raise ValueError(f"{OPTION}{launcher} is for sweeps: add -m, for a single run too")
    if (launcher == "slurm" or launcher.startswith("submitit")) and find_spec("submitit") is None:
        raise ValueError(f"{OPTION}{launcher} needs hydra-submitit-launcher: pip install -e '.[slurm]'")
