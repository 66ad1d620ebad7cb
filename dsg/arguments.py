"""Parts of command lines: what cannot be used is one line."""

import argparse
import math
import sys
from collections.abc import Callable
from typing import NoReturn

from dsg.files import first_line


def positive(text: str) -> int:
    """An integer, at least 1."""
    return _integer(text, 1)


def not_negative(text: str) -> int:
    """An integer, at least 0."""
    return _integer(text, 0)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0 is expected")
    return number


def _integer(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text}: an integer, at least {least}, is expected")
    return number


class Parser(argparse.ArgumentParser):
    """Shows the script's docstring as it stands; an option that cannot be used is one line on stderr, exit 2."""

    def __init__(self, description: str | None = None, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def exit_code(work: Callable[[], int | None], stopped: str = "the same command goes on") -> int:
    """The exit code of a script: what its work returns, or 0. An error is one line on stderr and 2, Ctrl-C 130.

    Args:
        stopped: what is said of an interrupted work.
    """
    try:
        return work() or 0
    except (ValueError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {stopped}", file=sys.stderr)
        return 130
