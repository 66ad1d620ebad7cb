"""CLIP as a guide: a prompt in its joint space, or the style of a reference in the Gram matrix of its patch tokens."""

import json
import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsg.checkpoints import first_line, load_pretrained, resolve
from dsg.images import to_tensor
from tasks.semantic import Case, SemanticTask


class CLIPGuide(nn.Module):
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
        """[B, 3, H, W] in [-1, 1] -> CLIP's size, by plain bicubic interpolation as in FreeDoM's code, and normalisation."""
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic")
        return (x - self.mean) / self.std

    def image_features(self, x: Tensor) -> Tensor:
        """[B, F], unnormalised."""
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=self.pixels(x)).pooler_output)

    def text_features(self, prompt: str) -> Tensor:
        """[1, F], unnormalised."""
        tokens = self.tokenizer([prompt], return_tensors="pt", truncation=True).to(self.mean.device)
        inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        return self.clip.text_projection(self.clip.text_model(**inputs).pooler_output)

    def patch_tokens(self, x: Tensor) -> Tensor:
        """[B, patches, channels] after the last block that was kept, before the final normalisation."""
        return self.clip.vision_model(pixel_values=self.pixels(x)).last_hidden_state[:, 1:]


def load_clip(checkpoint: str, blocks: int | None = None) -> CLIPGuide:
    """The guide of `CLIPText` (all blocks) or `Style` (the first three)."""
    return CLIPGuide(checkpoint, blocks)


class CLIPText(SemanticTask):
    """|text feature - image feature|, both unnormalised: FreeDoM's CLIP code."""

    takes = ("prompt",)
    prompt_in_loss = True
    fetched_as = "clip"
    judged_as = ("words",)

    def __init__(self, name: str, guide: Callable[[], nn.Module], prompt: str | None = None, cpu_batch: int = 4):
        super().__init__(name, guide, prompt=prompt, cpu_batch=cpu_batch)

    def check_prompt(self, prompt: str) -> None:
        if not (self.checkpoint / "tokenizer.json").is_file():
            return
        vocabulary = json.loads((self.checkpoint / "tokenizer.json").read_text())["model"]
        if vocabulary.get("type") != "WordLevel":  # byte pairs know everything
            return
        words = sorted(w for w in vocabulary["vocab"] if not w.startswith("<"))
        unknown = [w for w in re.findall(r"\w+", prompt.lower()) if w not in words]  # as the tokenizer splits
        if unknown:
            raise ValueError(f"task.prompt: this CLIP does not know {unknown[0]!r}; its words are {', '.join(words)}")

    def encode(self, case: Case) -> dict[str, Tensor]:
        return {"text": self.network(self.device).text_features(case.prompt)}

    def feature(self, x: Tensor) -> Tensor:
        return self.guided(self.network(x.device).image_features, x)

    def loss(self, x0: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return (condition["text"] - self.feature(x0)).norm(dim=1)

    def measures(self, images: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """clip_score: 100 max(cos, 0) (Hessel et al., arXiv 2104.08718, without its factor 2.5)."""
        feature = self.feature(images)
        cosine = F.cosine_similarity(feature, condition["text"])
        return {"clip_score": 100 * cosine.clamp_min(0), "clip_distance": (condition["text"] - feature).norm(dim=1)}


class Style(SemanticTask):
    """|Gram(x0) - Gram(reference)| (Frobenius), Gram = F^T F over the patch tokens after the third block: FreeDoM's style code."""

    takes = ("reference",)
    fetched_as = "clip"
    judged_as = ("style",)

    def __init__(
        self,
        name: str,
        guide: Callable[[], nn.Module],
        reference: str | None = None,
        prompt: str | None = None,
        image_size: int = 224,
        cpu_batch: int = 4,
    ):
        super().__init__(name, guide, reference, prompt, cpu_batch)
        self.image_size = image_size

    def reference_size(self, size: int) -> int:
        return self.image_size

    def gram(self, x: Tensor) -> Tensor:
        tokens = self.guided(self.network(x.device).patch_tokens, x)
        return tokens.transpose(1, 2) @ tokens

    def encode(self, case: Case) -> dict[str, Tensor]:
        return {"gram": self.gram(to_tensor([case.reference]).to(self.device))}

    def loss(self, x0: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return (self.gram(x0) - condition["gram"]).flatten(1).norm(dim=1)

    def measures(self, images: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"style_distance": self.loss(images, condition)}


class TextStyle(Style):
    """Style, while the prior (Stable Diffusion) follows a prompt."""

    takes = ("reference", "prompt")
    prompts_prior = True
