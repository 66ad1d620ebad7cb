"""A run as a Weights & Biases run: offline by default, so that nothing leaves the machine unasked.

Trouble with W&B is one line of warning: the results are on the disk, and the next call of the same command logs them.
"""

import os
import shutil
import sys
from typing import get_args, get_type_hints

from PIL import Image

from dsg.config import Tracking
from dsg.files import file_digest, first_line, short_hash, write_text
from dsg.runs.contact_sheet import panel
from dsg.runs.runner import Run
from dsg.runs.summary import means_of_sets, run_name

MODES = get_args(get_type_hints(Tracking)["mode"])
MARK = "wandb-logged"  # in the run's folder: what was logged last
CHOOSES_DATA_FOLDER = "WANDB_DATA_DIR" not in os.environ
SHOWN = 8  # images of the panel
PATIENCE = 20  # seconds for a server that does not answer
UPLOADING = 40  # seconds for what is left to send at the end


def check_login(mode: str) -> None:
    """Raises ValueError for mode online without a login."""
    if mode == "online" and "WANDB_API_KEY" not in os.environ:
        if not _client().api.api_key:
            raise ValueError("wandb.mode=online needs a login: run 'wandb login', or use wandb.mode=offline")


def _client():
    """The package. Imported here, because it takes seconds and nothing else needs it; it reads these when imported."""
    os.environ.setdefault("WANDB_SILENT", "true")  # else it tells where it found the key
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it sends its troubles home, even offline
    import wandb

    return wandb


def log(run: Run) -> None:
    """Log the run, unless exactly this has been logged already. Never raises."""
    settings, results = run.config.wandb, run.results
    if settings.mode == "disabled" or not results.rows():
        return
    state = f"{settings.mode} {file_digest(results.out / 'metrics.json')}\n"
    mark = results.out / MARK
    try:
        if not mark.exists() or mark.read_bytes() != state.encode():
            _log(run)
            write_text(mark, state)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # wandb raises whatever its parts raise, SystemExit among it
        reason = first_line(error)
        print(f"warning: W&B could not log this run ({reason}); the next call tries again", file=sys.stderr)


def _log(run: Run) -> None:
    """Config, metrics, per-image table, the loss of every step, and images."""
    from omegaconf import OmegaConf

    wandb, config, results, summary = _client(), run.config, run.results, run.results.summary()
    if CHOOSES_DATA_FOLDER:  # W&B's is in HOME, which may not be writable
        os.environ["WANDB_DATA_DIR"] = str(results.out / "wandb")
    own = short_hash(results.owner)  # an extended run goes on in its W&B run
    older = list((results.out / "wandb").glob(f"offline-run-*-{own}"))
    about, sampler = config.wandb, config.sampler
    logged = wandb.init(
        entity=about.entity,
        project=about.project,
        group=about.group,
        tags=list(about.tags),
        notes=about.notes,
        name=run_name(config.model.name, config.task.name, sampler.name, sampler.steps, summary["overrides"] or {}),
        id=own,
        resume="allow",
        mode=about.mode,
        dir=str(results.out),
        config=OmegaConf.to_container(config),
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=PATIENCE, finish_timeout=UPLOADING, finish_timeout_raises=True
        ),
    )
    try:  # not `with`: it prints a traceback
        for name, metric in {**summary["metrics"], **means_of_sets(summary)}.items():
            logged.summary.update({f"{name}/{bound}": value for bound, value in metric.items()})
        counted = ("images", "seconds_per_image", "network_evaluations", "backward_passes")
        logged.summary.update({key: summary[key] for key in counted})
        logged.summary["compute"] = (summary["network_evaluations"] or 0) + 2 * (summary["backward_passes"] or 0)
        for axis in ("loss", "residual"):
            logged.define_metric(f"steps/{axis}", step_metric="steps/taken")
        for taken, step in enumerate(results.curves(summary["image_ids"]).to_dict("records")):
            logged.log({"steps/taken": taken, **{f"steps/{name}": value for name, value in step.items()}})
        table = wandb.Table(dataframe=results.table().reset_index(drop=True))
        logged.log({"per_image": table, **{name: wandb.Image(sheet) for name, sheet in _sheets(run).items()}})
    finally:
        logged.finish()
    for folder in older:  # all that is in it has been logged anew
        shutil.rmtree(folder)


def _sheets(run: Run) -> dict[str, Image.Image]:
    """`images`, a panel of condition, restored and truth of the first images; `grid`, the contact sheet."""
    sheet = run.results.out / "grid.png"
    found = {"images": panel(run, run.results.table().iloc[:SHOWN])}
    return {**found, "grid": Image.open(sheet)} if sheet.exists() else found
