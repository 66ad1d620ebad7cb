"""A guided-diffusion model of one's own: docs/extending.md, its schedules, and the check of what it finds."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from dsg.config import load_with_sources
from dsg.priors import noise_check
from dsg.priors.adm import ADMUNet
from dsg.priors.base import Prediction, Prior
from dsg.priors.betas import betas_of
from dsg.runs.prepare import prepare
from dsg.schedule import NoiseSchedule, linear_betas, scaled_linear_betas

SMALL = {"image_size": 16, "num_channels": 32, "channel_mult": [1, 1], "num_head_channels": 32}
PAGE = (ROOT / "docs/extending.md").read_text().split("## A diffusion model of your own\n")[1]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The page's YAML and a folder of images; returns overrides with a checkpoint of a small random network."""
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / text[0]
    path.parent.mkdir(parents=True)
    path.write_text(text[1])
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / f"photos/{number}.png")

    def overrides(channels=3):
        torch.manual_seed(0)
        unet = {**SMALL, "num_res_blocks": 1, "attention_resolutions": [16], "in_channels": channels}
        torch.save(ADMUNet(**unet).state_dict(), "mine.pt")
        small = [f"model.unet.{k}={json.dumps(v)}" for k, v in {**SMALL, "in_channels": channels}.items()]
        return ["model=mine", "data.root=photos", "sampler.steps=3", "wandb.mode=disabled", "metrics=[psnr]", *small]

    return overrides


def run_of(overrides, out):
    config, sources = load_with_sources(overrides, ["configs_of_mine"])
    return prepare(config, sources, out)


def test_the_yaml_of_the_page_is_all_that_a_model_needs(mine, tmp_path):
    run = run_of(mine(), tmp_path / "o")
    assert torch.equal(run.prior.schedule.alpha_bar, NoiseSchedule(betas_of("cosine")).alpha_bar)
    assert run.execute() == [] and (tmp_path / "o/images/0.png").exists()


def test_a_random_network_finds_no_noise_and_that_is_one_note(mine, tmp_path):
    (note,) = [note for note in run_of(mine(), tmp_path / "o").notes if "does not find the noise" in note]
    assert note.count("dB at t=") == 3 and "model.schedule" in note and "\n" not in note


def test_a_greyscale_model_restores_grey_images_and_says_so_of_colours(mine, tmp_path):
    run = run_of([*mine(channels=1), "sampler=dps_dsg"], tmp_path / "o")
    assert any("cannot restore the colours" in note for note in run.notes)
    assert run.prior.shape == (1, 16, 16) and run.execute() == []
    pixels = np.asarray(Image.open(tmp_path / "o/images/0.png").convert("RGB"))
    assert (pixels == pixels[..., :1]).all() and pixels.std() > 0
    with pytest.raises(ValueError, match="no greyscale one"):
        run_of([*mine(channels=1), "sampler=ddrm"], tmp_path / "o2")


def test_an_unknown_set_of_data_is_refused(mine):
    with pytest.raises(ValueError, match="data=nothing is unknown: one of avatars64"):
        load_with_sources([*mine(), "data=nothing"], ["configs_of_mine"])


# --- betas


def test_named_betas_are_those_of_the_released_codes():
    assert torch.equal(betas_of("linear"), linear_betas())
    assert torch.equal(betas_of("scaled_linear"), scaled_linear_betas())
    four = betas_of("linear", 4000)
    assert len(four) == 4000 and four[0].item() == pytest.approx(2.5e-5) and four[-1].item() == pytest.approx(5e-3)
    cosine = NoiseSchedule(betas_of("cosine")).alpha_bar
    u = (torch.tensor([1, 500, 999]) / 1000 + 0.008) / 1.008 * torch.pi / 2
    expected = torch.cos(u) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert cosine[[0, 499, 998]].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert betas_of("cosine").max() == 0.999


def test_betas_of_a_file(tmp_path):
    np.save(tmp_path / "b.npy", linear_betas(steps=50).numpy())
    assert torch.equal(betas_of(str(tmp_path / "b.npy")), linear_betas(steps=50))
    with pytest.raises(ValueError, match="has 50 betas, not model.train_steps=40"):
        betas_of(str(tmp_path / "b.npy"), 40)


@pytest.mark.parametrize(
    "content, reason",
    [(np.zeros((2, 3)), "expected betas"), (np.array([0.1, np.nan]), "expected betas"), (b"junk", "cannot be read")],
)
def test_a_file_without_betas_is_one_line(tmp_path, content, reason):
    path = tmp_path / "b.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(ValueError, match=reason) as error:
        betas_of(str(path))
    assert "model.schedule=" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("schedule, steps", [("sigmoid", None), ("linear", 1)])
def test_an_unknown_schedule_and_too_few_steps_are_refused(schedule, steps):
    with pytest.raises(ValueError, match="model.schedule=sigmoid is unknown: one of linear|model.train_steps=1"):
        betas_of(schedule, steps)
    with pytest.raises(FileNotFoundError, match="no such file"):
        betas_of("nowhere.npy")


# --- what the network finds


class Flat(Prior):
    """The exact noise of images of one colour, N(0, 0.25), as a network knows it that `learned` a schedule."""

    shape, weights_hash = (3, 16, 16), "none"

    def __init__(self, learned, schedule, kind="eps"):
        super().__init__()
        self.learned, self.schedule, self.kind = NoiseSchedule(learned), NoiseSchedule(schedule), kind

    def predict(self, x_t, t, prompts=None):
        ab = self.learned.alpha_bar[min(t, len(self.learned) - 1)].item()
        a, b = ab**0.5, (1 - ab) ** 0.5
        x0 = x_t.mean((2, 3), keepdim=True) * a * 0.25 / (ab * 0.25 + (1 - ab) / 256)
        eps = (x_t - a * x0) / b
        return Prediction({"eps": eps, "x0": x0.expand_as(eps), "v": a * eps - b * x0}[self.kind])


def flat_images():
    colours = 0.5 * torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    return colours.expand(4, 3, 16, 16)


@pytest.mark.parametrize("learned", [linear_betas(), betas_of("cosine"), betas_of("linear", 4000)])
def test_a_network_with_the_right_schedule_finds_its_noise(learned):
    assert noise_check.doubt(Flat(learned, learned), flat_images()) is None


@pytest.mark.parametrize(
    "learned, schedule, kind",
    [
        (betas_of("cosine"), linear_betas(), "eps"),
        (linear_betas(), betas_of("cosine"), "eps"),
        (betas_of("linear", 4000), linear_betas(), "eps"),
        (scaled_linear_betas(), linear_betas(), "eps"),
        (linear_betas(), linear_betas(), "x0"),
        (linear_betas(), linear_betas(), "v"),
    ],
)
def test_a_wrong_schedule_or_prediction_is_doubted(learned, schedule, kind):
    assert "model.schedule" in noise_check.doubt(Flat(learned, schedule, kind), flat_images())
