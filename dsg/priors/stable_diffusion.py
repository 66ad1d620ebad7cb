"""Stable Diffusion with a U-Net: 1.4, 1.5, 2.1, and SDXL, which is told size and crop too."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from dsg.priors.latent import LatentPrior

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class StableDiffusion(LatentPrior):
    """Stable Diffusion 1 and 2. The schedule is the scheduler's own: scaled-linear betas, `steps_offset` 1, and a last
    alpha_bar of alpha_bar_0, so that the last step still takes noise. Arguments: see `LatentPrior`.
    """

    network, pipeline = "unet", "StableDiffusionPipeline"
    parts: ClassVar = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    }
    not_needed: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    @classmethod
    def fits(cls, pipe: "DiffusionPipeline") -> bool:
        unet = getattr(pipe, "unet", None)
        return type(unet).__name__ == cls.parts["unet"] and unet.config.addition_embed_type is None

    def encode_text(self, prompt: str | None) -> dict[str, Tensor]:
        return {"prompt_embeds": self.pipe.encode_prompt(prompt or "", self.pipe.text_encoder.device, 1, False)[0]}

    def run(self, x: Tensor, time: Tensor, prompt_embeds: Tensor) -> Tensor:
        return self.net(x, time, encoder_hidden_states=prompt_embeds).sample


class StableDiffusionXL(LatentPrior):
    """Stable Diffusion XL: two text encoders, and an image that is said to be uncropped and of its own size.

    Arguments: see `LatentPrior`. The pass without text sees zeros where the pipeline says so
    (`force_zeros_for_empty_prompt`).
    """

    network, pipeline = "unet", "StableDiffusionXLPipeline"
    parts: ClassVar = {
        **StableDiffusion.parts,
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
    }
    not_needed: ClassVar = {"add_watermarker": False}

    @classmethod
    def fits(cls, pipe: "DiffusionPipeline") -> bool:
        unet = getattr(pipe, "unet", None)
        return type(unet).__name__ == cls.parts["unet"] and unet.config.addition_embed_type == "text_time"

    def encode_text(self, prompt: str | None) -> dict[str, Tensor]:
        device = self.pipe.text_encoder_2.device
        found = self.pipe.encode_prompt(prompt or "", device=device, do_classifier_free_guidance=False)
        embeds = {"prompt_embeds": found[0], "pooled_prompt_embeds": found[2]}
        zeros = prompt is None and self.pipe.config.force_zeros_for_empty_prompt
        return {key: torch.zeros_like(tensor) for key, tensor in embeds.items()} if zeros else embeds

    def run(self, x: Tensor, time: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor) -> Tensor:
        size = [self.image_size, self.image_size]
        time_ids = torch.tensor([[*size, 0, 0, *size]], device=x.device, dtype=x.dtype).expand(len(x), -1)
        added = {"text_embeds": pooled_prompt_embeds, "time_ids": time_ids}
        return self.net(x, time, encoder_hidden_states=prompt_embeds, added_cond_kwargs=added).sample
