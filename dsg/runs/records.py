"""What a line in `parts/` may say: a record of an image, of its scores, of a set's metric, or of a failure.

A results folder may be somebody else's, or damaged: a line that no run of ours writes counts for nothing.
"""

import itertools
import json
import re
from collections.abc import Mapping

NUMBERS = ("seconds", "network_evaluations", "backward_passes")  # that every image has
TEXTS = ("id", "image", "input", "code", "torch", "device")
BY = "by:"  # before a metric's name: with which settings it was computed
FILE = re.compile(r"(images|condition|truth)/[^/\0]+\.(png|txt)")
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # half of a surrogate pair is no character


def parse_record(line: str) -> dict | None:
    """The record; None where a kill or a full disk cut the line short.

    Raises:
        ValueError: no run of ours writes such a line.
    """
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError:
        return None
    if not isinstance(record, dict) or not all(map(is_text, record)) or not is_usable(record):
        raise ValueError("no record of an image, a score, a set or a failure")
    return record


def parse_curve(line: str) -> dict | None:
    """What was recorded of an image's steps: its id, and lists of numbers of one length; None: it is no such line."""
    try:
        curve = json.loads(line)
        lists = {name: values for name, values in curve.items() if name != "id"}
        numbers = all(map(is_number, itertools.chain(*lists.values())))
        whole = numbers and set(lists) in ({"t", "loss"}, {"t", "loss", "residual"}) and is_text(curve["id"])
        return curve if whole and len({len(values) for values in lists.values()}) == 1 else None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None


def is_usable(record: Mapping) -> bool:
    """Whether every field has the type and range that the tables need."""
    if "set" in record:
        ends = [record.get(name) for name in ("low", "high", "floor")]
        return (
            is_text(record["set"]) and is_number(record.get("value")) and all(e is None or is_number(e) for e in ends)
        )
    if "failed" in record:
        whole = is_text(record["failed"]) and is_text(record.get("image")) and is_count(record.get("step_index"))
        return whole and is_number(record.get("t"))
    numbers = [value for name, value in record.items() if not is_about(name)]
    texts = [value for name, value in record.items() if is_about(name) and name not in ("sample", "files")]
    return all(map(is_number, numbers)) and all(map(is_text, texts)) and ("files" not in record or is_image(record))


def is_image(record: Mapping) -> bool:
    """Whether the record of an image is complete: what it is called, what it was made of, at what cost, its files."""
    if not all(name in record for name in (*NUMBERS, *TEXTS)) or not is_count(record.get("sample")):
        return False
    files, name, image = record["files"], record["id"], record["image"]
    if not isinstance(files, dict) or not all(FILE.fullmatch(k) and is_text(digest) for k, digest in files.items()):
        return False
    return f"images/{name}.png" in files and name in (image, f"{image}_{record['sample']}")


def is_about(name: str) -> bool:
    """Whether a field says what an image is or how it was made; the others are numbers."""
    return name in (*TEXTS, "prompt", "sample", "files") or name.startswith(BY)


def is_text(value: object) -> bool:
    return isinstance(value, str) and not UNWRITABLE.search(value)


def is_number(value: object) -> bool:
    """Not a bool; NaN is one: a metric may have none."""
    return isinstance(value, float) or (is_int(value) and abs(value) < 2**53)


def is_count(value: object) -> bool:
    return is_int(value) and 0 <= value < 2**53


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
