"""Finding, reading and identifying checkpoint files; the errors say what to do about it."""

import hashlib
import io
import json
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from dsg import transfer
from dsg.files import first_line
from dsg.records import check_record, file_hash

REPOSITORY = Path(__file__).resolve().parents[1]
MANIFEST = REPOSITORY / "checkpoints/manifest.json"  # path below checkpoints/ -> SHA-256, of what git tracks


def resolve(path: str | Path) -> Path:
    """`path` as given if it exists or is absolute, else inside the repository."""
    path = Path(path).expanduser()
    return path if path.exists() or path.is_absolute() else REPOSITORY / path


def require(checkpoint: str | Path, name: str) -> Path:
    """The checkpoint's path.

    Raises:
        FileNotFoundError: with the command that brings the file.
    """
    path = resolve(checkpoint)
    if path.is_file():
        return path
    raise FileNotFoundError(f"no checkpoint at {checkpoint}; get it with: {how_to_get(name)}")


def require_folder(checkpoint: str | Path | None, name: str) -> Path:
    """A folder in diffusers' format: `checkpoint` itself, or the snapshot of that repository on the Hugging Face hub.

    Raises:
        FileNotFoundError: with what to do.
    """
    if checkpoint is None:
        raise FileNotFoundError(f"model={name} needs model.checkpoint=<folder, or id on the Hugging Face hub>")
    path = resolve(checkpoint)
    if path.is_dir():
        check_record(path)
        return path
    if not _is_hub_id(str(checkpoint)):
        raise FileNotFoundError(f"no folder at {checkpoint}; get it with: {how_to_get(name)}")
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
        commit = HfApi().model_info(repository, timeout=transfer.TIMEOUT).sha  # unasked, the client waits for ever
    except Exception as error:
        try:
            return Path(get(local_files_only=True))
        except Exception:
            raise error from None
    return Path(get(revision=commit))


def _is_hub_id(name: str) -> bool:
    """owner/name, and not a path below one of our folders."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~", "checkpoints/"))


def how_to_get(name: str) -> str:
    if name in ("avatars64", "gaussian_mixture"):
        return f"git checkout -- checkpoints/{name} (or make it: see checkpoints/{name}/README.md)"
    return f"python scripts/fetch_checkpoints.py {name}"


def read_state_dict(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict of `read_weights`."""
    return read_weights(path, name)[0]


def read_weights(path: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """The state dict in a .safetensors file, or in a pickle, and the file's SHA-256: both of the same bytes.

    A pickle is read with `weights_only=True`; nothing in the file is executed.

    Raises:
        ValueError: truncated, or no state dict.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            state = load_safetensors(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file leads their readers to whatever error comes next
        raise ValueError(
            f"{path} cannot be read as a checkpoint (truncated, or not one): {first_line(error)}. "
            f"Remove it and get it again: {how_to_get(name)}"
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    check_shipped(path, digest)
    check_record(path, digest)
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict (a mapping from names to tensors)")
    return state, digest


def check_shipped(path: Path, digest: str) -> None:
    """Refuse a file of this repository whose SHA-256 is not the one in `checkpoints/manifest.json`.

    A network of one's own goes elsewhere, with `model.checkpoint=<file>`.

    Raises:
        ValueError: a flipped bit, or another file under this name.
    """
    file = path.resolve()
    if file.is_relative_to(MANIFEST.parent):
        shipped = json.loads(MANIFEST.read_text()).get(file.relative_to(MANIFEST.parent).as_posix())
        if shipped is not None and shipped != digest:
            raise ValueError(
                f"{path} is not the file that the repository ships (SHA-256 {digest[:16]}..., not {shipped[:16]}...); "
                f"git checkout -- {path} restores it; weights of your own go elsewhere (model.checkpoint=<file>)"
            )


def record_shipped(path: Path) -> None:
    """Make what was written in the place of a shipped file the shipped one; any other file is nothing to record."""
    file, shipped = path.resolve(), json.loads(MANIFEST.read_text())
    name = file.relative_to(MANIFEST.parent).as_posix() if file.is_relative_to(MANIFEST.parent) else None
    if name in shipped:
        whole = MANIFEST.with_suffix(".partial")
        whole.write_text(json.dumps({**shipped, name: file_hash(file)}, indent=1) + "\n")
        whole.replace(MANIFEST)


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
        raise ValueError(f"{folder} cannot be read as a {kind.__name__}: {first_line(error)}") from None
    return net
