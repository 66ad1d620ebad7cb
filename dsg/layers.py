"""Layers of options, the later ones above, with the source of every value."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from dsg.files import CONFIGS, first_line
from dsg.options import leaves


class Sources(dict[str, str]):
    """Option -> where its value comes from: `sampler.step_size` -> `tuned/avatars64.csv`.

    Attributes:
        notes: what the user should be told once, a line each.
        overrides: option -> value, what the command chose: the files of model, task and sampler, then single options.
        config_dirs: the user's folders of YAML files.
    """

    def __init__(self, sources: Mapping[str, str] | None = None, notes: Iterable[str] = ()):
        super().__init__(sources or {})
        self.notes, self.overrides, self.config_dirs = list(notes), {}, []


class Layers:
    """Nested options in the making.

    Attributes:
        values: what they are so far.
        sources: path of each value -> the layer that it is of.
    """

    def __init__(self):
        self.values: dict = {}
        self.sources: dict[str, str] = {}

    def put(self, path: str, options: Mapping, source: str) -> None:
        """Put a layer at `path` ("": the root), above those before it."""
        self.sources.update((leaf, source) for leaf, _ in leaves(options, path))
        for key in reversed(path.split(".") if path else ()):
            options = {key: options}
        merge(self.values, options)


def merge(below: dict, above: Mapping) -> None:
    """Put `above` into `below`: mappings entry by entry, everything else as a whole."""
    for key, value in above.items():
        if isinstance(value, Mapping):
            if not isinstance(below.get(key), dict):
                below[key] = {}
            merge(below[key], value)
        else:
            below[key] = value


def read(kind: str, name: str, config_dirs: Sequence[str | Path]) -> dict:
    """configs/<kind>/<name>.yaml, and above it those of the user's folders; {} if there is none."""
    found: dict = {}
    for folder in (CONFIGS, *config_dirs):
        path = Path(folder) / kind / f"{name}.yaml"
        if path.is_file():
            merge(found, _parsed(path, path.stat().st_mtime_ns))
    return found


def check_config_dirs(folders: Sequence[str | Path]) -> None:
    """Raise ValueError: a folder of the user's YAML files is not there."""
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise ValueError(f"{missing[0]}: no such folder of configs")


def files(kind: str, config_dirs: Sequence[str | Path]) -> list[str]:
    """The names in configs/<kind>, and in those of the user's folders."""
    return sorted({p.stem for folder in (CONFIGS, *config_dirs) for p in (Path(folder) / kind).glob("*.yaml")})


def yaml_lines(value: Mapping, sources: Mapping[str, str], path: str = "", indent: str = "") -> Iterable[str]:
    """`value`, which is at `path`, as YAML, the source of each value behind it."""
    for key, below in value.items():
        at = f"{path}.{key}" if path else key
        if isinstance(below, Mapping) and below:
            yield f"{indent}{key}:\n"
            yield from yaml_lines(below, sources, at, indent + "  ")
        else:
            text = yaml.safe_dump(below, default_flow_style=True, allow_unicode=True, width=float("inf"))
            text = text.removesuffix("\n").removesuffix("\n...")
            yield f"{indent}{key}: {text}" + (f"  # {sources[at]}\n" if at in sources else "\n")


@cache
def _parsed(path: Path, modified: int) -> dict:
    try:
        found = OmegaConf.to_container(OmegaConf.load(path)) or {}
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: names with values are expected, such as `steps: 20`")
    return found
