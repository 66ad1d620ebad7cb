"""A finished cell as a Weights & Biases run: offline by default, so that nothing leaves the machine unasked."""

from collections.abc import Mapping

from dsg.results import Results

MODES = ("offline", "online", "disabled")


def log_cell(results: Results, summary: Mapping, again: bool = True) -> None:
    """Config, measures, per-image table and pictures (condition, restored, truth) of a cell, grouped by suite.

    Args:
        again: log it even if it was logged before.
    """
    config = results.config
    settings = config["wandb"]
    logged = results.out / "wandb" / "logged"
    if settings["mode"] == "disabled" or (logged.exists() and not again):
        return
    import wandb  # here, because it takes seconds and nothing else needs it

    name = f"{config['task']['name']}-{config['sampler']['name']}-{config['sampler']['steps']}"
    with wandb.init(
        project=settings["project"],
        group=settings["group"],
        name=name,
        mode=settings["mode"],
        dir=str(results.out),
        config=config,
        settings=wandb.Settings(silent=True, console="off"),
    ) as run:
        run.summary.update({f"{k}/{bound}": v for k, m in summary["measures"].items() for bound, v in m.items()})
        run.summary.update({k: summary[k] for k in ("images", "seconds_per_image", "network_evaluations")})
        run.log(
            {"per_image": wandb.Table(dataframe=results.table.reset_index(drop=True)), "pictures": _pictures(results)}
        )
    logged.touch()


def _pictures(results: Results, count: int = 8) -> list:
    import wandb

    pictures = []
    for name, image in list(zip(results.table["id"], results.table["image"].astype(str)))[:count]:
        for folder, stem in ((results.condition, image), (results.images, name), (results.truth, image)):
            if (folder / f"{stem}.png").exists():
                pictures.append(wandb.Image(str(folder / f"{stem}.png"), caption=f"{folder.name} {stem}"))
    return pictures
