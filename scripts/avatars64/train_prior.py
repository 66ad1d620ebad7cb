"""Train the embedded prior on the avatars64 faces, with exponential moving averages of its weights.

    python scripts/avatars64/render.py train=40960              # the faces, once
    python scripts/avatars64/train_prior.py --minutes 360       # stop it at any moment; the same line goes on

The network predicts v = sqrt(ab) eps - sqrt(1-ab) x0 (Salimans & Ho, arXiv 2202.00512). At high noise that is the clean
image but for its sign, so an error of the output is an error of x0 of the same size; one of a predicted eps is
multiplied by 157 there. What is learned is the difference to the best linear denoiser (`dsg/priors/linear.py`),
fitted when the training begins, which travels with the weights: the prior begins where a linear model ends. Half of the
noise levels are drawn where images have most to learn (EDM's), half uniformly.

Everything that a step draws (faces, noise levels, noise) is a function of (seed, step), so a stopped run goes on with
the very next step. The learning rate follows a cosine over the whole budget. With --steps, a run that was stopped is
bit for bit the run that was not. With --minutes it ends on time on any machine: a CPU counts the time of all its cores
and leaves out what other programs take, a GPU counts the clock.

The state is in --out: training.pt (all that is needed to go on), training_log.csv and model_<width>.safetensors
(averaged weights, fp16). It is saved every two minutes, and when Ctrl-C or SIGTERM stops the program. Nothing outside
--out is written, except by --export FILE.
"""

import argparse
import copy
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from dsg.arguments import Parser, positive
from dsg.avatars64.faces import DATA, load_faces
from dsg.checkpoints import REPOSITORY, load_into, read_weights
from dsg.priors.adm import ADMUNet
from dsg.priors.linear import LinearDenoiser
from dsg.schedule import linear_betas

SAVE_EVERY = 120  # seconds
LOG_EVERY = 25  # steps
BINS = 50  # of t, for the balanced weighting
FITTED = 4096  # faces that the linear denoiser is fitted to
FIXED = (  # of a run
    "prediction", "weighting", "times", "optimizer", "lr", "warmup", "batch", "flips", "seed", "ema", "linear", "unet",
)  # fmt: skip


# What a step draws: a function of (seed, step), so that a resumed run sees what it would have seen


def faces_of_step(step: int, batch: int, count: int, seed: int) -> Tensor:
    """Indices [batch] of the faces of a step: each epoch is a permutation of its own, and no face is left out."""
    places = torch.arange(step * batch, (step + 1) * batch)
    return torch.cat(
        [permutation(int(e), count, seed)[places[places // count == e] % count] for e in (places // count).unique()]
    )


_permutations: dict[tuple, Tensor] = {}


def permutation(epoch: int, count: int, seed: int) -> Tensor:
    key = (epoch, count, seed)
    if key not in _permutations:
        _permutations.clear() if len(_permutations) > 1 else None
        _permutations[key] = torch.randperm(count, generator=generator(seed, -1 - epoch))
    return _permutations[key]


def generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step % 2**32]).generate_state(1)[0]))


def time_density(times: str) -> Tensor:
    """Probability [1000] of each t. mixed: half uniform, half EDM's log-normal of sigma = sqrt((1-ab)/ab)."""
    uniform = torch.full((1000,), 1e-3, dtype=torch.float64)
    if times == "uniform":
        return uniform
    ab = (1 - linear_betas()).cumprod(0)
    place = ((1 - ab) / ab).log() / 2
    lognormal = torch.exp(-0.5 * ((place + 1.2) / 1.2) ** 2) * torch.gradient(place)[0]
    return 0.5 * uniform + 0.5 * lognormal / lognormal.sum()


def timesteps(batch: int, density: Tensor, g: torch.Generator) -> Tensor:
    """t [batch] in 0..999, one from each of `batch` equally likely strata: steadier than independent draws."""
    u = (torch.arange(batch) + torch.rand(batch, generator=g)) / batch
    return torch.searchsorted(density.cumsum(0), u.double()).clamp_max(999)


# The loss


def to_v(out: Tensor, x_t: Tensor, ab: Tensor, prediction: str) -> Tensor:
    """The v that a prediction [B, C, H, W] of eps, v or x0 stands for; ab: alpha_bar, [B, 1, 1, 1]."""
    if prediction == "v":
        return out
    if prediction == "eps":
        return (out - (1 - ab).sqrt() * x_t) / ab.sqrt()
    return (ab.sqrt() * x_t - out) / (1 - ab).sqrt()


def weight(ab: Tensor, weighting: str, balance: Tensor | None = None, t: Tensor | None = None) -> Tensor:
    """Weight of the squared error of v, [B]. An error of x0 is sqrt(1-ab) times one of v, with snr = ab / (1-ab):

    v: 1, that is snr + 1 on x0. eps: snr on x0. x0: 1 on x0. edm: snr + 4 on x0 (arXiv 2206.00364, data of standard
    deviation .5). min_snr: min(snr, 5) on x0 (arXiv 2303.09556). balanced: 1 / (running mean of the error at
    this noise level), what the learned weights of EDM2 tend to (arXiv 2312.02696).
    """
    snr = ab / (1 - ab)
    on_x0 = {"eps": snr, "x0": torch.ones_like(snr), "edm": snr + 4, "min_snr": snr.clamp_max(5)}
    if weighting == "balanced":
        return 1 / balance[t * BINS // 1000]
    return on_x0[weighting] * (1 - ab) if weighting in on_x0 else torch.ones_like(ab)


# The optimisers


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is made orthogonal (Jordan et al. 2024), in the size of AdamW's.

    A convolution's kernel [out, in, h, w] is the matrix [out, in * h * w].
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                direction = p.grad.lerp(average, group["momentum"])  # Nesterov's
                update = orthogonal(direction.flatten(1)).view_as(p)
                p.sub_(update, alpha=group["lr"] * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5)


def orthogonal(g: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V' of g = U S V', [m, n], by five Newton-Schulz steps of degree five.

    A step is x <- p(x x') x. The polynomials are gathered on the small side, where all that is needed is x x'.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    gram, identity = x @ x.T, torch.eye(len(x), device=x.device)
    product = identity
    for _ in range(5):
        p = a * identity + b * gram + c * gram @ gram
        product, gram = p @ product, p @ gram @ p
    x = product @ x
    return x.T if g.shape[0] > g.shape[1] else x


def optimizers(net: nn.Module, name: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or Muon for the hidden matrices and AdamW for vectors, the first and the last layer."""
    ends = {id(p) for module in (net.time_embed[0], net.input_blocks[0], net.out) for p in module.parameters()}
    hidden = [p for p in net.parameters() if name == "muon" and p.ndim > 1 and id(p) not in ends]
    chosen = {id(p) for p in hidden}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    made = [adam, Muon(hidden, lr)] if hidden else [adam]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = lr
    return made


class Averages:
    """Averages of the weights with the power-function profiles of EDM2 (arXiv 2312.02696): they grow with the run.

    `widths`: standard deviation of each profile, as a share of the training so far.
    """

    def __init__(self, net: nn.Module, widths: list[float]):
        self.nets = {width: copy.deepcopy(net).requires_grad_(False) for width in widths}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """step: 1 after the first one."""
        for width, average in self.nets.items():
            keep = (1 - 1 / step) ** (exponent(width) + 1)
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - keep)


def exponent(width: float) -> float:
    """The gamma > 0 of t^gamma whose standard deviation is `width`: w^2 (g+2)^2 (g+3) = g+1, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(100):
        g = (low + high) / 2
        low, high = (g, high) if (g + 1) / ((g + 2) ** 2 * (g + 3)) > width**2 else (low, g)
    return low


class Trainer:
    def __init__(self, args: argparse.Namespace, faces: Tensor):
        self.args, self.device, self.faces = args, torch.device(args.device), faces
        torch.manual_seed(args.seed)
        self.net = ADMUNet(**args.unet).to(self.device, memory_format=torch.channels_last)
        if args.init:
            load_into(self.net, read_weights(args.init, "init")[0], args.init)
        self.averages = Averages(self.net, args.ema)
        self.optimizers = optimizers(self.net, args.optimizer, args.lr)
        self.linear = LinearDenoiser(faces[0].numel(), args.linear).to(self.device) if args.linear else None
        self.alpha_bar = (1 - linear_betas()).cumprod(0).float().to(self.device)
        self.density = time_density(args.times)
        self.balance = torch.ones(BINS, device=self.device)  # running mean of v's squared error, per noise level
        self.step, self.elapsed, self.log = 0, 0.0, []
        if (args.out / "training.pt").exists():
            self.load()
        elif self.linear:
            self.linear.load_state_dict(
                LinearDenoiser.fit(faces[:FITTED].float() / 127.5 - 1, args.linear).state_dict()
            )

    def state(self) -> dict:
        return {
            "args": {name: getattr(self.args, name) for name in FIXED},
            "net": self.net.state_dict(),
            "averages": {str(width): net.state_dict() for width, net in self.averages.nets.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "balance": self.balance,
            "linear": self.linear.state_dict() if self.linear else None,
            "step": self.step,
            "elapsed": self.elapsed,
            "log": self.log,
        }

    def load(self) -> None:
        state = torch.load(self.args.out / "training.pt", map_location="cpu", weights_only=True)
        for name, value in state["args"].items():
            if getattr(self.args, name) != value:
                raise SystemExit(f"{self.args.out} was begun with {name}={value}: say so again, or give another --out")
        self.net.load_state_dict(state["net"])
        for width, net in self.averages.nets.items():
            net.load_state_dict(state["averages"][str(width)])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        if self.linear:
            self.linear.load_state_dict(state["linear"])
        self.balance = state["balance"].to(self.device)
        self.step, self.elapsed, self.log = state["step"], state["elapsed"], state["log"]

    def save(self) -> None:
        out = self.args.out
        replace(out / "training.pt", lambda file: torch.save(self.state(), file))
        for width in self.averages.nets:
            replace(out / f"model_{width:g}.safetensors", lambda file, width=width: self.export(file, width))
        table = pd.DataFrame(self.log)
        replace(out / "training_log.csv", lambda file: table.to_csv(file, index=False, float_format="%.6g"))

    def export(self, file: Path, width: float) -> None:
        """The averaged weights, fp16."""
        weights = self.averages.nets[width].state_dict()
        weights |= {f"linear.{k}": v for k, v in self.linear.state_dict().items()} if self.linear else {}
        weights = {k: v.half().contiguous().cpu() for k, v in weights.items()}
        seen = {"prediction": self.args.prediction, "steps": str(self.step), "images": str(self.step * self.args.batch)}
        save_file(weights, file, metadata=seen)

    def progress(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        args = self.args
        return min(self.step / args.steps if args.steps else self.elapsed / (60 * args.minutes), 1.0)

    def set_learning_rate(self) -> None:
        factor = min(1.0, (self.step + 1) / self.args.warmup) * 0.5 * (1 + math.cos(math.pi * self.progress()))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """x0 and noise [B, 3, 64, 64], t [B] of the next step."""
        args, g = self.args, generator(self.args.seed, self.step)
        index = faces_of_step(self.step, args.batch, len(self.faces), args.seed)
        t = timesteps(args.batch, self.density, g)
        noise = torch.randn((args.batch, *self.faces.shape[1:]), generator=g)
        mirrored = torch.rand(args.batch, generator=g) < (0.5 if args.flips else 0.0)
        x0 = self.faces[index.to(self.faces.device)].to(self.device).float() / 127.5 - 1
        x0 = torch.where(mirrored.to(self.device)[:, None, None, None], x0.flip(-1), x0)
        return x0, noise.to(self.device), t.to(self.device)

    def train_step(self) -> tuple[float, float]:
        """One step; returns its squared error of v, as if t were uniform, and its weighted loss."""
        x0, noise, t = self.batch()
        ab = self.alpha_bar[t]
        signal, sigma = ab.sqrt()[:, None, None, None], (1 - ab).sqrt()[:, None, None, None]
        x_t = (signal * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
            out = self.net(x_t, t)
        v = to_v(out, x_t, ab[:, None, None, None], self.args.prediction)
        v = v + self.linear.skip(x_t, ab) if self.linear else v
        error = (v - (signal * noise - sigma * x0)).square().flatten(1).mean(1)
        loss = (weight(ab, self.args.weighting, self.balance, t) * error).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.set_learning_rate()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.averages.update(self.net, self.step)
        self.update_balance(error.detach(), t)
        rarity = 1e-3 / self.density[t.cpu()].float()
        return (error.detach().cpu() * rarity).mean().item(), loss.item()

    def update_balance(self, error: Tensor, t: Tensor) -> None:
        bins = t * BINS // 1000
        count = torch.zeros_like(self.balance).index_add_(0, bins, torch.ones_like(error))
        mean = torch.zeros_like(self.balance).index_add_(0, bins, error) / count.clamp_min(1)
        rate = max(0.02, 1 / self.step)
        self.balance = torch.where(count > 0, self.balance.lerp(mean, rate), self.balance)

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
        error, loss = np.mean(recent, axis=0).tolist()
        if not math.isfinite(loss):
            raise SystemExit(f"the loss is {loss} at step {self.step}: lower --lr; the last saved state is kept")
        self.log.append({"step": self.step, "minutes": self.elapsed / 60, "v_error": error, "loss": loss})
        bar.set_postfix_str(f"step {self.step}, v error {error:.4f}", refresh=False)
        return []


def replace(file: Path, write) -> None:
    """The file is whole or the old one, whatever happens meanwhile."""
    temporary = file.with_name(file.name + ".partial")
    write(temporary)
    os.replace(temporary, file)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=360, help="computing time of all parts together [360]")
    budget.add_argument("--steps", type=positive, help="steps of all parts together, in place of minutes")
    add("--prediction", choices=("v", "eps", "x0"), default="v", help="what the network puts out [v]")
    add(
        "--weighting",
        choices=("v", "eps", "x0", "edm", "min_snr", "balanced"),
        default="balanced",
        help="of the loss [balanced]",
    )
    add("--times", choices=("mixed", "uniform"), default="mixed", help="how noise levels are drawn [mixed]")
    add("--optimizer", choices=("adamw", "muon"), default="muon", help="[muon]")
    add("--lr", type=float, default=2e-3, help="peak learning rate [2e-3]")
    add("--warmup", type=positive, default=100, help="steps until the peak [100]")
    add("--batch", type=positive, default=16, help="faces per step [16]")
    add("--ema", type=float, nargs="+", default=[0.05, 0.1, 0.15], help="widths of the averages, shares of the run")
    add("--linear", type=int, default=120, metavar="K", help="components of the linear denoiser; 0: without it [120]")
    add("--init", type=Path, metavar="FILE", help="begin with these weights of the same network, whatever it predicted")
    add("--flips", action="store_true", help="mirror half of the faces")
    add("--seed", type=int, default=0)
    add("--bf16", action="store_true", help="bfloat16 autocast; many times slower on a CPU without AVX-512 or AMX")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--config", type=Path, default=REPOSITORY / "configs/model/avatars64.yaml", help="has model.unet")
    add("--unet", nargs="+", default=[], metavar="KEY=VALUE", help="other hyper-parameters of the network")
    add("--data", type=Path, default=DATA / "train", help="folder of the faces (data/avatars64/train)")
    add("--out", type=Path, default=REPOSITORY / "checkpoints/avatars64/training", help="folder of the state")
    add("--export", type=Path, metavar="FILE", help="write averaged weights there, and train no further")
    add("--width", type=float, help="which average to export [the first]")
    add("--force", action="store_true", help="--export may replace a file")
    args = parser.parse_args()
    if args.linear and args.prediction != "v":
        parser.error("--linear goes with --prediction v: say --linear 0 for another")
    unet = OmegaConf.merge(OmegaConf.load(args.config).model.unet, OmegaConf.from_dotlist(args.unet))
    args.unet = OmegaConf.to_container(unet)
    return args


def export(args: argparse.Namespace, trainer: Trainer) -> None:
    width = args.ema[0] if args.width is None else args.width
    if not trainer.step or width not in trainer.averages.nets:
        raise SystemExit(f"{args.out} holds no average of width {width:g}")
    if args.export.exists() and not args.force:
        raise SystemExit(f"{args.export} exists; --force replaces it")
    replace(args.export, lambda file: trainer.export(file, width))
    print(f"{args.export}: {trainer.step} steps, average of width {width:g}")


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        faces = torch.empty(1, 3, 64, 64, dtype=torch.uint8) if args.export else load_faces(args.data)
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from None
    trainer = Trainer(args, faces.to(args.device) if args.device.startswith("cuda") else faces)
    if args.export:
        return export(args, trainer)
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: signals.append(n))
    trainer.run(lambda: bool(signals))
    print(
        f"{trainer.step} steps, {trainer.step * args.batch} faces seen, {100 * trainer.progress():.0f} % of the budget"
    )


if __name__ == "__main__":
    main()
