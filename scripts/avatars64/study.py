"""Short trainings of the embedded prior that differ in one setting each, of equal time.

    python scripts/avatars64/render.py train=40960            # the faces, once
    OMP_NUM_THREADS=1 python scripts/avatars64/study.py       # 13 rows of 7 minutes, one core; stopped, it goes on

Each row of ROWS is a run of train_prior.py from nothing. Its state is in --out/<row>. The table is
checkpoints/avatars64/study_settings.csv: steps, the mean squared error of v over the last 100 steps, and PSNR of x0 in
dB (clamped) on the 64 validation faces, with the noise of a torch generator seeded 0. It is written after every row.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from dsg.arguments import Parser, exit_code
from dsg.avatars64.faces import DATA, load_faces
from dsg.avatars64.prior_card.denoising import COMPONENTS, denoising, fit_linear, load_prior
from dsg.checkpoints import REPOSITORY
from dsg.priors.linear import LinearDenoiser
from dsg.runs import images
from dsg.runs.inputs import to_tensor
from dsg.runs.results import write_text

COMMON = "--device cpu --attributes --warmup 50 --ema 0.05"
ROWS = {
    "base": "",  # v, balanced, Muon 2e-3, 16 faces
    "seed 1": "--seed 1",
    "learning rate 1e-3": "--lr 1e-3",
    "learning rate 4e-3": "--lr 4e-3",
    "warm-up 10": "--warmup 10",
    "warm-up 150": "--warmup 150",
    "batch 8": "--batch 8",
    "batch 32": "--batch 32",
    "min-SNR": "--weighting min_snr",
    "EDM": "--weighting edm",
    "no linear part, v": "--linear 0",
    "no linear part, x0": "--linear 0 --prediction x0",
    "no linear part, eps": "--linear 0 --prediction eps",
}
SHOWN = (999, 900, 800, 700, 600, 500, 400, 300, 200, 100, 50, 10)  # of t
RECENT = 4  # rows of the log, of 25 steps each


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=7, help="of each row, computing time of all cores [7]")
    add("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="of ROWS [all]")
    add("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64/training/study", help="folder of the states")
    add("--table", type=Path, default=REPOSITORY / "checkpoints/avatars64/study_settings.csv")
    return parser.parse_args()


def train(options: str, minutes: float, out: Path) -> None:
    """The rest of a row's training; nothing, if its budget is spent."""
    script = REPOSITORY / "scripts/avatars64/train_prior.py"
    command = [sys.executable, script, *COMMON.split(), *options.split(), "--minutes", str(minutes), "--out", out]
    if subprocess.run(command).returncode:
        raise ValueError(f"{out}: the training did not end well")


def measure(out: Path, faces, linear: LinearDenoiser) -> dict:
    """A row of the table."""
    weights = out / "model_0.05.safetensors"
    with safe_open(weights, "pt") as file:
        prediction, steps = (file.metadata()[name] for name in ("prediction", "steps"))
        has_linear = any(name.startswith("linear.") for name in file.keys())
    config = [f"model.prediction={prediction}", f"model.linear={COMPONENTS if has_linear else 0}"]
    table = denoising(load_prior(weights.resolve(), [*config, "model.classes=[]"]), faces, linear).set_index("t")
    error = pd.read_csv(out / "training_log.csv")["v_error"].tail(RECENT).mean()
    return {"steps": int(steps), "v_error": error} | {f"t{t}": table["network"][t] for t in SHOWN}


def main() -> None:
    args = parse_args()
    linear = fit_linear(load_faces(DATA / "train"))
    faces = to_tensor(np.stack(list(images.load(DATA / "val", 64).values())))
    rows = []
    for row in args.only:
        print(row)
        out = args.out / row.replace(" ", "_").replace(",", "")
        train(ROWS[row], args.minutes, out)
        rows.append({"row": row, "minutes": args.minutes} | measure(out, faces, linear))
        write_text(args.table, pd.DataFrame(rows).to_csv(index=False, float_format="%.5g"))
    print(args.table)


if __name__ == "__main__":
    sys.exit(exit_code(main))
