"""Short trainings of the embedded prior that differ in one setting each. All see as many faces: that is equal time.

    python scripts/avatars64/render.py train=40960            # the faces, once
    OMP_NUM_THREADS=1 python scripts/avatars64/study.py       # 13 rows of 6 minutes, one core; stopped, it goes on

Each row of ROWS is a run of train_prior.py from nothing. Its state is in --out/<row>. The table is
checkpoints/avatars64/study_settings.csv: steps, the mean squared error of v over the last third of the faces, and PSNR
of x0 in dB (clamped) on the 64 validation faces, with the noise of a torch generator seeded 0. It is written after
every row, whose old line it replaces.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from dsg import image_files as images
from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64.faces import DATA, load_faces
from dsg.avatars64.prior_card.denoising import COMPONENTS, denoising, fit_linear, load_prior
from dsg.checkpoints import REPOSITORY
from dsg.files import write_text
from dsg.priors.linear import LinearDenoiser
from dsg.types import to_tensor

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


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--faces", type=positive, default=4800, help="that each row sees, a multiple of its batch [4800]")
    add("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="of ROWS [all]")
    add("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64/training/study", help="folder of the states")
    add("--table", type=Path, default=REPOSITORY / "checkpoints/avatars64/study_settings.csv")
    return parser.parse_args()


def train(options: str, faces: int, out: Path) -> None:
    """The rest of a row's training; nothing, if its budget is spent."""
    script = REPOSITORY / "scripts/avatars64/train_prior.py"
    batch = int(options.split()[-1]) if options.startswith("--batch") else 16
    options = [*COMMON.split(), *options.split(), "--batch", str(batch), "--steps", str(faces // batch)]
    command = [sys.executable, script, *options, "--out", out]
    if subprocess.run(command).returncode:
        raise ValueError(f"{out}: the training did not end well")


def measure(out: Path, faces, linear: LinearDenoiser) -> tuple[dict, dict]:
    """A row of the table; and that of the best linear denoiser."""
    weights = out / "model_0.05.safetensors"
    with safe_open(weights, "pt") as file:
        prediction, steps = (file.metadata()[name] for name in ("prediction", "steps"))
        has_linear = any(name.startswith("linear.") for name in file.keys())
    config = [f"model.prediction={prediction}", f"model.linear={COMPONENTS if has_linear else 0}"]
    table = denoising(load_prior(weights.resolve(), [*config, "model.classes=[]"]), faces, linear).set_index("t")
    log = pd.read_csv(out / "training_log.csv")
    error = log["v_error"][log["step"] > 2 / 3 * int(steps)].mean()
    psnr = {who: {f"t{t}": table[who][t] for t in SHOWN} for who in ("network", "linear")}
    return {"steps": int(steps), "v_error": error} | psnr["network"], psnr["linear"]


def main() -> None:
    args = parse_args()
    linear = fit_linear(load_faces(DATA / "train"))
    faces = to_tensor(np.stack(list(images.load(DATA / "val", 64).values())))
    kept = pd.read_csv(args.table, index_col="row").T.to_dict() if args.table.exists() else {}
    for row in args.only:
        print(row)
        out = args.out / row.replace(" ", "_").replace(",", "")
        train(ROWS[row], args.faces, out)
        measured, kept["best linear denoiser"] = measure(out, faces, linear)
        kept[row] = {"faces": args.faces} | measured
        write_text(args.table, pd.DataFrame(kept).T.to_csv(index_label="row", float_format="%.5g"))
    print(args.table)


if __name__ == "__main__":
    sys.exit(exit_code(main))
