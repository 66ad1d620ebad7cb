"""A number of steps that was never tuned, between those that were."""

import math
import re
from collections.abc import Collection, Mapping


def tuned_steps(table: Mapping[str, Mapping]) -> list[int]:
    """The numbers of steps of one task and sampler in a tuned table: `s20`, `s100`."""
    return sorted(int(found[1]) for key in table if (found := re.fullmatch(r"s(\d+)", str(key))))


def at_steps(table: Mapping[str, Mapping], steps: int, numbers: Collection[str]) -> tuple[dict[str, float], str]:
    """The values for `steps` of those entries that hold a number alone, and between which of them it lies.

    Logarithm against logarithm between the two neighbours; the nearest beyond the ends, and beside a zero. Entries
    that name other options too, such as a kernel, hold for their own number of steps only.

    Args:
        table: of one task and sampler, `s20` -> options; `any` is left alone.
        numbers: the options that are numbers.

    Returns:
        option -> value, four digits, as the table has them; and words, such as "between 20 and 100 steps".
    """
    values, words = {}, ""
    for option in numbers:
        known = {n: table[f"s{n}"][option] for n in tuned_steps(table) if set(table[f"s{n}"]) == {option}}
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
