"""Full-size networks with random weights, for measurements of speed where the checkpoints are not there."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dsg.priors.adm import ADMUNet
from dsg.priors.memory import SD14_UNET

CELEBAHQ_UNET = {  # config.json of google/ddpm-ema-celebahq-256
    "sample_size": 256, "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "norm_num_groups": 32,
    "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
}  # fmt: skip


def random_network(
    model: Mapping, device: torch.device, texts: bool = False
) -> tuple[Callable[[Tensor], object], tuple] | None:
    """A forward pass of `model` with random weights, x [B, *shape] -> anything, and the shape.

    Args:
        model: the config of a run's prior.
        texts: with classifier-free guidance, which takes two passes through the network.

    Returns:
        None of a model whose architecture is only known from its checkpoint.
    """
    if "unet" in model:
        net, size = _filled(lambda: ADMUNet(**model["unet"]), device), model["unet"]["image_size"]
        return lambda x: net(x, torch.full((1,), 500, device=device)), (3, size, size)
    if model["name"] == "celebahq256":
        from diffusers import UNet2DModel

        net = _filled(lambda: UNet2DModel(**CELEBAHQ_UNET), device)
        return lambda x: net(x, 500), (3, 256, 256)
    if model["name"] == "sd14":
        from diffusers import UNet2DConditionModel

        net, side = _filled(lambda: UNet2DConditionModel(**SD14_UNET), device), model["image_size"] // 8
        text = torch.zeros(1, 77, 768, device=device)
        return lambda x: [net(x, 500, text.expand(len(x), -1, -1)) for _ in range(1 + texts)], (4, side, side)
    return None


def _filled(build: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """Filled at once: torch's own initialisation takes longer than the pass."""
    with torch.device("meta"):
        net = build()
    net = net.to_empty(device=device).eval().requires_grad_(False)
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.uniform_(-0.02, 0.02)
    return net
