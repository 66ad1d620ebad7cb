"""Train what guides and what judges the semantic tasks on avatars64, each on a budget of time.

    python scripts/make_avatars.py train=40960 identities=2048
    python scripts/train_guides.py identity --minutes 86      # IR-SE with ArcFace's loss: the guide of task=faceid
    python scripts/train_guides.py clip --minutes 33          # the guide of clip_text and style
    python scripts/train_guides.py parts --minutes 8          # the guide of segmentation
    python scripts/train_guides.py attributes --minutes 37    # the evaluator of all but segmentation
    python scripts/train_guides.py labels --minutes 8         # the evaluator of segmentation

The weights (fp16) go to checkpoints/avatars64/; `scripts/guides_card.py` measures them on faces that were not trained on. A stopped
run goes on from where it was; delete checkpoints/avatars64/training_<name>.pt to start over.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from make_avatars import IDENTITY
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY
from tasks.captions import WORDS, caption
from tasks.evaluator_networks import AttributeNet, DilatedNet
from tasks.irse import IRSE
from tasks.parts import PartsUNet

IDENTITY_LAYOUT = {"input_size": 64, "channels": (16, 24, 48, 96, 128), "units": (1, 2, 2, 2), "features": 128}
ATTRIBUTES = (
    "skin", "hair", "hair_color", "facial_hair", "nose", "eyes", "eyebrows", "mouth", "accessory", "clothing",
    "clothing_color",
)  # fmt: skip
SAVE_EVERY = 90  # seconds


def read_shards(folder: Path, *names: str) -> tuple[pd.DataFrame, list[Tensor]]:
    """The attributes of all faces below `folder`, and the named arrays; images as [N, 3, 64, 64]."""
    shards = sorted(folder.glob("shard_*.npz"))
    if not shards:
        raise SystemExit(f"no faces in {folder}: run 'python scripts/make_avatars.py {folder.name}=...' first")
    table = pd.concat([pd.read_csv(s.with_suffix(".csv"), keep_default_na=False) for s in shards], ignore_index=True)
    arrays = []
    for name in names:
        array = torch.from_numpy(np.concatenate([np.load(s)[name] for s in shards]))
        arrays.append(array.permute(0, 3, 1, 2).contiguous() if array.ndim == 4 else array)
    return table, arrays


def augment(images: Tensor, rng: np.random.Generator, noise: float = 0.2, coarsest: int = 2) -> Tensor:
    """uint8 -> [-1, 1], half of them blurred or noisy, as the estimates of a sampler are.

    Args:
        noise: largest standard deviation.
        coarsest: blurred faces keep a resolution of 64 px / a power of two up to this.
    """
    x = images.float() / 127.5 - 1
    kind = torch.from_numpy(rng.random(len(x)))[:, None, None, None]
    z = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.random(len(x), dtype=np.float32))[:, None, None, None]
    factor = 2 ** int(rng.integers(1, int(math.log2(coarsest)) + 1))
    blurred = F.interpolate(F.avg_pool2d(x, factor), scale_factor=float(factor), mode="bilinear")
    x = torch.where(kind < 0.25, x + (blurred - x) * strength, x)
    return torch.where((kind > 0.2) & (kind < 0.5), x + noise * strength * z, x)


def attacked(images: Tensor, loss: Callable[[Tensor], Tensor], length: Tensor) -> Tensor:
    """Images moved by `length` along the gradient that raises the loss most (Goodfellow et al., arXiv 1412.6572, in L2).

    What is learned against such steps has gradients that change what a person sees (Santurkar et al., arXiv 1906.09453); without them
    the guide's own distance fell while the person stayed another.
    """
    x = images.requires_grad_()
    gradient = torch.autograd.grad(loss(x), x)[0].float()
    return (x + length * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-12)).detach()


class Identity(nn.Module):
    """ArcFace: softmax over identities on the sphere, with an angular margin (arXiv 1801.07698, eq. 3); beside it, as for `Clip`, heads for
    what makes a person, on the same features."""

    batch, rate = 96, 2e-3
    scale, margin = 24.0, 0.25
    attack = 2.0  # largest step of `attacked`; a face has length 60 or so

    def __init__(self, data: Path):
        super().__init__()
        table, (self.images,) = read_shards(data / "identities", "images")
        self.labels = torch.tensor(table["identity"].to_numpy())
        self.network = IRSE(**IDENTITY_LAYOUT)
        self.centres = nn.Parameter(torch.randn(int(self.labels.max()) + 1, IDENTITY_LAYOUT["features"]))
        targets, counts = attribute_targets(table)
        self.targets = {name: targets[name] for name in IDENTITY}
        self.heads = nn.ModuleDict({name: nn.Linear(IDENTITY_LAYOUT["features"], counts[name]) for name in IDENTITY})

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = torch.from_numpy(rng.integers(0, len(self.images), self.batch))
        # more noise and blur than for the others, since a person is to be recognised in a sampler's first estimates
        images = augment(self.images[index], rng, noise=0.7, coarsest=8)
        length = self.attack * torch.from_numpy(rng.random(len(images), dtype=np.float32))[:, None, None, None]
        return self.loss_of(attacked(images, lambda x: self.loss_of(x, index), length), index)

    def loss_of(self, images: Tensor, index: Tensor) -> Tensor:
        features, labels = self.network(images).float(), self.labels[index]
        cosine = features @ F.normalize(self.centres).T
        own = F.one_hot(labels, len(self.centres)).bool()
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        logits = torch.where(own, (angle + self.margin).clamp_max(math.pi).cos(), cosine)
        heads = sum(
            F.cross_entropy(self.heads[k](self.scale * features).float(), self.targets[k][index]) for k in self.heads
        )
        return F.cross_entropy(self.scale * logits, labels) + 0.5 * heads

    def save(self, out: Path) -> None:
        save_half(self.network, out / "identity.safetensors")


class Clip(nn.Module):
    """Contrastive loss between pictures and captions (Radford et al., arXiv 2103.00020), with heads for the attributes
    beside it, which teach the small network sooner and are thrown away."""

    batch, rate = 128, 1e-3

    def __init__(self, data: Path):
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        self.table, (self.images,) = read_shards(data / "train", "images")
        self.rows = self.table.to_dict("records")
        self.tokenizer = word_tokenizer()
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3}
        text = {
            "vocab_size": len(self.tokenizer), "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 32, "projection_dim": 96, **ids,
        }  # fmt: skip
        vision = {
            "image_size": 64, "patch_size": 8, "hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4,
            "num_attention_heads": 5, "projection_dim": 96,
        }  # fmt: skip
        self.network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))
        self.targets, counts = attribute_targets(self.table)
        self.heads = nn.ModuleDict({name: nn.Linear(96, count) for name, count in counts.items()})

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = rng.integers(0, len(self.images), self.batch)
        captions = [caption(self.rows[i], rng) for i in index]
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt")
        text_ids = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        out = self.network(**text_ids, pixel_values=augment(self.images[index], rng))
        images, texts = out.vision_model_output.pooler_output.float(), out.text_model_output.pooler_output.float()
        alike = same_words(captions)  # pictures that carry the same caption are no negatives of each other
        loss = (
            cross_entropy_of_many(out.logits_per_image.float(), alike)
            + cross_entropy_of_many(out.logits_per_text.float(), alike)
        ) / 2
        # one length for both: the task's distance is between unnormalised features
        loss = loss + 0.01 * ((images.norm(dim=1) - 10).square().mean() + (texts.norm(dim=1) - 10).square().mean())
        heads = sum(F.cross_entropy(self.heads[k](images), self.targets[k][index]) for k in self.heads)
        return loss + 0.2 * heads

    def save(self, out: Path) -> None:
        folder = out / "clip"
        self.network.half().save_pretrained(folder)
        self.network.float()
        self.tokenizer.save_pretrained(folder)
        preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 64}}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=1) + "\n")


class Parts(nn.Module):
    """Cross-entropy per pixel."""

    batch, rate = 32, 2e-3
    kind, file = PartsUNet, "parts.safetensors"

    def __init__(self, data: Path):
        super().__init__()
        _, (self.images, self.labels) = read_shards(data / "identities", "images", "parts")
        self.network = self.kind()

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = torch.from_numpy(rng.integers(0, len(self.images), self.batch))
        logits = self.network(augment(self.images[index], rng))
        return F.cross_entropy(logits.float(), self.labels[index].long())

    def save(self, out: Path) -> None:
        (out / self.file).parent.mkdir(exist_ok=True)
        save_half(self.network, out / self.file)


class Labels(Parts):
    kind, file = DilatedNet, "evaluator/labels.safetensors"


class Attributes(nn.Module):
    """Cross-entropy of every attribute."""

    batch, rate = 64, 2e-3

    def __init__(self, data: Path):
        super().__init__()
        self.table, (self.images,) = read_shards(data / "train", "images")
        self.targets, self.counts = attribute_targets(self.table)
        self.network = AttributeNet(self.counts)

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = torch.from_numpy(rng.integers(0, len(self.images), self.batch))
        logits = self.network(augment(self.images[index], rng))
        losses = {k: F.cross_entropy(logits[k].float(), self.targets[k][index]) for k in logits}
        return (sum(losses.values()) + 2 * losses["nose"]) / len(
            losses
        )  # the nose is small and faint, and learned last

    def save(self, out: Path) -> None:
        (out / "evaluator").mkdir(exist_ok=True)
        values = {name: sorted(self.table[name].unique()) for name in ATTRIBUTES}
        save_half(self.network, out / "evaluator/attributes.safetensors", {"values": json.dumps(values)})


def attribute_targets(table: pd.DataFrame) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Index of each attribute's value among its sorted values, and how many there are."""
    coded = {name: table[name].astype("category").cat for name in ATTRIBUTES}
    targets = {name: torch.tensor(c.codes.to_numpy(), dtype=torch.long) for name, c in coded.items()}
    return targets, {name: len(c.categories) for name, c in coded.items()}


def same_words(captions: list[str]) -> Tensor:
    """[B, B], 1 where two captions are equal."""
    codes = torch.tensor(pd.factorize(np.array(captions))[0])
    return (codes[:, None] == codes).float()


def cross_entropy_of_many(logits: Tensor, positives: Tensor) -> Tensor:
    return F.cross_entropy(logits, positives / positives.sum(1, keepdim=True))


def word_tokenizer():
    """One token per word of `tasks.captions.WORDS`."""
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
        model_max_length=32,
    )


def save_half(network: nn.Module, path: Path, metadata: dict | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    weights = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    temporary = path.with_name(path.name + ".partial")
    save_file(weights, temporary, metadata=metadata)
    temporary.rename(path)


TRAINED = {"identity": Identity, "clip": Clip, "parts": Parts, "attributes": Attributes, "labels": Labels}


class Training:
    """Adam with a cosine over the budget of time; resumes."""

    def __init__(self, name: str, minutes: float, seed: int, data: Path, out: Path):
        torch.manual_seed(seed)
        out.mkdir(parents=True, exist_ok=True)
        self.name, self.budget, self.seed, self.out = name, 60 * minutes, seed, out
        self.job = TRAINED[name](data)
        self.optimizer = torch.optim.AdamW(self.job.parameters(), lr=self.job.rate, weight_decay=0.01)
        self.step, self.elapsed, self.state_file = 0, 0.0, out / f"training_{name}.pt"
        if self.state_file.exists():
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            self.job.load_state_dict(state["job"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        state = {"job": self.job.state_dict(), "optimizer": self.optimizer.state_dict()}
        temporary = self.state_file.with_name(self.state_file.name + ".partial")
        torch.save({**state, "step": self.step, "elapsed": self.elapsed}, temporary)
        temporary.rename(self.state_file)
        self.job.save(self.out)

    def train_step(self) -> float:
        for group in self.optimizer.param_groups:
            progress = min(self.elapsed / self.budget, 1)
            group["lr"] = self.job.rate * min(1, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.job.loss(np.random.default_rng([self.seed, self.step]))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.job.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def run(self) -> None:
        self.job.train()
        average, saved = None, time.monotonic()
        with tqdm(total=round(self.budget), initial=round(self.elapsed), unit="s", desc=self.name) as bar:
            while self.elapsed < self.budget:
                start = time.monotonic()
                loss = self.train_step()
                average = loss if average is None else 0.98 * average + 0.02 * loss
                self.elapsed += time.monotonic() - start
                bar.set_postfix(step=self.step, loss=f"{average:.4f}", refresh=False)
                bar.update(min(round(self.elapsed), bar.total) - bar.n)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.save()
        print(f"{self.name}: {self.step} steps, {self.step * self.job.batch} faces, loss {average or 0:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(TRAINED))
    parser.add_argument("--minutes", type=float, default=10, help="training time, all resumed parts together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data/avatars64")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64")
    args = parser.parse_args()
    # the evaluators are trained from other seeds than the guides
    seed = args.seed + 1000 * (args.name in ("attributes", "labels"))
    Training(args.name, args.minutes, seed, args.data, args.out).run()


if __name__ == "__main__":
    main()
