"""How long a pass of a prior takes on this machine, by a short measurement."""

import json
import sys
import time
from dataclasses import dataclass
from functools import cache

import torch

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
    """The time of a pass of a batch; on a CPU, of `cpu_batch` images.

    Args:
        model: the prior's config, as JSON.
        texts: whether the prior follows a prompt.

    Returns:
        None where the prior's weights are not there.
    """
    where, config = pick_device(device), json.loads(model)
    try:
        prior = load_once(model).to(where)
    except (ValueError, OSError):
        return None
    print(f"measuring {config['name']} ...", file=sys.stderr)
    batch = (prior.cpu_batch or 1) if where.type == "cpu" else GPU_BATCH
    x, prompts = torch.zeros(batch, *prior.shape, device=where), ["a photograph"] * batch if texts else None
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        with torch.no_grad():
            prior.predict(x, 500, prompts)
        if where.type != "cpu":
            torch.accelerator.synchronize()
        seconds = (time.perf_counter() - start) / batch
    kind = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    prompted = " with a prompt" * texts
    return Speed(seconds, f"{config['name']}: {seconds:.3g} s a forward pass and image{prompted}, measured on {kind}")
