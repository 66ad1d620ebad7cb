"""Write the card of the embedded prior: README.md with its figures, and denoising.csv.

    python scripts/avatars64/render.py train=40960            # the nearest training faces are looked for in these
    python scripts/avatars64/describe_prior.py --out /tmp/card --tints 512
    python scripts/avatars64/describe_prior.py --tints 512    # checkpoints/avatars64

Everything in the card is measured here. Per noise level, the network against the best linear denoiser and the mean
image, on test faces, whose identities were not trained on. Unconditional samples, each beside its nearest training
face (L2 on pixels). With --tints, how many samples have a tinted skin, and their Frechet distance: about 20 minutes of
one CPU core for 512. The loss curve is from training_log.csv, the study from study.md.
"""

import argparse
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import python_avatars
import torch
from hydra.utils import instantiate
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from dsg import config
from dsg.arguments import Parser, positive
from dsg.avatars64.faces import DATA, load_faces
from dsg.checkpoints import REPOSITORY
from dsg.metrics.distribution import EvaluatorFrechet
from dsg.noise import ImageNoise
from dsg.priors.linear import LinearDenoiser
from dsg.runs import images
from dsg.runs.inputs import to_tensor, to_uint8
from dsg.runs.results import write_text
from dsg.samplers import sample
from tasks.networks.parts import read_parts

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

TS = (999, 950, 900, 850, 800, 750, 700, 650, 600, 500, 400, 300, 200, 100, 50, 10, 1)
SHIPPED = REPOSITORY / "checkpoints/avatars64"
COMPONENTS, FITTED = 120, 4096  # of the linear denoiser: principal components, and faces it is fitted to
FACE = 1  # in the label maps
EVALUATOR = "checkpoints/avatars64/evaluator"
NOT_MEASURED = "Not measured for these weights (`--tints 512` does it)."


# The table of noise levels


@torch.no_grad()
def denoising(prior, x: Tensor, linear: LinearDenoiser) -> pd.DataFrame:
    """PSNR [dB] of the predicted x0 at each t, for images x [B, C, H, W].

    The noise is that of a torch generator seeded 0, the same at every t.
    """
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    mean = linear.mean.view(1, *x.shape[1:]).expand_as(x)
    rows = []
    for t in tqdm(TS, desc="denoising", unit="t"):
        ab = float(prior.schedule.alpha_bar[t])
        x_t = math.sqrt(ab) * x + math.sqrt(1 - ab) * noise
        eps = torch.cat([prior.predict(part, t).eps for part in x_t.split(32)])
        x0 = (x_t - math.sqrt(1 - ab) * eps) / math.sqrt(ab)
        rows.append(
            {
                "t": t,
                "alpha_bar": ab,
                "eps_error": (eps - noise).square().mean().item(),
                "network": psnr(x0, x),
                "linear": psnr(linear(x_t, torch.tensor([ab])), x),
                "mean_image": psnr(mean, x),
            }
        )
    return pd.DataFrame(rows)


def psnr(x0: Tensor, x: Tensor) -> float:
    """Mean over the images of -10 log10(mse), in dB, of x0 clamped to [-1, 1], at a range of 2."""
    return -10 * torch.log10(((x0.clamp(-1, 1) - x) / 2).square().flatten(1).mean(1)).mean().item()


# Samples


def unconditional(prior, count: int, steps: int, name: str) -> np.ndarray:
    """uint8 [count, H, W, 3], batch by batch."""
    loaded = config.load(["model=avatars64", "sampler=unconditional", f"sampler.steps={steps}"])
    sampler = instantiate(loaded.sampler)
    made = []
    with tqdm(total=count, desc=f"samples, {name}", unit="sample") as bar:
        for start in range(0, count, 16):
            ids = [f"{name}{i}" for i in range(start, min(start + 16, count))]
            noise = ImageNoise(0, ids, [0] * len(ids), prior.shape)
            x_T = sampler.start(prior, None, None, noise.start())
            made.append(to_uint8(sample(prior, None, None, sampler, x_T, noise)))
            bar.update(len(ids))
    return np.concatenate(made)


def nearest(queries: np.ndarray, faces: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Nearest training face of each query by L2 on pixels, and the RMS distances in [-1, 1]."""
    q = torch.from_numpy(queries).flatten(1).float()
    best, index = torch.full((len(q),), float("inf")), torch.zeros(len(q), dtype=torch.long)
    for start in range(0, len(faces), 4096):
        part = faces[start : start + 4096].permute(0, 2, 3, 1).flatten(1).float()
        d, i = torch.cdist(q, part, compute_mode="use_mm_for_euclid_dist").min(1)
        index, best = torch.where(d < best, i + start, index), torch.minimum(d, best)
    found = faces[index].permute(0, 2, 3, 1).numpy()
    return found, (best / q.shape[1] ** 0.5 / 127.5).numpy()


# Tints: the colour of the skin against the palette that the faces are drawn with


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours [..., 3] in 0..255."""
    c = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def palette() -> np.ndarray:
    """The skin colours of the data, sRGB [7, 3] in 0..255."""
    return np.array([[int(e.value[i : i + 2], 16) for i in (1, 3, 5)] for e in python_avatars.SkinColor])


@torch.no_grad()
def skin_distance(pixels: np.ndarray, parts) -> np.ndarray:
    """Distance [N] in CIELAB of each image's skin, the median of the face's pixels, to the palette's nearest colour.

    pixels: uint8 [N, H, W, 3]. parts: the embedded segmentation network. An image without a face is infinitely far.
    """
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    face = torch.cat([parts(part).argmax(1) == FACE for part in x.split(64)]).numpy()
    colors = lab(palette())
    distances = []
    for image, inside in zip(pixels, face):
        skin = lab(np.median(image[inside], axis=0)) if inside.any() else np.full(3, np.inf)
        distances.append(np.linalg.norm(skin - colors, axis=1).min())
    return np.array(distances)


def tints(samples: np.ndarray, real: np.ndarray) -> dict:
    """Share of samples further from the palette than the 99th percentile of real faces; Frechet distances."""
    parts = read_parts("checkpoints/avatars64/parts.safetensors")
    limit = np.percentile(skin_distance(real, parts), 99)
    distance = skin_distance(samples, parts)
    frechet = EvaluatorFrechet(EVALUATOR)
    return {
        "count": len(samples),
        "limit": limit,
        "tinted": int((distance > limit).sum()),
        "share": 100 * (distance > limit).mean(),
        "median": np.median(distance),
        "real": len(real),
        "frechet": frechet(samples),
        "frechet_real": frechet(real),
    }


# Figures


def sheet(samples: np.ndarray, found: np.ndarray, path: Path, columns: int = 6) -> None:
    rows = -(-len(samples) // columns)
    fig, axes = plt.subplots(rows, 2 * columns, figsize=(2.1 * columns, 1.12 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, pair in enumerate(zip(samples, found)):
        for j, picture in enumerate(pair):
            ax = axes[i // columns, 2 * (i % columns) + j]
            ax.imshow(picture, interpolation="nearest")
            if i < columns:
                ax.set_title(("sample", "nearest")[j], fontsize=7)
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.96, wspace=0.04, hspace=0.04)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def curves(log: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """The loss over the training, and the denoising error over t."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    left.plot(log["minutes"], log["v_error"], lw=0.8)
    left.set(xlabel="minutes of one core", ylabel="squared error of v, mean of 25 steps", yscale="log")
    for column, label in (("network", "network"), ("linear", "best linear denoiser"), ("mean_image", "mean image")):
        right.plot(table["t"], table[column], label=label, marker="." if column == "network" else None)
    right.set(xlabel="t", ylabel="PSNR of x0 [dB], test faces")
    right.legend()
    for ax in (left, right):
        ax.grid(alpha=0.3, which="both")
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


# The card


CARD = """# avatars64: the embedded prior

Written by `python scripts/avatars64/describe_prior.py`; every number and image here is measured by it.

**What.** An unconditional pixel diffusion model of vector-drawn faces at 64x64: guided-diffusion's ADM U-Net
(`dsg/priors/adm.py`; hyper-parameters in `configs/model/avatars64.yaml`), {parameters:.2f} M parameters, {size:.1f} MB
(fp16, safetensors). It predicts {prediction}; linear betas 1e-4..2e-2 over 1000 steps. With it everything in this
repository runs on a laptop without a download. It says nothing about photographs.

**Data and licence.** Faces drawn by [python-avatars](https://github.com/ibonn/python_avatars) (MIT licence; its
drawings follow Pablo Stanley's "Avataaars", free for personal and commercial use), rasterised with `resvg-py`, on plain
random backgrounds: `scripts/avatars64/render.py`. {searched:,} training faces. An identity is (skin, hair, hair colour,
facial hair, nose). Identities are split by a hash, 80 % training, 10 % validation, 10 % test: no identity of the 64
validation and 256 test faces (`data/avatars64/`) was seen in training. The weights carry the repository's MIT licence.

**Training.** `python scripts/avatars64/train_prior.py`: {steps:,} steps, {seen:,} faces seen, {minutes:.0f} minutes of
one CPU core. Squared error of v over the last 25 steps: {loss:.4f}.

![loss and denoising error](loss.png)

## Denoising error

PSNR in dB of the predicted x0 (clamped), mean over the first {tested} test faces, with the noise of a torch generator
seeded 0. The linear denoiser is the posterior mean under one Gaussian: mean, {components} principal components and an
isotropic remainder of {fitted:,} training faces. The eps error is the mean square per entry.

{table}

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
TINTS = """Of {count} samples, {tinted} ({share:.1f} %) have a tinted skin: the median colour of the face's pixels
(found by the embedded segmentation network) is further from the nearest of the data's seven skin colours than
{limit:.1f} in CIELAB, the 99th percentile of {real} real test faces. The median distance is {median:.1f}.

Frechet distance to real faces, in the evaluator's features: {frechet:.1f} for these samples, {frechet_real:.1f} for
{real} real test faces (the fewer, the larger).
"""


def load_prior(weights: Path, overrides: list[str]):
    """The prior of configs/model/avatars64.yaml with these weights."""
    return instantiate(config.load(["model=avatars64", f"model.checkpoint={weights}", *overrides]).model).load()


def about_weights(weights: Path) -> dict:
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    steps, seen = int(metadata["steps"]), int(metadata["images"])
    return {"steps": steps, "seen": seen, "size": weights.stat().st_size / 1e6}


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--weights", type=Path, default=SHIPPED / "model.safetensors", help="(checkpoints/avatars64/model.safetensors)")
    add("--log", type=Path, default=SHIPPED / "training_log.csv", help="of the training")
    add("--study", type=Path, default=SHIPPED / "study.md", help="what the settings were chosen by")
    add("--out", type=Path, default=SHIPPED, help="folder of the card (checkpoints/avatars64)")
    add("--samples", type=positive, default=48, help="shown in the card (48)")
    add("--steps", type=positive, default=100, help="of the sampler (100)")
    add("--faces", type=positive, default=64, help="test faces of the table (64)")
    add("--tints", type=positive, metavar="N", help="measure tints and Frechet distance on N samples, at least 500")
    add("overrides", nargs="*", help="of the config: model.prediction=v model.linear=120")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    faces = load_faces(DATA / "train")
    prior = load_prior(args.weights.resolve(), args.overrides)
    test = np.stack(list(images.load(DATA / "test", prior.shape[-1]).values()))
    linear = LinearDenoiser.fit(faces[:FITTED].float() / 127.5 - 1, COMPONENTS)
    table = denoising(prior, to_tensor(test[: args.faces]), linear)
    write_text(args.out / "denoising.csv", table.to_csv(index=False, float_format="%.6g"))
    samples = unconditional(prior, args.samples, args.steps, "card")
    found, distance = nearest(samples, faces)
    sheet(samples, found, args.out / "samples.png")
    log = pd.read_csv(args.log)
    curves(log, table, args.out / "loss.png")
    measured = NOT_MEASURED
    if args.tints:
        tested = unconditional(prior, args.tints, args.steps, "tint")
        measured = TINTS.format(**tints(tested, test))
    held_out = np.stack(list(images.load(DATA / "val", prior.shape[-1]).values()))
    card = CARD.format(
        **about_weights(args.weights),
        parameters=sum(p.numel() for p in prior.net.parameters()) / 1e6,
        prediction=prior.prediction,
        searched=len(faces),
        minutes=log["minutes"].iloc[-1],
        loss=log["v_error"].iloc[-1],
        tested=args.faces,
        components=COMPONENTS,
        fitted=FITTED,
        table=table.to_markdown(index=False, floatfmt=".4g"),
        count=len(samples),
        sample_steps=args.steps,
        distance=distance.mean(),
        held_out=nearest(held_out, faces)[1].mean(),
        tints=measured,
        study=args.study.read_text(),
    )
    write_text(args.out / "README.md", card)
    print(f"{args.out}: README.md, denoising.csv, samples.png, loss.png")


if __name__ == "__main__":
    main()
