"""Disturb small runs on purpose, and count those that end as if nothing had been.

    python scripts/fault_trial.py --kills 100 --races 50 --full 50 --damages 100 --inputs 5000

A trial makes a small run in a temporary folder, disturbs it, calls it again, and compares it with a run that nothing
disturbed. The faults are drawn from --seed. The exit code is 1 if any trial ended badly: something was lost or mixed,
or an error was not one clear line. docs/reliability.md has the figures of one call.
"""

import random
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from dsg import faults
from dsg.arguments import Parser, not_negative
from dsg.files import write_text


def main() -> int:
    args = parse()
    wrong: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        kinds = trials(args, Path(folder))
        for name, (count, trial) in kinds.items():
            wrong[name] = []
            for number in tqdm(range(count), name, unit="trial", disable=count == 0 or None):
                found = trial(Path(folder) / f"{name.replace(' ', '_')}-{number}", number)
                if found:
                    wrong[name].append(found)
                    tqdm.write(f"{name}, trial {number}: {found}")
            if args.out is not None:
                write_text(args.out, table(kinds, wrong))
    print(table(kinds, wrong))
    return 1 if any(wrong.values()) else 0


def table(kinds: Mapping[str, tuple], wrong: Mapping[str, list[str]]) -> str:
    """A table of the faults that have been tried so far."""
    rows = [f"| {name} | {kinds[name][0]} | {kinds[name][0] - len(found)} |" for name, found in wrong.items()]
    return "\n".join(["| fault | tried | ended well |", "|---|---|---|", *rows]) + "\n"


def trials(args: Namespace, folder: Path) -> dict[str, tuple[int, Callable[[Path, int], str | None]]]:
    """Name -> how many, and what one of them does in a folder: it says what is wrong, if anything."""
    reference = folder / "undisturbed"
    seconds = faults.undisturbed(reference)

    def rng(number: int) -> random.Random:
        return random.Random(1000 * args.seed + number)

    return {
        "killed at a random moment": (args.kills, lambda out, k: faults.killed(out, reference, rng(k), seconds)),
        "called twice at once": (args.races, lambda out, k: faults.raced(out, reference)),
        "two runs into one folder": (args.races, lambda out, k: faults.contested(out, reference)),
        "disk full": (args.full, lambda out, k: faults.filled(out, reference, rng(k))),
        "a file damaged": (args.damages, lambda out, k: faults.damaged(out, reference, rng(k))),
        "an image file damaged": (args.inputs, lambda out, k: faults.misread(folder, rng(k))),
    }


def parse() -> Namespace:
    parser = Parser(__doc__)
    for option, default, what in (
        ("kills", 20, "runs killed at a random moment, with W&B offline, and called again"),
        ("races", 10, "runs called twice at once, and pairs of runs into one folder"),
        ("full", 10, "runs on a disk that is full"),
        ("damages", 20, "finished runs of which one file is damaged"),
        ("inputs", 1000, "image files that are damaged"),
        ("seed", 0, "of the faults"),
    ):
        parser.add_argument(f"--{option}", type=not_negative, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--folder", type=Path, help="where the runs are made, and removed (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="a file for the table, Markdown")
    args = parser.parse_args()
    for option, folder in (("folder", args.folder), ("out", args.out and args.out.parent)):
        if folder is not None and not folder.is_dir():
            parser.error(f"--{option} {vars(args)[option]}: no such folder")
    return args


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)  # Pillow's, of damaged files
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
