"""The plan of a suite as text (DRY=1), and as a record beside its tables (plan.json)."""

import json
from collections.abc import Sequence

import pandas as pd

from dsg.files import write_text
from dsg.suites.jobs import Job
from dsg.suites.suite import Suite

FILE = "plan.json"


def describe(jobs: Sequence[Job], errors: Sequence[str]) -> str:
    """A table of the jobs, the work that is left, and what is missing."""
    rows = [{"part": job.part, "job": job.key_text, **job.about()} for job in jobs]
    text = pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True) + "\n\n" if rows else ""
    return text + total(jobs, errors)


def total(jobs: Sequence[Job], errors: Sequence[str]) -> str:
    """The work that is left, its time on this machine and how that was measured, what is missing or left out."""
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
    """The time of the jobs whose speed is known, for sampling alone: without guidance networks and metrics."""
    timed = [(job.work(), job.speed()) for job in jobs if job.work()]
    known = [work * speed.seconds for work, speed in timed if speed is not None]
    if not known:
        return ""
    minutes, without = sum(known) / 60, len(timed) - len(known)
    hours = minutes / 60
    text = f", about {minutes:.0f} minutes here" if hours < 1.5 else f", about {hours:,.{int(hours < 100)}f} hours here"
    return text + (f", without {without} jobs whose speed is unknown" if without else "")


# --- plan.json keeps tables of less from taking the place of tables of more


def record(suite: Suite, jobs: Sequence[Job]) -> None:
    """Write the contents of the suite's tables into its folder."""
    write_text(suite.out / FILE, json.dumps(contents(suite, jobs), indent=0) + "\n")


def check(suite: Suite, jobs: Sequence[Job]) -> None:
    """Raises ValueError if the folder's tables have jobs, images or samples that these jobs have not."""
    file = suite.out / FILE
    if not file.exists():
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), contents(suite, jobs)
    lost = [key for key in before["jobs"] if key not in now["jobs"]]
    if lost:
        raise ValueError(f"{suite.out} has tables of more than that, {lost[0]} for one: another --out, or all of it")
    for name in ("images", "samples"):
        if before[name] > now[name]:
            raise ValueError(f"{suite.out} has tables of {before[name]} {name}: as many, or another --out")


def contents(suite: Suite, jobs: Sequence[Job]) -> dict:
    keys = sorted({job.key_text for job in jobs})
    return {"images": suite.images, "samples": suite.samples, "jobs": keys}
