"""Peak memory of a guided step of a full-size prior, without a GPU and without the checkpoint.

    python scripts/estimate_memory.py                          # ffhq256, imagenet256
    python scripts/estimate_memory.py --models ffhq256 --batch 16

Runs the network forward and backward to its input on fake tensors (shapes without data) and adds up what is alive: weights,
activations, intermediate results. A GPU needs somewhat more: CUDA's context, workspaces, fragmentation.
"""

import argparse
import weakref

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
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        unet = {**compose("config", [f"model={model}"]).model.unet, "use_checkpoint": use_checkpoint}
    with FakeTensorMode(), LiveBytes() as memory:
        net = ADMUNet(**unet).requires_grad_(False)
        memory.peak = memory.live
        x = torch.randn(batch, net.in_channels, net.image_size, net.image_size, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = net(x, torch.full((1,), 500))
        torch.autograd.grad(out[:, : net.in_channels].square().sum(), x)
    return memory.peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ffhq256", "imagenet256"])
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
