"""Priors in diffusers' format: small random ones, saved as a pipeline is, and loaded through the config."""

import json

import pytest
import torch
from conftest import compose_config, script
from diffusers import DDPMScheduler, EDMEulerScheduler, ScoreSdeVeScheduler, UNet2DModel
from hydra.utils import instantiate

from dsg.priors.prediction import to_eps
from dsg.runs.prepare import prepare
from dsg.samplers import Unconditional, sample

CELEBAHQ_UNET = {  # config.json of google/ddpm-ema-celebahq-256
    "sample_size": 256, "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "norm_num_groups": 32,
    "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
}  # fmt: skip

SMALL = dict(
    sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)  # fmt: skip


def save(folder, parts=True, scheduler=None, **model):
    """A random model and its scheduler: in folders of their own, as pipelines are saved, or side by side."""
    torch.manual_seed(0)
    net = UNet2DModel(**{**SMALL, **model})
    net.save_pretrained(folder / "unet" if parts else folder)
    DDPMScheduler(**(scheduler or {})).save_pretrained(folder / "scheduler" if parts else folder)
    return net


def load(folder, *overrides):
    return instantiate(compose_config("model=diffusers", f"model.checkpoint={folder}", *overrides).model)


@pytest.fixture
def x():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("parts", [True, False], ids=["pipeline folders", "one folder"])
def test_it_predicts_what_the_model_does(tmp_path, x, parts):
    net = save(tmp_path, parts)
    prior = load(tmp_path)
    eps, v, text_shift, _ = prior.predict(x, 321)
    torch.testing.assert_close(eps, net(x, 321).sample, rtol=1e-4, atol=1e-5)
    assert v is None and text_shift is None and prior.shape == (3, 16, 16) and not prior.learns_variance
    assert not any(p.requires_grad for p in prior.parameters())
    alone = torch.cat([prior.predict(one[None], 321).eps for one in x])
    assert torch.equal(alone, eps)


@pytest.mark.parametrize(
    "scheduler, words",
    [
        (dict(beta_start=1e-4, beta_end=0.02), "linear"),
        (dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=500), "scaled"),
        (dict(beta_schedule="squaredcos_cap_v2"), "cosine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_schedule_is_the_scheduler_s(tmp_path, scheduler, words):
    save(tmp_path, scheduler=scheduler)
    expected = DDPMScheduler(**scheduler).alphas_cumprod.double()
    torch.testing.assert_close(load(tmp_path).schedule.alpha_bar, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind, ours", [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
def test_what_the_model_predicts_is_the_scheduler_s(tmp_path, x, kind, ours):
    net = save(tmp_path, scheduler=dict(prediction_type=kind))
    prior = load(tmp_path)
    ab = prior.schedule.alpha_bar[321].item()
    expected = to_eps(net(x, 321).sample, x, ab, ours)
    torch.testing.assert_close(prior.predict(x, 321).eps, expected, rtol=1e-4, atol=1e-5)


def test_settings_are_known_before_weights_are_read(tmp_path):
    save(tmp_path, out_channels=6)
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").unlink()
    prior = load(tmp_path)
    assert prior.shape == (3, 16, 16) and prior.learns_variance and len(prior.schedule) == 1000
    with pytest.raises(ValueError, match="cannot be read as a UNet2DModel"):
        prior.predict(torch.zeros(1, 3, 16, 16), 10)


def test_a_learned_variance_is_split_off(tmp_path, x):
    net = save(tmp_path, out_channels=6)
    eps, v, *_ = load(tmp_path).predict(x, 10)
    torch.testing.assert_close(torch.cat([eps, v], 1), net(x, 10).sample, rtol=1e-4, atol=1e-5)


def test_guidance_goes_through_it(tmp_path, x):
    """DPS lowers the loss of a linear task against no guidance, on the same noise."""
    save(tmp_path)
    prior, losses = load(tmp_path), []
    task = instantiate(compose_config("task=super_resolution", "task.sigma=0").task)
    condition = task.degrade(torch.tanh(x), ["a", "b", "c"], 0)
    for options in (["sampler=unconditional"], ["sampler=dps", "sampler.step_size=2"]):
        sampler = instantiate(compose_config("data=diffusers", *options, "sampler.steps=8").sampler)
        torch.manual_seed(2)
        losses.append(task.loss(sample(prior, task, condition, sampler, x), condition))
    assert torch.isfinite(losses[1]).all() and (losses[1] < 0.9 * losses[0]).all()


def test_the_weights_are_part_of_the_identity(tmp_path):
    for name, channels in (("a", (8, 16)), ("b", (8, 24))):
        save(tmp_path / name, block_out_channels=channels)
    save(tmp_path / "c", scheduler=dict(beta_end=0.03))
    hashes = [load(tmp_path / name).weights_hash for name in "abc"]
    assert len(set(hashes)) == 3 and hashes[0] == load(tmp_path / "a").weights_hash


def call(*overrides):
    return script("run.py", "wandb.mode=disabled", "sampler.steps=2", "data.limit=2", *overrides)


@pytest.mark.slow
def test_a_run_on_the_command_line(tmp_path):
    save(tmp_path / "m")
    done = call("model=diffusers", f"model.checkpoint={tmp_path / 'm'}", "data=avatars64", f"out={tmp_path / 'o'}")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o/images").iterdir())) == 2


def broken(folder, what):
    """A saved model with something wrong, for each test below."""
    if what == "empty folder":
        return folder.mkdir()
    scheduler = {"rescale_betas_zero_snr": what == "zero SNR"}
    save(folder, scheduler=scheduler, num_class_embeds=10 if what == "class-conditional" else None)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    if what == "no scheduler":
        (folder / "scheduler/scheduler_config.json").unlink()
    if what == "no DDPM":
        ScoreSdeVeScheduler().save_pretrained(folder / "scheduler")
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:99])
    if what == "another model":
        (folder / "unet/config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    if what == "no JSON":
        (folder / "unet/config.json").write_text("{")
    if what == "scheduler without JSON":
        (folder / "scheduler/scheduler_config.json").write_text("{")


BROKEN = {
    "empty folder": "no config.json",
    "no scheduler": "scheduler_config.json",
    "class-conditional": "class-conditional",
    "no DDPM": "the noise schedule of ScoreSdeVeScheduler is not known",
    "zero SNR": "rescale_betas_zero_snr",
    "truncated": "cannot be read",
    "another model": "cannot be read",
    "no JSON": "cannot be read",
    "scheduler without JSON": "cannot be read",
}


def refused(out, *overrides):
    """What preparing the run says against it."""
    with pytest.raises((ValueError, OSError)) as error:
        prepare(compose_config(*overrides, "data=avatars64"), out=out)
    assert "\n" not in str(error.value) and not out.exists()
    return str(error.value)


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_such_model_is_one_clear_line(tmp_path, what):
    broken(tmp_path / "m", what)
    assert BROKEN[what] in refused(tmp_path / "o", "model=diffusers", f"model.checkpoint={tmp_path / 'm'}")


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path):
    assert "python scripts/fetch_checkpoints.py celebahq256" in refused(tmp_path / "o", "model=celebahq256")
    assert "model.checkpoint=" in refused(tmp_path / "o", "model=diffusers")


def celebahq():
    with torch.device("meta"):
        return UNet2DModel(**CELEBAHQ_UNET)


def test_celebahq_has_the_released_size():
    assert sum(p.numel() for p in celebahq().parameters()) == 113_673_219


@pytest.mark.slow
def test_celebahq_at_its_full_size(tmp_path):
    """Loaded as the fetched files would be; a guided step at 64 px with a finite gradient."""
    torch.manual_seed(0)
    net = celebahq()
    net = net.to_empty(device="cpu")
    for p in net.parameters():  # filled at once: torch's own initialisation takes longer than the test
        torch.nn.init.normal_(p, std=0.02)
    net.half().save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    prior = instantiate(compose_config("model=celebahq256", f"model.checkpoint={tmp_path}").model).load()
    assert prior.shape == (3, 256, 256) and next(prior.parameters()).dtype == torch.float32
    config = compose_config("model=celebahq256", "task=inpaint", "sampler=freedom_dsg", "sampler.steps=2")
    task, sampler = instantiate(config.task), instantiate(config.sampler)
    y, seen = torch.rand(1, 3, 64, 64) * 2 - 1, []
    out = sample(prior, task, task.degrade(y, ["a"], 0), sampler, torch.randn(y.shape), callback=seen.append)
    assert torch.isfinite(out).all() and seen[0].gradient.norm() > 0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_an_edm_network_takes_the_steps_of_diffusers(tmp_path, prediction_type):
    """Preconditioning, its time and Karras' levels, against `EDMEulerScheduler`."""
    save(tmp_path / "m")
    scheduler = EDMEulerScheduler(sigma_max=50.0, prediction_type=prediction_type)
    scheduler.save_pretrained(tmp_path / "m/scheduler")
    prior = instantiate(compose_config("model=edm", f"model.checkpoint={tmp_path / 'm'}").model).load()
    z = torch.randn(2, *prior.shape, generator=torch.Generator().manual_seed(0))
    sampler = Unconditional(steps=6, spacing="karras", eta=0.0, clip_denoised=False)
    with torch.no_grad():
        found = sample(prior, None, None, sampler, z)
        scheduler.set_timesteps(6)
        x = z * (50.0**2 + 1) ** 0.5  # the same state on EDM's path
        for t in scheduler.timesteps:
            out = prior.net(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(out, t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


def test_a_pickle_is_refused_in_one_line(tmp_path):
    (tmp_path / "edm-ffhq.pkl").write_bytes(b"")
    words = refused(tmp_path / "o", "model=edm", f"model.checkpoint={tmp_path / 'edm-ffhq.pkl'}")
    assert "a pickle is code and is not run; convert it" in words


def test_a_schedule_that_ends_without_signal_starts_from_x0(tmp_path):
    """Zero terminal SNR with v-prediction (arXiv 2305.08891): alpha_bar is 0 at the end."""
    save(tmp_path / "m", scheduler={"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    prior = load(tmp_path / "m")
    assert prior.schedule.alpha_bar[-1] == 0
    z = torch.randn(1, *prior.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = sample(prior, None, None, Unconditional(steps=5, spacing="trailing", clip_denoised=False), z)
    assert torch.isfinite(found).all()
