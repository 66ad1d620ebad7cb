"""Stable Diffusion as a latent prior: a text-conditional U-Net on the latents of an autoencoder, with classifier-free guidance.

The samplers do not know: they diffuse latents, and a task's loss sees `decode(x0)`.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from dsg.checkpoints import file_hash, first_line, load_pretrained, require_folder
from dsg.priors.batching import in_fixed_batches
from dsg.priors.diffusers_prior import read_schedule, to_eps
from dsg.schedule import NoiseSchedule

WEIGHTS = ("*.safetensors", "*.bin")


class StableDiffusion(nn.Module):
    """Args:
        name: names the checkpoint in messages.
        checkpoint: a folder with a saved pipeline (unet/, vae/, text_encoder/, tokenizer/, scheduler/), or the id of such a
            repository on the Hugging Face hub.
        prompt: what the picture should show; empty or null: no text, and one pass through the U-Net instead of two.
        cfg: scale s of classifier-free guidance (Ho & Salimans, arXiv 2207.12598): eps = eps_0 + s (eps_text - eps_0).
        image_size: side of the pictures in pixels, a multiple of the autoencoder's factor.
        bf16: run the networks under bfloat16 autocast.
        use_checkpoint: recompute the decoder's and the U-Net's activations in the backward pass: less memory, more time.
        cpu_batch: on a CPU the network sees exactly this many images at a time (see `ADMPrior`).

    The schedule is the scheduler's own: for SD 1.4 scaled-linear betas, `steps_offset` 1, and a last alpha_bar of alpha_bar_0, so
    that the last step still takes noise.

    Raises:
        FileNotFoundError: no such folder, with what to do.
        ValueError: a part that cannot be read, or an option out of range.
    """

    latent = True
    learns_variance = False
    text_rms: Tensor | None = None  # left by `predict`; having it says that `sampler.scaling=text` is possible

    def __init__(
        self,
        name: str,
        checkpoint: str | None,
        prompt: str | None = None,
        cfg: float = 5.0,
        image_size: int = 512,
        bf16: bool = False,
        use_checkpoint: bool = True,
        cpu_batch: int = 0,
    ):
        super().__init__()
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        if isinstance(cfg, bool) or not isinstance(cfg, (int, float)) or cfg < 0:
            raise ValueError(f"model.cfg={cfg}: a number, 0 or more")
        self.folder = require_folder(checkpoint, name)
        _check_size(image_size, _vae_factor(self.folder / "vae"))  # before gigabytes are read
        schedule, prediction_type = read_schedule(self.folder)
        net = _part(self.folder, "unet", UNet2DConditionModel, low_cpu_mem_usage=False)
        vae = _part(self.folder, "vae", AutoencoderKL, low_cpu_mem_usage=False)
        encoder = _part(self.folder, "text_encoder", CLIPTextModel)
        embed = TextEmbedder(encoder, _tokenizer(self.folder / "tokenizer"))
        self._assemble(
            net, vae, embed, schedule, prediction_type, prompt=prompt, cfg=cfg, image_size=image_size, bf16=bf16,
            use_checkpoint=use_checkpoint, cpu_batch=cpu_batch,
        )  # fmt: skip

    @classmethod
    def of_parts(
        cls, net, vae, embed: Callable[[str], Tensor], schedule: NoiseSchedule, prediction_type: str, **options
    ):
        """The prior of networks that are in memory already; `embed`: text -> [1, tokens, channels]; `options` as above."""
        prior = cls.__new__(cls)
        nn.Module.__init__(prior)
        prior._assemble(
            net.requires_grad_(False), vae.requires_grad_(False), embed, schedule, prediction_type, **options
        )
        return prior

    def _assemble(
        self, net, vae, embed, schedule, prediction_type, prompt=None, cfg=5.0, image_size=512, bf16=False,
        use_checkpoint=True, cpu_batch=0,
    ):  # fmt: skip
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        _check_size(image_size, factor)
        self.net, self.vae, self.embed, self.schedule, self.prediction_type = net, vae, embed, schedule, prediction_type
        self.bf16, self.cfg, self.cpu_batch, self.use_checkpoint = bf16, float(cfg), cpu_batch, use_checkpoint
        self.shape = (net.config.in_channels, image_size // factor, image_size // factor)
        self.image_shape = (3, image_size, image_size)
        if use_checkpoint:
            net.enable_gradient_checkpointing()
            net.train()  # diffusers recomputes in training mode only; there is no dropout in it to wake
        self.prompt = prompt
        self.set_prompts(None)

    @cached_property
    def weights_hash(self) -> str:
        """Of the weights of every part, and of the scheduler's settings."""
        digest = hashlib.sha256()
        files = [
            f
            for pattern in WEIGHTS
            for part in ("unet", "vae", "text_encoder")
            for f in (self.folder / part).glob(pattern)
        ]
        for file in sorted([*files, self.folder / "scheduler" / "scheduler_config.json"]):
            digest.update(file_hash(file).encode())
        return digest.hexdigest()

    def set_prompts(self, prompts: Sequence[str | None] | None) -> None:
        """What the pictures of the next batches show: a prompt for each; None: `model.prompt` for all."""
        self.prompts = None if prompts is None else list(prompts)

    def predict(self, x_t: Tensor, t: int) -> tuple[Tensor, None]:
        """eps of latents [B, C, H, W], float32; with a prompt, under classifier-free guidance.

        Leaves in `text_rms` [B] the root mean square of s (eps_text - eps_0), by which FreeDoM's style code scales its step.
        """
        prompts = self.prompts if self.prompts is not None else [self.prompt] * len(x_t)
        if len(prompts) != len(x_t):
            raise ValueError(f"{len(prompts)} prompts for a batch of {len(x_t)}: see set_prompts")
        plain_text = self._embedded([""] * len(x_t), x_t.device)
        if any(prompts):
            text = torch.cat([plain_text, self._embedded(prompts, x_t.device)])
            plain, conditional = self._eps(torch.cat([x_t, x_t]), text, t).chunk(2)
            shift = self.cfg * (conditional - plain)
            self.text_rms = shift.detach().square().mean((1, 2, 3)).sqrt()
            return plain + shift, None
        self.text_rms = torch.zeros(len(x_t), device=x_t.device)
        return self._eps(x_t, plain_text, t), None

    def _eps(self, x: Tensor, text: Tensor, t: int) -> Tensor:
        return to_eps(self._run(x, text, t), x, self.schedule.alpha_bar[t].item(), self.prediction_type)

    def _embedded(self, prompts: Sequence[str | None], device: torch.device) -> Tensor:
        return torch.cat([self.embed(prompt or "") for prompt in prompts]).to(device)

    def _run(self, x: Tensor, text: Tensor, t: int) -> Tensor:
        def network(x: Tensor, text: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
                return self.net(x, t, encoder_hidden_states=text).sample.float()

        return in_fixed_batches(network, x, self.cpu_batch, text)

    def decode(self, x0: Tensor) -> Tensor:
        """Latents -> pictures [B, 3, 8 H, 8 W], about [-1, 1]; differentiable, its activations recomputed if so asked."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return recompute(self._decode, x0, use_reentrant=False)
        return self._decode(x0)

    def _decode(self, x0: Tensor) -> Tensor:
        config = self.vae.config
        latent = x0 / config.scaling_factor + (config.get("shift_factor") or 0.0)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.bf16):
            return torch.cat([self.vae.decode(z).sample for z in latent.split(1)]).float()


class TextEmbedder:
    """text -> [1, tokens, channels], padded to the encoder's length as the released pipelines do; each once, on the CPU."""

    def __init__(self, encoder: nn.Module, tokenizer):
        self.encoder, self.tokenizer, self.known = encoder, tokenizer, {}

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        if text not in self.known:
            length = self.encoder.config.max_position_embeddings
            tokens = self.tokenizer(
                [text], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            self.known[text] = self.encoder(tokens.input_ids)[0]
        return self.known[text]


def _vae_factor(folder: Path) -> int:
    """How many times smaller than the pictures its latents are."""
    try:
        return 2 ** (len(json.loads((folder / "config.json").read_text())["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} cannot be read as an AutoencoderKL: {first_line(error)}") from None


def _check_size(image_size: int, factor: int) -> None:
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not whole or image_size < factor or image_size % factor:
        raise ValueError(f"model.image_size={image_size}: a multiple of {factor}")


def _part(folder: Path, name: str, kind: type, **options) -> nn.Module:
    """One network of a pipeline, in evaluation mode, float32, without parameter gradients. Errors are one line."""
    return load_pretrained(kind, folder / name, **options).float().eval().requires_grad_(False)


def _tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its parts raise
        raise ValueError(f"{folder} cannot be read as a CLIPTokenizer: {first_line(error)}") from None
