"""Train the embedded prior on the avatars64 faces, with exponential moving averages of its weights.

    python scripts/avatars64/render.py train=40960              # the faces, once
    python scripts/avatars64/train_prior.py --minutes 360       # stop it at any moment; the same line goes on
    python scripts/avatars64/train_prior.py --minutes 9 --batch 256 --warmup 500 --bf16 --compile    # on a GPU

The network predicts v = sqrt(ab) eps - sqrt(1-ab) x0 (Salimans & Ho, arXiv 2202.00512). At high noise that is the clean
image but for its sign, so an error of the output is an error of x0 of the same size; one of a predicted eps is
multiplied by 157 there. What is learned is the difference to the best linear denoiser (`dsg/priors/linear.py`),
fitted when the training begins, which travels with the weights: the prior begins where a linear model ends. That part
fades as the noise does, by 1 - ab. Beside the image the network is given probabilities of the attributes that
--attributes names, computed from the image (`dsg/priors/class_posterior.py`). Half of the noise levels are drawn where
images have most to learn.

Everything that a step draws (faces, noise levels, noise) is a function of (seed, step), so a stopped run goes on with
the very next step. The learning rate follows a cosine over the whole budget. With --steps, a run that was stopped is
bit for bit the run that was not. With --minutes it ends on time on any machine: a CPU counts the time of all its cores
and leaves out what other programs take, a GPU counts the clock.

The state is in --out: training.pt (all that is needed to go on), training_log.csv and model_<width>.safetensors
(averaged weights, fp16). It is saved every two minutes, and when Ctrl-C or SIGTERM stops the program. Nothing outside
--out is written, except by --export FILE.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dsg.arguments import Parser, exit_code, positive, positive_number
from dsg.avatars64.faces import DATA, read_shards
from dsg.avatars64.prior_training.trainer import Trainer, replace
from dsg.checkpoints import REPOSITORY, record_shipped
from dsg.options import check
from dsg.priors.adm import ADMUNet
from dsg.runs.prepare import pick_device


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=positive_number, default=360, help="computing time of all parts together [360]"
    )
    budget.add_argument("--steps", type=positive, help="steps of all parts together, in place of minutes")
    add("--prediction", choices=("v", "eps", "x0"), default="v", help="what the network puts out [v]")
    add(
        "--weighting",
        choices=("v", "eps", "x0", "edm", "min_snr", "balanced"),
        default="balanced",
        help="of the loss [balanced]",
    )
    add("--coarse", type=float, default=0, help="weight of the error of 8x8-pixel means, beside that of pixels [0]")
    add("--optimizer", choices=("adamw", "muon"), default="muon", help="[muon]")
    add("--lr", type=float, default=2e-3, help="peak learning rate [2e-3]")
    add("--warmup", type=positive, default=100, help="steps until the peak [100]")
    add("--batch", type=positive, default=16, help="faces per step [16]")
    add("--ema", type=float, nargs="+", default=[0.05, 0.1, 0.15], help="widths of the averages, shares of the run")
    add("--linear", type=int, default=120, metavar="K", help="components of the linear denoiser; 0: without it [120]")
    add("--attributes", nargs="*", default=["skin", "hair_color"], help="whose posterior the network is given")
    add("--init", type=Path, metavar="FILE", help="begin with these weights of the same network, whatever it predicted")
    add("--flips", action="store_true", help="mirror half of the faces")
    add("--seed", type=int, default=0)
    add("--bf16", action="store_true", help="bfloat16 autocast; many times slower on a CPU without AVX-512 or AMX")
    add("--compile", action="store_true", help="torch.compile: worth it on a GPU; minutes before the first step")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--config", type=Path, default=REPOSITORY / "configs/model/avatars64.yaml", help="has model.unet")
    add("--unet", nargs="+", default=[], metavar="KEY=VALUE", help="other hyper-parameters of the network")
    add("--data", type=Path, default=DATA / "train", help="folder of the faces (data/avatars64/train)")
    add("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64/training", help="folder of the state")
    add("--export", type=Path, metavar="FILE", help="write averaged weights there, and train no further")
    add("--width", type=float, help="which average to export [the first]")
    add("--force", action="store_true", help="--export may replace a file")
    args = parser.parse_args()
    if args.linear and args.prediction != "v":
        parser.error("--linear goes with --prediction v: say --linear 0 for another")
    if args.attributes and not args.linear:
        parser.error("--attributes needs --linear: say --attributes without a name")
    args.device = str(pick_device(args.device))
    try:
        shipped = OmegaConf.load(args.config).model.unet
    except (YAMLError, OmegaConfBaseException, AttributeError):
        parser.error(f"--config {args.config}: a YAML file with model.unet is expected")
    args.unet = OmegaConf.to_container(OmegaConf.merge(shipped, OmegaConf.from_dotlist(args.unet)))
    for problem in check(args.unet, ADMUNet, "--unet"):
        parser.error(problem.message or f"{problem.path} is unknown")
    with torch.device("meta"):  # takes no memory
        ADMUNet(**args.unet)  # before the faces are read
    return args


def export(args: argparse.Namespace, trainer: Trainer) -> None:
    width = args.ema[0] if args.width is None else args.width
    if not trainer.step or width not in trainer.averages.nets:
        raise SystemExit(f"{args.out} holds no average of width {width:g}")
    if args.export.exists() and not args.force:
        raise SystemExit(f"{args.export} exists; --force replaces it")
    replace(args.export, lambda file: trainer.export(file, width))
    record_shipped(args.export)
    print(f"{args.export}: {trainer.step} steps, average of width {width:g}")


@contextmanager
def postponed_signals() -> Iterator[list[int]]:
    """The list grows when SIGINT or SIGTERM comes, so that a step ends and is saved; the old handlers come back."""
    signals = []
    before = {n: signal.signal(n, lambda number, _: signals.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    args = parse_args()
    table, (faces,) = read_shards(args.data, "images")
    unknown = [name for name in args.attributes if name not in table]
    if unknown:
        raise ValueError(f"--attributes {unknown[0]}: one of {', '.join(table.columns)}")
    labels = [torch.from_numpy(table[name].factorize(sort=True)[0]).to(args.device) for name in args.attributes]
    args.classes = [int(column.max()) + 1 for column in labels]
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args, faces.to(args.device), labels)
    if args.export:
        return export(args, trainer)
    with postponed_signals() as signals:
        trainer.run(lambda: bool(signals))
    print(
        f"{trainer.step} steps, {trainer.step * args.batch} faces seen, {100 * trainer.progress():.0f} % of the budget"
    )


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="the same command goes on from the last save"))
