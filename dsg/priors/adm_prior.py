"""A pixel prior: an ADM U-Net with the weights of a guided-diffusion checkpoint."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from dsg.checkpoints import file_hash, load_into, read_state_dict, require
from dsg.priors.adm import ADMUNet
from dsg.priors.batching import in_fixed_batches
from dsg.schedule import NoiseSchedule, linear_betas


class ADMPrior(nn.Module):
    """Args:
        name: names the checkpoint in messages (`python scripts/fetch_checkpoints.py <name>`).
        checkpoint: .pt or .safetensors file with guided-diffusion's keys; relative to the working directory or,
            failing that, to the repository.
        unet: hyper-parameters of `ADMUNet`.
        bf16: run the network under bfloat16 autocast.
        compile: `torch.compile` the network (worth it for many images; the first step takes a minute or so).
        channels_last: keep activations in NHWC order, faster on both CPUs and tensor cores.
        cpu_batch: on a CPU the network sees exactly this many images at a time, however large the batch (0: all of
            it). CPU kernels round differently for different batch sizes, and guidance amplifies that where x0 is
            clamped; with a fixed size an image comes out the same, bit for bit, in any batch.

    Raises:
        FileNotFoundError: no such checkpoint, with the command that fetches it.
        ValueError: unreadable checkpoint, or one of another network.
    """

    latent = False

    def __init__(
        self,
        name: str,
        checkpoint: str,
        unet: Mapping,
        bf16: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        cpu_batch: int = 0,
    ):
        super().__init__()
        self.checkpoint = require(checkpoint, name)
        self.bf16, self.cpu_batch = bf16, cpu_batch
        self.schedule = NoiseSchedule(linear_betas())
        net = ADMUNet(**unet)
        load_into(net, read_state_dict(self.checkpoint, name), self.checkpoint)
        net = net.eval().requires_grad_(False)
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.learns_variance = net.learn_sigma
        self.shape = (net.in_channels, net.image_size, net.image_size)
        self._forward = torch.compile(self.net) if compile else self.net

    @cached_property
    def weights_hash(self) -> str:
        return file_hash(self.checkpoint)

    def predict(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        """eps and, if the network learned it, v: float32 [B, C, H, W]."""
        ts = torch.full((1,), t, device=x_t.device)  # one embedding serves the whole batch
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bf16):
            out = in_fixed_batches(lambda part: self._forward(part, ts), x_t, self.cpu_batch)
        return (out[:, : self.shape[0]], out[:, self.shape[0] :]) if self.learns_variance else (out, None)

    def decode(self, x0: Tensor) -> Tensor:
        return x0
