"""Write the card of the embedded prior: checkpoints/avatars64/README.md with its figures.

    python scripts/make_avatars.py train=40960             # the nearest training faces are looked for in these
    python scripts/model_card.py

Everything in the card is measured here: the loss curve from `training_log.csv`, the denoising error on faces whose
identities are not in the training split, and unconditional samples, each beside its nearest training face (L2 on pixels).
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from tqdm import tqdm
from train_prior import load_faces

from dsg import images
from dsg.checkpoints import REPOSITORY
from dsg.noise import ImageNoise, standard_normal
from dsg.results import write_text
from dsg.samplers import sample

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

TS = (1, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)
CARD = """# avatars64: the embedded prior

Written by `python scripts/model_card.py`; every number and picture here is measured by it.

**What.** An unconditional pixel diffusion model of vector-drawn faces at 64x64, {parameters:.2f} M parameters, {size:.1f} MB (fp16,
safetensors): guided-diffusion's ADM U-Net (`dsg/priors/adm.py`; hyper-parameters in `configs/model/avatars64.yaml`), eps-prediction, linear
betas 1e-4..2e-2 over 1000 steps. It is there so that everything in this repository runs on a laptop without a download. It
says nothing about photographs.

**Data and licence.** Faces drawn by [python-avatars](https://github.com/ibonn/python_avatars) (MIT licence; its drawings follow Pablo
Stanley's "Avataaars", free for personal and commercial use), rasterised with `resvg-py`, on plain random backgrounds:
`scripts/make_avatars.py`. 40,960 training faces. An identity is (skin, hair, hair colour, facial hair, nose); identities are split by a
hash, 80 % training, 10 % validation, 10 % test, so that no identity of the 64 validation and 256 test faces (`data/avatars64/`) was seen
in training. The weights carry the repository's MIT licence.

**Training.** `python scripts/train_prior.py --minutes 68`: {steps} steps of 32 faces ({seen:.0f} k faces seen), AdamW 7e-4 with warm-up
and cosine, gradient norm clipped at 1, EMA .999, bf16 autocast, {minutes:.0f} minutes on two CPU cores. Last loss {loss:.4f}. It was stopped by
the clock, not by convergence: a GPU would do better.

![loss](loss.png)

## Denoising error

Mean of (eps - eps_hat)^2 per entry, and the PSNR of the predicted x0 (clamped), on the 64 validation faces (identities not
trained on) and on the first 64 training faces. The gap between the columns is what was memorised.

{errors}

## Samples

{count} unconditional samples (`sampler=unconditional`, ddim, eta 1, {sample_steps} steps, seed 0, not selected), each with its nearest neighbour among
{searched} training faces to its right. Mean distance (RMS over pixels, in [-1, 1]) of a sample to its nearest training face: {distance:.3f}; of a held-out validation
face to its: {held_out:.3f}.

![samples](samples.png)

Known faults: {faults}
"""
FAULTS = "often a tint of the background's colour in skin or hair (10 of the first 24, as we count), and now and then facial features that blend two kinds."


@torch.no_grad()
def denoising_error(prior, x: Tensor, name: str) -> pd.DataFrame:
    """eps error and x0's PSNR at each t, with noise keyed by the face's number."""
    rows = []
    for t in tqdm(TS, desc=f"denoising, {name}", unit="t"):
        ab = float(prior.schedule.alpha_bar[t])
        z = torch.stack([standard_normal(prior.shape, 0, name, i, t) for i in range(len(x))])
        x_t = ab**0.5 * x + (1 - ab) ** 0.5 * z
        eps = torch.cat([prior.predict(part, t)[0] for part in x_t.split(32)])
        x0 = ((x_t - (1 - ab) ** 0.5 * eps) / ab**0.5).clamp(-1, 1)
        psnr = -10 * torch.log10(((x0 - x) / 2).square().flatten(1).mean(1)).mean()
        error = (eps - z).square().mean()
        rows.append({"t": t, "alpha_bar": ab, f"eps error, {name}": error.item(), f"x0 PSNR [dB], {name}": psnr.item()})
    return pd.DataFrame(rows)


def unconditional(prior, count: int, steps: int) -> np.ndarray:
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        sampler = instantiate(compose("config", ["sampler=unconditional", f"sampler.steps={steps}"]).sampler)
    noise = ImageNoise(0, [f"card{i}" for i in range(count)], [0] * count, prior.shape)
    with tqdm(total=steps, desc="samples", unit="step") as bar:
        return images.to_uint8(sample(prior, None, None, sampler, noise.start(), noise, lambda _: bar.update()))


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
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.94, wspace=0.04, hspace=0.04)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def loss_curve(log: pd.DataFrame, path: Path) -> None:
    fig, ax = plt.subplots(figsize=(5.5, 3))
    ax.plot(log["step"], log["loss"], lw=0.8)
    ax.set_yscale("log"), ax.set_xlabel("step (32 faces each)"), ax.set_ylabel("eps loss, mean of 50 steps")
    ax.grid(alpha=0.3, which="both")
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    folder, data = REPOSITORY / "checkpoints/avatars64", REPOSITORY / "data/avatars64"
    faces = load_faces(data / "train")
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        prior = instantiate(compose("config", ["model=avatars64"]).model)
    held_out = images.load(data / "val", prior.shape[-1])
    errors = denoising_error(prior, images.to_tensor(held_out), "held out")
    errors = errors.merge(denoising_error(prior, faces[: len(held_out)].float() / 127.5 - 1, "training"))
    samples = unconditional(prior, args.samples, args.steps)
    found, distance = nearest(samples, faces)
    sheet(samples, found, folder / "samples.png")
    log = pd.read_csv(folder / "training_log.csv")
    loss_curve(log, folder / "loss.png")
    card = CARD.format(
        parameters=sum(p.numel() for p in prior.net.parameters()) / 1e6,
        size=(folder / "model.safetensors").stat().st_size / 1e6,
        searched=f"{len(faces):,}",
        steps=log["step"].iloc[-1],
        seen=log["step"].iloc[-1] * 32 / 1000,
        minutes=log["minutes"].iloc[-1],
        loss=log["loss"].iloc[-1],
        errors=errors.to_markdown(index=False, floatfmt=".4g"),
        count=len(samples),
        sample_steps=args.steps,
        distance=distance.mean(),
        held_out=nearest(np.stack([p.pixels for p in held_out]), faces)[1].mean(),
        faults=FAULTS,
    )
    write_text(folder / "README.md", card)
    print(f"{folder}: README.md, samples.png, loss.png")


if __name__ == "__main__":
    main()
