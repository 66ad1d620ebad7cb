"""The guidance network of `task=clip_text` and `task=style`."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsg.avatars64.captions import WORDS, caption
from dsg.avatars64.faces import load_estimates, read_shards
from dsg.avatars64.guidance_training.base import Job, attribute_targets, seen
from dsg.files import temporary_name

TEXT = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "projection_dim": 96, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3,
}  # fmt: skip
VISION = {
    "image_size": 64, "patch_size": 8, "hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4,
    "num_attention_heads": 5, "projection_dim": 96,
}  # fmt: skip
FEATURES = 96
LENGTH = 10  # wanted, of the features: the task's distance is between unnormalised ones


class Clip(Job):
    """Contrastive loss between images and captions (Radford et al., arXiv 2103.00020).

    Beside it are heads for the attributes. They teach the small network sooner, and are thrown away.

    Raises:
        ValueError: transformers is not installed.
    """

    batch, rate, file = 128, 1e-3, "clip/model.safetensors"

    def __init__(self, data: Path):
        super().__init__()
        if find_spec("transformers") is None:
            raise ValueError("training CLIP needs transformers: pip install -e '.[semantic]'")
        from transformers import CLIPConfig, CLIPModel

        table, (self.images,) = read_shards(data / "train", "images")
        self.estimates = load_estimates(data / "train")
        self.rows = table.to_dict("records")
        self.tokenizer = word_tokenizer()
        text = {"vocab_size": len(self.tokenizer), **TEXT}
        self.network = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=FEATURES))
        self.targets, counts = attribute_targets(table)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, count) for name, count in counts.items()})

    def begin(self, weights: Path) -> None:
        from transformers import CLIPModel

        self.network = CLIPModel.from_pretrained(weights / "clip", dtype=torch.float32)

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = rng.integers(0, len(self.images), self.batch)
        captions = [caption(self.rows[i], rng) for i in index]
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt")
        text = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        out = self.network(**text, pixel_values=seen(self.images, self.estimates, index, rng))
        images, texts = out.vision_model_output.pooler_output.float(), out.text_model_output.pooler_output.float()
        alike = same_words(captions)  # images with the same caption are no negatives of each other
        loss = (
            cross_entropy_of_many(out.logits_per_image.float(), alike)
            + cross_entropy_of_many(out.logits_per_text.float(), alike)
        ) / 2
        lengths = (images.norm(dim=1) - LENGTH).square().mean() + (texts.norm(dim=1) - LENGTH).square().mean()
        loss = loss + 0.01 * lengths
        heads = sum(F.cross_entropy(self.heads[k](images), self.targets[k][index]) for k in self.heads)
        return loss + 0.2 * heads

    def save(self, out: Path) -> None:
        folder = out / "clip"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(folder)  # a kill leaves the files that were there
        try:
            self.network.half().save_pretrained(temporary)
            self.network.float()
            self.tokenizer.save_pretrained(temporary)
            preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 64}}
            (temporary / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=1) + "\n")
            for file in temporary.iterdir():
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def same_words(captions: list[str]) -> Tensor:
    """[B, B], 1 where two captions are equal."""
    codes = torch.tensor(pd.factorize(np.array(captions))[0])
    return (codes[:, None] == codes).float()


def cross_entropy_of_many(logits: Tensor, positives: Tensor) -> Tensor:
    """Cross-entropy of logits [B, B] with all positives of a row alike likely."""
    return F.cross_entropy(logits, positives / positives.sum(1, keepdim=True))


def word_tokenizer():
    """One token per word of `dsg.avatars64.captions.WORDS`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<start>", "<end>", "<unknown>", "<pad>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        pad_token="<pad>",
        model_max_length=TEXT["max_position_embeddings"],
    )
