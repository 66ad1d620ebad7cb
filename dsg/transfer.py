"""One file over http(s), whole or not at all.

A broken download goes on where it stopped, if the server confirms that the file is still the same (If-Range with the
ETag or date of the first answer); else it starts anew. Every failure is an OSError of one line.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

TIMEOUT = 30  # seconds without an answer, when connecting and between two blocks
BLOCK = 1 << 20


def transfer_http(
    url: str, temporary: Path, size: int | None, headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT
) -> None:
    """`size`: in bytes, if it is published. What is there already is continued if it is of the same file."""
    headers = dict(headers or {})
    with one_line(urlsplit(url).netloc):
        left = _left_over(temporary, url)
        ranged = {"Range": f"bytes={left[0]}-", "If-Range": left[1]} if left else {}
        response = open_url(url, headers | ranged, timeout)
        start = _start(response)
        same = start == 0 or (left and start == left[0] and _version(response) == left[1])
        if left and not same:  # 416, another part than was asked for, or of another file
            response.close()
            left, response = None, open_url(url, headers, timeout)
            start = _start(response)
        with response:
            if start not in (0, left[0] if left else 0):
                raise OSError(f"the server answered {response.status} {response.reason}")
            _receive(response, temporary, start, url, size)
        note_of(temporary).unlink(missing_ok=True)


def _receive(response: http.client.HTTPResponse, temporary: Path, start: int, url: str, size: int | None) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    if "text/html" in response.headers.get("Content-Type", ""):
        raise OSError("the server sent a web page, not a checkpoint")
    if total is None and not response.chunked:
        raise OSError("the server does not say how long the file is: nobody could tell whether it is whole")
    if None not in (total, size) and total != size:
        raise OSError(f"the server has a file of {total} bytes; {size} are published")
    _write_note(temporary, url, response)
    whole = True
    try:
        with (
            open(temporary, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=temporary.stem) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    except (http.client.HTTPException, TimeoutError, ConnectionError):
        whole = False
    received = temporary.stat().st_size
    if not whole or (total is not None and received != total):
        raise OSError(f"the connection broke after {received} of {total or '?'} bytes: call again to go on from there")


def _start(response: http.client.HTTPResponse) -> int | None:
    """At which byte of the file the answer begins; None if it is no answer to go on with."""
    if response.status == 200:
        return 0
    kind, _, part = response.headers.get("Content-Range", "").partition(" ")
    first = part.partition("-")[0]
    return int(first) if response.status == 206 and kind == "bytes" and first.isdigit() else None


def note_of(temporary: Path) -> Path:
    return temporary.with_name(temporary.name.removesuffix(".partial") + ".source.partial")


def _write_note(temporary: Path, url: str, response: http.client.HTTPResponse) -> None:
    """What identifies the file that is coming: a later call asks whether it is still the same."""
    note = {"url": url, "version": _version(response)}
    note_of(temporary).write_text(json.dumps(note), encoding="utf-8")


def _version(response: http.client.HTTPResponse) -> str | None:
    """What If-Range asks for: a strong ETag, or the date."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _left_over(temporary: Path, url: str) -> tuple[int, str] | None:
    """Bytes that are there of the file at `url`, and the version that they are of; None: start anew."""
    try:
        note = json.loads(note_of(temporary).read_text(encoding="utf-8"))
        have = temporary.stat().st_size
        return (have, note["version"]) if have and note["version"] and note["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """As usual, but never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise OSError(f"the server redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


HANDLERS = (  # none for file:// and ftp://, to which a server could redirect
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
    _Redirects,
)


def open_url(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    """An answer by http(s), through the environment's proxies; 416 is an answer, other errors are raised."""
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    request = urllib.request.Request(url)
    for key, value in headers.items():
        request.add_unredirected_header(key, value) if key == "Authorization" else request.add_header(key, value)
    try:
        return opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return error


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Whatever goes wrong between two machines, as an OSError of one line that says where."""
    try:
        yield
    except urllib.error.HTTPError as error:
        login = " (no such thing, or it asks for a login)" if error.code in (401, 403, 404) else ""
        raise OSError(f"{where}: the server answered {error.code} {error.reason}{login}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{where} cannot be reached: {error.reason}") from None
    except TimeoutError:
        raise OSError(f"{where} does not answer") from None
    except http.client.HTTPException as error:
        raise OSError(f"{where} gave no proper answer ({type(error).__name__})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OSError(f"{where}: the answer makes no sense") from None
    except OSError as error:
        raise OSError(f"{where}: {error}") from None
