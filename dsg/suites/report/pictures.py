"""The images of runs as data URIs, each once, within a size that a browser can hold."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from dsg.suites.report.entries import Entry

SIDE = 256  # pixels of the longer side; larger images are reduced


class Pictures:
    """Attributes:
    uris: by digest, the PNG as a data URI.
    missing: files that a run's table names and that are not there, or cannot be read.
    """

    def __init__(self, limit: int, megabytes: float):
        self.limit, self.bytes_left = limit, megabytes * 1e6
        self.uris: dict[str, str] = {}
        self.missing: list[str] = []
        self._of: dict[bytes, str] = {}

    def embed(self, entries: Sequence[Entry]) -> list[list[dict]]:
        """The first images of every entry, the same number of all: `{id, image, restored, condition, truth}`, the last
        three digests or None. It stops where the size is used up.
        """
        shown: list[list[dict]] = [[] for _ in entries]
        for k in range(self.limit):
            if self.bytes_left <= 0:
                break
            for entry, found in zip(entries, shown):
                if k < len(entry.images):
                    found.append(self._one(entry, entry.images[k]))
        return shown

    def _one(self, entry: Entry, row: dict) -> dict:
        # references keep no images of some kinds: nothing is missing there
        restored = self._add(entry.folder / "images" / f"{row['id']}.png", expected=entry.is_run)
        sides = {side: self._add(entry.folder / side / f"{row['image']}.png") for side in ("condition", "truth")}
        return {"id": row["id"], "image": row["image"], "restored": restored, **sides}

    def _add(self, path: Path, expected: bool = False) -> str | None:
        try:
            content = path.read_bytes()
            digest = self._of.get(content) or self._encode(content)
        except OSError:  # also what Pillow says of a damaged file
            if expected or path.exists():
                self.missing.append(str(path))
            return None
        self._of[content] = digest
        return digest

    def _encode(self, content: bytes) -> str:
        with Image.open(BytesIO(content)) as image:
            image.load()
            if max(image.size) > SIDE:
                image = image.convert("RGB")
                image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            file = BytesIO()
            image.save(file, "PNG", optimize=True)
        smaller = min(content, file.getvalue(), key=len) if max(image.size) < SIDE else file.getvalue()
        digest = hashlib.sha256(content).hexdigest()[:12]
        self.uris[digest] = "data:image/png;base64," + b64encode(smaller).decode()
        self.bytes_left -= len(self.uris[digest])
        return digest
