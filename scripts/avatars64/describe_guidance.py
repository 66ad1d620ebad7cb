"""Write the card of the embedded guidance networks, evaluator and selector: GUIDANCE.md and guidance.png.

    python scripts/avatars64/describe_guidance.py --out /tmp/card     # some ten minutes on two cores
    python scripts/avatars64/describe_guidance.py --overwrite         # checkpoints/avatars64/GUIDANCE.md

Every number in the card is computed here, on faces of held-out identities that are drawn for it: split `test`, from
index 1000 on (the repository's 256 test faces are 0 to 255). Only the time and the steps of the trainings are told,
with --trained. Beside the card goes evaluator/statistics.safetensors: real faces in the evaluator's features, for
Frechet distances.
"""

import argparse
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64.drawing import check_extra
from dsg.avatars64.guidance_card.card import GROUP, draw_faces, write_card
from dsg.avatars64.guidance_card.networks import FILES
from dsg.checkpoints import REPOSITORY, require

TRAINED = (
    "identity=86:6519",
    "clip=33:1811",
    "parts=8:950",
    "attributes=37:3137",
    "labels=8:2729",
    "selector_attributes=14:2297",
    "selector_labels=5:529",
)
TEMPLATE = Path(__file__).with_name("guidance_card.template.md")


def training(word: str) -> tuple[str, tuple[float, int]]:
    """name=minutes:steps, or name=minutes."""
    name, _, numbers = word.partition("=")
    minutes, _, steps = numbers.partition(":")
    try:
        if name not in FILES:
            raise ValueError
        return name, (float(minutes), int(steps or 0))
    except ValueError:
        expected = f"name=minutes:steps with name one of {', '.join(FILES)}"
        raise argparse.ArgumentTypeError(f"{word}: expected is {expected}") from None


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--people", type=positive, default=1000, help=f"faces of the card (1000; at least {GROUP})")
    folder = REPOSITORY / "checkpoints/avatars64"
    parser.add_argument("--folder", type=Path, default=folder, help="with the weights (checkpoints/avatars64)")
    parser.add_argument("--out", type=Path, help="folder of what is written (that of the weights)")
    parser.add_argument("--overwrite", action="store_true", help="replace a card in --out, its figure and statistics")
    trained = dict(nargs="+", type=training, metavar="name=minutes:steps", default=[training(word) for word in TRAINED])
    parser.add_argument("--trained", help="time and steps of each training (those of the embedded networks)", **trained)
    parser.add_argument("--seed", type=int, default=0, help="of the faces (0)")
    parser.add_argument("--workers", type=positive, help="processes that draw (all cores)")
    args = parser.parse_args()
    args.out, args.trained = args.out or args.folder, dict(args.trained)
    if args.people < GROUP:
        parser.error(f"--people: at least {GROUP}")
    if missing := [name for name in FILES if name not in args.trained]:
        parser.error(f"--trained: nothing on {', '.join(missing)} (name=minutes:steps)")
    return args


def check(args: argparse.Namespace) -> None:
    """Raise before any work if something is missing, or would be overwritten."""
    check_extra()
    for file in FILES.values():
        require(args.folder / file.path, "avatars64")
    for name in ("GUIDANCE.md", "guidance.png", "evaluator/statistics.safetensors"):
        if (args.out / name).exists() and not args.overwrite:
            raise FileExistsError(f"{args.out / name} is there already: add --overwrite, or write elsewhere (--out)")


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    check(args)
    with ProcessPoolExecutor(args.workers) as pool:
        faces = draw_faces(args.seed, args.people, pool)
        written = write_card(args.folder, args.out, TEMPLATE.read_text(), faces, args.trained, args.seed, pool)
    print(f"{args.out}: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
