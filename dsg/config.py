"""Every value of a run, and where it came from.

A composed config becomes the values of a run before anything is built. Later layers win:

1. the sampler's defaults: its constructor's, then its YAML's;
2. the prior's: `model_defaults` in the model's YAML, `{sampler: {...}, task: {<task>: ...}, metric: {<metric>: ...}}`
   (and `metrics: [...]`, which are reported beside the task's);
3. the tables of values (`dsg/tuned.py`): configs/tuned/any.csv, by the sampler's name, else by its base method's; then
   configs/tuned/<model>.csv, where a number of steps without a row lies between those that have one;
4. the user's own overrides (`dsg/overrides.py`).

Of layers that are not meant for this very sampler (2, the base method's rows and those of `any` sampler in 3) it takes
the options that it has. Tables and metrics are also read from the user's config folders, whose entries win.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dsg.files import CONFIGS
from dsg.layers import Layers, Sources, check_config_dirs, files, read, yaml_lines
from dsg.options import accepts, check, fill, leaves, locate, parameters, refuse
from dsg.overrides import compose_run, explain, one_of
from dsg.samplers.base import unused_options
from dsg.tuned import ANY, at_steps, by_steps, matching, read_tables
from dsg.types import Data
from tasks.base import Task

PARTS = ("model", "task", "sampler")
OVERRIDE = "override"  # the source of what the user asked for
LOWEST = {"batch_size": 1, "samples": 1, "samples_of": 1, "seed": 0, "data.limit": 1}


@dataclass
class Tracking:
    """The options `wandb` of a run."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    entity: str | None = None
    project: str = "dsg"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None


@dataclass
class RunOptions:
    """The options of a run beside model, task, sampler and metrics.

    Attributes:
        samples_of: of how many the sample with the least loss is kept; None: of as many as the task tries.
        assumed: options of an inverse problem as they are assumed by everything but the degradation itself, where they
            are not those of `task`: what happens if they are wrong.
    """

    assumed: Mapping[str, Any] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    batch_size: int | Literal["auto"] | None = None
    samples: int = 1
    samples_of: int | None = None
    seed: int = 0
    device: str = "auto"
    out: str | None = None
    save_film: bool = False
    average: bool = False
    wandb: Tracking = field(default_factory=Tracking)


def load(overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> DictConfig:
    """The config of a run, ready for `hydra.utils.instantiate(config.model | config.task | config.sampler)`.

    Args:
        overrides: those of run.py.
        config_dirs: folders of the user's YAML files, as run.py's --config-dir. They are code: they name what is built.

    Raises:
        ValueError: one line that names the option.
    """
    return load_with_sources(overrides, config_dirs)[0]


def load_with_sources(
    overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()
) -> tuple[DictConfig, Sources]:
    """`load`, and where each value came from."""
    check_config_dirs(config_dirs)
    try:
        return _Resolver(*compose_run(overrides, config_dirs), config_dirs).resolve()
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from None


def to_yaml(config: DictConfig, sources: Mapping[str, str]) -> str:
    """The config as YAML, the source of each value behind it: `  step_size: 4.362  # tuned/avatars64.csv`."""
    return "".join(yaml_lines(OmegaConf.to_container(config), sources))


class _Resolver:
    """The layers of one run."""

    def __init__(self, given: dict, choices: Mapping[str, Any], config_dirs: Sequence[str | Path]):
        self.given, self.config_dirs = given, config_dirs
        self.user, self.defaults = given.pop("user", {}), given.pop("model_defaults", {})
        self.check_given()
        self.names = {part: choices.get(part) or given[part].get("name") for part in PARTS}
        self.names["data"] = choices.get("data") or self.names["model"]
        known = files("data", config_dirs)
        if self.names["data"] not in (*known, self.names["model"]):
            raise ValueError(f"data={self.names['data']} is unknown: one of {', '.join(known)}")
        self.sampler = locate(given["sampler"]["_target_"])
        self.general, self.tuned = (read_tables(name, (CONFIGS, *config_dirs)) for name in (ANY, self.names["model"]))
        self.layers = Layers()
        self.put = self.layers.put

    def resolve(self) -> tuple[DictConfig, Sources]:
        self.put("", {k: v for k, v in self.given.items() if k not in (*self.names, "metrics")}, "config.yaml")
        for part, name in self.names.items():
            self.put(part, self.given.get(part) or {}, f"{part}/{name}.yaml")
        self.put_model_defaults()
        self.put_general()
        self.put_tuned()
        self.put("", {k: v for k, v in self.user.items() if k != "metrics"}, OVERRIDE)
        self.put_metrics()
        config = OmegaConf.create(self.filled())
        OmegaConf.resolve(config)
        values = OmegaConf.to_container(config)
        check_values(values)
        sources = Sources({path: self.layers.sources.get(path, "interpolation") for path, _ in leaves(values, "")})
        files = {part: name for part, name in self.names.items() if part != "data" or name != self.names["model"]}
        sources.overrides = {**files, **dict(leaves(self.user, ""))}
        sources.config_dirs = [str(folder) for folder in self.config_dirs]
        sources.notes = [*self.unused(values["sampler"], sources), *self.untuned(values["sampler"], sources)]
        return config, sources

    def check_given(self) -> None:
        code = [path for path, _ in leaves(self.user, "") if any(key.startswith("_") for key in path.split("."))]
        if code:
            raise ValueError(f"{code[0]}: code is named in YAML files (--config-dir), not on the command line")
        for part in PARTS:
            if not isinstance(self.given.get(part), dict):
                names = ", ".join(files(part, self.config_dirs))
                raise ValueError(f"{part}={self.given.get(part)}: choose one of {names}")
            if not isinstance(self.user.get(part, {}), dict):
                raise ValueError(f"{part}={self.user[part]}: expected the name of a file in configs/{part}")
            if "_target_" not in self.given[part]:
                raise ValueError(f"{part}: its YAML has no _target_")

    # --- the layers

    def put_model_defaults(self) -> None:
        source, tasks = f"model/{self.names['model']}.yaml", self.defaults.get("task", {})
        self.put("task", tasks.get(self.names["task"], {}), source)
        for part in self.given["task"].get("parts", {}):
            self.put(f"task.parts.{part}", tasks.get(part, {}), source)
        self.put("sampler", self.applicable(self.defaults.get("sampler", {})), source)

    def put_general(self) -> None:
        """Rows for every model: the sampler's own, else those of its base method."""
        task, sampler = self.names["task"], self.names["sampler"]
        if not any(key[:2] == (task, sampler) for key in self.general):
            sampler = self.sampler_option("base_method")
        self.put_rows(matching(self.general, task, sampler, self.sampler_option("steps")), f"tuned/{ANY}.csv")

    def put_tuned(self) -> None:
        """Rows for this model."""
        task, sampler, steps = self.names["task"], self.names["sampler"], self.sampler_option("steps")
        source, tuned = f"tuned/{self.names['model']}.csv", by_steps(self.tuned, task, sampler)
        self.put_rows(matching(self.tuned, task, sampler, steps), source)
        if isinstance(steps, int) and steps > 0 and steps not in tuned:
            numbers = [name for name, p in parameters(self.sampler).items() if p.annotation is float]
            values, where = at_steps(tuned, steps, numbers)
            self.put("sampler", values, f"{source}, {where}")

    def put_rows(self, rows: Iterable[tuple[tuple, Mapping]], source: str) -> None:
        """Options of a table; `travel.repeats` is an option of an option."""
        for (_, sampler, _), options in rows:
            for path, value in options.items():
                if sampler == self.names["sampler"] or accepts(self.sampler, path.partition(".")[0]):
                    parent, _, name = f"sampler.{path}".rpartition(".")
                    self.put(parent, {name: value}, source)

    def put_metrics(self) -> None:
        named = self.user.get("metrics", self.given.get("metrics"))
        if named is not None and not (isinstance(named, list) and all(isinstance(n, str) for n in named)):
            raise ValueError(f"metrics={named}: expected a list of names, such as [psnr,lpips_vgg]")
        self.put("metrics", {}, "config.yaml")
        known, prior = files("metric", self.config_dirs), f"model/{self.names['model']}.yaml"
        usual = [*_evaluated_by(self.layers.values["task"]), *self.defaults.get("metrics", [])]
        for name in dict.fromkeys(usual if named is None else named):
            if name not in known:
                raise ValueError(f"metrics: {name} is unknown: {one_of(name, known)}")
            self.put(f"metrics.{name}", read("metric", name, self.config_dirs), f"metric/{name}.yaml")
            self.put(f"metrics.{name}", self.defaults.get("metric", {}).get(name, {}), prior)

    def sampler_option(self, name: str):
        """An option that decides on others: the user's, the YAML's, or the constructor's."""
        default = parameters(self.sampler).get(name)
        own = self.given["sampler"].get(name, default and default.default)
        return self.user.get("sampler", {}).get(name, own)

    def applicable(self, options: Mapping) -> dict:
        """Those that the sampler has."""
        return {k: v for k, v in options.items() if accepts(self.sampler, k)}

    def filled(self) -> dict:
        """The values, with all defaults of constructors; model, task and sampler first."""
        values, sources = self.layers.values, self.layers.sources
        for path, options in _built(values):
            filled = fill(options, locate(options["_target_"]), path, sources)
            options.clear()
            options.update(filled)
        run = fill({k: v for k, v in values.items() if k not in (*PARTS, "metrics")}, RunOptions, "", sources)
        return {k: values[k] for k in PARTS} | {"data": run.pop("data"), "metrics": values["metrics"]} | run

    # --- what the user should be told

    def unused(self, options: Mapping, sources: Mapping[str, str]) -> Iterable[str]:
        """Notes on options of the sampler that the user chose, and that change nothing."""
        unused = unused_options(options)
        for path, value in leaves(options, "sampler"):
            name = path.split(".")[1]
            if name in unused and sources[path] == OVERRIDE:
                yield f"{path}={value} changes nothing: {unused[name]}"

    def untuned(self, options: Mapping, sources: Mapping[str, str]) -> Iterable[str]:
        """A note on a number of steps that the model's table does not have."""
        key = (self.names["task"], self.names["sampler"])
        steps = by_steps(self.tuned, *key)
        tuned = {name for row, values in self.tuned.items() if row[:2] == key for name in values}
        asked = {path: value for path, value in leaves(options, "sampler") if path.partition(".")[2] in tuned}
        asked = {path: value for path, value in asked.items() if sources[path] != OVERRIDE}
        if steps and asked and options["steps"] not in steps:
            taken = ", ".join(f"{path}={value} ({sources[path]})" for path, value in asked.items())
            yield f"not tuned for {options['steps']} steps, only for {', '.join(map(str, steps))}; taken: {taken}"


def check_values(values: Mapping) -> None:
    """Raise ValueError for the first option that is unknown, or else wrong."""
    run = {k: v for k, v in values.items() if k not in (*PARTS, "metrics")}
    problems = [p for path, options in _built(values) for p in check(options, locate(options["_target_"]), path)]
    problems += check(run, RunOptions, "")
    assumed = run.get("assumed") if isinstance(run.get("assumed"), Mapping) else {}
    if assumed:
        problems += check({**values["task"], **assumed}, locate(values["task"]["_target_"]), "assumed")
    known = [path for path, _ in leaves({**values, "assumed": {**values["task"], **assumed}}, "")]
    refuse(problems, known)
    for path, value in leaves(run, ""):
        if path in LOWEST and value not in (None, "auto") and value < LOWEST[path]:
            raise ValueError(f"{path}={value}: an integer, {LOWEST[path]} or more")


def _built(values: Mapping) -> list[tuple[str, dict]]:
    """Path and options of all that is built."""
    return [(part, values[part]) for part in PARTS] + [(f"metrics.{n}", o) for n, o in values["metrics"].items()]


def _evaluated_by(task: Mapping) -> list[str]:
    """The metrics that a task names; of a sum of tasks, those of its parts that have a weight."""
    kind = locate(task["_target_"])
    names = list(kind.evaluated_by) if isinstance(kind, type) and issubclass(kind, Task) else []
    parts, weights = task.get("parts"), task.get("weights")
    if isinstance(parts, Mapping) and isinstance(weights, Mapping):  # else `check_values` says what is wrong
        weighted = [options for part, options in parts.items() if weights.get(part) and isinstance(options, Mapping)]
        names += [name for options in weighted for name in _evaluated_by(options)]
    return names
