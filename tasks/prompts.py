"""Prompts of a run: from an option to texts, and from a text to a file name."""

import re
from hashlib import sha256

from dsg.files import resolve


def read_prompts(source: str | None, task: str, optional: bool = False) -> list[str | None]:
    """The prompts of the option `task.prompt`: a text, or the lines of a .txt file.

    Empty lines, and those that begin with #, are left out. [None] if nothing is given and that is allowed.

    Raises:
        ValueError: none, no such file, or one prompt twice.
    """
    if source is None or not str(source).strip():
        if optional:
            return [None]
        raise ValueError(f"task={task} needs task.prompt=<text, or a .txt file with a prompt per line>")
    if not str(source).endswith(".txt"):
        return [str(source).strip()]
    path = resolve(source)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"task.prompt={source} cannot be read: {error}") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"task.prompt={source}: no prompt in it (one per line)")
    doubled = {p for p in prompts if prompts.count(p) > 1}
    if doubled:
        raise ValueError(f"task.prompt={source}: {sorted(doubled)[0]!r} is there twice (samples=<n> makes several)")
    return prompts


def slug(text: str, longest: int = 60) -> str:
    """The text as a file name; a long one, or one of another script, ends in a hash of all of it."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) <= longest and text.isascii() and name:
        return name
    return f"{name[:longest].strip('-')}-{sha256(text.encode()).hexdigest()[:8]}".lstrip("-")
