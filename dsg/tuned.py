"""Tables of values per task, sampler and number of steps: configs/tuned/<model>.csv, and any.csv for every model.

A row is `task,sampler,steps,option,value,source`. Each of the first three may be `any`; a row that names more of them
wins over one that names fewer, the task before the sampler before the steps.
"""

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

COLUMNS = ["task", "sampler", "steps", "option", "value", "source"]
ANY = "any"
Key = tuple[str, str, str]
Table = dict[Key, dict[str, Any]]  # (task, sampler, steps) -> option -> value


def read_tables(name: str, folders: Iterable[str | Path]) -> Table:
    """configs/tuned/<name>.csv, and above it those of the user's folders, option by option."""
    table: Table = {}
    for path in (Path(folder) / "tuned" / f"{name}.csv" for folder in folders):
        if path.is_file():
            for key, options in read_table(path, path.stat().st_mtime_ns).items():
                table[key] = {**table.get(key, {}), **options}
    return table


@cache
def read_table(path: Path, modified: int = 0) -> Table:
    """The rows of a table. `modified`: the file's time, so that one that is edited is read again.

    Raises:
        ValueError: one line that names the file and the row.
    """
    table: Table = {}
    for number, row in enumerate(csv.reader(path.read_text(encoding="utf-8").splitlines()), start=1):
        if number == 1 and row != COLUMNS:
            raise ValueError(f"{path}, line 1: the columns are {','.join(COLUMNS)}")
        if not row or number == 1:
            continue
        if len(row) != len(COLUMNS) or not (row[2] == ANY or row[2].isdecimal()) or not row[3]:
            raise ValueError(f"{path}, line {number}: expected {','.join(COLUMNS)}, steps a number or {ANY}")
        table.setdefault(tuple(row[:3]), {})[row[3]] = parse_value(row[4])
    return table


def parse_value(text: str) -> Any:
    """JSON, or text as it stands: `0.2`, `[100, 1000]`, `true`, `ddpm`."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def matching(table: Table, task: str, sampler: str, steps: object) -> list[tuple[Key, dict[str, Any]]]:
    """The entries that hold for a run, from general to special."""
    keys = product((ANY, task), (ANY, sampler), (ANY, str(steps)))
    return [(key, table[key]) for key in keys if key in table]


def by_steps(table: Table, task: str, sampler: str) -> dict[int, dict[str, Any]]:
    """Number of steps -> options, of exactly this task and sampler."""
    entries = {int(key[2]): entry for key, entry in table.items() if key[:2] == (task, sampler) and key[2] != ANY}
    return dict(sorted(entries.items()))


def at_steps(entries: Mapping[int, Mapping], steps: int, numbers: Collection[str]) -> tuple[dict[str, float], str]:
    """Values for a number of steps that has no entry, from the entries (`by_steps`) that hold one number alone.

    Logarithm against logarithm between the two neighbours; the nearest beyond the ends, and beside a zero. Entries
    with further options, such as a kernel, hold for their own number of steps only.

    Args:
        numbers: the options that are numbers.

    Returns:
        option -> value with four digits, and words such as "between 20 and 100 steps".
    """
    values, words = {}, ""
    for option in numbers:
        known = {n: entry[option] for n, entry in entries.items() if set(entry) == {option}}
        if known:
            low = max((n for n in known if n <= steps), default=min(known))
            high = min((n for n in known if n >= steps), default=max(known))
            values[option] = float(f"{_between(known, low, high, steps):.4g}")
            words = f"at {low} steps" if low == high else f"between {low} and {high} steps"
    return values, words


def _between(known: Mapping[int, float], low: int, high: int, steps: int) -> float:
    share = 0.0 if low == high else math.log(steps / low) / math.log(high / low)
    if min(known[low], known[high]) <= 0:
        return known[low if share <= 0.5 else high]
    return math.exp((1 - share) * math.log(known[low]) + share * math.log(known[high]))


def set_value(text: str, task: str, sampler: str, steps: int, option: str, value: float, source: str) -> str:
    """The text of a table with this value, four digits; all other rows stay as they are.

    A new row comes behind the smaller numbers of steps of its sampler, else behind its task, else at the end.
    """
    lines = text.splitlines() or [",".join(COLUMNS)]
    keys, new = [row[:4] for row in csv.reader(lines)], [task, sampler, str(steps), option]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([*new, f"{value:.4g}", source])
    if new in keys:
        lines[keys.index(new)] = line.getvalue()
    else:
        same_task = [n for n, key in enumerate(keys) if key[0] == task]
        same_sampler = [n for n in same_task if keys[n][1] == sampler]
        smaller = [n for n in same_sampler if keys[n][2].isdecimal() and int(keys[n][2]) <= steps]
        before_larger = [n - 1 for n in same_sampler[:1]]
        places = smaller or before_larger or same_task or [len(lines) - 1]
        lines.insert(places[-1] + 1, line.getvalue())
    return "\n".join(lines) + "\n"
