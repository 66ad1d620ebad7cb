"""`option=value` before Hydra reads it: paths and prompts as people write them, and one line for every error.

`option=value` becomes `++user.option=value`, so that `dsg.config` knows what the user asked for and can put it above
everything else. Choices (`model=`, `task=`, `sampler=`, `data=`) and `hydra.` options stay as they are.

Text options (`TEXT`) are taken as they stand, whatever characters are in them: `data.root=My Photos (2024)`,
`task.prompt=a dog, it's red!`. `null` is none, `~` the home folder, `${...}` an interpolation, as everywhere in Hydra.
In a sweep a comma in a text is a comma; several texts are `'task.prompt=choice("a dog","a cat")'`.
A value of another option that Hydra cannot read is taken as text, too.
"""

import difflib
import itertools
import os
import re
import threading
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, Transformer
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dsg.files import CONFIGS, first_line

GROUPS = ("model", "task", "sampler", "data")
TEXT = ("root", "out", "reference", "mask", "prompt", "checkpoint", "name", "project", "group")  # last word of the key
_composing = threading.Lock()  # Hydra's compose works on a global


def compose_run(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> tuple[dict, dict[str, str]]:
    """What the overrides of a run choose: configs/config.yaml with the chosen files, the user's options under `user`.

    Returns:
        plain values, interpolations unresolved; the names of the chosen files.

    Raises:
        ValueError: one line that names the override.
    """
    search = ",".join(quote(f"file://{Path(folder).resolve()}") for folder in config_dirs)
    chosen, options = [f"hydra.searchpath=[{search}]"] * bool(search), []
    for override in overrides:
        found = parsed(word := rewrite(override))
        if found.is_sweep_override():
            raise ValueError(f"{override}: several values are a sweep: add -m")
        if found.key_or_group.startswith("user."):
            options.append(found)
        else:
            chosen.append(word)
    files = (path for folder in (CONFIGS, *config_dirs) for path in Path(folder).rglob("*.yaml"))
    try:
        composed, names = _compose_files(tuple(chosen), tuple((path, path.stat().st_mtime_ns) for path in files))
        asked = OmegaConf.create()
        for option in options:
            OmegaConf.update(asked, option.key_or_group, option.value(), force_add=True)
        return {**deepcopy(composed), **OmegaConf.to_container(asked)}, dict(names)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ValueError(explain(error)) from None


@lru_cache(maxsize=128)
def _compose_files(words: tuple[str, ...], age: tuple) -> tuple[dict, dict[str, str]]:
    """What Hydra composes, from any thread. `age`: of the files, so that a file that is edited is read again."""
    with _composing:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
                composed = hydra.compose("config", list(words), return_hydra_config=True)
        finally:
            GlobalHydra.instance().hydra = outer
    plain = OmegaConf.to_container(OmegaConf.masked_copy(composed, [k for k in composed if k != "hydra"]))
    return plain, dict(composed.hydra.runtime.choices)


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The runs of a sweep: every combination of the values that the overrides name, `sampler=dps,dps_dsg`.

    Raises:
        ValueError: one line that names the override.
    """
    values = []
    for override in overrides:
        name, found = override.partition("=")[0], parsed(rewrite(override))
        swept = found.is_sweep_override()
        values.append([f"{name}={value}" for value in found.sweep_iterator(_as_written)] if swept else [override])
    return [list(chosen) for chosen in itertools.product(*values)]


def _as_written(value: object) -> str:
    """One value of a sweep as a person writes it: a text without its quotes."""
    return value.text if isinstance(value, QuotedString) else Transformer.encode(value)


def parsed(word: str) -> Override:
    """An override in Hydra's grammar, whose parser has no public place: it alone knows what is a sweep, and of what."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ValueError(explain(error)) from None


def rewrite(override: str) -> str:
    """One override as Hydra is to see it.

    Raises:
        ValueError: it names code (`_target_`) or the option of a metric, which only YAML files may; it is no option.
    """
    name, equals, value = override.partition("=")
    key = name.lstrip("+")
    if "_target_" in name:
        raise ValueError(f"{override}: code is named in YAML files (--config-dir), not on the command line")
    if not (equals and key) and not name.startswith("~"):
        raise ValueError(f"{override}: expected option=value")
    if key.startswith("metrics."):
        raise ValueError(f"{override}: options of a metric are set in YAML, or by scripts/evaluate.py RUN --set")
    if key in GROUPS and value in ("", "null"):
        raise ValueError(f"{override}: choose one of configs/{key}/")
    if not equals or key in GROUPS or key.startswith(("~", "hydra.")) or re.search("[/@]", key):
        return override
    if not is_readable(f"++{key}=1"):
        raise ValueError(f"unknown option {key}: python run.py --cfg job lists all")
    return f"++user.{key}={as_text(key, value)}"


def as_text(key: str, value: str) -> str:
    """`value`, quoted for Hydra's grammar if the option takes text, or if it is nothing else."""
    explicit = value.startswith("choice(") or (value[:1] in ("'", '"') and value[-1:] == value[:1])
    if value == "null" or (is_readable(f"++key={value}") and (key.rpartition(".")[2] not in TEXT or explicit)):
        return value
    return quote(os.path.expanduser(value))


def is_readable(word: str) -> bool:
    """Whether Hydra's grammar has it."""
    try:
        parsed(word)
    except ValueError:
        return False
    return True


def quote(text: str) -> str:
    """A string of Hydra's grammar that reads as `text`."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def explain(error: Exception) -> str:
    """Any error, in one line; Hydra's and OmegaConf's by their cause."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice} is unknown: {one_of(choice, error.options or ['(none)'])}"
    if isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def one_of(name: str, known: Sequence[str]) -> str:
    """`did you mean dps_dsg? one of dps, dps_dsg`"""
    near = difflib.get_close_matches(name, known, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"one of {', '.join(known)}"
