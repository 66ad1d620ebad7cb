"""Size and SHA-256 of a file, kept beside it, so that everybody who shares the record has the same weights.

A record is `<file>.json`; of a folder, it is of all its files together.
"""

import hashlib
import json
from pathlib import Path


def file_hash(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe(path: Path) -> dict:
    """Size and SHA-256 of a file; of a folder, the sum, and the SHA-256 of its files' names and sums."""
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{file.relative_to(path).as_posix()} {file_hash(file)}\n" for file in files)
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def record_file(path: Path) -> Path:
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
        return {"bytes": int(found["bytes"]), "sha256": str(found["sha256"])}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{record} is damaged: restore it, or remove it to record {path.name} anew") from None


def write_record(path: Path, found: dict) -> None:
    record_file(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compare(path: Path, recorded: dict, found: dict) -> None:
    """Raises ValueError if `path` is not what was recorded."""
    if found["sha256"] != recorded["sha256"]:
        raise ValueError(
            f"{path} is not the file that was recorded: {found['bytes']} bytes, SHA-256 {found['sha256']}; recorded "
            f"{recorded['bytes']} bytes, {recorded['sha256']}. Remove the file to get it again, or its record to "
            "accept it"
        )


def check_record(path: Path, sha256: str | None = None) -> None:
    """For whoever loads `path`: it must be what was recorded, if something was.

    Args:
        sha256: of the bytes that were loaded; None: of the file as it is now.

    Raises:
        ValueError: it is not, or the record is damaged.
    """
    recorded = read_record(path)
    if recorded is not None:
        found = describe(path) if sha256 is None else {"bytes": path.stat().st_size, "sha256": sha256}
        compare(path, recorded, found)
