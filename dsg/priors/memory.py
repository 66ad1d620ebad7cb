"""Peak memory of a guided step of a full-size prior, without a GPU and without the checkpoint.

The step is run on fake tensors (shapes without data), and what is alive is added up: weights, activations, intermediate
results. A GPU needs somewhat more: CUDA's context, workspaces, fragmentation.
"""

import weakref
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from dsg.priors.adm import ADMUNet
from dsg.priors.stable_diffusion import Pipeline, StableDiffusion

# Stable Diffusion 1.4: its U-Net's and its autoencoder's config.json
SD14_UNET = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}  # fmt: skip
SD14_VAE = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
}  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operators return, until they are collected."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known[storage] = True
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        self.live -= size


def adm_step_gib(unet: Mapping, batch: int, bf16: bool = False, use_checkpoint: bool = False) -> float:
    """Peak GiB of a forward pass of `ADMUNet(**unet)` for `batch` images, and of the backward pass to them."""
    with FakeTensorMode(), LiveBytes() as memory:
        net = ADMUNet(**{**unet, "use_checkpoint": use_checkpoint}).requires_grad_(False)
        memory.peak = memory.live
        x = torch.randn(batch, net.in_channels, net.image_size, net.image_size, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = net(x, torch.full((1,), 500))
        torch.autograd.grad(out[:, : net.in_channels].square().sum(), x)
    return memory.peak / 2**30


def sd14_step_gib(batch: int, bf16: bool = False, use_checkpoint: bool = False, size: int = 512) -> float:
    """The same of Stable Diffusion 1.4 with a prompt, which takes two passes through the U-Net, and its decoder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    schedule = SimpleNamespace(alpha_bar=np.full(1000, 0.5))  # numbers: fake tensors have none
    with FakeTensorMode(), LiveBytes() as memory:
        nets = UNet2DConditionModel(**SD14_UNET), AutoencoderKL(**SD14_VAE)
        pipeline = Pipeline(*nets, lambda text: torch.zeros(1, 77, 768), schedule, "eps")
        options = {"image_size": size, "bf16": bf16, "use_checkpoint": use_checkpoint}
        prior = StableDiffusion("sd14", pipeline, prompt="a cat", **options)
        memory.peak = memory.live
        x = torch.randn(batch, *prior.shape, requires_grad=True)
        eps = prior.predict(x, 500).eps
        torch.autograd.grad(prior.decode(x - eps).square().sum(), x)
    return memory.peak / 2**30
