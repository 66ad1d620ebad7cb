"""Weights: where they are, whether they are what was shipped, published or recorded, and how they are read."""

import hashlib
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from warnings import warn

import torch
import yaml
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from dsg.files import REPOSITORY, file_hash, first_line, resolve, write_text

CHECKPOINTS = REPOSITORY / "checkpoints"
MANIFEST = CHECKPOINTS / "manifest.json"  # path below checkpoints/ -> SHA-256, of what git tracks
TIMEOUT = 30  # seconds that a server may be silent


@dataclass(frozen=True)
class Source:
    """A file or folder that can be fetched into checkpoints/; the fields are those of checkpoints/sources.yaml."""

    file: str
    url: str
    needed_for: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    about: int | None = None


@cache
def sources() -> dict[str, Source]:
    """What scripts/fetch_checkpoints.py can fetch, by name."""
    text = (CHECKPOINTS / "sources.yaml").read_text(encoding="utf-8")
    return {name: Source(**fields) for name, fields in yaml.safe_load(text).items()}


# --- where


def require(checkpoint: str | Path, name: str) -> Path:
    """The checkpoint's path.

    Raises:
        FileNotFoundError: with the command that brings the file.
    """
    path = resolve(checkpoint)
    if path.is_file():
        return path
    raise FileNotFoundError(f"no checkpoint at {checkpoint}{how_to_get(path, name)}")


def require_folder(checkpoint: str | Path | None, name: str) -> Path:
    """A folder in diffusers' format: `checkpoint` itself, or the snapshot of that repository on the Hugging Face hub.

    Raises:
        FileNotFoundError: with what to do.
    """
    if checkpoint is None:
        raise FileNotFoundError(f"model={name} needs model.checkpoint=<folder, or id on the Hugging Face hub>")
    path, parts = resolve(checkpoint), str(checkpoint).split("/")
    if path.is_dir():
        check_record(path)
        return path
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~", "checkpoints"):  # no owner/name
        raise FileNotFoundError(f"no folder at {checkpoint}{how_to_get(path, name)}")
    try:
        return _from_hub(str(checkpoint))
    except Exception as error:  # whatever the hub's client and its connection raise
        raise FileNotFoundError(
            f"no folder at {checkpoint}, and the Hugging Face hub does not give it: {first_line(error)}"
        ) from None


def _from_hub(repository: str) -> Path:
    """The folder of a repository on the hub; where the hub does not answer, as it was fetched before."""
    from huggingface_hub import HfApi, snapshot_download

    get = partial(snapshot_download, repository, allow_patterns=["*.json", "*.safetensors", "*.bin", "*.txt"])
    try:
        commit = HfApi().model_info(repository, timeout=TIMEOUT).sha  # without it, the client waits for ever
    except Exception as error:
        try:
            return Path(get(local_files_only=True))
        except Exception:
            raise error from None
    return Path(get(revision=commit))


def how_to_get(path: Path, name: str) -> str:
    """The end of a message that a checkpoint is missing: nothing about a file of the user's own."""
    if shipped := _shipped_name(path):
        return f"; get it with: git checkout -- checkpoints/{shipped}"
    return f"; get it with: python scripts/fetch_checkpoints.py {name}" if name in sources() else ""


# --- whether they are what they should be


def _shipped_name(path: Path) -> str | None:
    """The name below checkpoints/ of a file that the repository ships, or of a folder of such files."""
    file = path.resolve()
    name = file.relative_to(MANIFEST.parent).as_posix() if file.is_relative_to(MANIFEST.parent) else None
    return next((name for shipped in json.loads(MANIFEST.read_text()) if f"{shipped}/".startswith(f"{name}/")), None)


def is_shipped(path: Path) -> bool:
    """Whether the repository ships this file."""
    return path.is_file() and _shipped_name(path) is not None


def check_shipped(path: Path, digest: str) -> None:
    """Refuse a file of this repository whose SHA-256 is not the one in `checkpoints/manifest.json`.

    Raises:
        ValueError: a flipped bit, or another file under this name.
    """
    name = _shipped_name(path)
    shipped = json.loads(MANIFEST.read_text()).get(name)
    if shipped not in (None, digest):
        raise ValueError(
            f"{path} is not the file that the repository ships (SHA-256 {digest[:16]}..., not {shipped[:16]}...); "
            f"git checkout -- checkpoints/{name} restores it; your own weights go elsewhere (model.checkpoint=<file>)"
        )


def record_shipped(path: Path) -> None:
    """Make what was written in the place of a shipped file the shipped one; any other file is nothing to record."""
    shipped = json.loads(MANIFEST.read_text())
    if (name := _shipped_name(path)) in shipped:
        write_text(MANIFEST, json.dumps({**shipped, name: file_hash(path)}, indent=1) + "\n")


def describe(path: Path) -> dict:
    """Size and SHA-256 of a file; of a folder, the sum, the SHA-256 of its files' names and sums, and its files."""
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    files = {
        file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": file_hash(file)}
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".cache" not in file.relative_to(path).parts  # of the hub's client
    }
    lines = "".join(f"{name} {file['sha256']}\n" for name, file in files.items())
    total = sum(file["bytes"] for file in files.values())
    return {"bytes": total, "sha256": hashlib.sha256(lines.encode()).hexdigest(), "files": files}


def record_file(path: Path) -> Path:
    """The record of a file or folder, beside it: who shares the record has the same weights."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> dict | None:
    """What is recorded of the file or folder `path`: bytes and sha256; None if nothing is.

    Raises:
        ValueError: the record is damaged.
    """
    record = record_file(path)
    if not record.exists():
        return None
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return {**found, "bytes": int(found["bytes"]), "sha256": str(found["sha256"])}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{record} is damaged: restore it, or move it away to record {path.name} anew") from None


def write_record(path: Path, found: Mapping) -> None:
    write_text(record_file(path), json.dumps(found, indent=1) + "\n")


def check_record(path: Path, sha256: str | None = None, recorded: dict | None = None) -> None:
    """Hold `path`, about to be loaded or named, against what is recorded of it, if anything is.

    Args:
        sha256: of the bytes that were read; None: of the file as it is now.
        recorded: what its record says, where that lies elsewhere.

    Raises:
        ValueError: it is something else, or the record is damaged.
    """
    recorded = recorded or read_record(path)
    if recorded is None:
        return
    found = describe(path) if sha256 is None else {"bytes": path.stat().st_size, "sha256": sha256}
    if found["sha256"] != recorded["sha256"]:
        raise ValueError(
            f"{path} is not the file that was recorded: {found['bytes']} bytes, SHA-256 {found['sha256']}; recorded "
            f"{recorded['bytes']} bytes, {recorded['sha256']}. Move it away to get it again, or its record to accept it"
        )


# --- reading


def read_state_dict(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict of `read_weights`."""
    return read_weights(path, name)[0]


def read_weights(
    path: Path, name: str, shapes: Mapping[str, torch.Size] | None = None, key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """The state dict in a .safetensors file, or in a pickle, and the file's SHA-256: both of the same bytes.

    A pickle is read with `weights_only=True`; nothing in the file is executed.

    Args:
        name: of the model, for messages.
        shapes: of the network's state dict, to find it inside of a training's checkpoint; None: it is the whole file.
        key: which part of the file to take, where several fit.

    Raises:
        ValueError: it is not what was shipped or recorded, or is truncated, or holds no state dict.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    check_shipped(path, digest)
    check_record(path, digest)
    try:
        content = load_safetensors(data) if path.suffix == ".safetensors" else _unpickle(data)
    except Exception as error:  # a broken file leads their readers to whatever error comes next
        published = f"; the published one: python scripts/fetch_checkpoints.py {name}" if name in sources() else ""
        reason = f"(truncated, or not one): {_reason(error)}{published}"
        raise ValueError(f"{path} cannot be read as a checkpoint {reason}") from None
    if shapes is not None:
        return _find_state(content, shapes, key, path), digest
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict (a mapping from names to tensors)")
    return content, digest


class _Inert:
    """Stands for objects in a pickle that are no tensors and no plain values: numbers of NumPy."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


class _InertMapping:
    """Stands for other such objects, a training's options for example: an OrderedDict, which the reader can fill."""

    def __new__(cls, *args):
        return OrderedDict()


def _unpickle(data: bytes) -> object:
    """What `torch.save` wrote. Of classes and functions that the pickle names, none is imported or called."""
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except ValueError:  # torch's old format
        foreign = []
    inert = [(_Inert if name.startswith("numpy") else _InertMapping, name) for name in foreign]
    with torch.serialization.safe_globals(inert):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without torch's advice to run what is in it."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it is no checkpoint of tensors and plain values"
    return first_line(error)


def _find_state(content: object, shapes: Mapping[str, torch.Size], key: str | None, path: Path) -> dict[str, Tensor]:
    """The network's state dict inside of what a training saved: averaged weights (EMA) before others."""
    tables = dict(_tables(content))
    found = {label: state for where, table in tables.items() for label, state in _fits(where, table, shapes)}
    chosen = [label for label in found if key is None or f"{label}.".startswith(f"{key.rstrip('.')}.")]
    listed = ", ".join(f"{where or 'the file itself'} ({len(table)} tensors)" for where, table in tables.items())
    top = f"its keys: {', '.join(map(str, list(content)[:20]))}" if isinstance(content, dict) else "no mapping"
    if chosen:
        best = next((label for label in chosen if "ema" in label.lower()), chosen[0])
        if len(found) > 1 and key is None:
            warn(f"{path}: {best} is taken, of {', '.join(found)} (model.key=<one of them>)", stacklevel=2)
        return found[best]
    if key is not None and key not in tables:
        raise ValueError(f"{path} has no weights of this network at model.key={key}; there are: {listed or top}")
    table = tables.get(key or "", {})
    if isinstance(table, dict) and table:  # its names or shapes differ: `load_into` says which
        return table
    raise ValueError(
        f"{path} holds no state dict (a mapping from names to tensors) of this network; {top}"
        + (f"; tensors at: {listed} (model.key=<one of them>)" if listed else "")
    )


def _tables(content: object, where: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, Tensor] | list[Tensor]]]:
    """All mappings from names to tensors, and lists of tensors, in nested mappings, by their dotted keys."""
    if isinstance(content, list) and content and all(isinstance(value, Tensor) for value in content):
        yield where, content
    if not isinstance(content, dict) or not depth:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for name, value in content.items():
        if isinstance(name, str) and not name.startswith("optimizer"):
            yield from _tables(value, f"{where}.{name}".lstrip("."), depth - 1)


def _fits(
    where: str, table: dict[str, Tensor] | list[Tensor], shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The parts of a table that have all the network's names, after a common prefix, with their labels.

    A list (torch_ema's shadow_params) has the parameters in the network's order; LitEma's names are without dots.
    """
    if isinstance(table, list):
        if [value.shape for value in table] == list(shapes.values()):
            yield where, dict(zip(shapes, table))
        return
    for spelled in (list(shapes), [name.replace(".", "") for name in shapes]):
        for prefix in [name.removesuffix(spelled[0]) for name in table if name.endswith(spelled[0])]:
            part = {name.removeprefix(prefix): value for name, value in table.items() if name.startswith(prefix)}
            if all(name in part for name in spelled):
                names = dict(zip(spelled, shapes))
                yield f"{where}.{prefix}".strip("."), {names.get(name, name): part[name] for name in part}


def load_into(net: nn.Module, state: dict[str, Tensor], path: Path, assign: bool = False) -> None:
    """`load_state_dict(strict=True)` with an error of one line.

    Args:
        assign: take the tensors themselves, as a network on the "meta" device must.

    Raises:
        ValueError: saying which keys or shapes differ.
    """
    own = net.state_dict()
    missing, foreign = [k for k in own if k not in state], [k for k in state if k not in own]
    reshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    problems = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for keys, what in ((missing, "keys missing"), (foreign, "unknown keys"), (reshaped, "keys of another shape"))
        if keys
    ]
    if problems:
        raise ValueError(f"{path} is the checkpoint of another network than the config's: {', '.join(problems)}")
    net.load_state_dict(state, strict=True, assign=assign)


def load_pretrained(kind: type, folder: Path, **options) -> nn.Module:
    """A network of diffusers or transformers with all its weights: `kind.from_pretrained(folder)`.

    Raises:
        ValueError: it cannot be read, or weights are missing (the libraries would only warn, and leave them random).
    """
    for file in folder.glob("*.safetensors"):
        check_shipped(file, file_hash(file))
    try:
        net, found = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{len(missing)} weights missing (first: {missing[0]})")
    except Exception as error:  # they raise whatever their parts raise
        raise ValueError(f"{folder} cannot be read as a {kind.__name__}: {_reason(error)}") from None
    return net
