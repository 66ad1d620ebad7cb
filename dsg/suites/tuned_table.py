"""Writes one entry of a tuned table, configs/tuned/<model>.yaml; the rest of the file stays as it is."""

import io
import re
from collections.abc import Mapping

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

INDENT = 4  # of the entries


def set_entry(text: str, key: tuple[str, str, int], value: Mapping[str, float], note: str) -> str:
    """The table with the value of (task, sampler, steps), and `# note` behind it.

    Other options of the entry stay. A sampler that the task did not have gets the entry for `any` number of steps too.

    Args:
        text: of the file; may be empty.
        value: the option and its value.

    Raises:
        ValueError: the entry is shared with others by a YAML alias.
    """
    yaml = YAML()
    yaml.width = 1000
    table = yaml.load(text) or CommentedMap()
    ((option, number),), (task, sampler, steps) = value.items(), key
    number, name = _four_digits(number), f"s{steps}"
    is_new = sampler not in table.get(task, {})
    entries = table.setdefault(task, CommentedMap()).setdefault(sampler, CommentedMap())
    entry = entries.get(name, _flow({}))
    if _is_shared(table, entries) or _is_shared(table, entry):
        raise ValueError(f"{task}.{sampler}.{name} cannot be written without changing other entries: write it by hand")
    entry[option] = number
    if name not in entries:
        entries.insert(_position(entries, steps), name, entry)
    if is_new:
        entries["any"] = _flow({option: number})
    _comment(yaml, entries, name, note)
    return _dump(yaml, table)


def _flow(options: Mapping) -> CommentedMap:
    """A mapping in braces."""
    found = CommentedMap(options)
    found.fa.set_flow_style()
    return found


def _four_digits(number: float) -> float | int:
    rounded = float(f"{number:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def _is_shared(table: Mapping, node: object) -> bool:
    samplers = [entries for of_task in table.values() for entries in of_task.values()]
    return sum(found is node for entries in samplers for found in (entries, *entries.values())) > 1


def _position(entries: Mapping, steps: int) -> int:
    """The place of an entry for so many steps: in order, before `any`."""
    for position, name in enumerate(entries):
        number = re.fullmatch(r"s(\d+)", name)
        if number is None or int(number[1]) > steps:
            return position
    return len(entries)


def _comment(yaml: YAML, entries: CommentedMap, name: str, note: str) -> None:
    """Put a comment behind an entry, two spaces after it."""
    entries.ca.items.pop(name, None)
    entries[name].ca.comment = None
    end = INDENT + len(f"{name}: ") + len(_dump(yaml, entries[name]).strip())
    entries.yaml_add_eol_comment(note, name, column=end + 2)


def _dump(yaml: YAML, node: CommentedMap) -> str:
    text = io.StringIO()
    yaml.dump(node, text)
    return text.getvalue()
