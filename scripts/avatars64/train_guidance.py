"""Train the networks that guide the semantic tasks on avatars64, or that evaluate them, each on a budget of time.

    python scripts/avatars64/render.py train=40960 identities=2048
    python scripts/avatars64/train_guidance.py identity --minutes 86      # guides faceid
    python scripts/avatars64/train_guidance.py clip --minutes 33          # guides clip_text and style
    python scripts/avatars64/train_guidance.py parts --minutes 8          # guides segmentation
    python scripts/avatars64/train_guidance.py attributes --minutes 37    # evaluator of all but segmentation
    python scripts/avatars64/train_guidance.py labels --minutes 8         # evaluator of segmentation
    python scripts/avatars64/train_guidance.py selector_attributes --minutes 14   # selector of step sizes: the same
    python scripts/avatars64/train_guidance.py selector_labels --minutes 5        # metrics as the evaluator

AdamW with a cosine over the budget, half of the faces blurred or noisy. The weights (fp16) and the state go to
checkpoints/avatars64/training/, which is not in git. A stopped training goes on from its state, and starts again if
training_<name>.pt is removed. `--out checkpoints/avatars64 --overwrite` replaces the embedded weights;
`scripts/avatars64/measure.py` makes the tables of their card, checkpoints/avatars64/GUIDANCE.md.
"""

import argparse
import json
import math
import shutil
import sys
import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive_number
from dsg.avatars64.attributes import IDENTITY, VALUES
from dsg.avatars64.captions import WORDS, caption
from dsg.avatars64.faces import DATA, read_shards
from dsg.files import REPOSITORY, temporary_name
from dsg.weights import record_shipped
from tasks.networks.evaluator_networks import ConvNeXtNet, DenseAttributeNet, DilatedNet, ShuffleAttributeNet
from tasks.networks.irse import IRSE
from tasks.networks.parts import PartsUNet

SAVE_EVERY = 90  # seconds


def augment(images: Tensor, rng: np.random.Generator, noise: float = 0.2, coarsest: int = 2) -> Tensor:
    """uint8 -> float32 in [-1, 1], half of them blurred or noisy, as the estimates of a sampler are.

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


def attribute_targets(table: pd.DataFrame) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Index of each attribute's value among its sorted values, and how many there are."""
    coded = {name: table[name].astype("category").cat for name in VALUES}
    targets = {name: torch.tensor(c.codes.to_numpy(), dtype=torch.long) for name, c in coded.items()}
    return targets, {name: len(c.categories) for name, c in coded.items()}


# --- the networks and their losses


class Job(nn.Module, ABC):
    """A network, its data, which are read from the folder of the faces, and its loss.

    All parameters are optimised. Heads that only help to learn are not saved.

    Attributes:
        batch: faces per step.
        rate: highest learning rate.
        seed: added to the command's.
        file: name of the weights in the folder that is written to.
    """

    batch: int
    rate: float = 2e-3
    seed: int = 0
    file: str
    network: nn.Module

    @abstractmethod
    def loss(self, rng: np.random.Generator) -> Tensor:
        """The loss of one batch, drawn with `rng`."""

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """Indices of a batch among `count` faces, with replacement."""
        return torch.from_numpy(rng.integers(0, count, self.batch))

    def save(self, out: Path, metadata: dict[str, str] | None = None) -> None:
        """Write the network's weights, fp16, to `out / file`, with what is needed to read them."""
        path, state = out / self.file, self.network.state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
        temporary = temporary_name(path)
        save_file(weights, temporary, metadata=metadata)
        temporary.replace(path)


class Identity(Job):
    """ArcFace: softmax over identities on the sphere, with an angular margin (Deng et al., arXiv 1801.07698, eq. 3).

    Heads on the same features for what makes a person help to learn.
    """

    batch, file = 96, "identity.safetensors"
    scale, margin = 24.0, 0.25
    attack = 2.0  # largest step of `attacked`; a face has length 60 or so
    layout = {"input_size": 64, "channels": (16, 24, 48, 96, 128), "units": (1, 2, 2, 2), "features": 128}

    def __init__(self, data: Path):
        super().__init__()
        table, (self.images,) = read_shards(data / "identities", "images")
        self.labels = torch.tensor(table["identity"].to_numpy())
        self.network = IRSE(**self.layout)
        self.centres = nn.Parameter(torch.randn(int(self.labels.max()) + 1, self.layout["features"]))
        self.targets, counts = attribute_targets(table)
        self.heads = nn.ModuleDict({name: nn.Linear(self.layout["features"], counts[name]) for name in IDENTITY})

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = self.draw(len(self.images), rng)
        # more noise and blur than for the others, since a person is to be recognised in a sampler's first estimates
        images = augment(self.images[index], rng, noise=0.7, coarsest=8)
        length = self.attack * torch.from_numpy(rng.random(len(images), dtype=np.float32))[:, None, None, None]
        return self.loss_of(self.attacked(images, index, length), index)

    def loss_of(self, images: Tensor, index: Tensor) -> Tensor:
        """The loss for images [B, 3, 64, 64] in [-1, 1] of the faces `index`."""
        features, labels = self.network(images).float(), self.labels[index]
        cosine = features @ F.normalize(self.centres).T
        own = F.one_hot(labels, len(self.centres)).bool()
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        logits = torch.where(own, (angle + self.margin).clamp_max(math.pi).cos(), cosine)
        heads = sum(
            F.cross_entropy(head(self.scale * features).float(), self.targets[name][index])
            for name, head in self.heads.items()
        )
        return F.cross_entropy(self.scale * logits, labels) + 0.5 * heads

    def attacked(self, images: Tensor, index: Tensor, length: Tensor) -> Tensor:
        """Images moved by `length` along the gradient of the loss (Goodfellow et al., arXiv 1412.6572, in L2).

        A network that is trained on such images has gradients that change what a person sees (Santurkar et al., arXiv
        1906.09453). Without them the network's distance fell while the sample remained another person.
        """
        x = images.requires_grad_()
        gradient = torch.autograd.grad(self.loss_of(x, index), x)[0].float()
        return (x + length * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-12)).detach()


class Clip(Job):
    """Contrastive loss between images and captions (Radford et al., arXiv 2103.00020).

    Heads for the attributes help the small network to learn.

    Raises:
        ValueError: transformers is not installed.
    """

    batch, rate, file = 128, 1e-3, "clip/model.safetensors"
    length = 10  # that the features should have: the task's distance is between unnormalised ones
    text = {
        "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "projection_dim": 96, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3,
    }  # fmt: skip
    vision = {
        "image_size": 64, "patch_size": 8, "hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4,
        "num_attention_heads": 5, "projection_dim": 96,
    }  # fmt: skip

    def __init__(self, data: Path):
        super().__init__()
        if find_spec("transformers") is None:
            raise ValueError("training CLIP needs transformers: pip install -e '.[semantic]'")
        from transformers import CLIPConfig, CLIPModel

        table, (self.images,) = read_shards(data / "train", "images")
        self.rows, self.tokenizer = table.to_dict("records"), word_tokenizer(self.text["max_position_embeddings"])
        text = {"vocab_size": len(self.tokenizer), **self.text}
        self.network = CLIPModel(CLIPConfig(text_config=text, vision_config=self.vision, projection_dim=96))
        self.targets, counts = attribute_targets(table)
        self.heads = nn.ModuleDict({name: nn.Linear(96, count) for name, count in counts.items()})

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = rng.integers(0, len(self.images), self.batch)
        captions = [caption(self.rows[i], rng) for i in index]
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt")
        text = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        out = self.network(**text, pixel_values=augment(self.images[index], rng))
        images, texts = out.vision_model_output.pooler_output.float(), out.text_model_output.pooler_output.float()
        codes = torch.tensor(pd.factorize(np.array(captions))[0])
        same = (codes[:, None] == codes).float()  # images with the same caption are no negatives of each other
        wanted = same / same.sum(1, keepdim=True)
        logits = out.logits_per_image.float()
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        lengths = [(features.norm(dim=1) - self.length).square().mean() for features in (images, texts)]
        heads = sum(F.cross_entropy(head(images), self.targets[name][index]) for name, head in self.heads.items())
        return loss + 0.01 * sum(lengths) + 0.2 * heads

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


def word_tokenizer(length: int):
    """A tokenizer with one token per word of `dsg.avatars64.captions.WORDS`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>", "pad_token": "<pad>"}
    vocabulary = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, model_max_length=length)


class Parts(Job):
    """Cross-entropy per pixel."""

    batch, file, kind = 32, "parts.safetensors", PartsUNet

    def __init__(self, data: Path):
        super().__init__()
        _, (self.images, self.labels) = read_shards(data / "identities", "images", "parts")
        self.network = self.kind()

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = self.draw(len(self.images), rng)
        logits = self.network(augment(self.images[index], rng))
        return F.cross_entropy(logits.float(), self.labels[index].long())


class Labels(Parts):
    kind, seed, file = DilatedNet, 1000, "evaluator/labels.safetensors"


class SelectorLabels(Parts):
    kind, seed, file = ConvNeXtNet, 2000, "selector/labels.safetensors"


class Attributes(Job):
    """Mean cross-entropy of the attributes. The nose, small and faint and learned last, counts three times."""

    batch, kind, seed, file = 64, DenseAttributeNet, 1000, "evaluator/attributes.safetensors"

    def __init__(self, data: Path):
        super().__init__()
        self.table, (self.images,) = read_shards(data / "train", "images")
        self.targets, counts = attribute_targets(self.table)
        self.network = self.kind(counts)

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = self.draw(len(self.images), rng)
        logits = self.network(augment(self.images[index], rng))
        losses = {k: F.cross_entropy(logits[k].float(), self.targets[k][index]) for k in logits}
        return (sum(losses.values()) + 2 * losses["nose"]) / len(losses)

    def save(self, out: Path) -> None:
        values = {name: sorted(self.table[name].unique()) for name in VALUES}
        super().save(out, {"values": json.dumps(values)})


class SelectorAttributes(Attributes):
    kind, seed, file = ShuffleAttributeNet, 2000, "selector/attributes.safetensors"


JOBS: dict[str, type[Job]] = {
    "identity": Identity,
    "clip": Clip,
    "parts": Parts,
    "attributes": Attributes,
    "labels": Labels,
    "selector_attributes": SelectorAttributes,
    "selector_labels": SelectorLabels,
}

# --- the training


class Training:
    """One network's training, or the rest of it if `args.out` holds its state, training_<name>.pt.

    Raises:
        FileExistsError: `args.out` holds weights of another training.
        FileNotFoundError: no faces.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.budget, kind = args, 60 * args.minutes, JOBS[args.name]
        self.seed, self.weights = args.seed + kind.seed, args.out / kind.file
        self.state_file = args.out / f"training_{args.name}.pt"
        if self.weights.exists() and not self.state_file.exists() and not args.overwrite:
            raise FileExistsError(
                f"{self.weights} is there already: add --overwrite, or train in another folder (--out)"
            )
        torch.manual_seed(self.seed)
        self.job = kind(args.data)
        self.optimizer = torch.optim.AdamW(self.job.parameters(), lr=kind.rate, weight_decay=0.01)
        self.step, self.elapsed = 0, 0.0
        if self.state_file.exists():
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            self.job.load_state_dict(state["job"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        self.args.out.mkdir(parents=True, exist_ok=True)
        state = {"job": self.job.state_dict(), "optimizer": self.optimizer.state_dict()}
        temporary = temporary_name(self.state_file)
        torch.save({**state, "step": self.step, "elapsed": self.elapsed}, temporary)
        temporary.replace(self.state_file)
        self.job.save(self.args.out)
        record_shipped(self.weights)

    def train_step(self) -> float:
        """Take one step on one batch; return its loss."""
        progress = min(self.elapsed / self.budget, 1)
        rate = self.job.rate * min(1, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
        self.optimizer.param_groups[0]["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
            loss = self.job.loss(np.random.default_rng([self.seed, self.step]))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.job.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def run(self) -> float:
        """Train until the time is spent; return the running mean of the loss.

        Raises:
            ValueError: the loss is not finite; the state is that of the last save.
        """
        self.job.train()
        average, saved = math.nan, time.monotonic()
        with tqdm(total=round(self.budget), initial=round(self.elapsed), unit="s", desc=self.args.name) as bar:
            while self.elapsed < self.budget:
                start = time.process_time()
                loss = self.train_step()
                if not math.isfinite(loss):
                    raise ValueError(f"the loss is {loss} at step {self.step}: the last save is kept")
                average = loss if math.isnan(average) else 0.98 * average + 0.02 * loss
                self.elapsed += time.process_time() - start  # other programs do not count
                bar.set_postfix(step=self.step, loss=f"{average:.4f}", refresh=False)
                bar.update(min(round(self.elapsed), bar.total) - bar.n)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return average


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("name", choices=list(JOBS))
    add("--minutes", type=positive_number, default=10, help="of computing, all resumed parts and threads together (10)")
    add("--seed", type=int, default=0, help="of weights and batches (0; the evaluator adds 1000, the selector 2000)")
    add("--data", type=Path, default=DATA, help="folder of the faces (data/avatars64)")
    add("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64/training", help="folder of weights and state")
    add("--bf16", action="store_true", help="much faster with AMX, much slower without AVX-512")
    add("--overwrite", action="store_true", help="replace weights that another training left in --out")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    training = Training(args)
    if training.elapsed >= training.budget:
        print(f"{args.name}: finished already, {training.step} steps: {training.weights}")
        return
    loss = training.run()
    print(f"{args.name}: {training.step} steps of {training.job.batch} faces, loss {loss:.4f}: {training.weights}")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="the same command goes on from the last save"))
