"""What a suite is made of: jobs, which are checked, run, resumed and listed alike, whatever they compute."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import pandas as pd

from dsg.suites.speed import Speed

Progress = Callable[[float], None]


class Job(ABC):
    """A piece of a suite that is finished or not, and resumes where it was stopped.

    The engine calls, in this order: `check` of every job, before any work; `finished` and `work`; `run` of what is not
    finished; after that, of all jobs, `tables`. With `workers` > 1 a copy of the job (pickle) runs in another process,
    on one thread: what `run` needs is in the job's fields, and what it makes is on disk. `tables` is called in the
    first process.

    Attributes:
        key: what the user reads, and what tells the jobs of a suite apart: ("inpaint", "dps", 20). Strings and numbers.
        steps: number of reverse steps; 0 where there are none.
        part: name of the entry of the suite's `jobs` that planned it; the plan sets it.
    """

    key: tuple
    steps: int
    part: str = ""

    def covers(self, other: "Job") -> bool:
        """Whether the other need not be run if this one is."""
        return self.key == other.key

    @abstractmethod
    def check(self) -> None:
        """Find whatever is wrong before work starts. Writes nothing.

        Raises:
            ValueError, OSError: one clear line; of what is missing, with the command that gets it.
        """

    @abstractmethod
    def finished(self) -> bool:
        """Whether `run` has nothing left to do."""

    @abstractmethod
    def work(self) -> float:
        """What is left, for the progress bar: forward passes of a network, or any unit that all jobs share."""

    @abstractmethod
    def run(self, on_progress: Progress) -> list[str]:
        """Do what is left, and save it; a part that is saved is not done again.

        Args:
            on_progress: called with the share of `work` that was done since the last call. In a job of a cluster's
                queue nobody listens.

        Returns:
            what failed within the job while the rest was done, a line each. An exception fails the whole job; the
            engine goes on with the others and lists it at the end.
        """

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """What has been saved, by the name of the table that it belongs to; empty if nothing has."""

    def about(self) -> dict[str, object]:
        """What the plan (DRY=1) says of it besides the key: column -> value; also where `check` has failed."""
        return {}

    def speed(self) -> Speed | None:
        """What a unit of `work` takes on this machine, by a short measurement; None if it does not know."""
        return None

    def missing(self) -> list[str]:
        """All that is not there, a line each, with the command that gets it; asked where `check` has failed, which
        tells the first of them."""
        return []

    def left_out(self) -> list[str]:
        """What the results will lack on this machine, and why, a line each: metrics without their weights."""
        return []
