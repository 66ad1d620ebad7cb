"""The plan of a suite, told without running it (DRY=1)."""

from collections.abc import Sequence

import pandas as pd

from dsg.benchmark.jobs import Job


def describe(jobs: Sequence[Job], errors: Sequence[str]) -> str:
    """A table of the jobs, what is left of them in all, and what is missing."""
    rows = [{"part": job.part, "job": " ".join(map(str, job.key)), **job.about()} for job in jobs]
    text = pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True) + "\n\n" if rows else ""
    left = [job for job in jobs if not job.finished()]
    text += f"{len(jobs)} jobs, {len(jobs) - len(left)} finished"
    if errors:
        return text + "\n" + "".join(f"missing: {error}\n" for error in errors)
    work = sum(job.work() for job in left)
    return text + f"; left: {work:,.0f} forward passes (a backward pass counts as two){duration(left)}\n"


def duration(jobs: Sequence[Job]) -> str:
    """Of the jobs that know how long a unit of their work takes."""
    rates = [(job.work(), job.rate()) for job in jobs if job.work()]
    if not rates or any(rate is None for _, rate in rates):
        return ""
    minutes = sum(work * rate for work, rate in rates) / 60
    return f", about {minutes:.0f} minutes here" if minutes < 90 else f", about {minutes / 60:.1f} hours here"
