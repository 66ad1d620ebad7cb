"""The plan of a suite, told without running it (DRY=1)."""

from collections.abc import Sequence

import pandas as pd

from dsg.suites.jobs import Job


def describe(jobs: Sequence[Job], errors: Sequence[str]) -> str:
    """A table of the jobs, what is left of them in all, and what is missing."""
    rows = [{"part": job.part, "job": " ".join(map(str, job.key)), **job.about()} for job in jobs]
    text = pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True) + "\n\n" if rows else ""
    return text + total(jobs, errors)


def total(jobs: Sequence[Job], errors: Sequence[str]) -> str:
    """What is left, how long it will take here and how that was measured, what is missing, what will be left out."""
    left = [job for job in jobs if not job.finished()]
    work = sum(job.work() for job in left)
    text = f"{len(jobs)} jobs, {len(jobs) - len(left)} finished"
    text += f"; left: {work:,.0f} forward passes (a backward pass counts as two){duration(left)}\n"
    speeds = dict.fromkeys(speed.how for job in left if job.work() and (speed := job.speed()) is not None)
    text += "".join(f"speed: {how}\n" for how in speeds)
    text += "".join(f"missing: {error}\n" for error in errors)
    reasons = dict.fromkeys(reason for job in left for reason in job.left_out())
    return text + "".join(f"left out: {reason}\n" for reason in reasons)


def duration(jobs: Sequence[Job]) -> str:
    """Of the jobs whose speed is known. Sampling alone: not the guidance networks, nor the metrics."""
    timed = [(job.work(), job.speed()) for job in jobs if job.work()]
    known = [work * speed.seconds for work, speed in timed if speed is not None]
    if not known:
        return ""
    minutes, without = sum(known) / 60, len(timed) - len(known)
    hours = minutes / 60
    text = f", about {minutes:.0f} minutes here" if hours < 1.5 else f", about {hours:,.{int(hours < 100)}f} hours here"
    return text + (f", without {without} jobs whose speed is unknown" if without else "")
