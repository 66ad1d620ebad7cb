"""What scripts/tune.py searches (configs/tuning.yaml)."""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from dsg import config as configs
from dsg.files import CONFIGS, REPOSITORY
from dsg.runs.prepare import build
from dsg.suites.trials import Trials
from dsg.suites.tuning import TuningJob
from tasks.inverse import InverseProblem

RESULTS = REPOSITORY / "results/tuning"


def defaults() -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / "tuning.yaml"))


def plan(
    model: str, tasks: Sequence[str], steps: Sequence[int], samplers: Sequence[str] | None, criterion: str | None,
    trials: int | None, images: int | None, data: str | None, device: str, out: Path | None, seeds: int | None = None,
    store: Path | None = None,
) -> list[TuningJob]:  # fmt: skip
    """A job for each task, sampler and number of steps.

    Args:
        samplers, criterion: None: those of configs/tuning.yaml for tasks of this kind.
        trials, images, seeds: None: those of configs/tuning.yaml.
        data: folder of validation images; None: the model's.
        out: of trials, curves and a copy of the tuned table; None: results/tuning/ and configs/tuned/ itself.
        store: folder of the trials, if it is another: that of a suite, whose searches need no repeating.

    Raises:
        ValueError: one line that names the option.
    """
    known, table = Trials((store or out or RESULTS) / f"{model}.csv"), CONFIGS / f"tuned/{model}.csv"
    table = table if out is None else out / "tuned" / table.name
    given, jobs = {"count": trials, "images": images, "seeds": seeds}, []
    size = {**size_of({}), **{name: number for name, number in given.items() if number is not None}}
    for n, task in itertools.product(steps, tasks):
        kind = kind_of(model, task)
        for sampler in samplers or kind["samplers"]:
            jobs.append(
                TuningJob(
                    model=model, task=task, sampler=sampler, steps=n, trials=known,
                    table=table, **size, criterion=criterion or kind["criterion"],
                    options=[*validation(model, task, data), f"device={device}"], start=start_of(task, sampler),
                    selector=defaults()["selectors"].get(model),
                )
            )  # fmt: skip
    return jobs


def size_of(chosen: Mapping[str, int]) -> dict[str, int]:
    """How much every search is given: configs/tuning.yaml's, above which is what was chosen.

    Args:
        chosen: images, seeds, trials.
    """
    size = {**defaults()["size"], **chosen}
    return {"images": size["images"], "seeds": size["seeds"], "count": size["trials"]}


def start_of(task: str, sampler: str) -> float | None:
    """Where its first search begins, if not where the sampler says."""
    return defaults()["start"].get(task, {}).get(sampler)


def kind_of(model: str, task: str) -> Mapping:
    """What is usual for tasks that have a truth, and for those that have none."""
    restores = isinstance(build(configs.load([f"model={model}", f"task={task}"]).task), InverseProblem)
    return defaults()["restoration" if restores else "semantic"]


def validation(model: str, task: str, data: str | None) -> list[str]:
    """Overrides: the images, and what else takes the place of the test conditions."""
    usual = defaults()["validation"].get(model)
    if data is None and usual is None:
        raise ValueError(f"--data: model={model} has no validation images of its own; give a folder of images")
    options = usual["options"].get(task, []) if usual else []
    return [f"data.root={REPOSITORY / usual['data'] if data is None else Path(data).resolve()}", *options]


def copy_table(model: str, out: Path) -> None:
    """The tuned table, where it is to be changed without touching configs/; one that is there already stays."""
    source, target = CONFIGS / f"tuned/{model}.csv", out / "tuned" / f"{model}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists() and not target.exists():
        shutil.copy(source, target)
