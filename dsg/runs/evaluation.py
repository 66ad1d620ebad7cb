"""Metrics that are added to finished runs, from their saved images.

Nothing here needs the prior or its weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dsg.layers import files, merge, read
from dsg.metrics.base import Metric, SetMetric
from dsg.options import check, locate, parameters, suggestion
from dsg.runs.prepare import build, build_task, pick_device
from dsg.runs.results import OWNER, Results
from dsg.runs.runner import Run, evaluate
from dsg.runs.saved import literal, read_saved
from dsg.runs.summary import write_summary
from dsg.types import Data


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The folders of runs at and below `folders`.

    Raises:
        ValueError: there is none.
    """
    found = []
    for folder in folders:
        below = sorted(file.parent for file in folder.rglob(OWNER) if (file.parent / "images").is_dir())
        if not below:
            raise ValueError(f"{folder}: no run there (a run has {OWNER} and images/)")
        found += below
    return list(dict.fromkeys(found))


def add_metrics(out: Path, names: Sequence[str], options: Mapping[str, Mapping], config_dirs=()) -> dict[str, str]:
    """Compute what a run in `out` lacks of the metrics `names`; renew `per_image.csv` and `metrics.json`.

    Args:
        options: by metric, above those of configs/metric/.
        config_dirs: folders of the user's YAML files.

    Returns:
        by metric, why there is none.

    Raises:
        ValueError, OSError: one line; where a metric cannot be computed, after the others are written.
    """
    config, _ = read_saved(out, config_dirs)
    run = finished_run(out, metric_configs(names, options, config["model"]["name"], config_dirs), config_dirs)
    check_images(run)
    evaluate(run)
    write_summary(run)
    if run.broken:
        raise ValueError("; ".join(f"no {name}: {reason}" for name, reason in run.broken.items()))
    wanted = [metric for metric in run.metrics if metric.name in names]
    return {metric.name: reason for metric in wanted if (reason := why_not(metric, run))}


def why_not(metric: Metric, run: Run) -> str | None:
    """Why the run has no such number, in one line."""
    count = len(run.results.rows())
    if reason := metric.missing() or run.broken.get(metric.name):
        return reason
    if not metric.applies(run.inputs):
        return "this task has nothing to compare with"
    if isinstance(metric, SetMetric) and count < len(run.items):
        return f"{count} of {len(run.items)} images are there"
    if isinstance(metric, SetMetric) and count < metric.smallest:
        return f"{count} images are too few: at least {metric.smallest} ({metric.name}.smallest)"
    return None


def finished_run(out: Path, added: Mapping[str, Mapping] | None = None, config_dirs: Sequence[str | Path] = ()) -> Run:
    """The run in `out`, for its inputs, rows and metrics alone: it has no prior and no sampler.

    Args:
        added: configs of metrics, by name, above the run's own.
        config_dirs: folders of the user's YAML files; what they name may be built.
    """
    saved, owner = read_saved(out, config_dirs)
    config = OmegaConf.create(literal(saved))
    config.metrics = {**config.metrics, **(added or {})}
    results = Results(out, owner)
    rows = results.rows()
    if not rows:
        raise ValueError(f"{out}: nothing is finished there")
    side = results.image(next(iter(rows))).shape[0]
    task, names = build_task(config), {one["image"] for one in (*rows.values(), *results.failures())}
    # the run may have been extended since its config was written
    config.data.limit = config.data.limit and max(config.data.limit, len(names))
    inputs = task.inputs(Data(**config.data), (3, side, side))
    if not names <= {one.id for one in inputs}:
        config.data.limit = None
        inputs = task.inputs(Data(**config.data), (3, side, side))
    samples = max(config.samples, *(row["sample"] + 1 for row in rows.values()), 1)
    metrics, device = [build(metric) for metric in config.metrics.values()], device_of(config)
    return Run(
        config, "", None, task, None, inputs, results, metrics, samples, config.seed, device=device, shard=(0, 1)
    )


def device_of(config: DictConfig) -> torch.device:
    """The device of the run, or, if this machine lacks it, the one that there is."""
    try:
        return pick_device(config.device)
    except ValueError:
        return pick_device("auto")


def check_images(run: Run) -> None:
    """Raises ValueError if an image, or its input, is not what it was when the run was made."""
    rows = run.results.rows()
    for item in run.items:
        row = rows.get(item.name)
        if row is not None and row["input"] != item.input.digest:
            raise ValueError(f"the input of {item.name} has changed since {run.results.out} was made")
        if row is not None and not run.results.whole(row):
            raise ValueError(f"{run.results.out}: the files of {item.name} are not as written; run.py makes them again")


def metric_configs(
    names: Sequence[str], options: Mapping[str, Mapping], model: str, config_dirs: Sequence[str | Path] = ()
) -> dict[str, dict]:
    """Configs of metrics by name: configs/metric/, the defaults of `model`, then `options`.

    Raises:
        ValueError: an unknown name or option, or a wrong type.
    """
    check_names(names, options, config_dirs)
    found = {}
    defaults = read("model", model, config_dirs).get("model_defaults", {}).get("metric", {})
    for name in names:
        values = read("metric", name, config_dirs)
        for above in (defaults, options):
            merge(values, above.get(name, {}))
        kind = locate(values["_target_"])
        for problem in check(values, kind, name):
            raise ValueError(problem.message or suggestion(problem.path, [f"{name}.{k}" for k in parameters(kind)]))
        found[name] = values
    return found


def check_names(names: Sequence[str], options: Mapping[str, Mapping], config_dirs: Sequence[str | Path] = ()) -> None:
    """Raises ValueError if there is no such metric, or options of one that is not asked for."""
    known = files("metric", config_dirs)
    if unknown := [name for name in (*names, *options) if name not in known]:
        raise ValueError(f"metric {unknown[0]} is unknown: one of {', '.join(known)}")
    if unasked := [name for name in options if name not in names]:
        raise ValueError(f"{unasked[0]} has options, but is not asked for: --metrics {' '.join([*names, unasked[0]])}")
