"""The shipped prior: against the best linear denoiser, whose numbers the card ships (denoising.csv); in batches."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, compose_config
from hydra.utils import instantiate

from dsg import image_files as images
from dsg.types import to_tensor

TABLE = pd.read_csv(ROOT / "checkpoints/avatars64/denoising.csv").set_index("t")
FACES = 64  # of the table


@pytest.fixture(scope="module")
def prior():
    return instantiate(compose_config("model=avatars64").model).load()


@pytest.fixture(scope="module")
def faces():
    return to_tensor(np.stack(list(images.load(ROOT / "data/avatars64/test", 64, limit=FACES).values())))


@torch.no_grad()
@pytest.mark.parametrize("t", [500, 600, 700, 800, 900, 999])
def test_no_linear_denoiser_is_better(prior, faces, t):
    """PSNR in dB of x0, on the faces and the noise of the card's table. At t = 999 there is nothing to learn beyond
    the linear part: the two are within .002 dB."""
    noise = torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))
    ab = float(prior.schedule.alpha_bar[t])
    x_t = math.sqrt(ab) * faces + math.sqrt(1 - ab) * noise
    eps = prior.predict(x_t, t).eps
    x0 = ((x_t - math.sqrt(1 - ab) * eps) / math.sqrt(ab)).clamp(-1, 1)
    psnr = -10 * torch.log10(((x0 - faces) / 2).square().flatten(1).mean(1)).mean().item()
    # the card's noise is drawn on this machine: processors round it, by less than 1e-6 of its length
    assert psnr == pytest.approx(TABLE.loc[t, "network"], abs=0.02), "the card is of other weights"
    assert psnr >= TABLE.loc[t, "linear"] - 0.005


@torch.no_grad()
@pytest.mark.parametrize("t", [10, 500, 999])
def test_what_it_predicts_is_to_the_bit_the_same_alone_and_in_a_batch(prior, t):
    x = torch.randn(7, *prior.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior.predict(x, t).eps, torch.cat([prior.predict(part, t).eps for part in x.split(1)]))
