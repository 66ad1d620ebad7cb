"""Train the embedded prior on the avatars64 faces.

    python scripts/avatars64/render.py train=40960              # the faces, once
    python scripts/avatars64/train_prior.py --minutes 360       # on one CPU core; stop it, and the same line goes on
    python scripts/avatars64/train_prior.py --steps 16151 --batch 256 --warmup 500 --bf16 --compile    # as shipped

The network predicts v = sqrt(ab) eps - sqrt(1-ab) x0 (Salimans & Ho, arXiv 2202.00512). It learns the difference to the
best linear denoiser (`dsg/priors/linear.py`), which is fitted when the training begins and is saved with the weights.
Beside the image it takes the probabilities of the attributes that --attributes names, computed from the image
(`dsg/priors/class_posterior.py`). The loss is the squared error of v, divided by its running mean at that noise level.
The optimizer is Muon, with AdamW for vectors and for the first and last layers.

All that a step draws (faces, noise levels, noise) is a function of (seed, step). The learning rate follows a cosine
over the whole budget. With --steps, a training that was stopped is bit for bit the one that was not. With --minutes it
ends on time on any machine: a CPU counts the time of all its cores, a GPU counts the clock.

--out gets training.pt (the state), training_log.csv and model_<width>.safetensors (averaged weights, fp16), every two
minutes and when Ctrl-C or SIGTERM stops the program. The shipped weights are the average of width .05.
"""

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive, positive_number
from dsg.avatars64.faces import DATA, read_shards
from dsg.files import REPOSITORY, temporary_name
from dsg.priors.adm import ADMUNet
from dsg.priors.class_posterior import ClassPosterior, probabilities
from dsg.priors.linear import LinearDenoiser
from dsg.runs.prepare import pick_device
from dsg.schedule import linear_betas

SAVE_EVERY, LOG_EVERY = 120, 25  # seconds, steps
FITTED = 4096  # faces that the linear denoiser is fitted to
BINS = 50  # of t, for the running mean of the error
FIXED = ("lr", "warmup", "batch", "seed", "ema", "linear", "attributes", "unet")  # options that a resumed run must have
ALPHA_BAR = (1 - linear_betas()).cumprod(0)

# --- what a step draws


def generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of a step; negative steps are the epochs' orders."""
    key = int(np.random.SeedSequence([seed, step % 2**32]).generate_state(1)[0])
    return torch.Generator(device).manual_seed(key)


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(epoch: int, count: int, seed: int) -> Tensor:
    """The order [count] of the faces in an epoch."""
    return torch.randperm(count, generator=generator(seed, -1 - epoch))


def faces_of_step(step: int, batch: int, count: int, seed: int) -> Tensor:
    """Indices [batch] of a step's faces. Each epoch is a permutation of its own, and no face is left out."""
    places = torch.arange(step * batch, (step + 1) * batch)
    return torch.cat(
        [permutation(int(e), count, seed)[places[places // count == e] % count] for e in (places // count).unique()]
    )


def time_density() -> Tensor:
    """Probability [1000] of each t: half uniform, half EDM's log-normal of sigma = sqrt((1-ab)/ab).

    Uniform draws alone were 1 dB worse at t = 100 after equal time (checkpoints/avatars64/README.md).
    """
    place = ((1 - ALPHA_BAR) / ALPHA_BAR).log() / 2
    lognormal = torch.exp(-0.5 * ((place + 1.2) / 1.2) ** 2) * torch.gradient(place)[0]
    return 0.5 / 1000 + 0.5 * lognormal / lognormal.sum()


def timesteps(batch: int, density: Tensor, g: torch.Generator) -> Tensor:
    """t [batch] in 0..999, one from each of `batch` equally likely strata: steadier than independent draws."""
    u = (torch.arange(batch, device=g.device) + torch.rand(batch, generator=g, device=g.device)) / batch
    return torch.searchsorted(density.cumsum(0), u.double()).clamp_max(999)


# --- optimizers and averages


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is made orthogonal (Jordan et al. 2024), scaled to AdamW's size.

    A convolution's kernel [out, in, h, w] is the matrix [out, in * h * w]. Matrices of one shape are taken together.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
                self.state[p].setdefault("momentum", torch.zeros_like(p))
            for shape, params in shapes.items():
                grads, averages = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                directions = torch._foreach_lerp(grads, averages, group["momentum"])  # Nesterov's
                updates = orthogonal(torch.stack(directions).flatten(2)).view(-1, *shape)
                rate = group["lr"] * 0.2 * max(shape[0], shape[1:].numel()) ** 0.5
                torch._foreach_sub_(params, list(rate * updates))


def orthogonal(g: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V' of g = U S V', [..., m, n], by five Newton-Schulz steps of degree five."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(net: ADMUNet, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for vectors, first layers and the last one."""
    outer = [net.time_embed[0], net.input_blocks[0], net.out, *([net.label_emb] if net.label_emb else [])]
    ends = {id(p) for module in outer for p in module.parameters()}
    hidden = [p for p in net.parameters() if p.ndim > 1 and id(p) not in ends]
    matrices = {id(p) for p in hidden}
    rest = [p for p in net.parameters() if id(p) not in matrices]
    return [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0), Muon(hidden, lr)]


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, width: float, step: int) -> None:
    """EDM2's power-function average (arXiv 2312.02696) after `step` steps; `width` is a share of these steps."""
    keep = (1 - 1 / step) ** (exponent(width) + 1)
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - keep)


def exponent(width: float) -> float:
    """The gamma > 0 of t^gamma whose standard deviation is `width`: w^2 (g+2)^2 (g+3) = g+1, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(100):
        g = (low + high) / 2
        low, high = (g, high) if (g + 1) / ((g + 2) ** 2 * (g + 3)) > width**2 else (low, g)
    return low


# --- the training


class Training:
    """A training, or the rest of it if `args.out` holds its state.

    Args:
        args: the command's options.
        faces: uint8 [N, C, H, W].
        labels: int64 [N], the class of each face, for each of `args.attributes`.

    Raises:
        ValueError: the state in `args.out` is that of other options; or the loss is not finite.
    """

    def __init__(self, args: argparse.Namespace, faces: Tensor, labels: list[Tensor]):
        self.args, self.device, self.faces = args, torch.device(args.device), faces
        torch.manual_seed(args.seed)
        classes = [int(column.max()) + 1 for column in labels]
        self.linear = LinearDenoiser(faces[0].numel(), args.linear)
        self.classes = nn.ModuleList(ClassPosterior(count, args.linear) for count in classes)
        self.net = ADMUNet(**args.unet, num_classes=sum(classes))
        self.net.to(self.device, memory_format=torch.channels_last)
        self.averages = {width: deepcopy(self.net).requires_grad_(False) for width in args.ema}
        self.optimizers = optimizers(self.net, args.lr)
        self.density, self.alpha_bar = time_density().to(self.device), ALPHA_BAR.float().to(self.device)
        self.balance = torch.ones(BINS, device=self.device)  # running mean of v's squared error, per noise level
        self.step, self.elapsed, self.log = 0, 0.0, []
        if (args.out / "training.pt").exists():
            self.load()
        else:
            self.fit(labels)
        self.linear.to(self.device), self.classes.to(self.device)
        if args.compile:
            self.net.compile()

    def fit(self, labels: list[Tensor]) -> None:
        """The linear denoiser and the class posteriors, to the faces."""
        self.linear = LinearDenoiser.fit(self.faces[:FITTED].float() / 127.5 - 1, self.args.linear)
        clean = torch.ones(1)
        z = torch.cat([self.linear.coordinates(x.float() / 127.5 - 1, clean) for x in self.faces.split(2048)])
        self.classes = nn.ModuleList(ClassPosterior.fit(z, column) for column in labels)

    @property
    def modules(self) -> dict[str, nn.Module]:
        averages = {f"average_{width:g}": net for width, net in self.averages.items()}
        return {"net": self.net, "linear": self.linear, "classes": self.classes, **averages}

    def load(self) -> None:
        state = torch.load(self.args.out / "training.pt", map_location="cpu", weights_only=True)
        for name in FIXED:
            if getattr(self.args, name) != state["args"][name]:
                raise ValueError(f"{self.args.out} was begun with {name}={state['args'][name]}: give another --out")
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.balance.copy_(state["balance"])
        self.step, self.elapsed, self.log = state["step"], state["elapsed"], state["log"]

    def save(self) -> None:
        state = {name: module.state_dict() for name, module in self.modules.items()}
        state["args"] = {name: getattr(self.args, name) for name in FIXED}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        state |= {name: getattr(self, name) for name in ("balance", "step", "elapsed", "log")}
        replace(self.args.out / "training.pt", lambda file: torch.save(state, file))
        for width in self.averages:
            replace(self.args.out / f"model_{width:g}.safetensors", lambda file, width=width: self.export(file, width))
        table = pd.DataFrame(self.log)
        replace(self.args.out / "training_log.csv", lambda f: table.to_csv(f, index=False, float_format="%.6g"))

    def export(self, file: Path, width: float) -> None:
        """The averaged weights in fp16, and the class posteriors in float32, because variances are divided by."""
        weights = self.averages[width].state_dict()
        weights |= {f"linear.{k}": v for k, v in self.linear.state_dict().items()}
        weights = {k: v.half().contiguous().cpu() for k, v in weights.items()}
        weights |= {f"classes.{k}": v.contiguous().cpu() for k, v in self.classes.state_dict().items()}
        seen = {"prediction": "v", "steps": str(self.step), "images": str(self.step * self.args.batch)}
        save_file(weights, file, metadata=seen)

    def progress(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        args = self.args
        return min(self.step / args.steps if args.steps else self.elapsed / (60 * args.minutes), 1.0)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """x0 and noise [B, 3, 64, 64], t [B] of the next step."""
        args, g = self.args, generator(self.args.seed, self.step, self.device)
        index = faces_of_step(self.step, args.batch, len(self.faces), args.seed)
        t = timesteps(args.batch, self.density, g)
        noise = torch.randn((args.batch, *self.faces.shape[1:]), generator=g, device=self.device)
        return self.faces[index].to(self.device).float() / 127.5 - 1, noise, t

    def train_step(self) -> Tensor:
        """Take a step; return its squared error of v, as if t were uniform, and its weighted loss, [2]."""
        args, (x0, noise, t) = self.args, self.batch()
        ab = self.alpha_bar[t]
        a, sigma = ab.sqrt()[:, None, None, None], (1 - ab).sqrt()[:, None, None, None]
        x_t = (a * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        given = [probabilities(self.linear, self.classes, x_t, ab)] if self.classes else []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=args.bf16):
            out = self.net(x_t, t, *given)
        v = out + self.linear.skip(x_t, ab)
        error = (v - (a * noise - sigma * x0)).square().flatten(1).mean(1)
        loss = (error / self.balance[t * BINS // 1000]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = args.lr * min(1.0, (self.step + 1) / args.warmup) * cosine
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        for width, average in self.averages.items():
            update_average(average, self.net, width, self.step)
        error = error.detach()
        self.update_balance(error, t)
        rarity = 1e-3 / self.density[t].float()
        return torch.stack([(error * rarity).mean(), loss.detach()])  # not waited for: a GPU works behind the program

    def update_balance(self, error: Tensor, t: Tensor) -> None:
        bins = t * BINS // 1000
        count = torch.zeros_like(self.balance).index_add_(0, bins, torch.ones_like(error))
        mean = torch.zeros_like(self.balance).index_add_(0, bins, error) / count.clamp_min(1)
        rate = max(0.02, 1 / self.step)
        self.balance.copy_(torch.where(count > 0, self.balance.lerp(mean, rate), self.balance))

    def run(self, stopped: Callable[[], bool]) -> None:
        """Train until the budget is spent or `stopped()` is true."""
        clock = time.process_time if self.device.type == "cpu" else time.monotonic
        begun, spent, saved, recent = clock(), self.elapsed, time.monotonic(), []
        with tqdm(total=1000, initial=round(1000 * self.progress()), desc="training", mininterval=5,
                  bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}") as bar:  # fmt: skip
            while self.progress() < 1 and not stopped():
                recent.append(self.train_step())
                self.elapsed = spent + clock() - begun
                if self.step % LOG_EVERY == 0:
                    self.record(*torch.stack(recent).mean(0).tolist())
                    bar.set_postfix_str(f"step {self.step}, v error {self.log[-1]['v_error']:.4f}", refresh=False)
                    recent = []
                bar.update(math.floor(1000 * self.progress()) - bar.n)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def record(self, v_error: float, loss: float) -> None:
        """Add a row to the log."""
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {self.step}: lower --lr; the last saved state is kept")
        self.log.append({"step": self.step, "minutes": self.elapsed / 60, "v_error": v_error, "loss": loss})


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write the file so that it is whole or the old one, whatever happens meanwhile."""
    temporary = temporary_name(file)
    write(temporary)
    temporary.replace(file)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=positive_number, default=360, help="computing time of all parts [360]")
    budget.add_argument("--steps", type=positive, help="steps of all parts, in place of minutes")
    add("--lr", type=positive_number, default=2e-3, help="peak learning rate [2e-3]")
    add("--warmup", type=positive, default=100, help="steps until the peak [100]")
    add("--batch", type=positive, default=16, help="faces per step [16]")
    add("--ema", type=float, nargs="+", default=[0.03, 0.05, 0.1], help="widths of the averages, shares of the run")
    add("--linear", type=positive, default=120, help="components of the linear denoiser [120]")
    add("--attributes", nargs="*", default=["skin", "hair_color"], help="whose posterior the network takes")
    add("--seed", type=int, default=0)
    add("--bf16", action="store_true", help="bfloat16 autocast; many times slower on a CPU without AVX-512 or AMX")
    add("--compile", action="store_true", help="torch.compile: worth it on a GPU; minutes before the first step")
    add("--device", default="auto", help="auto, cpu, cuda, ... [auto]")
    add("--unet", nargs="+", default=[], metavar="KEY=VALUE", help="in place of configs/model/avatars64.yaml's")
    add("--data", type=Path, default=DATA / "train", help="folder of the faces (data/avatars64/train)")
    add("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64/training", help="folder of the state")
    args = parser.parse_args()
    args.device = str(pick_device(args.device))
    shipped = OmegaConf.load(REPOSITORY / "configs/model/avatars64.yaml").model.unet
    args.unet = OmegaConf.to_container(OmegaConf.merge(shipped, OmegaConf.from_dotlist(args.unet)))
    try:
        with torch.device("meta"):  # takes no memory
            ADMUNet(**args.unet)  # before the faces are read
    except TypeError as error:
        parser.error(f"--unet: {error}")
    return args


def main() -> None:
    args = parse_args()
    table, (faces,) = read_shards(args.data, "images")
    if unknown := [name for name in args.attributes if name not in table]:
        raise ValueError(f"--attributes {unknown[0]}: one of {', '.join(table.columns)}")
    labels = [torch.from_numpy(table[name].factorize(sort=True)[0]) for name in args.attributes]
    args.out.mkdir(parents=True, exist_ok=True)
    training, signals = Training(args, faces, labels), []
    for number in (signal.SIGINT, signal.SIGTERM):  # the step ends and is saved
        signal.signal(number, lambda number, _: signals.append(number))
    training.run(lambda: bool(signals))
    percent = 100 * training.progress()
    print(f"{training.step} steps, {training.step * args.batch} faces seen, {percent:.0f} % of the budget")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="the same command goes on from the last save"))
