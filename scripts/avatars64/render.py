"""Draw the faces of avatars64: vector faces from `python-avatars` (MIT) at 64 px on random plain backgrounds.

    python scripts/avatars64/render.py train=40960        # data/avatars64/train/shard_*.npz + .csv (not in git)
    python scripts/avatars64/render.py identities=2048    # training identities, 16 images of each (not in git)
    python scripts/avatars64/render.py val=64 test=256    # the PNGs that the repository ships, with attributes.csv

Face i of a split is a function of (seed, split, i) alone. Each identity belongs to one split: no person of `val` or
`test` is seen in training. What is there already is left as it is, so a stopped command goes on; a PNG with other
content is not overwritten.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64.attributes import SPLITS
from dsg.avatars64.drawing import check_extra
from dsg.avatars64.faces import DATA, write_faces

KNOWN = ("identities", *SPLITS)


def split_and_count(word: str) -> tuple[str, int]:
    split, _, count = word.partition("=")
    if split not in KNOWN or not count.isdecimal() or int(count) == 0:
        expected = f"split=count with split one of {', '.join(KNOWN)} and count > 0"
        raise argparse.ArgumentTypeError(f"{word}: expected is {expected}")
    return split, int(count)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "counts",
        nargs="+",
        type=split_and_count,
        metavar="split=count",
        help="of faces; of people if it is identities",
    )
    parser.add_argument("--out", type=Path, default=DATA, help="folder (default: data/avatars64)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0, that of the shipped faces")
    parser.add_argument("--workers", type=positive, help="processes (default: all cores)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_extra()
    with ProcessPoolExecutor(args.workers) as pool:
        for split, count in args.counts:
            write_faces(args.out, split, count, args.seed, pool)


if __name__ == "__main__":
    sys.exit(exit_code(main))
