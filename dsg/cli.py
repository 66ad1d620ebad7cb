"""The command line before Hydra reads it: paths and prompts as people write them, and one line for every error.

`key=value` becomes `++user.key=value`, so that `dsg.config.resolve` knows what the user asked for and can put it above
everything else. Choices (`model=`, `task=`, `sampler=`, `data=`) and `hydra.` options stay as they are.

Text options (`TEXT`) are taken as they stand, whatever characters are in them: `data.root=My Photos (2024)`,
`task.prompt=a dog, it's red!`. `null` is none, `~` the home folder, `${...}` an interpolation, as everywhere in Hydra.
In a sweep a comma in a text is a comma; several texts are `'task.prompt=choice("a dog","a cat")'`.
A value of another option that Hydra cannot read is taken as text, too.
"""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException

from dsg.files import first_line

GROUPS = ("model", "task", "sampler", "data")
TEXT = ("root", "out", "reference", "mask", "prompt", "checkpoint", "name", "project", "group")  # last word of the key


@dataclass(frozen=True)
class CommandLine:
    """What run.py was asked for.

    Attributes:
        flags: Hydra's, with their values.
        overrides: `key=value`, as they were written.
        config_dirs: folders of the user's YAML files.
        help: whether help was asked for.
        shows_config: whether the values of the run are printed instead of used.
        multirun: whether it is a sweep (-m).
        workers: processes of a sweep; None: one per GPU.
        launcher: the queue that runs a sweep instead, and its options (`dsg.suites.cluster.settings`).
    """

    flags: list[str]
    overrides: list[str]
    config_dirs: list[str]
    help: bool
    shows_config: bool
    multirun: bool = False
    workers: int | None = None
    launcher: Sequence[str] = ()


def parse(arguments: Sequence[str]) -> CommandLine:
    """The command line, its flags and overrides in whatever order.

    Raises:
        ValueError: another main config than ours; options of a sweep without a sweep.
    """
    parser = get_args_parser()
    parser.add_argument("--workers", type=int)
    parser.usage = "python run.py [--help] [--cfg job] [-m] [--config-dir folder] key=value ..."
    found = parser.parse_intermixed_args(arguments)
    if found.config_name or found.config_path:
        raise ValueError("--config-name, --config-path: run.py has one main config; --config-dir adds YAML files to it")
    launcher = launcher_of(found.overrides)
    if (launcher or found.workers is not None) and not found.multirun:
        raise ValueError("launcher=, --workers are for sweeps: add -m, for a single run too")
    if found.workers is not None and found.workers < 1:
        raise ValueError("--workers: 1 or more")
    return CommandLine(
        [word for word in arguments if word not in found.overrides],
        [override for override in found.overrides if not override.startswith(("launcher=", "launcher."))],
        [os.path.abspath(found.config_dir)] if found.config_dir else [],
        found.help,
        found.cfg == "job",
        found.multirun,
        found.workers,
        launcher,
    )


def launcher_of(overrides: Sequence[str]) -> list[str]:
    """The queue that is named by `launcher=slurm launcher.partition=gpu`, as [slurm, partition=gpu]."""
    named = [override.removeprefix("launcher=") for override in overrides if override.startswith("launcher=")]
    options = [override.removeprefix("launcher.") for override in overrides if override.startswith("launcher.")]
    if any(override.startswith("hydra/launcher=") for override in overrides):
        raise ValueError("hydra/launcher=: launcher=slurm, and options as launcher.partition=gpu")
    if options and not named:
        raise ValueError(f"launcher.{options[0]}: launcher=slurm is missing")
    return [*named[-1:], *options]


def rewrite(override: str) -> str:
    """One override as Hydra is to see it.

    Raises:
        ValueError: it names code (`_target_`) or the option of a metric, which only YAML files may.
    """
    name, equals, value = override.partition("=")
    key = name.lstrip("+")
    if "_target_" in name:
        raise ValueError(f"{override}: code is named in YAML files (--config-dir), not on the command line")
    if not equals and not name.startswith("~"):
        raise ValueError(f"{override}: expected option=value")
    if key.startswith("metrics."):
        raise ValueError(f"{override}: options of a metric are set in YAML, or by scripts/evaluate.py RUN --set")
    if key in GROUPS and value in ("", "null"):
        raise ValueError(f"{override}: choose one of configs/{key}/")
    if not equals or key in GROUPS or key.startswith(("~", "hydra.")) or re.search("[/@]", key):
        return override
    return f"++user.{key}={as_text(key, value)}"


def as_text(key: str, value: str) -> str:
    """`value`, quoted for Hydra's grammar if the option takes text, or if it is nothing else."""
    if value == "null" or (_reads(value) and (key.rpartition(".")[2] not in TEXT or _is_explicit(value))):
        return value
    return quote(os.path.expanduser(value))


def quote(text: str) -> str:
    """A string of Hydra's grammar that reads as `text`."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def explain(error: Exception) -> str:
    """Any error, in one line; Hydra's and OmegaConf's by their cause."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        near = difflib.get_close_matches(choice, error.options or [], 1)
        guess = f"did you mean {near[0]}? " if near else ""
        return f"{group}={choice} is unknown: {guess}one of {', '.join(error.options or ['(none)'])}"
    if isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _reads(value: str) -> bool:
    """Whether Hydra's grammar has it."""
    try:
        OverridesParser.create().parse_override(f"++key={value}")
    except HydraException:
        return False
    return True


def _is_explicit(value: str) -> bool:
    """A text that is quoted for Hydra already, or a sweep over texts."""
    return value.startswith("choice(") or (value[:1] in ("'", '"') and value[-1:] == value[:1])
