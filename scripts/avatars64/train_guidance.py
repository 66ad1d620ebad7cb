"""Train the networks that guide the semantic tasks on avatars64, or that evaluate them, each on a budget of time.

    python scripts/avatars64/render.py train=40960 identities=2048
    python scripts/avatars64/estimate.py train identities                 # what identity and clip see of the prior
    python scripts/avatars64/train_guidance.py identity --minutes 86      # guides faceid: IR-SE with ArcFace's loss
    python scripts/avatars64/train_guidance.py clip --minutes 33          # guides clip_text and style
    python scripts/avatars64/train_guidance.py parts --minutes 8          # guides segmentation
    python scripts/avatars64/train_guidance.py attributes --minutes 37    # evaluates all but segmentation
    python scripts/avatars64/train_guidance.py labels --minutes 8         # evaluates segmentation
    python scripts/avatars64/train_guidance.py selector_attributes --minutes 14   # chooses step sizes, as the evaluator
    python scripts/avatars64/train_guidance.py selector_labels --minutes 5        # reports what came out

The weights (fp16) and the state go to checkpoints/avatars64/training/, which is not in git. A stopped training goes on
from its state, and starts again if training_<name>.pt is removed. `--out checkpoints/avatars64 --overwrite` replaces
the embedded weights; `scripts/avatars64/describe_guidance.py` writes their card.
"""

import argparse
import sys
from pathlib import Path

from dsg.arguments import Parser, exit_code, positive_number
from dsg.avatars64.faces import DATA
from dsg.avatars64.guidance_training.loop import JOBS, SEEDS, Training
from dsg.checkpoints import REPOSITORY


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("name", choices=list(JOBS))
    parser.add_argument(
        "--minutes", type=positive_number, default=10, help="of training, all resumed parts together (10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="0; the evaluator takes 1000 more, the selector 2000")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the faces (data/avatars64)")
    out = REPOSITORY / "checkpoints/avatars64/training"
    parser.add_argument("--out", type=Path, default=out, help="folder of the weights (checkpoints/avatars64/training)")
    parser.add_argument("--init", type=Path, metavar="FOLDER", help="begin with its network: checkpoints/avatars64")
    parser.add_argument("--bf16", action="store_true", help="much faster with AMX, much slower without AVX-512")
    parser.add_argument("--overwrite", action="store_true", help="replace weights that another training left in --out")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    seed = args.seed + SEEDS.get(args.name, 0)
    training = Training(args.name, args.minutes, seed, args.data, args.out, args.overwrite, args.init, args.bf16)
    weights = args.out / training.job.file
    if training.finished:
        print(f"{args.name}: finished already, {training.step} steps: {weights}")
        return
    loss = training.run()
    print(f"{args.name}: {training.step} steps of {training.job.batch} faces, loss {loss:.4f}: {weights}")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="the same command goes on from the last save"))
