"""The latent prior: a small random pipeline, saved as the hub's are, and the released one's size."""

import shutil
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TOKENS, compose_config, save_clip, save_tokenizer, script
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from hydra.utils import instantiate
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dsg.priors.stable_diffusion import StableDiffusion
from dsg.runs.prepare import prepare
from dsg.samplers import sample
from dsg.suites.main import run_suites
from dsg.suites.suite import load as load_suite

# Stable Diffusion 1.4: its U-Net's and its autoencoder's config.json
SD14_UNET = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}  # fmt: skip
SD14_VAE = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        sample_size=16,
    ).save_pretrained(folder / "vae")  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=len(TOKENS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    save_tokenizer(folder / "tokenizer", 12, range(len(TOKENS)))
    PNDMScheduler(  # as released with SD 1.4
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, set_alpha_to_one=False,
        skip_prk_steps=True,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    return folder


@cache
def load(folder, *overrides):
    """The prior; its weights are read once."""
    options = [f"model.checkpoint={folder}", "model.image_size=16", *overrides]
    return instantiate(compose_config("model=sd14", *options).model).load()


@pytest.fixture
def x():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_classifier_free_guidance_by_hand(folder, x):
    unprompted, prior = load(folder), load(folder, "model.prompt=a cat", "model.cfg=3")
    texts = [prior.embedded([text])["prompt_embeds"] for text in ("", "a cat")]
    assert (texts[0] - texts[1]).abs().max() > 1e-3  # the prompt says something
    with torch.no_grad():
        eps = [prior.net(x, 400, encoder_hidden_states=t.expand(2, -1, -1)).sample for t in texts]
    torch.testing.assert_close(unprompted.predict(x, 400).eps, eps[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.predict(x, 400).eps, eps[0] + 3 * (eps[1] - eps[0]), rtol=1e-4, atol=1e-5)
    assert unprompted.predict(x, 400).text_shift is None and prior.predict(x, 400).v is None
    assert not any(p.requires_grad for p in prior.parameters())


def test_a_prompt_for_each_image(folder, x):
    prior, prompts = load(folder, "model.cfg=3", "model.prompt=t"), ["a cat", "c"]
    together, _, shift, _ = prior.predict(x, 400, prompts)
    for i, prompt in enumerate(prompts):
        alone = load(folder, "model.cfg=3", f"model.prompt={prompt}")
        assert torch.equal(alone.predict(x[i : i + 1], 400).eps, together[i : i + 1])
        with torch.no_grad():
            texts = [prior.embedded([text])["prompt_embeds"] for text in ("", prompt)]
            eps = [prior.net(x[i : i + 1], 400, encoder_hidden_states=text).sample for text in texts]
        by_hand = 3 * (eps[1] - eps[0])
        assert by_hand.square().mean().sqrt() > 1e-3 and shift.shape == x.shape
        torch.testing.assert_close(shift[i : i + 1], by_hand, rtol=1e-4, atol=1e-5)
    half, _, half_shift, _ = prior.predict(x, 400, [None, "c"])  # one without
    assert torch.equal(half, torch.cat([load(folder).predict(x[:1], 400).eps, together[1:]]))
    assert torch.equal(half_shift, shift * torch.tensor([0, 1])[:, None, None, None])
    for wrong in (["a cat"], ["a cat"] * 3, []):
        with pytest.raises(ValueError, match=f"{len(wrong)} prompts for a batch of 2"):
            prior.predict(x, 400, wrong)
    assert torch.equal(prior.predict(x, 400).eps, load(folder, "model.cfg=3", "model.prompt=t").predict(x, 400).eps)
    no_text = prior.predict(x, 400, [None, None])
    assert torch.equal(no_text.eps, load(folder).predict(x, 400).eps) and no_text.text_shift is None


def test_settings_are_known_before_weights_are_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    for file in (tmp_path / "m").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:99])
    options = [f"model.checkpoint={tmp_path / 'm'}", "model.image_size=16"]
    prior = instantiate(compose_config("model=sd14", *options).model)
    assert prior.shape == (4, 8, 8) and prior.image_shape == (3, 16, 16) and prior.takes_prompts
    with pytest.raises(ValueError, match="unet cannot be read as a UNet2DConditionModel"):
        prior.predict(torch.zeros(1, 4, 8, 8), 400)


def test_another_tokenizer_is_another_prior(folder, tmp_path):
    """With other ids for its words, a prompt gives other images."""
    for copy in ("same", "other"):
        shutil.copytree(folder, tmp_path / copy)
    save_tokenizer(tmp_path / "other/tokenizer", 12, [*range(2), *reversed(range(2, len(TOKENS)))])
    assert load(tmp_path / "same").weights_hash == load(folder).weights_hash != load(tmp_path / "other").weights_hash


def test_its_schedule_ends_above_zero_noise(folder):
    schedule = load(folder).schedule
    assert schedule.timesteps(50, "leading")[:2] == [1, 21]
    last = schedule.steps(50, "leading")[-1]
    assert last.t == 1 and last.alpha_bar_prev == pytest.approx(1 - 0.00085)
    expected = PNDMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha_bar, expected, rtol=1e-4, atol=1e-7)


def test_recomputing_changes_nothing(folder, x):
    images, gradients = [], []
    for switch in ("true", "false"):
        prior = load(folder, f"model.use_checkpoint={switch}")
        z = x.clone().requires_grad_()
        image = prior.decode(z - 0.1 * prior.predict(z, 300).eps)
        gradients.append(torch.autograd.grad(image.square().sum(), z)[0])
        images.append(image.detach())
    assert images[0].shape == (2, 3, 16, 16)
    torch.testing.assert_close(images[0], images[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_decoding_is_the_autoencoder_s(folder, x):
    prior = load(folder)
    with torch.no_grad():
        expected = prior.vae.decode(x / prior.vae.config.scaling_factor).sample
    torch.testing.assert_close(prior.decode(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ["dps", "dps_dsg", "mpgd_dsg"])
def test_linear_tasks_are_guided_through_the_decoder(folder, sampler):
    prior = load(folder)
    x_T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    task = instantiate(compose_config("task=super_resolution", "task.factor=2", "task.sigma=0").task)
    condition = task.degrade(torch.full((2, 3, 16, 16), 0.3), ["a", "b"], 0)
    losses = []
    for name in ("unconditional", sampler):
        options = ["data=diffusers", f"sampler={name}", "sampler.steps=8", "sampler.eta=1"]
        options += ["sampler.clip_denoised=false", "sampler.spacing=leading"]
        built = instantiate(compose_config(*options).sampler)
        torch.manual_seed(3)
        z = sample(prior, task, condition, built, x_T)
        losses.append(task.loss(prior.decode(z), condition).detach())
    assert torch.isfinite(losses[1]).all() and (losses[1] < losses[0]).all()


def call(*overrides):
    return script("run.py", "model=sd14", "wandb.mode=disabled", "data.limit=2", *overrides)


@pytest.mark.slow
def test_a_run_on_the_command_line(folder, tmp_path):
    options = [f"model.checkpoint={folder}", "model.image_size=16", "data.root=data/avatars64/test", "sampler.steps=3"]
    done = call(*options, "model.prompt=a cat", "task.mask=null", f"out={tmp_path / 'o'}")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "o/images/00000.png").size == (16, 16)
    other = call(*options, "model.prompt=a", f"out={tmp_path / 'o'}")  # another prompt is another run
    assert other.returncode == 2 and "model.prompt was a cat" in other.stderr


@pytest.fixture(scope="module")
def styled(folder, tmp_path_factory):
    """Options of text_style: one reference, two prompts, a tiny CLIP."""
    inputs = tmp_path_factory.mktemp("inputs")
    size = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=4)
    save_clip(inputs / "clip", size, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(inputs / "portrait.png")
    (inputs / "prompts.txt").write_text("# two of them\na cat\nc\n")
    options = [f"reference={inputs / 'portrait.png'}", f"prompt={inputs / 'prompts.txt'}", "image_size=32"]
    options = [f"task.{option}" for option in (*options, f"guidance.checkpoint={inputs / 'clip'}")]
    return ["task=text_style", f"model.checkpoint={folder}", "model.image_size=16", "device=cpu", *options]


NAMES = {"portrait__a-cat": "a cat", "portrait__c": "c"}


@pytest.mark.slow
def test_a_style_and_prompts_on_the_command_line(styled, tmp_path):
    done = call(*styled, "sampler=freedom", "sampler.steps=5", f"out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert {f.name for f in (tmp_path / "images").iterdir()} == {f"{name}.png" for name in NAMES}
    texts = {f.stem: f.read_text() for f in (tmp_path / "condition").glob("*.txt")}
    assert texts == {name: prompt + "\n" for name, prompt in NAMES.items()}
    assert all(Image.open(tmp_path / f"condition/{name}.png").size == (32, 32) for name in NAMES)
    table = pd.read_csv(tmp_path / "per_image.csv").set_index("id")
    assert dict(table["prompt"]) == NAMES and (table["style_distance"] > 0).all()


def run(out, *options):
    """The table and the images of a run."""
    run = prepare(compose_config("model=sd14", "sampler.steps=5", f"out={out}", *options))
    assert run.execute() == []
    images = [np.asarray(Image.open(run.results.images / f"{name}.png")).astype(int) for name in NAMES]
    return run.results.table(), images


@pytest.fixture(scope="module")
def unguided(styled, tmp_path_factory):
    return run(tmp_path_factory.mktemp("unguided") / "o", *styled, "sampler=unconditional")[0]


@pytest.mark.slow
def test_the_paper_s_suite_of_styles_runs_with_prompts(styled, tmp_path):
    """Its smoke size has none: no embedded prior takes a prompt."""
    given = {"images": 2, "samples": 2, "steps": [4], "tasks": ["text_style"], "wandb": "disabled"}
    options = [option for option in styled[1:] if not option.startswith("device=")]
    suite = load_suite("style", out=tmp_path, options=options, **given)
    assert run_suites([suite]) == 0
    assert "text_style" in (tmp_path / "table.md").read_text()
    rows = [pd.read_csv(file) for file in tmp_path.glob("runs/text_style/*/per_image.csv")]
    assert len(rows) == 7 and all(set(table["prompt"]) == {"a cat", "c"} and len(table) == 4 for table in rows)


@pytest.mark.parametrize("sampler", ["freedom", "mpgd", "freedom_dsg"])
def test_styles_of_a_batch_are_those_one_by_one_and_nearer(styled, unguided, tmp_path, sampler):
    table, together = run(tmp_path / "a", *styled, f"sampler={sampler}")
    _, alone = run(tmp_path / "b", *styled, f"sampler={sampler}", "batch_size=1")
    assert all((a == b).all() for a, b in zip(together, alone))
    assert abs(together[0] - together[1]).max() > 2  # the prompts
    assert (table["style_distance"] < unguided["style_distance"]).all()


@pytest.mark.parametrize(
    "overrides, words",
    [
        ([], "python scripts/fetch_checkpoints.py sd14"),
        (["model.checkpoint={folder}", "model.image_size=15"], "image_size=15: a multiple of 2"),
        (["model.checkpoint={folder}", "model.image_size=16", "model.cfg=-1"], "cfg=-1"),
        (["model.checkpoint={folder}/unet", "model.image_size=16"], "cannot be read as an AutoencoderKL"),
        (["model.checkpoint={folder}", "model.use_checkpoint=perhaps"], "use_checkpoint=perhaps"),
        (
            [
                "model.checkpoint={folder}",
                "model.prompt=a",
                "task=text_style",
                "task.prompt=a cat",
                "task.guidance.checkpoint=docs",
            ],
            "both the prior's prompt: give one",
        ),
    ],
)
def test_bad_options_are_one_clear_line(folder, tmp_path, overrides, words):
    overrides = ["model=sd14", *(o.format(folder=folder) for o in overrides), "data.root=data/avatars64/test"]
    with pytest.raises((ValueError, OSError)) as error:
        prepare(compose_config(*overrides), out=tmp_path / "o")
    assert words in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "o").exists()


def rewritten(folder, copy, part, change):
    """A copy of the pipeline with the weights of a part changed."""
    shutil.copytree(folder, copy)
    (file,) = (copy / part).glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_refused(folder, tmp_path, part):
    def change(state):
        del state[sorted(state)[5]]
        return state

    with pytest.raises(ValueError, match=f"{part} cannot be read as a .*: 1 weights missing"):
        load(rewritten(folder, tmp_path / "m", part, change))


def test_attention_under_its_released_names(folder, tmp_path):
    """The files of SD 1.4's autoencoder and of celebahq256 name it as diffusers did in 2022."""
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def change(state):
        for new, old in names.items():
            state = {k.replace(new, old): v for k, v in state.items()}
        assert any(".proj_attn." in k for k in state)
        return state

    old, new = load(rewritten(folder, tmp_path / "m", "vae", change)).vae.state_dict(), load(folder).vae.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(v, old[k]) for k, v in new.items())
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    net = UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, **blocks)
    net.save_pretrained(tmp_path / "u/unet")
    DDPMScheduler().save_pretrained(tmp_path / "u/scheduler")
    renamed = rewritten(tmp_path / "u", tmp_path / "v", "unet", change)
    prior = instantiate(compose_config("model=diffusers", f"model.checkpoint={renamed}").model)
    found = prior.load().net.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in net.state_dict().items())


@pytest.mark.slow
def test_a_guided_step_of_the_released_networks_at_their_full_size():
    """SD 1.4's networks, 943 M random parameters, on a small image: a prompt, and the loss behind the decoder."""
    with torch.device("meta"):
        nets = UNet2DConditionModel(**SD14_UNET), AutoencoderKL(**SD14_VAE)
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [859_520_964, 83_653_863]
    texture, random = torch.randn(2**20) * 0.02, torch.Generator().manual_seed(0)
    for net in nets:
        net.to_empty(device="cpu")
        for p in net.parameters():  # not drawn one by one: that takes longer than the test
            p.data = texture.repeat(p.numel() // 2**20 + 1)[: p.numel()].view(p.shape) + (p.ndim == 1)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    pipeline = StableDiffusionPipeline(
        unet=nets[0], vae=nets[1], text_encoder=None, tokenizer=None, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    text = {"prompt_embeds": torch.full((1, 77, 768), 0.5), "negative_prompt_embeds": torch.zeros(1, 77, 768)}
    prior = StableDiffusion("sd14", pipeline, embeddings=text, image_size=64, cpu_batch=1).load()
    schedule = prior.schedule
    x = torch.randn(1, *prior.shape, generator=random)

    def loss(x):
        eps = prior.predict(x, 501).eps
        ab = schedule.alpha_bar[501].item()
        return (prior.decode((x - (1 - ab) ** 0.5 * eps) / ab**0.5) - 0.5).flatten(1).norm(dim=1).sum()

    x.requires_grad_()
    before = loss(x)
    (gradient,) = torch.autograd.grad(before, x)
    assert prior.image_shape == (3, 64, 64) and prior.predict(x.detach(), 501).text_shift.abs().max() > 0
    assert torch.isfinite(gradient).all() and gradient.norm() > 0
    with torch.no_grad():
        assert min(loss(x - step * gradient / gradient.norm()) for step in (0.003, 0.03, 0.3)) < before
