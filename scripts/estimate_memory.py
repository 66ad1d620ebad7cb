"""Peak memory of a guided step of a full-size prior, without a GPU and without the checkpoint.

    python scripts/estimate_memory.py                          # ffhq256, imagenet256, sd14
    python scripts/estimate_memory.py --models ffhq256 --batch 16

Runs the network (sd14: both passes of classifier-free guidance, and the decoder) forward and backward to its input on fake
tensors (shapes without data) and adds up what is alive: weights, activations, intermediate results. A GPU needs somewhat more:
CUDA's context, workspaces, fragmentation.
"""

import argparse
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY
from dsg.priors.adm import ADMUNet
from dsg.priors.stable_diffusion import StableDiffusion

# Stable Diffusion 1.4: its U-Net's and its autoencoder's config.json
SD14_UNET = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280),
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


def guided_step_gib(model: str, batch: int, bf16: bool = False, use_checkpoint: bool = False) -> float:
    """Peak GiB of one forward and backward pass of `model` for a batch of `batch` images."""
    step = latent_step if model == "sd14" else partial(pixel_step, model)
    with FakeTensorMode(), LiveBytes() as memory:
        step(memory, batch, bf16, use_checkpoint)
    return memory.peak / 2**30


def pixel_step(model: str, memory: LiveBytes, batch: int, bf16: bool, use_checkpoint: bool) -> None:
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        unet = {**compose("config", [f"model={model}"]).model.unet, "use_checkpoint": use_checkpoint}
    net = ADMUNet(**unet).requires_grad_(False)
    memory.peak = memory.live
    x = torch.randn(batch, net.in_channels, net.image_size, net.image_size, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = net(x, torch.full((1,), 500))
    torch.autograd.grad(out[:, : net.in_channels].square().sum(), x)


def latent_step(memory: LiveBytes, batch: int, bf16: bool, use_checkpoint: bool, size: int = 512) -> None:
    """A prompt, and a loss of the decoded x0."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    schedule = SimpleNamespace(alpha_bar=np.full(1000, 0.5))  # numbers: fake tensors have none
    prior = StableDiffusion.of_parts(
        UNet2DConditionModel(**SD14_UNET), AutoencoderKL(**SD14_VAE), lambda text: torch.zeros(1, 77, 768), schedule,
        "epsilon", prompt="a cat", image_size=size, bf16=bf16, use_checkpoint=use_checkpoint,
    )  # fmt: skip
    memory.peak = memory.live
    x = torch.randn(batch, *prior.shape, requires_grad=True)
    eps, _ = prior.predict(x, 500)
    torch.autograd.grad(prior.decode(x - eps).square().sum(), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ffhq256", "imagenet256", "sd14"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    settings = {"fp32": {}, "bf16": {"bf16": True}, "bf16, recomputing": {"bf16": True, "use_checkpoint": True}}
    jobs = [(m, b) for m in args.models for b in args.batch]
    rows = []
    for model, batch in tqdm(jobs, unit="row"):
        peaks = {f"{name} [GiB]": guided_step_gib(model, batch, **s) for name, s in settings.items()}
        rows.append({"model": model, "batch": batch, **peaks})
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f"))


if __name__ == "__main__":
    main()
