"""The `config.yaml` of a results folder. The folder may be somebody else's: it is data, and chooses no code."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dsg.files import CONFIGS
from dsg.metrics.base import Metric
from dsg.options import locate
from dsg.priors.base import Prior
from dsg.samplers.base import Sampler
from tasks.base import Task

OWNER = "config.yaml"
PARTS = ("model", "task", "sampler")
NAME = re.compile(r"[\w-][\w.-]*")  # names choose files and folders
TARGET = re.compile(r"_target_['\"]?\s*:\s*['\"]?([\w.]+)")
INTERPOLATION = re.compile(r"(\\*)\$\{")
KINDS = (Metric, Prior, Sampler, Task)
DEEPEST = 40  # levels of a YAML file; a run has about 10


def read_saved(out: Path, config_dirs: Sequence[str | Path] = ()) -> tuple[dict, dict]:
    """The config of the run in `out`, and its identity, as plain values. What it names can be built without danger.

    Args:
        config_dirs: folders of the user's YAML files; what they name may be built, too.

    Raises:
        ValueError: there is none, it is damaged, or it names code that no run of ours does.
    """
    config, file = read_plain(out), out / OWNER
    owner = config.pop("identity", None)
    usable = isinstance(owner, dict) and all(isinstance(config.get(key), dict) for key in (*PARTS, "data", "metrics"))
    names = [config[part].get("name") for part in PARTS] if usable else []
    if not usable or None in names:
        raise ValueError(f"{file} is damaged: it is no config of a run")
    for name in map(str, (*names, *config["metrics"])):
        if not NAME.fullmatch(name):
            raise ValueError(f"{file}: {name} is no name of a model, task, sampler or metric")
    if not isinstance(steps := config["sampler"].get("steps", 0), int):
        raise ValueError(f"{file}: sampler.steps={steps}: expected an integer")
    for target in targets(config):
        if not is_trusted(target, config_dirs):
            raise ValueError(f"{file} names {target}, which is not built from a results folder; --config-dir allows it")
    return config, owner


def read_plain(out: Path) -> dict:
    """All of `config.yaml`, unchecked.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    file = out / OWNER
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{out}: no run there ({OWNER} is missing)") from None
    except (ValueError, yaml.YAMLError, OmegaConfBaseException, TypeError, AttributeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: it does not say whose results these are; choose another out")
    return found


def parse(text: str) -> object:
    """YAML as OmegaConf reads it, without what a saved config never has: references to other parts of the file,
    which can make it endless, and hundreds of levels. An interpolation `${...}` is text.

    Raises:
        ValueError, yaml.YAMLError: it has such parts, or is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("no saved config has this")
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def literal(value):
    """`value` for OmegaConf, where `${...}` stays text."""
    if isinstance(value, str):
        return INTERPOLATION.sub(lambda match: match[1] * 2 + "\\${", value)
    if isinstance(value, dict):
        return {key: literal(below) for key, below in value.items()}
    return [literal(below) for below in value] if isinstance(value, list) else value


def targets(value) -> Iterator[object]:
    """What `value` names at any depth."""
    if isinstance(value, dict):
        yield from (value[key] for key in value if key == "_target_")
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from targets(below)


def is_trusted(target: object, config_dirs: Sequence[str | Path] = ()) -> bool:
    """Whether a YAML file here or in `config_dirs` names it, or it is a task, metric, prior or sampler of ours.

    Its module is imported only if it is one of ours: importing runs code.
    """
    if not isinstance(target, str):
        return False
    own = [CONFIGS / kind for kind in (*PARTS, "metric")]
    if any(target in named_below(Path(folder)) for folder in (*own, *config_dirs)):
        return True
    if not target.startswith(("dsg.", "tasks.")):
        return False
    try:
        kind = locate(target)
    except ValueError:
        return False
    ours = getattr(kind, "__module__", "").startswith(("dsg.", "tasks."))
    return ours and isinstance(kind, type) and issubclass(kind, KINDS)


@cache
def named_below(folder: Path) -> frozenset[str]:
    """The targets in the YAML files of a folder."""
    files = sorted(folder.rglob("*.yaml"))
    return frozenset(name for file in files for name in TARGET.findall(file.read_text(encoding="utf-8")))
