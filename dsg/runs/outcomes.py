"""What the runs of a sweep came to, told to the process that began it: also from other processes and machines."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from dsg.runs.comparison import Finished


class Outcome(NamedTuple):
    """Of one run.

    Attributes:
        code: its exit code.
        overrides: what was asked for.
        finished: None if it came to nothing.
    """

    code: int
    overrides: Sequence[str]
    finished: Finished | None = None


class Outcomes:
    """Outcomes of a sweep in a folder that all its machines see, a file each.

    Args:
        parent: of that folder, which is made with the first file.
    """

    def __init__(self, parent: Path):
        self.folder = parent.absolute() / f".outcomes-{time.time_ns()}-{os.getpid()}"

    def add(self, number: int, outcome: Outcome) -> None:
        """Of the sweep's run `number`; one that was requeued replaces what it said before."""
        config, summary = None, None
        if outcome.finished is not None:
            config, summary = OmegaConf.to_container(outcome.finished.config), outcome.finished.summary
        said = {"code": outcome.code, "overrides": list(outcome.overrides), "config": config, "summary": summary}
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{number:05}.partial"
        temporary.write_text(json.dumps(said), encoding="utf-8")
        temporary.replace(self.folder / f"{number:05}.json")

    def take(self) -> list[Outcome]:
        """All of them, in the order of the sweep. The folder is removed."""
        files = sorted(self.folder.glob("*.json"))
        found = [_read(json.loads(file.read_text(encoding="utf-8"))) for file in files]
        _remove([*self.folder.glob("*.partial"), *files], self.folder)
        return found


def _read(said: dict) -> Outcome:
    overrides, finished = said["overrides"], None
    if said["config"] is not None:
        finished = Finished(OmegaConf.create(said["config"]), overrides, said["summary"])
    return Outcome(said["code"], overrides, finished)


def _remove(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        file.unlink()
    if folder.is_dir():
        folder.rmdir()
