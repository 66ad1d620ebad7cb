"""Files that are there whole or not at all, digests, and errors in one line."""

import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from yaml import MarkedYAMLError

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"


def resolve(path: str | Path) -> Path:
    """`path` as given if it exists or is absolute, else inside the repository."""
    path = Path(path).expanduser()
    return path if path.exists() or path.is_absolute() else REPOSITORY / path


def first_line(error: BaseException, most: int = 500) -> str:
    """Its first line, of `most` characters; the name of its class where it says nothing; of a YAML file, the place."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"[:most]
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()  # without a terminal's colours
    return (text.splitlines() or [type(error).__name__])[0][:most]


def counted(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number} {noun}" + "s" * (number != 1)


def short_hash(owner: Mapping) -> str:
    return hashlib.sha256(json.dumps(owner, sort_keys=True, default=str).encode()).hexdigest()[:10]


def file_hash(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256, short; None if there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return None


def host_name() -> str:
    """The name of this machine, without dots: they divide the names of temporary files."""
    return socket.gethostname().replace(".", "_")


def process_name() -> str:
    return f"{host_name()}-{os.getpid()}"


def temporary_name(path: Path) -> Path:
    """Beside `path`, unique to this process."""
    return path.with_name(f"{path.name[:200]}.{process_name()}-{secrets.token_hex(3)}.partial")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of writing, such as a full disk's, name the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def place(temporary: Path, path: Path) -> None:
    """`path` gets the text of `temporary`, and is there whole or not at all.

    Raises:
        FileExistsError: it is there already; of several processes one is first.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: as good, unless the process is killed between these lines
        with open(path, "x", encoding="utf-8") as file:
            try:
                file.write(temporary.read_text(encoding="utf-8"))
                file.flush()
            except OSError:
                path.unlink()
                raise


def write_text(path: Path, text: str) -> None:
    """The file is there whole or not at all; one that says the same already is not touched."""
    if path.exists() and path.read_bytes() == text.encode():
        return
    temporary = temporary_name(path)
    try:
        with named(path):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the half-written files in `folder`, not below it, of processes of this machine that live no more."""
    host = host_name()
    for file in folder.glob("*.partial"):
        owner, _, _ = file.name.removesuffix(".partial").rpartition(".")[2].rpartition("-")
        name, _, pid = owner.rpartition("-")
        if name == host and pid.isdigit() and not _alive(int(pid)):
            with suppress(OSError):  # of a folder that may only be read
                file.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
