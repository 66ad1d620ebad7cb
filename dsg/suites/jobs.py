"""The contract of a job: suites, tuning and sweeps are made of jobs, which the engine checks, runs and resumes."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import pandas as pd

from dsg.suites.speed import Speed

Progress = Callable[[float], None]


class Job(ABC):
    """A piece of work that is finished or not, and resumes where it was stopped.

    The engine calls, in this order: `check` of every job, before any work; `finished` and `work`; `run` of what is not
    finished; after that, of all jobs, `tables`. With several workers a copy of the job (pickle) runs in another
    process: what `run` needs is in the job's fields, and its results are on disk. `tables` is called in the first
    process.

    Attributes:
        key: strings and numbers that identify the job within its suite: ("inpaint", "dps", 20).
        steps: number of reverse steps; 0 where there are none.
        part: name of the entry of the suite's `jobs` that planned it; the plan sets it.
    """

    key: tuple
    steps: int
    part: str = ""

    @property
    def key_text(self) -> str:
        """The key in one line."""
        return " ".join(str(part) for part in self.key)

    def covers(self, other: "Job") -> bool:
        """Whether the other need not be run if this one is."""
        return self.key == other.key

    @abstractmethod
    def check(self) -> None:
        """Find every mistake before work starts. Writes nothing.

        Raises:
            ValueError, OSError: one clear line; where something is missing, with the command that gets it.
        """

    @abstractmethod
    def finished(self) -> bool:
        """Whether `run` has nothing left to do."""

    @abstractmethod
    def work(self) -> float:
        """The work that is left, for the progress bar: network evaluations, or any unit that all jobs share."""

    @abstractmethod
    def run(self, on_progress: Progress) -> list[str]:
        """Do what is left, and save it; a part that is saved is not done again.

        Args:
            on_progress: called with the share of `work` that was done since the last call.

        Returns:
            the failures within the job, a line each. An exception fails the whole job; the engine goes on with the
            others and lists it at the end.
        """

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """The saved results by the name of their table; empty if there are none."""

    def about(self) -> dict[str, object]:
        """Further columns of the plan (DRY=1), column -> value; also where `check` has failed."""
        return {}

    def speed(self) -> Speed | None:
        """The time of a unit of `work` on this machine, by a short measurement; None if it is unknown."""
        return None

    def missing(self) -> list[str]:
        """All that is missing, a line each, with the command that gets it. `check` has reported the first of them."""
        return []

    def left_out(self) -> list[str]:
        """Metrics that this machine cannot compute, and why, a line each."""
        return []
