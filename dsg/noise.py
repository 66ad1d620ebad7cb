"""Reproducible noise: every draw is a function of what it is for, never of what was drawn before it.

A draw is keyed by (seed, image id, sample number, purpose, step, repeat), made in float32 on the CPU and moved. So an
image gets the same noise in any batch, order or shard, after a crash, on any device, and under every sampler.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


def rng(*key) -> np.random.Generator:
    """A generator keyed by the given words: Philox, counter-based, its 128-bit key a hash of them."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def standard_normal(shape: Sequence[int], *key) -> Tensor:
    """float32 standard normal draw of `shape` for this key, on the CPU."""
    return torch.from_numpy(rng(*key).standard_normal(tuple(shape), dtype=np.float32))


class ImageNoise:
    """The noise of a batch, as `dsg.samplers.sample` asks for it.

    Args:
        seed: of the run.
        ids: image ids, one per batch entry.
        samples: sample number of each entry.
        shape: (C, H, W).
        device: where the draws are wanted. On anything but a CPU the next draw is made in a thread while the device
            works with this one.
        order: the draws that will be asked for, (purpose, step index, repeat) in turn (`Sampler.draws`), so that the
            next one is known; without it each is made when it is asked for.
    """

    def __init__(
        self,
        seed: int,
        ids: Sequence[str],
        samples: Sequence[int],
        shape: Sequence[int],
        device: str | torch.device = "cpu",
        order: Sequence[tuple] = (),
    ):
        self.seed, self.ids, self.samples, self.shape = seed, list(ids), list(samples), tuple(shape)
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(1) if self.device.type != "cpu" else None
        self._following = dict(zip(order, order[1:]))
        self._ahead: dict[tuple, Future] = {}

    def start(self) -> Tensor:
        """x_T [B, C, H, W]."""
        return self._draw(("start", 0, 0)).to(self.device)

    def __call__(self, step_index: int, repeat: int = 0, purpose: str = "step") -> Tensor:
        key = (purpose, step_index, repeat)
        if self._pool is None:
            return self._draw(key)
        ready = self._ahead.pop(key, None)
        z = self._draw(key) if ready is None else ready.result()
        following = self._following.get(key)
        if following is not None:
            self._ahead = {following: self._pool.submit(self._draw, following)}
        return z.to(self.device, non_blocking=True)

    def _draw(self, key: tuple) -> Tensor:
        z = torch.stack([standard_normal(self.shape, self.seed, i, k, *key) for i, k in zip(self.ids, self.samples)])
        return z.pin_memory() if self.device.type == "cuda" else z
