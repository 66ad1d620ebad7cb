"""The loop of all trainings: AdamW with a cosine over a budget of time; it can be stopped and resumed at any moment."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dsg.avatars64.guidance_training.attributes import Attributes, SelectorAttributes
from dsg.avatars64.guidance_training.base import Job
from dsg.avatars64.guidance_training.clip import Clip
from dsg.avatars64.guidance_training.identity import Identity
from dsg.avatars64.guidance_training.labels import Labels, Parts, SelectorLabels
from dsg.checkpoints import record_shipped
from dsg.files import temporary_name

JOBS: dict[str, type[Job]] = {
    "identity": Identity,
    "clip": Clip,
    "parts": Parts,
    "attributes": Attributes,
    "labels": Labels,
    "selector_attributes": SelectorAttributes,
    "selector_labels": SelectorLabels,
}
SEEDS = {"attributes": 1000, "labels": 1000, "selector_attributes": 2000, "selector_labels": 2000}  # others: 0
SAVE_EVERY = 90  # seconds


class Training:
    """One network's training, or the rest of it if `out` holds its state, `training_<name>.pt`.

    Args:
        name: key of JOBS.
        minutes: of computing, all resumed parts together (with two threads, two per minute of the clock).
        seed: of the weights' start and of the batches.
        data: folder of the faces, `data/avatars64`.
        out: folder of the weights and the state.
        overwrite: start even if `out` holds weights that are not of this training.
        init: folder laid out as checkpoints/avatars64: begin with its network.
        bf16: autocast, many times faster on a processor with AMX and many times slower on one without AVX-512.

    Raises:
        FileExistsError: `out` holds such weights.
        FileNotFoundError: no faces.
    """

    def __init__(
        self,
        name: str,
        minutes: float,
        seed: int,
        data: Path,
        out: Path,
        overwrite: bool = False,
        init: Path | None = None,
        bf16: bool = False,
    ):
        self.name, self.budget, self.seed, self.out, self.bf16 = name, 60 * minutes, seed, out, bf16
        self.state_file, weights = out / f"training_{name}.pt", out / JOBS[name].file
        if weights.exists() and not self.state_file.exists() and not overwrite:
            raise FileExistsError(f"{weights} is there already: add --overwrite, or train in another folder (--out)")
        torch.manual_seed(seed)
        self.job = JOBS[name](data)
        if init is not None:
            self.job.begin(init)
        self.optimizer = torch.optim.AdamW(self.job.parameters(), lr=self.job.rate, weight_decay=0.01)
        self.step, self.elapsed = 0, 0.0
        if self.state_file.exists():
            self.resume()

    @property
    def finished(self) -> bool:
        return self.elapsed >= self.budget

    def resume(self) -> None:
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        self.job.load_state_dict(state["job"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {"job": self.job.state_dict(), "optimizer": self.optimizer.state_dict()}
        temporary = temporary_name(self.state_file)
        torch.save({**state, "step": self.step, "elapsed": self.elapsed}, temporary)
        temporary.replace(self.state_file)
        self.job.save(self.out)
        record_shipped(self.out / self.job.file)

    def train_step(self) -> float:
        """One step on one batch; returns its loss."""
        for group in self.optimizer.param_groups:
            progress = min(self.elapsed / self.budget, 1)
            group["lr"] = self.job.rate * min(1, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.job.loss(np.random.default_rng([self.seed, self.step]))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.job.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def run(self) -> float:
        """Train until the time is spent; returns the running mean of the loss.

        Raises:
            ValueError: the loss is not finite; the state is that of the last save.
        """
        self.job.train()
        average, saved = None, time.monotonic()
        with tqdm(total=round(self.budget), initial=round(self.elapsed), unit="s", desc=self.name) as bar:
            while not self.finished:
                start = time.process_time()
                loss = self.train_step()
                if not math.isfinite(loss):
                    raise ValueError(f"the loss is {loss} at step {self.step}: the last save is kept")
                average = loss if average is None else 0.98 * average + 0.02 * loss
                self.elapsed += time.process_time() - start  # other programs do not count
                bar.set_postfix(step=self.step, loss=f"{average:.4f}", refresh=False)
                bar.update(min(round(self.elapsed), bar.total) - bar.n)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return average
