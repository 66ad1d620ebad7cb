"""The loop: it can be stopped at any moment and goes on with the very next step."""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from dsg.avatars64.prior_training.averages import Averages
from dsg.avatars64.prior_training.draws import faces_of_step, generator, time_density, timesteps
from dsg.avatars64.prior_training.loss import BINS, coarse_error, to_v, weight
from dsg.avatars64.prior_training.optimizers import optimizers
from dsg.avatars64.prior_training.recorded import Recorded
from dsg.checkpoints import load_into, read_weights
from dsg.files import temporary_name
from dsg.priors.adm import ADMUNet
from dsg.priors.class_posterior import ClassPosterior, probabilities
from dsg.priors.linear import LinearDenoiser
from dsg.schedule import linear_betas

SAVE_EVERY = 120  # seconds
LOG_EVERY = 25  # steps
FITTED = 4096  # faces that the linear denoiser is fitted to
FIXED = (  # of a run
    "prediction", "weighting", "coarse", "optimizer", "lr", "warmup", "batch", "flips", "seed", "ema", "linear",
    "classes", "unet",
)  # fmt: skip


class Trainer:
    """A training, or the rest of it if `args.out` holds its state.

    Args:
        args: the options of scripts/avatars64/train_prior.py.
        faces: uint8 [N, C, H, W].
        labels: of each set of classes (`args.classes` has their sizes) int64 [N], the class of each face.

    Raises:
        SystemExit: the state in `args.out` is that of other options; or the loss is not finite.
    """

    def __init__(self, args: argparse.Namespace, faces: Tensor, labels: Sequence[Tensor] = ()):
        self.args, self.device, self.faces = args, torch.device(args.device), faces
        torch.manual_seed(args.seed)
        self.linear = LinearDenoiser(faces[0].numel(), args.linear) if args.linear else None
        self.classes = nn.ModuleList(ClassPosterior(count, args.linear) for count in args.classes)
        self.net = ADMUNet(**args.unet, num_classes=sum(args.classes))
        self.net.to(self.device, memory_format=torch.channels_last)
        if args.init:
            self.begin_with(args.init)
        self.averages = Averages(self.net, args.ema)
        self.optimizers = optimizers(self.net, args.optimizer, args.lr)
        self.alpha_bar = (1 - linear_betas()).cumprod(0).float().to(self.device)
        self.density = time_density().to(self.device)
        self.balance = torch.ones(BINS, device=self.device)  # running mean of v's squared error, per noise level
        self.rate = torch.tensor(args.lr, device=self.device)
        self.step, self.elapsed, self.log = 0, 0.0, []
        if (args.out / "training.pt").exists():
            self.load()
        elif self.linear:
            self.linear = LinearDenoiser.fit(faces[:FITTED].float() / 127.5 - 1, args.linear).to(faces.device)
            if labels:
                self.classes = class_posteriors(self.linear, faces, labels)
        for module in (self.linear, self.classes):
            if module:
                module.to(self.device)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate
        if args.compile:
            self.net.compile()
        self.learn = Recorded(self.change_weights) if self.device.type == "cuda" else self.change_weights

    def begin_with(self, file: Path) -> None:
        """The network's weights; what is fitted to the faces is not taken, nor are embeddings of classes needed."""
        weights = read_weights(file, "init")[0]
        weights = {name: w for name, w in weights.items() if not name.startswith(("linear.", "classes."))}
        if self.net.label_emb:
            weights.setdefault("label_emb.weight", self.net.label_emb.weight.detach())
        load_into(self.net, weights, file)

    def state(self) -> dict:
        return {
            "args": {name: getattr(self.args, name) for name in FIXED},
            "net": self.net.state_dict(),
            "averages": {str(width): net.state_dict() for width, net in self.averages.nets.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "balance": self.balance,
            "linear": self.linear.state_dict() if self.linear else None,
            "classes": self.classes.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "log": self.log,
        }

    def load(self) -> None:
        state = torch.load(self.args.out / "training.pt", map_location="cpu", weights_only=True)
        for name in FIXED:
            value = state["args"].get(name)
            if getattr(self.args, name) != value:
                raise SystemExit(f"{self.args.out} was begun with {name}={value}: say so again, or give another --out")
        self.net.load_state_dict(state["net"])
        for width, net in self.averages.nets.items():
            net.load_state_dict(state["averages"][str(width)])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        if self.linear:
            self.linear.load_state_dict(state["linear"])
        self.classes.load_state_dict(state["classes"])
        self.balance.copy_(state["balance"])
        self.step, self.elapsed, self.log = state["step"], state["elapsed"], state["log"]

    def save(self) -> None:
        out = self.args.out
        replace(out / "training.pt", lambda file: torch.save(self.state(), file))
        for width in self.averages.nets:
            replace(out / f"model_{width:g}.safetensors", lambda file, width=width: self.export(file, width))
        table = pd.DataFrame(self.log)
        replace(out / "training_log.csv", lambda file: table.to_csv(file, index=False, float_format="%.6g"))

    def export(self, file: Path, width: float) -> None:
        """The averaged weights, fp16, and what the class posteriors need, float32: variances are divided by."""
        weights = self.averages.nets[width].state_dict()
        weights |= {f"linear.{k}": v for k, v in self.linear.state_dict().items()} if self.linear else {}
        weights = {k: v.half().contiguous().cpu() for k, v in weights.items()}
        weights |= {f"classes.{k}": v.contiguous().cpu() for k, v in self.classes.state_dict().items()}
        seen = {"prediction": self.args.prediction, "steps": str(self.step), "images": str(self.step * self.args.batch)}
        save_file(weights, file, metadata=seen)

    def progress(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        args = self.args
        return min(self.step / args.steps if args.steps else self.elapsed / (60 * args.minutes), 1.0)

    def set_learning_rate(self) -> None:
        factor = min(1.0, (self.step + 1) / self.args.warmup) * 0.5 * (1 + math.cos(math.pi * self.progress()))
        self.rate.fill_(self.args.lr * factor)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """x0 and noise [B, 3, 64, 64], t [B] of the next step."""
        args, g = self.args, generator(self.args.seed, self.step, self.device)
        index = faces_of_step(self.step, args.batch, len(self.faces), args.seed)
        t = timesteps(args.batch, self.density, g)
        noise = torch.randn((args.batch, *self.faces.shape[1:]), generator=g, device=self.device)
        mirrored = torch.rand(args.batch, generator=g, device=self.device) < (0.5 if args.flips else 0.0)
        x0 = self.faces[index.to(self.faces.device)].to(self.device).float() / 127.5 - 1
        return torch.where(mirrored[:, None, None, None], x0.flip(-1), x0), noise, t

    def train_step(self) -> Tensor:
        """One step; returns its squared error of v, as if t were uniform, and its weighted loss, [2]."""
        x0, noise, t = self.batch()
        self.set_learning_rate()
        error, total, loss = self.learn(x0, noise, t)
        self.step += 1
        self.averages.update(self.net, self.step)
        self.update_balance(total, t)
        rarity = 1e-3 / self.density[t].float()
        return torch.stack([(error * rarity).mean(), loss])  # not waited for: a GPU works behind the program

    def change_weights(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The squared error of v [B], the error that counts [B], and the loss []."""
        ab = self.alpha_bar[t]
        signal, sigma = ab.sqrt()[:, None, None, None], (1 - ab).sqrt()[:, None, None, None]
        x_t = (signal * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16, cache_enabled=False):
            out = self.net(x_t, t, *self.probabilities(x_t, ab))
        v = to_v(out, x_t, ab[:, None, None, None], self.args.prediction)
        v = v + self.linear.skip(x_t, ab) if self.linear else v
        difference = v - (signal * noise - sigma * x0)
        error = difference.square().flatten(1).mean(1)
        total = error + self.args.coarse * coarse_error(difference)
        loss = (weight(ab, self.args.weighting, self.balance, t) * total).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return error.detach(), total.detach(), loss.detach()

    def probabilities(self, x_t: Tensor, ab: Tensor) -> list[Tensor]:
        """What the network is given beside x_t and t."""
        if not self.classes:
            return []
        with torch.autocast(self.device.type, enabled=False):
            return [probabilities(self.linear, self.classes, x_t, ab)]

    def update_balance(self, error: Tensor, t: Tensor) -> None:
        bins = t * BINS // 1000
        count = torch.zeros_like(self.balance).index_add_(0, bins, torch.ones_like(error))
        mean = torch.zeros_like(self.balance).index_add_(0, bins, error) / count.clamp_min(1)
        rate = max(0.02, 1 / self.step)
        self.balance.copy_(torch.where(count > 0, self.balance.lerp(mean, rate), self.balance))

    def clock(self) -> float:
        """Seconds of computing: of all cores on a CPU, of the clock on a GPU."""
        return time.process_time() if self.device.type == "cpu" else time.monotonic()

    def run(self, stopped) -> None:
        """Until the budget is spent or `stopped()` says so."""
        begun, spent, saved = self.clock(), self.elapsed, time.monotonic()
        recent = []
        with tqdm(total=1000, initial=round(1000 * self.progress()), desc="training", mininterval=5,
                  bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}") as bar:  # fmt: skip
            while self.progress() < 1 and not stopped():
                recent.append(self.train_step())
                self.elapsed = spent + self.clock() - begun
                if self.step % LOG_EVERY == 0:
                    recent = self.note(recent, bar)
                bar.update(math.floor(1000 * self.progress()) - bar.n)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def note(self, recent: list, bar) -> list:
        """One row of the log from the steps since the last one."""
        error, loss = torch.stack(recent).mean(0).tolist()
        if not math.isfinite(loss):
            raise SystemExit(f"the loss is {loss} at step {self.step}: lower --lr; the last saved state is kept")
        self.log.append({"step": self.step, "minutes": self.elapsed / 60, "v_error": error, "loss": loss})
        bar.set_postfix_str(f"step {self.step}, v error {error:.4f}", refresh=False)
        return []


def class_posteriors(linear: LinearDenoiser, faces: Tensor, labels: Sequence[Tensor]) -> nn.ModuleList:
    """Of each set of classes, fitted to all faces."""
    clean = torch.ones(1, device=faces.device)
    z = torch.cat([linear.coordinates(part.float() / 127.5 - 1, clean) for part in faces.split(2048)])
    return nn.ModuleList(ClassPosterior.fit(z, column) for column in labels)


def replace(file: Path, write) -> None:
    """The file is whole or the old one, whatever happens meanwhile."""
    temporary = temporary_name(file)
    write(temporary)
    temporary.replace(file)
