"""One run on the command line: progress, report, exit code."""

import sys
from collections.abc import Callable

from omegaconf import DictConfig
from tqdm import tqdm

from dsg.files import counted, first_line
from dsg.layers import Sources
from dsg.runs.averages import write_averages
from dsg.runs.contact_sheet import write_contact_sheet
from dsg.runs.evaluation import why_not
from dsg.runs.film import Film
from dsg.runs.prepare import prepare
from dsg.runs.runner import Run
from dsg.runs.tracking import log

MISFIT = 2  # times the noise's standard deviation: a restored image leaves about one


def run_one(config: DictConfig, sources: Sources) -> int:
    """Restore what is not finished, report and log it.

    Returns:
        the exit code: 0, 1 if images or metrics failed or could not be written, 2 for bad input, 130 if
        interrupted.
    """
    try:
        run = prepare(config, sources)
    except (ValueError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    if run.finished:
        print(f"finished already: {run.results.out}")
    work, title = run.work(), f"{run.task.name} {run.sampler.name}"
    try:
        with tqdm(total=work, unit="pass", desc=title, disable=work == 0 or None, smoothing=0.05) as bar:
            failures = restore(run, bar.update)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on: {run.results.out}", file=sys.stderr)
        return 130
    except ValueError as error:  # another run took the folder in between
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        done = len(run.results.rows()) if run.results.out.exists() else 0
        safe = f"safe in {run.results.out}: {counted(done, 'image')}"
        print(f"error: {first_line(error)}; {safe}; the same command goes on", file=sys.stderr)
        return 1
    conclude(run)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures or run.broken else 0


def restore(run: Run, on_progress: Callable[[float], None]) -> list[str]:
    """Restore what is not finished, with its film and contact sheet. Returns the failed images, a line each."""
    film = Film(run) if run.config.save_film else None
    failures = run.execute(on_progress, film, *([film.write] if film else []))
    write_contact_sheet(run)
    if run.config.average:
        table = write_averages(run)
        if len(table):
            values = table.drop(columns=["id", "samples"]).mean()
            print(f"mean of {run.samples} samples: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
    return [f"{one.id}: not finite at step {one.step_index} (t={one.t})" for one in failures]


def conclude(run: Run) -> None:
    """Report a run on the terminal, and log it."""
    report(run)
    for warning in misfits(run):
        print(f"warning: {warning}", file=sys.stderr)
    log(run)


def report(run: Run) -> None:
    summary = run.results.summary()
    for name, m in summary["metrics"].items():
        if m["mean"] is not None:
            interval = "" if m["low"] is None else f"  [{m['low']:.4f}, {m['high']:.4f}]"
            print(f"{name:>20} {m['mean']:8.4f}{interval}")
    for name, m in summary["set_metrics"].items():
        floor = "" if m.get("floor") is None else f"  floor {m['floor']:.4f}"
        interval = "" if m.get("low") is None else f"  [{m['low']:.4f}, {m['high']:.4f}]"
        print(f"{name:>20} {m['value']:8.4f}{interval}{floor}")
    reasons: dict[str, list[str]] = {}
    for metric in run.metrics:
        if reason := why_not(metric, run):
            reasons.setdefault(reason, []).append(metric.name)
    for reason, names in reasons.items():
        print(f"{'not computed':>20} {', '.join(names)}: {reason}")
    if summary["images"]:
        print(f"{'seconds per image':>20} {summary['seconds_per_image']:8.2f}")
    sheet = run.results.out / "grid.png"
    print(f"{counted(summary['images'], 'image')}: {run.results.out}" + f", at a glance: {sheet}" * sheet.exists())


def misfits(run: Run) -> list[str]:
    """A note where what was restored does not fit what was measured."""
    residual = run.results.summary()["metrics"].get("residual", {}).get("mean")
    noise = run.config.task.get("sigma")
    if residual is None or not noise or residual < MISFIT * noise or not run.sampler.guided:
        return []
    names = ["steps"] + ([run.sampler.tunable.option] if run.sampler.tunable else [])
    values = [f"sampler.{name}={run.config.sampler[name]}" for name in names if name in run.config.sampler]
    return [
        f"the residual is {residual:.2g} where the noise is {noise:.2g}: the images do not fit their measurements. "
        f"Look first at {', '.join(values)} and at task.sigma={noise} (in units of [-1, 1]). Then: does the prior know "
        "such images? avatars64 knows drawn faces only; ffhq256 knows faces, imagenet256 more"
    ]
