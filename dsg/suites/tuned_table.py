"""One entry of configs/tuned/<model>.yaml is written; all other text of the file stays as it is."""

import re
from collections.abc import Mapping

import yaml
from yaml import MappingNode, Node


def set_entry(text: str, key: tuple[str, str, int], value: Mapping[str, float], note: str) -> str:
    """The text with the value of (task, sampler, steps) in it, `# note` behind.

    Other options of the entry stay. A sampler that the task did not have gets the entry for `any` number of steps too.

    Args:
        text: of the file; may be empty.
        value: the option and its value.

    Raises:
        ValueError: the entry cannot be written without changing others.
    """
    ((option, number),), (task, sampler, steps) = value.items(), key
    name, entry = f"s{steps}", f"{{{option}: {number:.4g}}}"
    root = yaml.compose(text)
    of_task, of_sampler = _child(root, task), _child(_child(root, task), sampler)
    if of_sampler is None:
        lines = [f"  {sampler}:", f"    {name}: {entry}  # {note}", f"    any: {entry}"]
        changed = _append(text, lines, task, of_task)
    elif _child(of_sampler, name) is None:
        changed = _insert_line(text, f"    {name}: {entry}  # {note}", _place(of_sampler, steps))
    else:
        changed = _replace(text, _child(of_sampler, name), option, f"{number:.4g}", note)
    _check(text, changed, (task, sampler, name), option, float(f"{number:.4g}"))
    return changed


def _child(node: Node | None, key: str) -> Node | None:
    """The value of a key, or None."""
    if not isinstance(node, MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _append(text: str, lines: list[str], task: str, of_task: Node | None) -> str:
    """A new sampler: behind the task's others, or behind everything."""
    if of_task is not None:
        return _insert_line(text, "\n".join(lines), _last_line(of_task) + 1)
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "\n".join([f"{task}:", *lines]) + "\n"


def _place(of_sampler: Node, steps: int) -> int:
    """The line where an entry for so many steps belongs: in order, before `any`."""
    for name, _ in of_sampler.value:
        number = re.fullmatch(r"s(\d+)", name.value)
        if number is None or int(number[1]) > steps:
            return name.start_mark.line
    return _last_line(of_sampler) + 1


def _last_line(node: Node) -> int:
    """Of a node; a block's own end mark lies behind the comments that follow it."""
    if isinstance(node, MappingNode) and not node.flow_style and node.value:
        return _last_line(node.value[-1][1])
    return node.end_mark.line


def _insert_line(text: str, line: str, at: int) -> str:
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines[:at], line + "\n", *lines[at:]])


def _replace(text: str, entry: Node, option: str, number: str, note: str) -> str:
    """The entry's number; the comment behind it."""
    old = _child(entry, option)
    if old is not None:
        start, end = old.start_mark.index, old.end_mark.index
        text = text[:start] + number + text[end:]
        where = text.index("\n", start) if "\n" in text[start:] else len(text)
    else:
        start = entry.end_mark.index - 1  # of the closing brace
        text = text[:start] + f", {option}: {number}" + text[start:]
        where = text.index("\n", start) if "\n" in text[start:] else len(text)
    line_start = text.rfind("\n", 0, where) + 1
    line = re.sub(r"\s+#.*$", "", text[line_start:where])
    return text[:line_start] + f"{line}  # {note}" + text[where:]


def _check(before: str, after: str, path: tuple[str, str, str], option: str, number: float) -> None:
    """Whether the entry, and no other, is another one now."""
    wanted = _unshared(yaml.safe_load(before) or {})  # an alias is the same dict
    task, sampler, key = path
    new = sampler not in (wanted.get(task) or {})
    entries = wanted.setdefault(task, {}).setdefault(sampler, {})
    entries[key] = {**entries.get(key, {}), option: number}
    if new:
        entries["any"] = {option: number}
    try:
        found = yaml.safe_load(after)
    except yaml.YAMLError:
        found = None
    if found != wanted:
        raise ValueError(f"{task}.{sampler}.{key} cannot be written without changing other entries: write it by hand")


def _unshared(tree):
    return {key: _unshared(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
