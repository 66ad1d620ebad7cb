"""How long a pass of a prior takes on this machine, by a short measurement."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dsg.priors.architectures import random_network
from dsg.runs.prepare import load_once, pick_device

GPU_BATCH = 16


@dataclass(frozen=True)
class Speed:
    """Attributes:
    seconds: of a forward pass, per image.
    how: what was measured, for the plan.
    """

    seconds: float
    how: str


@cache
def speed_of(model: str, device: str, texts: bool = False) -> Speed | None:
    """Of a batch; on a CPU of the images that the prior sees at a time.

    Where the prior's weights are not there it is the same network with random ones; on a CPU that is measured at a
    quarter of the images' side, and scaled by the operations that are counted, since a pass takes up to a minute.

    Args:
        model: the prior's config, as JSON.
        texts: whether the prior follows a prompt.

    Returns:
        None where neither the weights nor the architecture are known.
    """
    where, config = pick_device(device), json.loads(model)
    print(f"measuring {config['name']} ...", file=sys.stderr)
    try:
        prior, weights = load_once(model).to(where), "its weights"
        batch = (prior.cpu_batch or 1) if where.type == "cpu" else GPU_BATCH
        shape, prompts = prior.shape, ["a photograph"] * batch if texts else None
        seconds = _timed(lambda x: prior.predict(x, 500, prompts), torch.zeros(batch, *shape, device=where)) / batch
    except (ValueError, OSError):
        found, weights = random_network(config, where, texts), "random weights"
        if found is None:
            return None
        forward, (channels, side, _) = found
        batch = 1 if where.type == "cpu" else GPU_BATCH
        reduced = side // 4 if where.type == "cpu" else side
        seconds = _timed(forward, torch.zeros(batch, channels, reduced, reduced, device=where)) / batch
        if reduced < side:
            seconds *= _operations(config, texts, side) / _operations(config, texts, reduced)
            weights += f" at {reduced} of {side} px, scaled by the operations"
    kind = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    prompted = " with a prompt" * texts
    how = f"{config['name']}: {seconds:.3g} s a forward pass and image{prompted}, measured on {kind} with {weights}"
    return Speed(seconds, how)


@torch.no_grad()
def _operations(config: dict, texts: bool, side: int) -> int:
    """Of a forward pass of one image, counted without data."""
    forward, (channels, _, _) = random_network(config, torch.device("meta"), texts)
    with FlopCounterMode(display=False) as counter:
        forward(torch.zeros(1, channels, side, side, device="meta"))
    return counter.get_total_flops()


@torch.no_grad()
def _timed(forward: Callable[[Tensor], object], x: Tensor) -> float:
    """Seconds of a call, after one that warms up."""
    for _ in range(2):
        start = time.perf_counter()
        forward(x)
        if x.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - start
    return seconds
