"""The report as one HTML page that holds everything it needs: data, images, libraries."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from matplotlib.colors import to_hex

from dsg.suites.methods import styles
from dsg.suites.report.entries import Entry, numbers, short
from dsg.suites.report.pictures import SIDE, Pictures
from dsg.suites.tables import set_settings

ASSETS = Path(__file__).parent / "assets"
STYLES = ("tabulator_simple.min.css", "uPlot.min.css", "img-comparison-slider.css", "page.css")
LIBRARIES = ("tabulator.min.js", "uPlot.iife.min.js", "img-comparison-slider.min.js")
SCRIPTS = (*LIBRARIES, "common.js", "table.js", "compare.js", "plot.js")
SOURCE_MAP = re.compile(r"/[/*]# sourceMappingURL=\S+(?: \*/)?")


def page(title: str, entries: Sequence[Entry], skipped: Sequence[str], pictures: Pictures) -> str:
    """HTML.

    Args:
        title: plain text.
        skipped: runs that cannot be shown, and why.
        pictures: takes the images.
    """
    shown, looks = pictures.embed(entries), styles(dict.fromkeys(entry.method for entry in entries))
    colors = {name: to_hex(look["color"]) for name, look in looks.items()}
    data = {
        "runs": [
            {**record(entry, images), "color": colors[entry.method.name]} for entry, images in zip(entries, shown)
        ],
        "metrics": metrics(entries),
        "pictures": pictures.uris,
    }
    parts = {
        "title": html.escape(title),
        "about": html.escape(about(entries)),
        "shown": html.escape(shown_text(entries, shown)),
        "notes": notes(skipped, pictures.missing),
        "styles": "\n".join(asset(name) for name in STYLES),
        "data": as_json(data),
        "scripts": "\n".join(f"<script>{asset(name)}</script>" for name in SCRIPTS),
    }
    return Template(asset("page.html")).substitute(parts)


def record(entry: Entry, images: Sequence[dict]) -> dict:
    """A run as the page's scripts read it."""
    summary, rows = entry.summary, {row["id"]: row for row in entry.images}
    return {
        "path": entry.path, "model": entry.model, "task": entry.task, "steps": entry.steps,
        "method": entry.method.label, "constrained": entry.method.control is not None,
        "options": ", ".join(f"{name} {short(value)}" for name, value in entry.options.items()),
        "metrics": entry.metrics,
        "settings": settings(entry),
        "images": summary["images"], "seconds": summary["seconds_per_image"],
        "forward": summary["network_evaluations"], "backward": summary["backward_passes"],
        "compute": entry.compute, "failures": len(summary["failures"]),
        "versions": summary["versions"], "command": entry.command,
        "shown": [
            {**one, "prompt": rows[one["id"]].get("prompt"), "numbers": numbers(rows[one["id"]])} for one in images
        ],
    }  # fmt: skip


def settings(entry: Entry) -> list[str]:
    """How the metrics of the whole set were computed, a line each."""
    return [set_settings(entry.columns[name], one) for name, one in entry.summary["set_metrics"].items()]


def metrics(entries: Sequence[Entry]) -> dict[str, dict]:
    """By name, how a metric is shown: those with a direction first, in the order of the runs."""
    columns = {name: column for entry in entries for name, column in entry.columns.items()}
    ordered = sorted(columns.values(), key=lambda column: column.larger_is_better is None)
    return {c.name: {"title": c.title, "digits": c.digits, "larger_is_better": c.larger_is_better} for c in ordered}


def about(entries: Sequence[Entry]) -> str:
    runs = [entry for entry in entries if entry.is_run]
    code = sorted({version for entry in runs for version in entry.summary["versions"].get("code", ())})
    models, tasks = (list(dict.fromkeys(getattr(entry, part) for entry in runs)) for part in ("model", "task"))
    return (
        f"{count(len(runs), 'run')}: {', '.join(tasks)} on {', '.join(models)}."
        + f" Code {', '.join(code)}." * bool(code)
    )


def shown_text(entries: Sequence[Entry], shown: Sequence[Sequence[dict]]) -> str:
    most, of = max(map(len, shown), default=0), max((len(entry.images) for entry in entries), default=0)
    if not most:
        return "No images are in this page."
    large = f" Images above {SIDE} pixels are reduced to that; all numbers are of the saved images."
    return f"The first {most} of {count(of, 'image')} of each run are in this page.{large}"


def notes(skipped: Sequence[str], missing: Sequence[str]) -> str:
    """What the page lacks, as a list; nothing if it lacks nothing."""
    lines = [f"Not shown: {line}" for line in skipped]
    lines += [f"{count(len(missing), 'image file')} cannot be read, the first: {missing[0]}"] if missing else []
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<section class="notes"><h2>What is missing</h2><ul>{items}</ul></section>' if lines else ""


def count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def asset(name: str) -> str:
    return SOURCE_MAP.sub("", (ASSETS / name).read_text(encoding="utf-8")).strip()


def as_json(data: dict) -> str:
    """JSON that cannot end the script element it is in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
