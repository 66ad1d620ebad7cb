"""Rectified flows with a transformer: Stable Diffusion 3 and 3.5, and FLUX.1."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from dsg.priors.latent import LatentPrior

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class StableDiffusion3(LatentPrior):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206): three text encoders, of which the third (T5) may be missing.

    Arguments: see `LatentPrior`.
    """

    network, pipeline, patch, usual_cfg = "transformer", "StableDiffusion3Pipeline", 2, 4.5
    parts: ClassVar = {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer_3": "T5TokenizerFast",
    }

    @classmethod
    def fits(cls, pipe: "DiffusionPipeline") -> bool:
        return type(getattr(pipe, "transformer", None)).__name__ == cls.parts["transformer"]

    def encode_text(self, prompt: str | None) -> dict[str, Tensor]:
        device = self.pipe.text_encoder.device
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt or "", None, None, device=device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def run(self, x: Tensor, time: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor) -> Tensor:
        return self.net(
            hidden_states=x, timestep=time.expand(len(x)), encoder_hidden_states=prompt_embeds,
            pooled_projections=pooled_prompt_embeds,
        ).sample  # fmt: skip


class Flux(LatentPrior):
    """FLUX.1 dev and schnell. The network sees patches of 2 x 2 latents as tokens; the samplers do not.

    dev has learned guidance: `cfg` is a number that its network sees, and there is no pass without text. schnell, which
    is distilled to 1 to 4 steps, has none. Arguments: see `LatentPrior`.
    """

    network, pipeline, patch, usual_cfg = "transformer", "FluxPipeline", 2, 3.5
    guides_without_text = False
    parts: ClassVar = {
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer_2": "T5TokenizerFast",
    }

    @classmethod
    def fits(cls, pipe: "DiffusionPipeline") -> bool:
        return type(getattr(pipe, "transformer", None)).__name__ == cls.parts["transformer"]

    def channels(self, config: Mapping) -> int:
        return config.get("in_channels", 64) // 4

    def encode_text(self, prompt: str | None) -> dict[str, Tensor]:
        embeds, pooled, _ = self.pipe.encode_prompt(prompt or "", None, device=self.pipe.text_encoder.device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def run(self, x: Tensor, time: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        guidance = torch.full((batch,), self.cfg, device=x.device) if self.net.config.guidance_embeds else None
        tokens = self.net(
            hidden_states=packed(x), timestep=time.expand(batch) / 1000, guidance=guidance,
            encoder_hidden_states=prompt_embeds, pooled_projections=pooled_prompt_embeds,
            txt_ids=torch.zeros(prompt_embeds.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=places(height // 2, width // 2).to(x),
        ).sample  # fmt: skip
        return unpacked(tokens, height, width)


def packed(x: Tensor) -> Tensor:
    """Latents [B, C, H, W] as tokens [B, (H/2)(W/2), 4 C]."""
    batch, channels, height, width = x.shape
    patches = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, -1, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The latents [B, C, height, width] of `packed`."""
    batch, _, channels = tokens.shape
    patches = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels // 4, height, width)


def places(rows: int, columns: int) -> Tensor:
    """[rows columns, 3]: 0, row and column of every token."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3)
