"""Downloads that appear under their name only when they are whole, checked, and can be opened.

Every failure is one line (OSError or ValueError).
"""

import glob
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from dsg.files import first_line
from dsg.records import compare, describe, file_hash, read_record, write_record
from dsg.sources import Source
from dsg.transfer import TIMEOUT, note_of, one_line, open_url, transfer_http

NOT_NEEDED = ("fp16", "non_ema", "safety_checker", "onnx")  # other precisions, parts and runtimes of a hub repository


def fetch(source: Source, folder: Path, url: str | None = None) -> str:
    """Bring a source into `folder`, or check what is there. Returns what was done.

    Args:
        url: another place that has it (a mirror): its own are `Source.url`.

    Raises:
        OSError: it could not be had. ValueError: it is not what it should be.
    """
    path = folder / source.file
    if path.exists():
        return f"{path} {verify(path, source)}"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    transfer(url or source.url, temporary, source.size)
    try:
        refuse_page(temporary)
        found = checked(temporary, source, read_record(path), path.name)
        check_opens(temporary, path.name)
    except (OSError, ValueError):
        discard(temporary)
        raise
    if read_record(path) is None:
        write_record(path, found)
    temporary.rename(path)
    return f"{path} {found['bytes']} bytes, SHA-256 {found['sha256']}"


def verify(path: Path, source: Source) -> str:
    """Check what is there already; record it if nothing was. Returns how it was recognised.

    Raises:
        ValueError: it is not what was published or recorded.
    """
    recorded = read_record(path)
    found = checked(path, source, recorded, path.name)
    if recorded is None:
        write_record(path, found)
    how = "as published" if source.sha256 else "recorded" if recorded is None else "as recorded"
    return f"{how} ({found['bytes']} bytes, SHA-256 {found['sha256']})"


def checked(path: Path, source: Source, recorded: dict | None, name: str) -> dict:
    """The file's description, if it fits what is published and recorded; else ValueError."""
    found = describe(path)
    if not found["sha256"].startswith(source.sha256 or "") or source.size not in (None, found["bytes"]):
        size = f"{source.size} bytes, " if source.size else ""
        raise ValueError(
            f"{name} is not the file that was published: {found['bytes']} bytes, SHA-256 {found['sha256']}; "
            f"published {size}{source.sha256}"
        )
    if recorded is not None:
        compare(path, recorded, found)
    return found


def discard(temporary: Path) -> None:
    """Remove what is left of a download, and what its client keeps beside it."""
    for path in temporary.parent.glob(f"{glob.escape(temporary.name)}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    note_of(temporary).unlink(missing_ok=True)


def check_opens(path: Path, name: str) -> None:
    """Raises ValueError if the file, or one in the folder, cannot be read as what its name says."""
    files = {str(file.relative_to(path)): file for file in path.rglob("*")} if path.is_dir() else {name: path}
    for inside, file in files.items():
        try:
            _open_as(Path(inside).suffix, file)
        except Exception as error:  # a broken file leads its reader to whatever error comes next
            raise ValueError(f"{inside} cannot be opened: {first_line(error)}") from None


def _open_as(suffix: str, file: Path) -> None:
    import torch
    from safetensors import safe_open

    if suffix == ".safetensors":
        with safe_open(file, "pt"):
            pass
    elif suffix in (".pt", ".pth", ".bin"):
        torch.load(str(file), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    elif suffix == ".json":
        json.loads(file.read_text(encoding="utf-8"))


def refuse_page(path: Path) -> None:
    """Raises OSError if a web page came instead of a file."""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
        if start[:1] in (b"", b"<"):
            raise OSError(f"the server sent {'a web page, not a checkpoint' if start else 'an empty file'}")


# --- transports


def transfer(url: str, temporary: Path, size: int | None = None, timeout: float = TIMEOUT) -> None:
    """Bring what is at `url` to `temporary`, whole."""
    scheme, _, rest = url.partition(":")
    if scheme == "hub":
        transfer_repository(rest, temporary, timeout)
    elif scheme == "gdrive":
        transfer_drive(rest, temporary, timeout)
    elif scheme in ("http", "https"):
        transfer_http(url, temporary, size, timeout=timeout)
    else:
        raise ValueError(f"{url}: only http(s)://, hub:<owner>/<name> and gdrive:<id> are sources")


def transfer_drive(identifier: str, temporary: Path, timeout: float) -> None:
    """A file on Google Drive; its client goes on with its own partial files."""
    import gdown

    temporary.unlink(missing_ok=True)  # the client would take it for the finished file
    try:
        gdown.download(id=identifier, output=str(temporary), resume=True, timeout=timeout)
    except Exception as error:  # the client's own errors, and those of the HTTP library beneath it
        raise OSError(f"Google Drive: {first_line(error)}") from None
    if not temporary.exists():
        raise OSError("Google Drive sent no file (a quota, perhaps: try again later, or in a browser)")


def transfer_repository(repository: str, temporary: Path, timeout: float) -> None:
    """The configs, tokenizers and PyTorch weights of a hub repository, safetensors where a folder has both kinds.

    Each file is checked against the hash that the hub states.
    """
    hub, headers = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"), _login()
    with one_line(f"hub:{repository}"):
        with open_url(f"{hub}/api/models/{repository}?blobs=true", headers, timeout) as response:
            about = json.loads(response.read())
        wanted = {file["rfilename"]: file for file in about["siblings"]}
        wanted = {name: wanted[name] for name in needed_files(list(wanted))}
        commit = about["sha"]
    for name in list(_files(temporary)):
        if name.removesuffix(".source.partial").removesuffix(".partial") not in wanted:
            (temporary / name).unlink()  # of another version
    for name, file in wanted.items():
        path = temporary / name
        if not _is_blob(path, file):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".partial")
            with one_line(f"hub:{repository}/{name}"):
                url = f"{hub}/{repository}/resolve/{commit}/{quote(name)}"
                transfer_http(url, partial, file.get("size"), headers, timeout)
                if not _is_blob(partial, file):
                    discard(partial)
                    raise OSError("what arrived is not the file that the hub states; call again to get it anew")
            partial.rename(path)


def needed_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files.

    Raises:
        OSError: a name that would land outside of the folder.
    """
    if unsafe := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise OSError(f"it has a file {unsafe[0]}")
    files = [name for name in names if not any(word in name for word in NOT_NEEDED)]
    safe = {name.rpartition("/")[0] for name in files if name.endswith(".safetensors")}  # the kinds' names may differ
    pickled = [name for name in files if name.endswith(".bin") and name.rpartition("/")[0] not in safe]
    return [name for name in files if name.endswith((".json", ".txt", ".safetensors"))] + pickled


def _login() -> dict[str, str]:
    """The hub's login of this user, if its client is installed and has one."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return {}
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _files(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _is_blob(path: Path, stated: Mapping) -> bool:
    """Whether the file has the hash that the hub states: SHA-256 of large files, git's own of small ones."""
    if not path.is_file():
        return False
    if stated.get("lfs"):
        return file_hash(path) == stated["lfs"]["sha256"]
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest() == stated["blobId"]
