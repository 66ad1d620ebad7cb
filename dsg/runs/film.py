"""A run as films: the predicted clean image of every step, from noise to the result."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dsg.runs.inputs import to_uint8
from dsg.runs.results import temporary_name
from dsg.runs.runner import Run
from dsg.samplers import StepState

FRAMES = 50  # at most, spread evenly over the steps
SECONDS = 5.0  # of a film


class Film:
    """A callback that writes `film/<name>.gif` for every image of a batch when its last step is done."""

    def __init__(self, run: Run):
        self.prior, self.folder = run.prior, run.results.out / "film"
        self.every = max(1, run.sampler.steps // FRAMES)
        self.frames: list[np.ndarray] = []
        self.last = 0  # index of the last step that was seen

    def __call__(self, state: StepState, names: Sequence[str]) -> None:
        if state.index > self.last:
            self.frames = []  # a new batch, or one that did not fit and begins again at half its size
        self.last = state.index
        if state.index % self.every == 0:
            with torch.no_grad():
                self.frames.append(to_uint8(torch.nan_to_num(self.prior.decode(state.x0))))
        if state.index == 0:
            self.folder.mkdir(exist_ok=True)
            for i, name in enumerate(names):
                write_gif(self.folder / f"{name}.gif", [frame[i] for frame in self.frames])
            self.frames = []


def write_gif(path: Path, frames: Sequence[np.ndarray]) -> None:
    """uint8 [H, W, 3] frames; the last one stays for a second."""
    images = [Image.fromarray(frame) for frame in frames]
    each = int(1000 * SECONDS / len(images))
    temporary = temporary_name(path)
    durations = [each] * (len(images) - 1) + [1000]
    images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    temporary.replace(path)
