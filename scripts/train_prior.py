"""Train the embedded prior: eps-prediction on avatars64 with an exponential moving average of the weights.

    python scripts/make_avatars.py train=40960
    python scripts/train_prior.py --minutes 90             # resumes from where it was stopped, at any moment

The budget is time, not steps: the learning rate follows a cosine over `minutes` of training, so that a run on a busy
laptop ends as well annealed as one on a GPU (then bf16, channels-last, data on the device). The state is saved every
two minutes and the averaged weights are exported beside it (`model.safetensors`, fp16): a half-trained prior can be tried.
A finished run is not trained again; delete `training.pt` to start over.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY
from dsg.priors.adm import ADMUNet
from dsg.schedule import linear_betas

SAVE_EVERY = 120  # seconds
LOG_EVERY = 50  # steps


def load_faces(folder: Path) -> torch.Tensor:
    """All training faces, uint8 [N, 3, 64, 64]."""
    shards = sorted(folder.glob("shard_*.npz"))
    if not shards:
        raise SystemExit(f"no training faces in {folder}: run 'python scripts/make_avatars.py train=40960' first")
    images = np.concatenate([np.load(shard)["images"] for shard in shards])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def stratified_timesteps(batch: int, generator: torch.Generator) -> torch.Tensor:
    """One t in 0..999 from each of `batch` equal strata: uniform, with less variance than independent draws."""
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (u * 1000).long().clamp_max(999)


class Trainer:
    def __init__(self, args: argparse.Namespace, device: torch.device):
        self.args, self.device = args, device
        self.unet_config = OmegaConf.to_container(OmegaConf.load(args.config).model.unet)
        self.net = ADMUNet(**self.unet_config).to(device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.alpha_bar = (1 - linear_betas()).cumprod(0).float().to(device)
        self.generator = torch.Generator().manual_seed(args.seed)
        self.step, self.elapsed, self.log = 0, 0.0, []
        self.state_file = args.out / "training.pt"
        if self.state_file.exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.elapsed, self.log = state["step"], state["elapsed"], state["log"]

    def save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "elapsed": self.elapsed,
            "log": self.log,
        }
        temporary = self.state_file.with_name("training.pt.partial")
        torch.save(state, temporary)
        temporary.rename(self.state_file)
        weights = {k: v.half().contiguous().cpu() for k, v in self.ema.state_dict().items()}
        temporary = self.args.out / "model.safetensors.partial"
        save_file(weights, temporary, metadata={"steps": str(self.step), "images": str(self.step * self.args.batch)})
        temporary.rename(self.args.out / "model.safetensors")
        pd.DataFrame(self.log).to_csv(self.args.out / "training_log.csv", index=False, float_format="%.6g")

    def set_learning_rate(self) -> None:
        progress = min(self.elapsed / (60 * self.args.minutes), 1.0)
        warmup = min(1.0, (self.step + 1) / 100)
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * warmup * 0.5 * (1 + math.cos(math.pi * progress))

    def train_step(self, faces: torch.Tensor) -> torch.Tensor:
        args = self.args
        index = torch.randint(len(faces), (args.batch,), generator=self.generator)
        t = stratified_timesteps(args.batch, self.generator)
        noise = torch.randn((args.batch, *faces.shape[1:]), generator=self.generator)
        x0 = faces[index.to(faces.device)].to(self.device).float() / 127.5 - 1
        t, noise = t.to(self.device), noise.to(self.device)
        ab = self.alpha_bar[t][:, None, None, None]
        x_t = (ab.sqrt() * x0 + (1 - ab).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=args.bf16):
            loss = (self.net(x_t, t) - noise).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.set_learning_rate()
        self.optimizer.step()
        self.update_ema()
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def update_ema(self) -> None:
        decay = min(self.args.ema, (1 + self.step) / (10 + self.step))
        for average, current in zip(self.ema.parameters(), self.net.parameters()):
            average.lerp_(current, 1 - decay)

    def run(self, faces: torch.Tensor) -> None:
        budget = 60 * self.args.minutes
        losses, saved = [], time.monotonic()
        with tqdm(total=round(budget), initial=round(self.elapsed), unit="s", desc="training") as bar:
            while self.elapsed < budget:
                start = time.monotonic()
                losses.append(self.train_step(faces))
                if self.step % LOG_EVERY == 0:
                    loss = torch.stack(losses).mean().item()
                    if not math.isfinite(loss):
                        raise SystemExit(f"the loss is {loss} at step {self.step}: lower lr; the last state is kept")
                    self.log.append({"step": self.step, "minutes": self.elapsed / 60, "loss": loss})
                    bar.set_postfix(step=self.step, loss=f"{loss:.4f}")
                    losses = []
                self.elapsed += time.monotonic() - start
                bar.update(min(round(self.elapsed), bar.total) - bar.n)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.save()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90, help="training time, all resumed parts together")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", dest="bf16", action="store_false", help="no bf16 autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs/model/avatars64.yaml")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data/avatars64/train")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    faces = load_faces(args.data)
    trainer = Trainer(args, device)
    trainer.run(faces.to(device) if device.type == "cuda" else faces)
    print(f"{trainer.step} steps, {trainer.step * args.batch} faces seen: {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    main()
