"""CLIP as a guidance network, and the task it gives: a prompt in its joint space of images and texts."""

import json
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsg.files import first_line, resolve
from dsg.tokens import warn_if_cut
from dsg.types import Column, Input
from dsg.weights import load_pretrained
from tasks.base import Condition
from tasks.networks.base import GuidanceNetwork
from tasks.semantic import SemanticTask


class CLIPNetwork(nn.Module):
    """CLIP of `transformers`, from a folder in the hub's format (Radford et al., arXiv 2103.00020)."""

    def __init__(self, checkpoint: str, blocks: int | None = None):
        super().__init__()
        from transformers import AutoTokenizer, CLIPModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # of the moment it takes to read the weights
        folder = resolve(checkpoint)
        clip = load_pretrained(CLIPModel, folder)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            settings = json.loads((folder / "preprocessor_config.json").read_text())
        except Exception as error:  # transformers raises whatever its parts raise
            raise ValueError(f"{folder} cannot be read as a CLIP model: {first_line(error)}") from None
        self.size = clip.config.vision_config.image_size
        if blocks is not None:  # the rest is not needed
            clip.vision_model.encoder.layers = clip.vision_model.encoder.layers[:blocks]
            clip.text_model = clip.text_projection = None
        self.clip = clip.float().eval().requires_grad_(False)
        mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("image_mean", "image_std"))
        self.register_buffer("mean", 2 * mean - 1)
        self.register_buffer("std", 2 * std)

    def pixels(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> CLIP's size and normalisation.

        The interpolation is FreeDoM's: bicubic, without antialiasing.
        """
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic")
        return (x - self.mean) / self.std

    def image_features(self, x: Tensor) -> Tensor:
        """[B, F], unnormalised."""
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=self.pixels(x)).pooler_output)

    def text_features(self, prompt: str) -> Tensor:
        """[1, F], unnormalised."""
        warn_if_cut(self.tokenizer, prompt, self.tokenizer.model_max_length)
        tokens = self.tokenizer([prompt], return_tensors="pt", truncation=True).to(self.mean.device)
        inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        return self.clip.text_projection(self.clip.text_model(**inputs).pooler_output)

    def patch_tokens(self, x: Tensor) -> Tensor:
        """[B, patches, channels] after the last block that was kept, before the final normalisation."""
        return self.clip.vision_model(pixel_values=self.pixels(x)).last_hidden_state[:, 1:]


def load_clip(checkpoint: str, blocks: int | None = None) -> GuidanceNetwork:
    """The guidance network of `CLIPText` (all blocks) or `tasks.style.Style` (the first three), read when it is needed.

    Args:
        checkpoint: folder in the Hugging Face hub's format.
        blocks: number of blocks of the image encoder that are kept, without the text encoder; None: everything.
    """
    return GuidanceNetwork(CLIPNetwork, checkpoint, "clip", package="transformers", blocks=blocks)


class CLIPText(SemanticTask):
    """|text feature - image feature|, both unnormalised, as in FreeDoM's CLIP code.

    Args:
        guidance: see `load_clip`.
        prompt, cpu_batch: see `SemanticTask`.
    """

    takes_prompt = True
    columns = (Column("clip_distance", "CLIP distance (guidance network)", 3, False),)
    evaluated_by = ("clip_score", "attribute_accuracy", "all_attributes")

    def __init__(self, name: str, guidance: GuidanceNetwork, prompt: str | None = None, cpu_batch: int = 4):
        super().__init__(name, guidance, prompt=prompt, cpu_batch=cpu_batch)

    def check_prompt(self, prompt: str) -> None:
        tokenizer = self.guidance.path / "tokenizer.json"
        if not tokenizer.is_file():
            return
        vocabulary = json.loads(tokenizer.read_text())["model"]
        if vocabulary.get("type") != "WordLevel":  # byte pairs know everything
            return
        words = sorted(w for w in vocabulary["vocab"] if not w.startswith("<"))
        unknown = [w for w in re.findall(r"\w+", prompt.lower()) if w not in words]  # as the tokenizer splits
        if unknown:
            raise ValueError(f"task.prompt: this CLIP does not know {unknown[0]!r}; its words are {', '.join(words)}")

    def encode(self, input: Input) -> dict[str, Tensor]:
        return {"text": self.network(self.device).text_features(input.prompt)}

    def feature(self, image: Tensor) -> Tensor:
        """[B, F] of images [B, 3, H, W]."""
        return self.in_batches(self.network(image.device).image_features, image)

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        return (condition["text"] - self.feature(image)).norm(dim=1)

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        return {"clip_distance": self.loss(image, condition)}
