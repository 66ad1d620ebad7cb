"""A run as films: the predicted clean image of every step, from noise to the result."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dsg.files import temporary_name
from dsg.runs.runner import Run
from dsg.samplers import StepState
from dsg.types import to_uint8

FRAMES = 50  # at most, spread evenly over the steps
SECONDS = 5.0  # of a film


class Film:
    """What a run calls to film its images: with every step (`callback`), and with every batch (`on_batch`)."""

    def __init__(self, run: Run):
        self.prior, self.folder = run.prior, run.results.out / "film"
        self.names: Sequence[str] = ()  # of the batch that is being filmed
        self.tries: list[dict[int, np.ndarray]] = []  # of that batch: by step index a frame of each image
        self.last = (0, 0)  # step that was seen
        self.every = 1  # so many steps a frame

    def __call__(self, state: StepState, names: Sequence[str]) -> None:
        if names is not self.names:  # another batch, or one that did not fit and begins again at half its size
            self.names, self.tries = names, []
        step = (state.index, -state.repeat)  # descends within a try
        if not self.tries or step >= self.last:
            self.tries.append({})
            self.every = math.ceil((state.index + 1) / FRAMES)
        self.last = step
        if state.index % self.every == 0:  # a repeated step is shown as it was at last
            with torch.no_grad():
                self.tries[-1][state.index] = to_uint8(torch.nan_to_num(self.prior.decode(state.x0)))

    def write(self, names: Sequence[str], kept: Sequence[int]) -> None:
        """`film/<name>.gif` of every image's kept try."""
        self.folder.mkdir(exist_ok=True)
        for i, (name, number) in enumerate(zip(names, kept)):
            write_gif(self.folder / f"{name}.gif", [frame[i] for frame in self.tries[number].values()])
        self.names, self.tries = (), []


def write_gif(path: Path, frames: Sequence[np.ndarray]) -> None:
    """uint8 [H, W, 3] frames; the last one stays for a second."""
    images = [Image.fromarray(frame) for frame in frames]
    each = int(1000 * SECONDS / len(images))
    temporary = temporary_name(path)
    durations = [each] * (len(images) - 1) + [1000]
    images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    temporary.replace(path)
