"""Write the card of the embedded prior: README.md with its figures, and denoising.csv.

    python scripts/avatars64/render.py train=40960            # the nearest training faces are looked for in these
    python scripts/avatars64/describe_prior.py --out /tmp/card --tints 512
    python scripts/avatars64/describe_prior.py --tints 512 --overwrite    # checkpoints/avatars64

Everything in the card is measured here, but for the study, whose text is study.md. Per noise level, the network
against the best linear denoiser and the mean image, on test faces, whose identities were not trained on. Unconditional
samples, each beside its nearest training face (L2 on pixels). With --tints, how many samples have a tinted skin, and
their Frechet distance: about 20 minutes of one CPU core for 512; tints.csv has the networks that were measured. The
loss curve is from training_log.csv.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from dsg import image_files as images
from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64.drawing import check_extra
from dsg.avatars64.faces import DATA, face, load_faces
from dsg.avatars64.guidance_card.card import OTHERS
from dsg.avatars64.prior_card.denoising import COMPONENTS, FITTED, curves, denoising, fit_linear, load_prior
from dsg.avatars64.prior_card.samples import nearest, sheet, unconditional
from dsg.avatars64.prior_card.tints import tints
from dsg.checkpoints import REPOSITORY
from dsg.files import write_text
from dsg.metrics.distribution import EvaluatorFrechet
from dsg.types import to_tensor

SHIPPED = REPOSITORY / "checkpoints/avatars64"
HIGH = 900  # t from which on nothing is left but the mean and the largest colours
NOT_MEASURED = "Not measured for these weights (`--tints 512` does it)."
CARD = """# avatars64: the embedded prior

Written by `python scripts/avatars64/describe_prior.py`; every number and image here is measured by it, but for
what stands from Study on: that is `study.md`.

**What.** An unconditional pixel diffusion model of vector-drawn faces at 64x64: guided-diffusion's ADM U-Net
(`dsg/priors/adm.py`; hyper-parameters in `configs/model/avatars64.yaml`), {parameters:.2f} M parameters, {size:.1f} MB
(fp16, safetensors). It predicts {prediction}; linear betas 1e-4..2e-2 over 1000 steps. With it everything in this
repository runs on a laptop without a download. It says nothing about photographs.

Beside the noisy image the network takes the probabilities of the 7 skin and 10 hair colours of the data. They are
computed from that image in closed form (`dsg/priors/class_posterior.py`). So the prior is as unconditional as without.

**Data and licence.** Faces drawn by [python-avatars](https://github.com/ibonn/python_avatars) (MIT licence; its
drawings follow Pablo Stanley's "Avataaars", free for personal and commercial use), rasterised with `resvg-py`, on plain
random backgrounds: `scripts/avatars64/render.py`. {searched:,} training faces. An identity is (skin, hair, hair colour,
facial hair, nose). Identities are split by a hash, 80 % training, 10 % validation, 10 % test: no identity of the 64
validation and 256 test faces (`data/avatars64/`) was seen in training. The weights carry the repository's MIT licence.

**Training.** `python scripts/avatars64/train_prior.py`: {steps:,} steps, {seen:,} faces seen, {minutes:.0f} minutes of
{machine}. Squared error of v over the last 25 steps: {loss:.4f}.

![loss and denoising error](loss.png)

## Denoising error

PSNR in dB of the predicted x0 (clamped), mean over the first {tested} test faces, with the noise of a torch generator
seeded 0. The linear denoiser is the posterior mean under one Gaussian: mean, {components} principal components and an
isotropic remainder of {fitted:,} training faces. The eps error is the mean square per entry.

{table}

The network contains such a linear denoiser and learns the difference. From t = {high} up there is nothing to learn:
the two are equal within {same:.3f} dB.

## Samples

{count} unconditional samples (`sampler=unconditional`, ddim, eta 1, {sample_steps} steps, seed 0, not selected), each
with its nearest neighbour among {searched:,} training faces to its right. Mean distance (RMS over pixels, in [-1, 1])
of a sample to its nearest training face: {distance:.3f}; of a held-out validation face to its: {held_out:.3f}.

![samples](samples.png)

## Tints

{tints}

## Study

{study}
"""
TINTS = """The median colour of the face's pixels (found by the embedded segmentation network) against the nearest of
the data's seven skin colours, in CIELAB. A sample is tinted if it is further away than the 99th percentile of the
{real} real test faces (limit). median: of the samples' distances; it was not kept for the second network. tinted: the
share of samples in %, with its 95 % bootstrap interval. frechet: distance to real faces in the evaluator's features,
beside that of as many other real faces. steps: of the sampler.

{table}
"""


def about_weights(weights: Path) -> dict:
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    steps, seen = int(metadata["steps"]), int(metadata["images"])
    return {"steps": steps, "seen": seen, "size": weights.stat().st_size / 1e6}


def tint_table(args: argparse.Namespace, prior, test: np.ndarray) -> str:
    """tints.csv, a row per network; with --tints that of these weights is measured."""
    file, digest = args.out / "tints.csv", prior.weights_hash[:10]
    rows = pd.read_csv(file, dtype={"weights": str}).to_dict("records") if file.exists() else []
    if args.tints:
        samples = unconditional(prior, args.tints, args.steps, "tint")
        others = np.stack([face(0, "test", i)[1] for i in range(OTHERS.start, OTHERS.start + args.tints)])
        rows = [row for row in rows if row["network"] != args.name]
        rows.append({"network": args.name, "weights": digest, **tints(samples, test, others), "steps": args.steps})
        write_text(file, pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))
    if digest not in [row["weights"] for row in rows]:
        return NOT_MEASURED
    shown = pd.DataFrame(rows).astype(object)
    table = shown.where(shown.notna(), None).to_markdown(index=False, floatfmt=".3g")
    return TINTS.format(real=len(test), table=table)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--weights", type=Path, default=SHIPPED / "model.safetensors", help="(checkpoints/avatars64/model.safetensors)")
    add("--log", type=Path, default=SHIPPED / "training_log.csv", help="of the training")
    add("--machine", default="one NVIDIA H200", help="that the training took minutes of (one NVIDIA H200)")
    add("--study", type=Path, default=SHIPPED / "study.md", help="what the settings were chosen by")
    add("--out", type=Path, default=SHIPPED, help="folder of the card (checkpoints/avatars64)")
    add("--samples", type=positive, default=48, help="shown in the card (48)")
    add("--steps", type=positive, default=100, help="of the sampler (100)")
    add("--overwrite", action="store_true", help="a card that is in --out may be replaced")
    add("--faces", type=positive, default=64, help="test faces of the table (64)")
    add("--tints", type=positive, metavar="N", help="measure tints and Frechet distance on N samples, at least 500")
    add("--name", default="third, ships", help="of the network in the table of tints")
    add("overrides", nargs="*", help="of the config: model.prediction=v model.linear=120")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.tints:
        check_extra()
    if args.tints and args.tints < EvaluatorFrechet().smallest:
        raise ValueError(f"--tints {args.tints}: at least {EvaluatorFrechet().smallest}")
    if (args.out / "README.md").exists() and not args.overwrite:
        raise ValueError(f"{args.out / 'README.md'} exists; add --overwrite to replace it")
    args.out.mkdir(parents=True, exist_ok=True)
    faces = load_faces(DATA / "train")
    prior = load_prior(args.weights.resolve(), args.overrides)
    test = np.stack(list(images.load(DATA / "test", prior.shape[-1]).values()))
    linear = fit_linear(faces)
    table = denoising(prior, to_tensor(test[: args.faces]), linear)
    write_text(args.out / "denoising.csv", table.to_csv(index=False, float_format="%.6g"))
    samples = unconditional(prior, args.samples, args.steps, "card")
    found, distance = nearest(samples, faces)
    sheet(samples, found, args.out / "samples.png")
    log = pd.read_csv(args.log)
    curves(log, table, args.out / "loss.png")
    held_out = np.stack(list(images.load(DATA / "val", prior.shape[-1]).values()))
    card = CARD.format(
        **about_weights(args.weights),
        parameters=sum(p.numel() for p in prior.net.parameters()) / 1e6,
        prediction=prior.prediction,
        searched=len(faces),
        minutes=log["minutes"].iloc[-1],
        machine=args.machine,
        loss=log["v_error"].iloc[-1],
        tested=args.faces,
        components=COMPONENTS,
        fitted=FITTED,
        table=table.to_markdown(index=False, floatfmt=".4g"),
        high=HIGH,
        same=(table["network"] - table["linear"])[table["t"] >= HIGH].abs().max(),
        count=len(samples),
        sample_steps=args.steps,
        distance=distance.mean(),
        held_out=nearest(held_out, faces)[1].mean(),
        tints=tint_table(args, prior, test),
        study=args.study.read_text(),
    )
    write_text(args.out / "README.md", card)
    print(f"{args.out}: README.md, denoising.csv, samples.png, loss.png")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
