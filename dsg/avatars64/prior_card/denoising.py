"""Per noise level: the network against the best linear denoiser and the mean image."""

import math
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dsg import config
from dsg.priors.linear import LinearDenoiser
from dsg.runs.prepare import build

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

TS = (999, 950, 900, 850, 800, 750, 700, 650, 600, 500, 400, 300, 200, 100, 50, 10, 1)
COMPONENTS, FITTED = 120, 4096  # of the linear denoiser: principal components, and faces it is fitted to


def load_prior(weights: Path, overrides: list[str]):
    """The prior of configs/model/avatars64.yaml with these weights."""
    return build(config.load(["model=avatars64", f"model.checkpoint={weights}", *overrides]).model).load()


def fit_linear(faces: Tensor) -> LinearDenoiser:
    """The best linear denoiser of the first FITTED faces, uint8 [N, C, H, W]."""
    return LinearDenoiser.fit(faces[:FITTED].float() / 127.5 - 1, COMPONENTS)


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


def curves(log: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """The loss over the training, and the denoising error over t."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    left.plot(log["minutes"], log["v_error"], lw=0.8)
    left.set(xlabel="minutes of training", ylabel="squared error of v, mean of 25 steps", yscale="log")
    for column, label in (("network", "network"), ("linear", "best linear denoiser"), ("mean_image", "mean image")):
        right.plot(table["t"], table[column], label=label, marker="." if column == "network" else None)
    right.set(xlabel="t", ylabel="PSNR of x0 [dB], test faces")
    right.legend()
    for ax in (left, right):
        ax.grid(alpha=0.3, which="both")
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)
