"""Guidance networks: frozen networks that a task's loss looks through, read when they are first needed."""

from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from dsg.files import file_hash, resolve
from dsg.weights import how_to_get

HASHED = {".safetensors", ".bin", ".json", ".txt"}  # of a folder: weights, tokenizer, normalisation

_loaded: dict[str, nn.Module] = {}


class GuidanceNetwork:
    """A network that is read from its checkpoint once per process, however many runs use it.

    Args:
        read: `read(checkpoint, **options)` gives the network, for evaluation, without gradients of its parameters.
        checkpoint: file, or folder in the Hugging Face hub's format.
        fetched_as: its name for scripts/fetch_checkpoints.py.
        package: Python package that `read` needs besides the usual ones.
        options: of `read`.
    """

    def __init__(
        self, read: Callable[..., nn.Module], checkpoint: str, fetched_as: str, package: str | None = None, **options
    ):
        self.read, self.checkpoint, self.fetched_as, self.package = read, checkpoint, fetched_as, package
        self.options = options

    @property
    def path(self) -> Path:
        return resolve(self.checkpoint)

    def check(self) -> None:
        """Raise FileNotFoundError if the checkpoint is missing, ValueError if the package is. Reads no weights."""
        if not self.path.exists():
            raise FileNotFoundError(f"no checkpoint at {self.path}{how_to_get(self.path, self.fetched_as)}")
        if self.package is not None and find_spec(self.package) is None:
            raise ValueError(f"{self.path} needs {self.package}: pip install -e '.[semantic]'")

    @property
    def weights_hash(self) -> str:
        """SHA-256 over what is read."""
        path = self.path
        files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix in HASHED)
        return sha256("".join(file_hash(f) for f in files).encode()).hexdigest()

    def load(self, device: torch.device) -> nn.Module:
        """The network, on the device.

        Raises:
            ValueError: unreadable weights, or those of another network.
        """
        key = repr((self.read, self.path, sorted(self.options.items())))
        if key not in _loaded:
            _loaded[key] = self.read(self.checkpoint, **self.options)
        return _loaded[key].to(device)
