"""The command that makes a run, from its `config.yaml`."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache

import yaml
from omegaconf import OmegaConf

from dsg.config import OVERRIDE, PARTS, load
from dsg.options import leaves

# of the machine, or of logging: they change no image, and are in the command only where the user gave them
ASIDE = ("batch_size", "device", "out", "wandb", "save_film", "average")
MARKED = re.compile(rf"( *)([\w.-]+):(?: (.*)  # {OVERRIDE}| .*)?")


def overrides(text: str, config_dirs: Sequence[str] = ()) -> dict[str, object]:
    """Option -> value of a command that gives the config `text`: the choices, then what differs from what they give.

    The choices alone would take their values from configs/ as it is now. What the run has otherwise, and what is marked
    as the user's own, is named.

    Args:
        text: of config.yaml.
        config_dirs: folders of the user's YAML files.

    Raises:
        ValueError: it is no config of a run.
    """
    config = parsed(text)
    chosen = {part: config[part]["name"] for part in PARTS}
    if "steps" in config["sampler"]:
        chosen["sampler.steps"] = config["sampler"]["steps"]
    usual = _usual(tuple(_words(chosen)), tuple(config_dirs))
    own = marked(text)
    for path, value in leaves({k: v for k, v in config.items() if k != "metrics"}, ""):
        aside = path.split(".")[0] in ASIDE or "_target_" in path
        if usual is None:  # a config that is not here: only what is marked, and the images, can be told
            differs = path in ("data.limit", "samples", "seed")
        else:
            differs = not aside and usual.get(path, value) != value
        if path not in chosen and (differs or path in own):
            chosen[path] = value
    if usual is not None and set(config["metrics"]) != set(usual["metrics"]):
        chosen["metrics"] = list(config["metrics"])
    return chosen


def command(text: str, config_dirs: Sequence[str] = ()) -> str:
    """As typed into a shell."""
    folders = [word for folder in config_dirs for word in ("--config-dir", str(folder))]
    return shlex.join(["python", "run.py", *folders, *_words(overrides(text, config_dirs))])


def variant(chosen: Mapping[str, object]) -> dict[str, object]:
    """What sets a run apart from the method's values in configs/: `{"sampler.step_size": 1.5, "seed": 1}`."""
    usual = (*PARTS, "sampler.steps", "data.limit", "samples", "metrics")
    return {k: v for k, v in chosen.items() if k not in usual and k.split(".")[0] not in ASIDE}


def parsed(text: str) -> dict:
    """The config of a run.

    Raises:
        ValueError: it is none.
    """
    try:
        config = yaml.safe_load(text)
        missing = [key for key in (*PARTS, "data", "metrics") if not isinstance(config[key], dict)]
    except (yaml.YAMLError, KeyError, TypeError):
        missing = ["model"]
    if missing or not all("name" in config[part] for part in PARTS):
        raise ValueError("config.yaml is damaged: it is no config of a run")
    config.pop("identity", None)
    return config


def marked(text: str) -> list[str]:
    """The options whose source is the user: `  step_size: 4.3  # override`."""
    found, path = [], []
    for line in text.splitlines():
        match = MARKED.fullmatch(line)
        if match:
            indent, key, value = match.groups()
            path = [*path[: len(indent) // 2], key]
            if value is not None and _is_yaml(value):  # else the mark is part of a quoted text
                found.append(".".join(path))
    return found


def _is_yaml(text: str) -> bool:
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return True


@cache
def _usual(words: tuple[str, ...], config_dirs: tuple[str, ...]) -> dict[str, object] | None:
    """What the choices alone give, and the names of their metrics; None if a config that they name is not there."""
    try:
        config = OmegaConf.to_container(load(words, config_dirs))
    except ValueError:
        return None
    return {**dict(leaves(config, "")), "metrics": list(config["metrics"])}


def _words(chosen: Mapping[str, object]) -> list[str]:
    return [f"{path}={_value(value)}" for path, value in chosen.items()]


def _value(value: object) -> str:
    """As dsg/cli.py reads it: a text stands as it is."""
    if isinstance(value, list):
        return "[" + ",".join(_value(one) for one in value) + "]"
    return value if isinstance(value, str) else json.dumps(value)
