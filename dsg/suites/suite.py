"""A suite: its YAML with the options of the command line, and its jobs for tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dsg.files import REPOSITORY, resolve
from dsg.suites.jobs import Job

FOLDER = REPOSITORY / "configs/suite"
PLANNED = {  # options that the plan sets, and what changes them instead
    "model": "--models", "task": "--tasks", "sampler": "another suite", "sampler.steps": "--steps",
    "data.limit": "--images", "samples": "--samples", "out": "--out", "device": "--device",
    "wandb.mode": "--wandb", "wandb.group": "nothing",
}  # fmt: skip
TUNING = {"images": 32, "seeds": 1, "trials": 9, "criterion": "psnr"}  # of --tune, for suites that have no other


@dataclass
class Suite:
    """Attributes:
    name: of the file in configs/suite/.
    out: folder of its results.
    yaml: the whole file, plain; the functions that it names read further keys from here.
    models, tasks, samplers, steps: the grid.
    images, samples: how many inputs of a task, how many samples of each.
    options: overrides of every run, as for `run.py`: the YAML's, then the command line's.
        Before them come `task_options` of the YAML: those of the run's task, then of <model>/<task>.
    most_steps: jobs of more steps are left out.
    tune: choose the values of tasks that have a truth on validation images first (docs/protocol.md), where the suite
        takes those of configs/tuned/.
    device, wandb: of every run.
    workers: processes, see `dsg.suites.engine.worker_count`.
    launcher: a cluster's queue instead of processes here (`dsg.suites.cluster.settings`); empty: none.
    """

    name: str
    out: Path
    yaml: Mapping
    models: Sequence[str] = ()
    tasks: Sequence[str] = ()
    samplers: Sequence[str] = ()
    steps: Sequence[int] = ()
    images: int = 0
    samples: int = 1
    options: Sequence[str] = ()
    most_steps: int | None = None
    tune: bool = False
    device: str = "auto"
    wandb: str = "offline"
    workers: int | str | None = None
    launcher: Sequence[str] = ()


@dataclass
class Outcome:
    """The results that tables and figures are made of.

    Attributes:
        jobs: all jobs, finished or not, in the order of the plan.
    """

    suite: Suite
    jobs: Sequence[Job] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.suite.out

    def of(self, *parts: str) -> list[Job]:
        """The jobs of these entries of the suite's `jobs`."""
        return [job for job in self.jobs if job.part in parts]


def names() -> list[str]:
    """The names of all suites and groups of suites."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def members(name: str) -> list[str]:
    """The suites of a group, in the order in which they run; of a suite, itself."""
    return list(OmegaConf.load(FOLDER / f"{name}.yaml").get("suites", [name]))


def place(name: str) -> str:
    """The folder of a suite's results, or of a group's report."""
    return _compose(name)["out"]


def read(name: str, smoke: bool = False) -> dict:
    """configs/suite/<name>.yaml, above the suites that its `defaults` name, plain.

    An entry of `jobs` that is null is left out.

    Args:
        smoke: above that the block `smoke`, the smallest size; results go below results/smoke-size/.

    Raises:
        ValueError: it has no such block.
    """
    yaml = _compose(name)
    small = yaml.pop("smoke", None)
    if smoke and small is None:
        raise ValueError(f"--smoke: suite {name} has no smoke size")
    if smoke:
        yaml = _shrink(yaml, {**small, "out": f"results/smoke-size/{name}"})
    if smoke and yaml.get("tuning"):
        yaml["tuning"]["store"] = f"results/smoke-size/tuning-{name}"
    plain = OmegaConf.to_container(OmegaConf.create(yaml), resolve=True)
    return {**plain, "jobs": {part: spec for part, spec in plain["jobs"].items() if spec is not None}}


def _shrink(yaml: Mapping, small: Mapping) -> dict:
    """A suite with the values of its smoke size; an entry that the suite has set to null stays null."""
    found = dict(yaml)
    for key, value in small.items():
        below = found.get(key, {})
        if isinstance(value, Mapping):
            found[key] = None if below is None else _shrink(below, value)
        else:
            found[key] = value
    return found


def _compose(name: str) -> dict:
    """The suite's file with its Hydra `defaults`, unresolved."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            return OmegaConf.to_container(compose(name))
    finally:
        GlobalHydra.instance().hydra = outer


def load(name: str, smoke: bool = False, **chosen) -> Suite:
    """The suite, with the options of the command line that are not None.

    Args:
        smoke: its smallest size, on embedded models (the YAML's block `smoke`).

    Raises:
        ValueError: an option that the suite does not have, or a value that it cannot take.
    """
    yaml = read(name, smoke)
    chosen = {option: value for option, value in chosen.items() if value is not None}
    for option in ("images", "steps", "samples", "tasks", "models"):
        if option in chosen and option not in yaml:
            raise ValueError(f"--{option} does not apply to suite {name}: configs/suite/{name}.yaml has none")
    usual = {
        key: yaml[key]
        for key in ("models", "tasks", "samplers", "images", "samples", "workers", "device")
        if key in yaml
    }
    usual |= {"steps": as_list(yaml.get("steps", [])), "out": resolve(yaml["out"])}
    if chosen.get("tune") and not yaml.get("tuning"):
        yaml = {**yaml, "tuning": {**TUNING, "store": f"{chosen.get('out', yaml['out'])}/tuning"}}
    if "tuning" in chosen:
        yaml = {**yaml, "tuning": tuning_of(name, yaml.get("tuning"), chosen.pop("tuning"))}
    check_options(chosen.get("options", ()), tuned=bool(yaml.get("tuning")))
    chosen["options"] = [*yaml.get("options", []), *chosen.get("options", [])]
    suite = Suite(name, yaml=yaml, **{**usual, **chosen})
    check(suite)
    return suite


def tuning_of(name: str, usual: Mapping | None, sizes: Sequence[str]) -> dict:
    """The YAML's `tuning` with other sizes, or another folder of trials.

    Raises:
        ValueError: the suite tunes nothing, or they cannot be read.
    """
    if usual is None or "criterion" not in usual:
        raise ValueError(f"--tuning does not apply to suite {name}: it takes values as they are tuned (--tune)")
    found = dict(usual)
    for text in sizes:
        option, _, number = text.partition("=")
        if option == "store" and number:
            found[option] = number
            continue
        if option not in ("images", "seeds", "trials") or not number.isdigit() or int(number) < 1:
            raise ValueError(f"--tuning {text}: images=, seeds= or trials=, each 1 or more; store=FOLDER")
        found[option] = int(number)
    return found


def check_options(options: Sequence[str], tuned: bool) -> None:
    """Raises ValueError if an override would contradict the plan, or the keys of its tables."""
    planned = {**PLANNED, **({"seed": "--tuning seeds="} if tuned else {})}
    for option in options:
        name = option.partition("=")[0].lstrip("+~")
        if name in planned:
            raise ValueError(f"--options {option}: the plan sets {name}; {planned[name]} changes it")


def check(suite: Suite) -> None:
    yaml, name = suite.yaml, suite.name
    unknown = [task for task in suite.tasks if task not in yaml.get("tasks", ())]
    if unknown:
        raise ValueError(f"--tasks {unknown[0]}: suite {name} has {', '.join(yaml['tasks'])}")
    if "images" in yaml and suite.images < 2:
        raise ValueError("--images: 2 or more (intervals are over images)")
    if yaml.get("samples", 1) > 1 and suite.samples < 2:
        raise ValueError("--samples: 2 or more (diversity is between the samples of a condition)")
    if "steps" in yaml and not (suite.steps and 2 <= min(suite.steps) <= max(suite.steps) <= 1000):
        raise ValueError("--steps: one or more numbers, 2 to 1000")
    if "steps" in yaml and not isinstance(yaml["steps"], list) and len(suite.steps) > 1:
        raise ValueError(f"--steps: suite {name} takes one number")


def as_list(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def call(spec: Mapping | str, *arguments):
    """Call the function that a YAML names, with the arguments and the rest of `spec`."""
    spec = {"_target_": spec} if isinstance(spec, str) else dict(spec)
    return function_of(spec.pop("_target_"))(*arguments, **spec)


def function_of(name: str) -> Callable:
    """The function of a short name: `plan.grid` is in dsg.suites, `tradeoff.write` in dsg.studies; another is a path.

    Raises:
        ValueError: there is none.
    """
    module, _, function = name.rpartition(".")
    for path in (f"dsg.suites.{module}", f"dsg.studies.{module}", module or "dsg"):
        try:
            return getattr(import_module(path), function)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise  # a package that the module needs
        except AttributeError:
            continue
    raise ValueError(f"{name}: no such function in dsg.suites or dsg.studies")
