"""Downloads of weights, which appear under their name only when they are whole, checked, and can be opened.

Every failure is one line (OSError or ValueError) without credentials.
"""

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin, urlsplit

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from dsg import weights
from dsg.files import file_hash, first_line
from dsg.weights import Source, check_record, describe, read_record, write_record

logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its warnings of retries name whole addresses
# other precisions, parts and runtimes of a hub repository
NOT_NEEDED = ("fp16", "non_ema", "safety_checker", "onnx", "openvino")
REDIRECTS = 10
SLOWEST = 10_000  # bytes per second, on average; a slower server is given up
MOST = 20_000_000_000  # bytes of a file whose size nobody states


def fetch(source: Source, folder: Path, url: str | None = None, mirror: str | None = None) -> str:
    """Bring a source into `folder`, or check what is there. Returns what was done.

    Args:
        url: another place that has it.
        mirror: http(s) address of a copy of checkpoints/, with the records; it has every source.

    Raises:
        OSError: it could not be had. ValueError: it is not what it should be.
    """
    path = folder / source.file
    if path.exists():
        return f"{path} {verify(path, source)}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{source.file}.lock"
    try:
        with FileLock(lock):  # of two processes, the second finds the first one's file
            said = f"{path} {verify(path, source)}" if path.exists() else _fetch(source, path, url, mirror)
    except (OSError, ValueError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(without_credentials(first_line(error))) from None
    lock.unlink(missing_ok=True)
    return said


def _fetch(source: Source, path: Path, url: str | None, mirror: str | None) -> str:
    temporary = path.with_name(path.name + ".partial")
    try:
        transfer(source, temporary, url, mirror)
        found = checked(temporary, source, path)
        check_opens(temporary, path.name)
    except ValueError:  # whole, and wrong
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
    found = checked(path, source, path)
    if recorded is None:
        write_record(path, found)
    how = "as published" if source.sha256 else "recorded" if recorded is None else "as recorded"
    return f"{how} ({found['bytes']} bytes, SHA-256 {found['sha256']})"


def checked(file: Path, source: Source, path: Path) -> dict:
    """The description of `file`, if it fits what is published, and recorded of `path`; else ValueError."""
    found = describe(file)
    if not found["sha256"].startswith(source.sha256 or "") or source.size not in (None, found["bytes"]):
        size = f"{source.size} bytes, " if source.size else ""
        raise ValueError(
            f"{path.name} is not the file that was published: {found['bytes']} bytes, SHA-256 {found['sha256']}; "
            f"published {size}{source.sha256}"
        )
    check_record(file, found["sha256"], read_record(path))
    return found


def discard(temporary: Path) -> None:
    """Remove what is left of a download, and what its client keeps beside it."""
    for path in temporary.parent.glob(f"{glob.escape(temporary.name)}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


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


def without_credentials(text: str) -> str:
    """`text`, its URLs without user, password and query."""
    return re.sub(r"(\w+://)[^/\s@]*@", r"\1", re.sub(r"(\w+:/?/?[^\s?]*)\?[^\s'\")]*", r"\1", text))


# --- transports


def transfer(source: Source, temporary: Path, url: str | None = None, mirror: str | None = None) -> None:
    """Bring a source to `temporary`, whole, from `url`, the mirror, or where it is published."""
    if mirror and not url:
        return _transfer_mirror(mirror.rstrip("/"), source, temporary)
    scheme, _, rest = (url or source.url).partition(":")
    most = source.size or (source.about or MOST / 4) * 4
    if scheme == "hub":
        _within(most / SLOWEST, _transfer_repository, rest, temporary)
    elif scheme == "gdrive":
        _within(most / SLOWEST, _transfer_drive, rest, temporary)
    elif scheme in ("http", "https"):
        transfer_http(url or source.url, temporary, source.size, most)
    else:
        raise ValueError(f"{scheme}: only http(s)://, hub:<owner>/<name> and gdrive:<id> are sources")
    return None


def _within(seconds: float, work: Callable, *args):
    """The result of `work(*args)`, or TimeoutError after `seconds` and a minute (the thread ends with the process)."""
    results: list = []

    def run():
        try:
            results.append((work(*args), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 2 * weights.TIMEOUT)
    if not results:
        raise TimeoutError("it takes too long")
    result, error = results[0]
    if error is not None:
        raise error
    return result


def transfer_http(url: str, temporary: Path, size: int | None = None, most: float = MOST) -> None:
    """One file over http(s). `size`: in bytes, where it is published; `most`: bytes that are taken, where it is not.

    Raises:
        OSError: the server is silent, slow, or sends something else than a file of known length.
    """
    where = urlsplit(url).netloc.rpartition("@")[2]
    try:
        with requests.Session() as session:
            with _within(0, _open, session, url) as response:
                _receive(response, temporary, size, most)
    except (requests.Timeout, TimeoutError):
        raise OSError(f"{where} does not answer in time") from None
    except requests.ConnectionError as error:
        raise OSError(f"{where} {_cause(error)}") from None
    except (requests.RequestException, HTTPError) as error:
        raise OSError(f"{where} gave no proper answer ({type(error).__name__})") from None
    except OSError as error:
        raise OSError(f"{where}: {error}") from None


def _cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    return f"gave no proper answer ({type(error).__name__})"


def _open(session: requests.Session, url: str) -> requests.Response:
    """The answer to GET, after at most `REDIRECTS` redirections, none of them from https to something else."""
    retry = Retry(2, backoff_factor=0.2, status_forcelist=(502, 503, 504), respect_retry_after_header=False)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    options = {"stream": True, "allow_redirects": False, "timeout": weights.TIMEOUT}
    for _ in range(REDIRECTS):
        response = session.get(url, headers={"Accept-Encoding": "identity"}, **options)
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        target = urljoin(url, target)
        if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
            raise OSError(f"the server redirects to {without_credentials(target)}")
        url = target
    raise OSError(f"the server redirects more than {REDIRECTS} times")


def _receive(response: requests.Response, temporary: Path, size: int | None, most: float) -> None:
    length, chunked = response.headers.get("Content-Length"), "chunked" in response.headers.get("Transfer-Encoding", "")
    if response.status_code != 200:
        login = " (no such thing, or it asks for a login)" if response.status_code in (401, 403, 404) else ""
        raise OSError(f"the server answered {response.status_code} {response.reason}{login}")
    if "text/html" in response.headers.get("Content-Type", ""):
        raise OSError("the server sent a web page, not a checkpoint")
    if not chunked and not (length or "").strip().isdigit():
        raise OSError("the server does not say how long the file is: nobody could tell whether it is whole")
    total = None if chunked else int(length)
    if total is not None and size is None and total > most:
        raise OSError(f"the server has a file of {total} bytes, more than {int(most)}")
    if None not in (total, size) and total != size:
        raise OSError(f"the server has a file of {total} bytes; {size} are published")
    received, start, began = 0, b"", time.monotonic()
    try:
        with (
            open(temporary, "wb") as file,
            tqdm(total=total, unit="B", unit_scale=True, desc=temporary.stem, disable=None) as bar,
        ):
            while block := response.raw.read1(1 << 20, decode_content=False):
                file.write(block)
                bar.update(len(block))
                received, start = received + len(block), start + block[: 512 - len(start)]
                if received > (size or most):
                    raise OSError(f"the server sends more than {size or int(most)} bytes")
                if received < SLOWEST * (time.monotonic() - began - weights.TIMEOUT):
                    raise OSError(f"the server is too slow: {received} bytes in {time.monotonic() - began:.0f} s")
    except (HTTPError, TimeoutError, ConnectionError):
        total = total or -1
    if total not in (None, received):
        of = total if total > 0 else "?"
        raise OSError(f"the connection broke after {received} of {of} bytes: call again")
    if (first := start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]) in (b"", b"<"):
        raise OSError(f"the server sent {'a web page, not a checkpoint' if first else 'an empty file'}")


def _transfer_mirror(mirror: str, source: Source, temporary: Path) -> None:
    """A file of a copy of checkpoints/; of a folder, the files that the copy's record lists."""
    if not source.url.startswith("hub:"):
        return transfer_http(f"{mirror}/{source.file}", temporary, source.size, (source.about or MOST / 4) * 4)
    index = temporary.with_name(temporary.name + ".json")
    transfer_http(f"{mirror}/{source.file}.json", index, most=1_000_000)
    try:
        files = dict(json.loads(index.read_text())["files"])
        sizes = {name: (int(about["bytes"]), str(about["sha256"])) for name, about in files.items()}
    except (ValueError, KeyError, TypeError):
        raise OSError(f"the mirror's {source.file}.json lists no files") from None
    finally:
        index.unlink()
    refuse_outside(sizes)
    for name, (size, sha256) in sizes.items():
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        transfer_http(f"{mirror}/{source.file}/{quote(name)}", path, size)
        if file_hash(path) != sha256:
            raise ValueError(f"{name}: what arrived is not the file that the mirror states")
    return None


def _transfer_drive(identifier: str, temporary: Path) -> None:
    """A file on Google Drive; its client goes on with its own partial files."""
    import gdown

    temporary.unlink(missing_ok=True)  # the client would take it for the finished file
    try:
        gdown.download(id=identifier, output=str(temporary), resume=True, timeout=weights.TIMEOUT)
    except Exception as error:  # the client's own errors, and those of the HTTP library beneath it
        raise OSError(f"Google Drive: {first_line(error)}") from None
    if not temporary.exists():
        raise OSError("Google Drive sent no file (a quota, perhaps: try again later, or in a browser)")
    with open(temporary, "rb") as file:
        if file.read(512).lstrip()[:1] in (b"", b"<"):
            raise OSError("Google Drive sent a web page, not a checkpoint")


def _transfer_repository(repository: str, temporary: Path) -> None:
    """The configs, tokenizers and PyTorch weights of a hub repository, safetensors where a folder has both kinds.

    The hub's client goes on with what is there. Each file is checked against the hash that the hub states.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise OSError("the Hugging Face hub needs huggingface_hub: pip install -e '.[semantic]'") from None
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        about = HfApi(endpoint).model_info(repository, files_metadata=True, timeout=weights.TIMEOUT)
        stated = {file.rfilename: file for file in about.siblings}
        wanted = needed_files(stated)
        snapshot_download(
            repository, revision=about.sha, local_dir=temporary, endpoint=endpoint,
            allow_patterns=[glob.escape(name) for name in wanted],
        )  # fmt: skip
    except Exception as error:  # the client's own errors, and those of the HTTP library beneath it
        raise OSError(f"hub:{repository}: {first_line(error)}") from None
    for name in wanted:
        if not _is_blob(temporary / name, stated[name]):
            (temporary / name).unlink(missing_ok=True)
            raise OSError(f"hub:{repository}/{name}: what arrived is not the file that the hub states; call again")
    shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the client's
    for file in [file for file in temporary.rglob("*") if file.is_file()]:
        if file.relative_to(temporary).as_posix() not in wanted:
            file.unlink()  # of another version


def needed_files(names: Iterable[str]) -> list[str]:
    """The files of a repository that are fetched: of a pipeline, weights of its parts only, which have a config."""
    refuse_outside(names)
    files = [name for name in names if not any(word in name for word in NOT_NEEDED)]
    if "model_index.json" in names:
        parts = {name.rpartition("/")[0] for name in names if name.endswith("/config.json")}
        files = [name for name in files if name.endswith((".json", ".txt")) or name.rpartition("/")[0] in parts]
    safe = {name.rpartition("/")[0] for name in files if name.endswith(".safetensors")}  # the kinds' names may differ
    pickled = [name for name in files if name.endswith(".bin") and name.rpartition("/")[0] not in safe]
    return [name for name in files if name.endswith((".json", ".txt", ".safetensors"))] + pickled


def refuse_outside(names: Iterable[str]) -> None:
    """Raises OSError if a file would land outside of its folder."""
    if unsafe := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise OSError(f"it has a file {unsafe[0]}")


def _is_blob(path: Path, stated) -> bool:
    """Whether the file has the hash that the hub states: SHA-256 of large files, git's own of small ones."""
    if stated.lfs:
        return file_hash(path) == stated.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest() == stated.blob_id
