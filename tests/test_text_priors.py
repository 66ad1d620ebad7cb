"""SD 1.5, 2.1, XL, 3 and FLUX as priors: tiny random pipelines of the published structure, and the published sizes."""

import json
import re
import shutil

import pytest
import torch
from conftest import ROOT, TOKENS, compose_config, save_tokenizer
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from hydra.utils import instantiate
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

import dsg
from dsg.samplers import DPS, MPGD, Unconditional, sample

MODELS = ["sd15", "sd21", "sdxl", "sd3", "flux"]
SIDE = 32  # px


def unet(**options):
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )  # fmt: skip


def vae(channels=4, **options):
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, norm_num_groups=4, layers_per_block=1,
        sample_size=SIDE, **options,
    )  # fmt: skip


def clip(kind, hidden=16):
    config = CLIPTextConfig(
        vocab_size=len(TOKENS), hidden_size=hidden, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=hidden,
    )  # fmt: skip
    return kind(config)


def t5(hidden=32):
    return T5EncoderModel(T5Config(vocab_size=8, d_model=hidden, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def t5_tokenizer():
    words = ["<pad>", "</s>", "<unk>", "▁a", "▁cat", "c", "▁the", "▁dog"]
    return T5TokenizerFast(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)


def pipeline(model, tokenizer):
    """A pipeline with the structure of the released one, and the settings of its scheduler."""
    torch.manual_seed(0)
    scaled = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    if model in ("sd15", "sd21"):
        kind = {"prediction_type": "v_prediction" if model == "sd21" else "epsilon"}
        return StableDiffusionPipeline(
            unet=unet(cross_attention_dim=16, attention_head_dim=4, use_linear_projection=model == "sd21"), vae=vae(),
            text_encoder=clip(CLIPTextModel), tokenizer=tokenizer, safety_checker=None, feature_extractor=None,
            scheduler=DDIMScheduler(**scaled, **kind, set_alpha_to_one=False, clip_sample=False),
            requires_safety_checker=False,
        )  # fmt: skip
    if model == "sdxl":
        two = unet(
            cross_attention_dim=48, attention_head_dim=(2, 4), use_linear_projection=True,
            transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        )  # fmt: skip
        return StableDiffusionXLPipeline(
            unet=two, vae=vae(scaling_factor=0.13025), text_encoder=clip(CLIPTextModel), tokenizer=tokenizer,
            text_encoder_2=clip(CLIPTextModelWithProjection, 32), tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(**scaled, timestep_spacing="leading"),
        )  # fmt: skip
    autoencoder = vae(16, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    if model == "sd3":
        transformer = SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=16,
            pos_embed_max_size=24, qk_norm="rms_norm", dual_attention_layers=(0,),
        )  # fmt: skip
        return StableDiffusion3Pipeline(
            transformer=transformer, vae=autoencoder, text_encoder=clip(CLIPTextModelWithProjection),
            tokenizer=tokenizer, text_encoder_2=clip(CLIPTextModelWithProjection), tokenizer_2=tokenizer,
            text_encoder_3=t5(), tokenizer_3=t5_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )  # fmt: skip
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=model == "flux", axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return FluxPipeline(
        transformer=transformer, vae=autoencoder, text_encoder=clip(CLIPTextModel), tokenizer=tokenizer,
        text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=model == "flux"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Folders by model, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("pipelines")
    save_tokenizer(folder / "tokenizer", 12, range(len(TOKENS)))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    for model in (*MODELS, "schnell"):
        pipeline(model, tokenizer).save_pretrained(folder / model)
    return folder


KINDS = {"sd15": StableDiffusionPipeline, "sd21": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
KINDS |= {"sd3": StableDiffusion3Pipeline, "flux": FluxPipeline}


def load(folder, model, *options):
    own = [f"model.checkpoint={folder / model}", f"model.image_size={SIDE}", "model.bf16=false", *options]
    return instantiate(compose_config(f"model={model}", *own).model).load()


def latents(prior, batch=2):
    return torch.randn(batch, *prior.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", MODELS)
def test_a_noiseless_trajectory_is_the_pipeline_s_own(pipelines, model):
    """Text, guidance, packing, time, path and decoder together: as diffusers' pipeline with its own loop."""
    prior = load(pipelines, model, "model.prompt=a cat", "model.cfg=2.5")
    pipe = KINDS[model].from_pretrained(pipelines / model)
    pipe.set_progress_bar_config(disable=True)
    steps, x_T = 4, latents(prior, 1)
    flow = model in ("sd3", "flux")
    if not flow:
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config, clip_sample=False, set_alpha_to_one=model == "sdxl"
        )
    given = x_T
    if model == "flux":
        given = FluxPipeline._pack_latents(x_T, 1, *prior.shape)
    if model == "sd3":  # its own default ends elsewhere
        set_timesteps = pipe.scheduler.set_timesteps
        sigmas = [1 - k / steps for k in range(steps)]
        pipe.scheduler.set_timesteps = lambda *a, **k: set_timesteps(sigmas=sigmas, device=k.get("device"))
    expected = pipe(
        "a cat", num_inference_steps=steps, guidance_scale=2.5, latents=given, height=SIDE, width=SIDE, output_type="pt"
    ).images * 2 - 1  # fmt: skip
    sampler = Unconditional(
        steps=steps, eta=0.0, clip_denoised=False, spacing="trailing" if flow else "leading"
    )  # fmt: skip
    with torch.no_grad():
        found = prior.decode(sample(prior, None, None, sampler, x_T)).clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert found.std() > 0.05


@pytest.mark.parametrize("model", MODELS)
def test_prompts_and_the_pass_without_text(pipelines, model):
    prior = load(pipelines, model, "model.cfg=3")
    x = latents(prior)
    with torch.no_grad():
        free, together = prior.predict(x, 400), prior.predict(x, 400, ["a cat", "c"])
        assert free.eps.shape == x.shape and free.text_shift is None
        for i, prompt in enumerate(["a cat", "c"]):
            alone = prior.predict(x[i : i + 1], 400, [prompt])
            torch.testing.assert_close(alone.eps, together.eps[i : i + 1], rtol=1e-4, atol=1e-5)
        assert (together.eps - free.eps).abs().max() > 1e-3  # the prompt says something
        if model != "flux":
            torch.testing.assert_close(together.eps, free.eps + together.text_shift, rtol=1e-4, atol=1e-5)
        else:
            assert together.text_shift is None
            prior.cfg = 6.0  # its network sees it
            assert (prior.predict(x, 400, ["a cat", "c"]).eps - together.eps).abs().max() > 1e-6
    assert (free.x0 is not None) == (model in ("sd3", "flux"))


@pytest.mark.parametrize("model", MODELS)
def test_embeddings_as_a_mapping(pipelines, model):
    """Those of the pipeline's encoders, given instead of a prompt, with or without encoders in memory."""
    prompted = load(pipelines, model, "model.prompt=a cat", "model.cfg=3")
    x, given = latents(prompted), dict(prompted.embedded(["a cat"]))
    given |= {f"negative_{key}": value for key, value in prompted.embedded([None]).items()}
    pipe = prompted.pipe
    bare = type(pipe).from_pretrained(
        pipelines / model, **{part: None for part in pipe.components if part.startswith(("text_encoder", "tokenizer"))}
    )
    prior = type(prompted)(model, bare, cfg=3.0, image_size=SIDE, embeddings=given)
    with torch.no_grad():
        torch.testing.assert_close(prior.predict(x, 300).eps, prompted.predict(x, 300).eps, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the pipeline has no text encoders: give prompt_embeds"):
        prior.predict(x, 300, ["a", "c"])


@pytest.mark.parametrize("model", MODELS)
def test_encoding_is_the_inverse_scale_and_shift_of_decoding(pipelines, model):
    prior = load(pipelines, model)
    image = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = prior.encode(image)
        mode = torch.cat([prior.vae.encode(one).latent_dist.mode() for one in image.split(1)])
        config = prior.vae.config
        torch.testing.assert_close(z, (mode - (config.shift_factor or 0)) * config.scaling_factor)
        torch.testing.assert_close(prior.decode(z), torch.cat([prior.vae.decode(m).sample for m in mode.split(1)]))
    assert z.shape[1:] == prior.shape and prior.image_shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("model", MODELS)
def test_the_gradient_of_the_loss_is_float32_under_a_network_in_bfloat16(pipelines, model):
    exact, prior = load(pipelines, model), load(pipelines, model, "model.bf16=true")
    assert prior.net.dtype == torch.bfloat16 and prior.vae.dtype == torch.float32
    gradients = []
    for one in (exact, prior):
        x = latents(one).requires_grad_()
        prediction = one.predict(x, 500)
        assert prediction.eps.dtype == torch.float32
        x0 = prediction.x0 if prediction.x0 is not None else x - 0.5 * prediction.eps
        gradients.append(torch.autograd.grad(one.decode(x0).square().sum(), x)[0].flatten(1))
    assert gradients[1].dtype == torch.float32
    assert (torch.cosine_similarity(*gradients) > 0.95).all()


def test_schnell_sees_no_guidance(pipelines):
    own = [f"model.checkpoint={pipelines / 'schnell'}", f"model.image_size={SIDE}", "model.bf16=false"]
    prior = instantiate(compose_config("model=flux", *own, "model.prompt=a cat").model).load()
    x = latents(prior)
    with torch.no_grad():
        eps = prior.predict(x, 300).eps
        prior.cfg = 9.0
        assert torch.equal(prior.predict(x, 300).eps, eps)
    assert prior.schedule.shift == 1.0


def test_a_preview_decoder_is_in_the_loss_and_not_in_the_result(pipelines, tmp_path):
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    ).save_pretrained(tmp_path)  # fmt: skip
    prior = load(pipelines, "sd15", f"model.preview={tmp_path}")
    z = latents(prior)
    full, preview = prior.decode(z), prior.decode(z.clone().requires_grad_())
    torch.testing.assert_close(full, load(pipelines, "sd15").decode(z))
    torch.testing.assert_close(preview.detach(), prior.tiny.decode(z).sample)
    assert preview.shape == full.shape and (preview - full).abs().max() > 1e-2


def test_sd3_without_its_third_encoder(pipelines, tmp_path):
    shutil.copytree(pipelines / "sd3", tmp_path / "sd3")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(tmp_path / "sd3" / part)
    prior = load(tmp_path, "sd3", "model.prompt=a cat")
    with torch.no_grad():
        assert torch.isfinite(prior.predict(latents(prior), 300).eps).all()


@pytest.mark.parametrize(
    "model, part, kind", [("sd3", "transformer", "SD3Transformer2DModel"), ("flux", "text_encoder_2", "T5EncoderModel")]
)
def test_a_damaged_part_is_one_line(pipelines, tmp_path, model, part, kind):
    shutil.copytree(pipelines / model, tmp_path / model)
    for file in (tmp_path / model / part).glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(ValueError, match=f"{part} cannot be read as a .*{kind}") as error:
        load(tmp_path, model)
    assert "\n" not in str(error.value)


# config.json of the released networks
PUBLISHED = {
    "sd15": (UNet2DConditionModel, 859_520_964, {
        "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
    }),
    "sd21": (UNet2DConditionModel, 865_910_724, {
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "block_out_channels": (320, 640, 1280, 1280), "use_linear_projection": True,
    }),
    "sdxl": (UNet2DConditionModel, 2_567_463_684, {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "use_linear_projection": True, "addition_embed_type": "text_time",
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": (1, 2, 10),
    }),
    "sd3": (SD3Transformer2DModel, 2_243_171_520, {
        "sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)),
    }),
    "flux": (FluxTransformer2DModel, 11_901_408_320, {
        "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    }),
}  # fmt: skip


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_released_network_s_settings_give_its_size_and_the_prior_s_shape(model, tmp_path):
    """Nothing of it is in memory: the networks are on the meta device."""
    kind, count, settings = PUBLISHED[model]
    with torch.device("meta"):
        net = kind(**settings)
    assert sum(p.numel() for p in net.parameters()) == count
    part = "transformer" if model in ("sd3", "flux") else "unet"
    for name, config in (
        (part, dict(net.config)),
        ("vae", {"block_out_channels": [128, 256, 512, 512], "scaling_factor": 0.3, "shift_factor": 0.1}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    schedulers = {"sd3": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    schedulers["flux"] = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    schedulers.get(model, DDIMScheduler()).save_pretrained(tmp_path / "scheduler")
    prior = instantiate(compose_config(f"model={model}", f"model.checkpoint={tmp_path}").model)
    side = prior.image_size // 8
    assert prior.shape == ((16 if part == "transformer" else 4), side, side)
    assert prior.image_size == 8 * {"sd21": 96, "flux": 128}.get(model, settings.get("sample_size"))
    if model in ("sd3", "flux"):
        assert prior.schedule.shift == pytest.approx({"sd3": 3.0, "flux": 2.718281828**1.15}[model])


@pytest.mark.parametrize("model", MODELS)
def test_guidance_lowers_the_loss(pipelines, model):
    prior = load(pipelines, model, "model.prompt=a cat", "model.cfg=2")
    x_T = latents(prior)

    class Brightness:
        def loss(self, images, condition):
            return (images - 0.4).flatten(1).norm(dim=1)

    options = dict(steps=6, clip_denoised=False, spacing="trailing")
    losses = []
    for sampler in (Unconditional(**options), DPS(**options, spherical=True), MPGD(**options, spherical=True)):
        torch.manual_seed(0)
        found = sample(prior, Brightness(), None, sampler, x_T)
        losses.append(Brightness().loss(prior.decode(found), None).detach())
    assert (losses[1] < losses[0]).all() and (losses[2] < losses[0]).all()


def brightness(images):
    return (images - 0.4).flatten(1).norm(dim=1)


@pytest.mark.parametrize("model", MODELS)
def test_a_pipeline_in_memory_is_guided_in_one_call(pipelines, model):
    pipe = KINDS[model].from_pretrained(pipelines / model)
    options = ["sampler.steps=5", "seed=3"]
    own = dict(overrides=options, image_size=SIDE, cfg=2.0)
    free = dsg.guide(pipe, brightness, "a cat", "unconditional", **own)
    found = dsg.guide(pipe, brightness, ["a cat", "c"], **own)
    assert found.shape == (2, 3, SIDE, SIDE) and found.abs().max() <= 1 and not found.requires_grad
    assert brightness(found)[0] < brightness(free)[0]
    prior = dsg.from_pipeline(pipe, "a cat", image_size=SIDE, cfg=2.0)
    prompted = prior.embedded(["a cat"])
    if model != "flux":
        prompted |= {f"negative_{key}": value for key, value in prior.embedded([None]).items()}
    embedded = dsg.guide(pipe, brightness, **own, **prompted)
    torch.testing.assert_close(embedded, found[:1], rtol=1e-3, atol=1e-3)
    assert prior.saved.pipe is pipe and dsg.from_pipeline(pipe).usual_cfg == dsg.from_pipeline(pipe).cfg


def test_an_image_is_edited_from_its_own_latents(pipelines):
    pipe = KINDS["sd3"].from_pretrained(pipelines / "sd3")
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prior = dsg.from_pipeline(pipe, image_size=SIDE)
    with torch.no_grad():
        decoded = prior.decode(prior.encode(image)).clamp(-1, 1)
    far = []
    for start in (2, 900):
        options = [f"sampler.start_t={start}", "sampler.steps=500" if start == 2 else "sampler.steps=8"]
        found = dsg.guide(pipe, brightness, sampler="dps_dsg", overrides=options, image=image, image_size=SIDE)
        far.append((found - decoded).abs().mean())
    assert far[0] < 0.3 * far[1]
    for wrong in (dict(image=image), dict(overrides=["sampler.start_t=500"])):
        with pytest.raises(ValueError, match="are given together"):
            dsg.guide(pipe, brightness, image_size=SIDE, **wrong)


def test_another_pipeline_is_one_line():
    pipe = DDPMPipeline(UNet2DModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4), DDIMScheduler())
    with pytest.raises(ValueError, match="DDPMPipeline: its network is none of"):
        dsg.guide(pipe, brightness)


def test_the_example_of_the_docs(pipelines):
    text = (ROOT / "docs/extending.md").read_text()
    space = {}
    exec(re.search(r"```python\n# guide_pipeline.py\n(.*?)```", text, re.S)[1], space)
    pipe = KINDS["flux"].from_pretrained(pipelines / "flux")
    found = space["warm_cats"](pipe, steps=5, image_size=SIDE)
    free = dsg.guide(pipe, space["warm"], ["a cat"] * 2, "unconditional", ["sampler.steps=5"], image_size=SIDE)
    assert (space["warm"](found) < space["warm"](free)).all()
