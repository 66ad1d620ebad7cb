"""Train the prior of photographs (model=photos), on one core or a GPU.

  python scripts/photos/collect.py
  OMP_NUM_THREADS=1 python scripts/photos/train.py --steps 200000          goes on where it was stopped
  OMP_NUM_THREADS=1 python scripts/photos/train.py --release 1500          weights to ship, from the state so far

The learning rate is constant, so that the training can go on for days. `--release N` copies the state, takes N more
steps while the rate falls to zero, and writes the averaged weights; the state itself stays as it was.

The network sees crops of 64 px of photographs at scales 1/4 to 1, flipped, turned, and mildly changed in colour and
exposure. Loss and preconditioning are EDM's (Karras et al. 2022, table 1) with sigma_data = 0.5. The step number seeds
the crops, so that a resumed training is the uninterrupted one.
"""

import argparse
import csv
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from dsg.arguments import Parser, exit_code
from dsg.priors.photos import PatchUNet, denoise
from dsg.weights import record_shipped

SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
REPOSITORY = Path(__file__).resolve().parents[2]


class Crops:
    """Random crops of a folder of photographs, as they are seeded.

    Args:
        folder: of JPEG files.
        size: of the crops, in px.
        longest: photographs are reduced to so many px before anything else.
    """

    def __init__(self, folder: Path, size: int, longest: int = 1600):
        self.size, self.pictures, weights = size, [], []
        for path in tqdm(sorted(folder.glob("*.jpg")), desc="photographs", unit="file"):
            with Image.open(path) as image:
                image = image.convert("RGB")
                image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
            scaled = [image.resize((round(image.width * s), round(image.height * s)), Image.Resampling.LANCZOS)
                      for s in SCALES]  # fmt: skip
            self.pictures.append([np.asarray(one) for one in scaled if min(one.size) >= size])
            weights.append(math.sqrt(image.width * image.height))  # a large photograph has more to see
        if not self.pictures:
            raise ValueError(f"{folder}: no photographs; run python scripts/photos/collect.py")
        self.weights = np.array(weights) / sum(weights)

    def batch(self, count: int, seed: int) -> Tensor:
        """float32 [count, 3, size, size] in [-1, 1]."""
        random = np.random.default_rng(seed)
        return torch.from_numpy(np.stack([self.crop(random) for _ in range(count)])).permute(0, 3, 1, 2)

    def crop(self, random: np.random.Generator) -> np.ndarray:
        scaled = self.pictures[random.choice(len(self.pictures), p=self.weights)]
        picture = scaled[random.integers(len(scaled))]
        top, left = (random.integers(side - self.size + 1) for side in picture.shape[:2])
        crop = picture[top : top + self.size, left : left + self.size].astype(np.float32) / 255
        crop = np.rot90(crop, random.integers(4))
        crop = crop[:, ::-1] if random.random() < 0.5 else crop
        exposure, colour = np.exp(random.normal(0, 0.15)), np.exp(random.normal(0, 0.08, 3))
        return np.clip(crop**exposure * colour, 0, 1).astype(np.float32) * 2 - 1


def noise_levels(count: int, seed: int) -> Tensor:
    """sigma [count]: most of them where restoration needs details, three in ten all over DDPM's range."""
    random = np.random.default_rng([seed, 1])
    details = random.normal(-1.6, 1.2, count)
    everywhere = random.uniform(math.log(0.01), math.log(160), count)
    logs = np.where(random.random(count) < 0.7, details, everywhere)
    return torch.from_numpy(np.exp(np.clip(logs, math.log(0.008), math.log(160)))).float()


def loss(net: nn.Module, clean: Tensor, seed: int) -> Tensor:
    """EDM's loss, weighted so that the network's own output is learned alike at all levels."""
    sigma = noise_levels(len(clean), seed).to(clean.device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean.device)
    denoised = denoise(net, clean + sigma[:, None, None, None] * noise, sigma)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    return (weight * (denoised - clean).square().mean((1, 2, 3))).mean()


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) for kernels [out, in, h, w] as matrices [out, in h w]."""

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(average, group["momentum"]).flatten(1)).view_as(p)
                p.sub_(update, alpha=group["lr"] * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5)


def orthogonal(g: Tensor) -> Tensor:
    """Nearly U V' of g = U S V', by five Newton-Schulz steps on the small side's Gram matrix."""
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    gram, identity = x @ x.T, torch.eye(len(x), device=x.device)
    product = identity
    for _ in range(5):
        p = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        product, gram = p @ product, p @ gram @ p
    return (product @ x).T if tall else product @ x


class Trainer:
    """Network, optimisers and averaged weights; `save` and `load` keep all of it, to the step."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.step = options, 0
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = PatchUNet().to(self.device, memory_format=torch.channels_last)
        self.average = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        kernels = [
            p for name, p in self.net.named_parameters() if p.ndim == 4 and not name.startswith(("enter", "leave"))
        ]
        chosen = {id(p) for p in kernels} if options.muon else set()
        rest = [p for p in self.net.parameters() if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0)]
        self.optimizers += [Muon(kernels, 0)] if options.muon else []

    def rate(self, left: int | None) -> float:
        """Learning rate: a warm-up, then constant; to zero over the last steps of a release."""
        fall = 1.0 if left is None else left / self.options.release
        return self.options.lr * min(1, (self.step + 1) / 200) * fall

    def train_step(self, crops: Crops, left: int | None = None) -> float:
        clean = crops.batch(self.options.batch, self.step).to(self.device, memory_format=torch.channels_last)
        value = loss(self.net, clean, self.step)
        value.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(left)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(0.9995, self.step / (self.step + 10))
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                self.average[name].lerp_(p, 1 - keep)
        return value.item()

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"step": self.step, "net": self.net.state_dict(), "average": self.average,
                 "optimizers": [o.state_dict() for o in self.optimizers]}  # fmt: skip
        temporary = path.with_name(f"{path.name}.partial")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step, self.average = state["step"], state["average"]
        self.net.load_state_dict(state["net"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def release(self, path: Path) -> None:
        """Averaged weights in fp16."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.partial")
        save_file({k: v.half().contiguous() for k, v in self.average.items()}, temporary)
        os.replace(temporary, path)
        record_shipped(path)


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--photos", type=Path, default=REPOSITORY / "data/photos/images/train")
    parser.add_argument("--state", type=Path, default=REPOSITORY / "checkpoints/photos/training/state.pt")
    parser.add_argument("--weights", type=Path, default=REPOSITORY / "checkpoints/photos/model.safetensors")
    parser.add_argument("--steps", type=int, default=200_000, help="of the whole training")
    parser.add_argument("--release", type=int, help="take so many steps more while the rate falls, and write weights")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="of the crops, in px")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--every", type=int, default=200, help="steps between two saved states")
    return exit_code(lambda: train(parser.parse_args()))


def train(options: argparse.Namespace) -> None:
    crops, trainer = Crops(options.photos, options.size), Trainer(options)
    if options.state.exists():
        trainer.load(options.state)
    first = trainer.step
    last = options.steps if options.release is None else first + options.release
    log, losses, began = options.state.with_name("log.csv"), [], time.time()
    for step in tqdm(range(first, last), initial=first, total=last, unit="step", smoothing=0.01, mininterval=10):
        losses.append(trainer.train_step(crops, None if options.release is None else last - step))
        if options.release is None and (trainer.step % options.every == 0 or trainer.step == last):
            trainer.save(options.state)
            with open(log, "a", newline="") as file:
                csv.writer(file).writerow([trainer.step, f"{np.mean(losses):.5f}", f"{time.time() - began:.0f}"])
            losses = []
    if options.release is not None:
        trainer.release(options.weights)


if __name__ == "__main__":
    sys.exit(main())
