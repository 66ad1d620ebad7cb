"""What the tables in a suite's folder are made of, so that tables of less never take their place."""

import json
from collections.abc import Sequence

from dsg.files import write_text
from dsg.suites.jobs import Job
from dsg.suites.suite import Suite

FILE = "plan.json"


def record(suite: Suite, jobs: Sequence[Job]) -> None:
    """Say in the suite's folder what its tables are made of."""
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
    keys = sorted({" ".join(map(str, job.key)) for job in jobs})
    return {"images": suite.images, "samples": suite.samples, "jobs": keys}
