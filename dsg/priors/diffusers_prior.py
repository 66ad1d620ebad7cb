"""A pixel prior from diffusers: an unconditional `UNet2DModel` with its scheduler's noise schedule."""

import hashlib
import json
import math
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from dsg.checkpoints import file_hash, load_pretrained, require_folder
from dsg.priors.batching import in_fixed_batches
from dsg.schedule import NoiseSchedule, linear_betas, scaled_linear_betas

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
# schedulers of models that were trained on DDPM's forward process
DISCRETE = ("DDPM", "DDIM", "PNDM", "LMSDiscrete", "Euler", "Heun", "DPMSolver", "KDPM2", "DEIS", "UniPC")


class DiffusersPrior(nn.Module):
    """Args:
        name: names the checkpoint in messages.
        checkpoint: a folder with the model (config.json and weights at its top, or in unet/ beside scheduler/, as pipelines
            are saved), or the id of such a repository on the Hugging Face hub.
        bf16: run the network under bfloat16 autocast.
        channels_last: keep activations in NHWC order.
        cpu_batch: on a CPU the network sees exactly this many images at a time (see `ADMPrior`).

    eps-, v- and x0-predicting models are understood (the scheduler's `prediction_type`), and a learned variance where the
    network has twice the channels.

    Raises:
        FileNotFoundError: no such folder, with what to do.
        ValueError: a folder that holds no such model, or one that asks for more than (x_t, t).
    """

    latent = False

    def __init__(
        self, name: str, checkpoint: str | None, bf16: bool = False, channels_last: bool = False, cpu_batch: int = 0
    ):
        super().__init__()
        self.folder = require_folder(checkpoint, name)
        net = _load(self.folder).eval().requires_grad_(False)
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.bf16, self.cpu_batch = bf16, cpu_batch
        self.schedule, self.prediction_type = read_schedule(self.folder)
        size, channels = net.config.sample_size, net.config.in_channels
        sides = (size, size) if isinstance(size, int) else tuple(size)
        self.shape = (channels, *sides)
        self.learns_variance = net.config.out_channels == 2 * channels

    @cached_property
    def weights_hash(self) -> str:
        """Of the weights and of the scheduler's settings."""
        digest = hashlib.sha256()
        for file in sorted(
            (*_part(self.folder, "unet").glob("diffusion_pytorch_model*"), _scheduler_file(self.folder))
        ):
            digest.update(file_hash(file).encode())
        return digest.hexdigest()

    def predict(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        """eps and, if the network learned it, v: float32 [B, C, H, W]."""
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bf16):
            out = in_fixed_batches(lambda part: self.net(part, t).sample, x_t, self.cpu_batch).float()
        out, v = out.split(self.shape[0], dim=1) if self.learns_variance else (out, None)
        return to_eps(out, x_t, self.schedule.alpha_bar[t].item(), self.prediction_type), v

    def decode(self, x0: Tensor) -> Tensor:
        return x0


def saved_size(folder: Path) -> int | None:
    """Side of the pictures of a saved `UNet2DModel`, from its config alone."""
    size = json.loads((_part(folder, "unet") / CONFIG).read_text()).get("sample_size")
    return size if isinstance(size, int) else None


def to_eps(out: Tensor, x_t: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """What a network predicts as eps. v = sqrt(ab) eps - sqrt(1-ab) x0 (Salimans & Ho, arXiv 2202.00512)."""
    if prediction_type == "epsilon":
        return out
    if prediction_type == "v_prediction":
        return math.sqrt(alpha_bar) * out + math.sqrt(1 - alpha_bar) * x_t
    return (x_t - math.sqrt(alpha_bar) * out) / math.sqrt(1 - alpha_bar)


def read_schedule(folder: Path) -> tuple[NoiseSchedule, str]:
    """The noise schedule (float64) of a saved scheduler, and its `prediction_type`.

    Raises:
        ValueError: there is none, or its predictions are of another kind.
    """
    from diffusers import DDPMScheduler

    file = _scheduler_file(folder)
    kind = json.loads(file.read_text()).get("_class_name", "DDPMScheduler")
    if not kind.startswith(DISCRETE):
        raise ValueError(f"{file}: {kind} is no schedule of alpha_bar in discrete steps, as DDPM's and DDIM's are")
    scheduler = DDPMScheduler.from_pretrained(file.parent)
    c = scheduler.config
    known = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}
    if c.get("rescale_betas_zero_snr"):
        raise ValueError(f"{file}: rescale_betas_zero_snr ends at alpha_bar = 0, where eps says nothing of x0")
    if c.trained_betas is None and c.beta_schedule in known:
        betas = known[c.beta_schedule](c.beta_start, c.beta_end, c.num_train_timesteps)
    else:
        betas = scheduler.betas.double()
    if c.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"{folder}: prediction_type={c.prediction_type} is none of epsilon, v_prediction, sample")
    final = 1.0 if c.get("set_alpha_to_one", True) else float(1 - betas[0])
    return NoiseSchedule(betas, c.get("steps_offset", 0), final), c.prediction_type


def _load(folder: Path) -> nn.Module:
    """The `UNet2DModel` in the folder, float32. Errors are one line."""
    from diffusers import UNet2DModel

    part = _part(folder, "unet")
    net = load_pretrained(UNet2DModel, part, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    if net.config.class_embed_type is not None or net.config.num_class_embeds:
        raise ValueError(f"{part} is a class-conditional model; an unconditional one is needed")
    return net


def _part(folder: Path, name: str) -> Path:
    """Where a pipeline's part lies: in its own folder, or at the top."""
    part = folder / name if (folder / name).is_dir() else folder
    if not (part / CONFIG).exists():
        raise ValueError(f"{folder} holds no {CONFIG}, at its top or in {name}/: not a diffusers model")
    return part


def _scheduler_file(folder: Path) -> Path:
    for file in (folder / "scheduler" / SCHEDULER, folder / SCHEDULER, folder.parent / "scheduler" / SCHEDULER):
        if file.exists():
            return file
    raise ValueError(f"{folder} holds no {SCHEDULER}, at its top or in scheduler/: its noise schedule is not known")
