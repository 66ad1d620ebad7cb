"""A pixel prior from diffusers: an unconditional `UNet2DModel` with its scheduler's noise schedule."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from dsg.files import file_hash, first_line
from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.batching import in_fixed_batches
from dsg.priors.prediction import to_eps
from dsg.schedule import NoiseSchedule, linear_betas, scaled_linear_betas
from dsg.weights import load_pretrained, require_folder

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # a scheduler's prediction_type, in our words
# schedulers of models that were trained on DDPM's forward process
DISCRETE = ("DDPM", "DDIM", "PNDM", "LMSDiscrete", "Euler", "Heun", "DPMSolver", "KDPM2", "DEIS", "UniPC")


class DiffusersPrior(Prior):
    """Args:
        name: names the checkpoint in messages.
        checkpoint: a folder with the model (config.json and weights at its top, or in unet/ beside scheduler/, as
            pipelines are saved), or the id of such a repository on the Hugging Face hub.
        bf16: run the network under bfloat16 autocast.
        channels_last: keep activations in NHWC order.
        cpu_batch: on a CPU the network sees exactly this many images at a time (see `ADMPrior`).

    Models that predict eps, v or x0 are understood (the scheduler's `prediction_type`), and a learned variance where
    the network has twice the channels.

    Raises:
        FileNotFoundError: no such folder, with what to do.
        ValueError: a folder that holds no such model, or one that asks for more than (x_t, t); on `load`, weights that
            cannot be read.
    """

    def __init__(
        self, name: str, checkpoint: str | None, bf16: bool = False, channels_last: bool = False, cpu_batch: int = 0
    ):
        super().__init__()
        self.folder = require_folder(checkpoint, name)
        self.part = _part(self.folder, "unet")
        self.bf16, self.channels_last, self.cpu_batch = bf16, channels_last, cpu_batch
        config = read_config(self.part / CONFIG, "a UNet2DModel", ["sample_size"])
        if config.get("class_embed_type") is not None or config.get("num_class_embeds"):
            raise ValueError(f"{self.part} is a class-conditional model; an unconditional one is needed")
        self.schedule, self.prediction = read_schedule(self.folder)
        size, channels = config["sample_size"], config.get("in_channels", 3)
        self.shape = (channels, *((size, size) if isinstance(size, int) else size))
        self.learns_variance = config.get("out_channels", 3) == 2 * channels
        self.net: nn.Module | None = None

    def load(self) -> "DiffusersPrior":
        if self.net is None:
            from diffusers import UNet2DModel

            net = load_pretrained(UNet2DModel, self.part, torch_dtype=torch.float32, low_cpu_mem_usage=False)
            net = net.eval().requires_grad_(False)
            self.net = net.to(memory_format=torch.channels_last) if self.channels_last else net
            weights = self.part.glob("diffusion_pytorch_model*")
            self._weights_hash = hash_of((*weights, _scheduler_file(self.folder)))
        return self

    @property
    def weights_hash(self) -> str:
        """Of the weights and of the scheduler's settings."""
        return self.load()._weights_hash

    def predict(self, x_t: Tensor, t: int, prompts: Prompts | None = None) -> Prediction:
        """eps and, if the network learned it, v: float32 [B, C, H, W]."""
        self.load()
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bf16):
            out = in_fixed_batches(lambda part: self.net(part, t).sample, x_t, self.cpu_batch).float()
        out, v = out.split(self.shape[0], dim=1) if self.learns_variance else (out, None)
        return Prediction(to_eps(out, x_t, self.schedule.alpha_bar[t].item(), self.prediction), v)


def hash_of(files: Iterable[Path]) -> str:
    """Of the contents of files, in the order of their paths."""
    return hashlib.sha256("".join(file_hash(file) for file in sorted(files)).encode()).hexdigest()


def read_config(file: Path, kind: str, needed: Iterable[str] = ()) -> dict:
    """The settings of a saved network or scheduler; `kind` with its article.

    Raises:
        ValueError: they cannot be read, or say nothing of something that is needed.
    """
    try:
        config = json.loads(file.read_text())
        missing = [key for key in needed if config.get(key) is None]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file.parent} cannot be read as {kind}: {first_line(error)}") from None
    if missing:
        raise ValueError(f"{file.parent} cannot be read as {kind}: its {file.name} says nothing of {missing[0]}")
    return config


def read_schedule(folder: Path) -> tuple[NoiseSchedule, str]:
    """The noise schedule (float64) of a saved scheduler, and what its network predicts (`dsg.priors.prediction`).

    Raises:
        ValueError: there is none, or its predictions are of another kind.
    """
    from diffusers import DDPMScheduler

    file = _scheduler_file(folder)
    kind = read_config(file, "a scheduler").get("_class_name", "DDPMScheduler")
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
    if c.prediction_type not in PREDICTIONS:
        raise ValueError(f"{folder}: prediction_type={c.prediction_type} is none of {', '.join(PREDICTIONS)}")
    final = 1.0 if c.get("set_alpha_to_one", True) else float(1 - betas[0])
    return NoiseSchedule(betas, c.get("steps_offset", 0), final), PREDICTIONS[c.prediction_type]


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
