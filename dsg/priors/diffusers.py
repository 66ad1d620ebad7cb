"""A pixel prior from diffusers: an unconditional `UNet2DModel` with its scheduler's noise schedule."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsg.files import file_hash, first_line
from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.batching import in_fixed_batches
from dsg.priors.prediction import network_input, to_prediction
from dsg.schedule import EDMSchedule, FlowSchedule, NoiseSchedule, flux_shift, linear_betas, scaled_linear_betas
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

    Schedulers of betas, of flow matching and of EDM are understood, models that predict eps, v or x0 (the scheduler's
    `prediction_type`) or a flow, and a learned variance where the network has twice the channels. A pickle, as EDM and
    EDM2 are released, is code, and is not read: convert it.

    Raises:
        FileNotFoundError: no such folder, with what to do.
        ValueError: a folder that holds no such model, or one that asks for more than (x_t, t); on `load`, weights that
            cannot be read.
    """

    def __init__(
        self, name: str, checkpoint: str | None, bf16: bool = False, channels_last: bool = False, cpu_batch: int = 0
    ):
        super().__init__()
        if str(checkpoint).endswith((".pkl", ".pickle")):
            raise ValueError(f"model.checkpoint={checkpoint}: a pickle is code and is not run; convert it to diffusers")
        self.folder = require_folder(checkpoint, name)
        self.part = _part(self.folder, "unet")
        self.bf16, self.channels_last, self.cpu_batch = bf16, channels_last, cpu_batch
        config = read_config(self.part / CONFIG, "a UNet2DModel", ["sample_size"])
        if config.get("class_embed_type") is not None or config.get("num_class_embeds"):
            raise ValueError(f"{self.part} is a class-conditional model; an unconditional one is needed")
        scheduler = _scheduler_file(self.folder)
        settings = read_config(scheduler, "a scheduler")
        self.schedule, self.prediction, self.sigma_data = parse_schedule(settings, scheduler)
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
        """A hash of the weights and of the scheduler's settings."""
        return self.load()._weights_hash

    def predict(self, x_t: Tensor, t: int, prompts: Prompts | None = None) -> Prediction:
        """eps and, if the network learned it, v: float32 [B, C, H, W]."""
        self.load()
        seen, time = network_input(x_t, self.schedule, t)
        ab, times = self.schedule.alpha_bar_at(t), torch.full((1,), time, device=x_t.device)
        if self.sigma_data is not None:
            return to_prediction(self._preconditioned(seen, times, t), x_t, ab, "x0")
        out = self._run(seen, times)
        out, v = out.split(self.shape[0], dim=1) if self.learns_variance else (out, None)
        return to_prediction(out, x_t, ab, self.prediction)._replace(v=v)

    def _run(self, x: Tensor, times: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return in_fixed_batches(lambda part: self.net(part, times).sample, x, self.cpu_batch).float()

    def _preconditioned(self, x: Tensor, times: Tensor, t: float) -> Tensor:
        """EDM's denoiser D(x; sigma) (arXiv 2206.00364, eq. 7), with the sign of diffusers' v_prediction."""
        sigma, data = self.schedule.alpha_sigma(t)[1], self.sigma_data
        root, sign = math.hypot(sigma, data), -1 if self.prediction == "v" else 1
        return (data / root) ** 2 * x + sign * sigma * data / root * self._run(x / root, times)


def hash_of(files: Iterable[Path]) -> str:
    """A hash of the contents of files, in the order of their paths."""
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


class Parameterisation(NamedTuple):
    """A scheduler's noise schedule, and what its network predicts (`dsg.priors.prediction`).

    Attributes:
        sigma_data: standard deviation of the data in EDM's preconditioning around the network; None: there is none.
    """

    schedule: NoiseSchedule
    prediction: str
    sigma_data: float | None = None


def parse_schedule(config: Mapping, where: str | Path, tokens: int = 4096) -> Parameterisation:
    """What a scheduler's settings say.

    Args:
        where: names it in messages.
        tokens: of an image, for schedules whose shift depends on the resolution.

    Raises:
        ValueError: a schedule or predictions of another kind.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    if kind.startswith("FlowMatch"):
        if not config.get("use_dynamic_shifting"):
            return Parameterisation(FlowSchedule(config.get("shift", 1.0)), "flow")
        keys = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
        return Parameterisation(FlowSchedule(flux_shift(tokens, *(config.get(k, v) for k, v in keys.items()))), "flow")
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise ValueError(f"{where}: prediction_type={predicts} is none of {', '.join(PREDICTIONS)}")
    if kind.startswith("EDM"):
        levels = (config.get(key, value) for key, value in (("sigma_min", 0.002), ("sigma_max", 80.0), ("rho", 7.0)))
        return Parameterisation(EDMSchedule(*levels), PREDICTIONS[predicts], config.get("sigma_data", 0.5))
    if not kind.startswith(DISCRETE):
        raise ValueError(f"{where}: the noise schedule of {kind} is not known: DDPM's and its kin, flow matching, EDM")
    return _from_betas(config, where)


def _from_betas(config: Mapping, where: str | Path) -> Parameterisation:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(dict(config))
    c, prediction = scheduler.config, PREDICTIONS[scheduler.config.prediction_type]
    known = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}
    zero_signal = c.get("rescale_betas_zero_snr")
    if c.trained_betas is None and c.beta_schedule in known and not zero_signal:
        betas = known[c.beta_schedule](c.beta_start, c.beta_end, c.num_train_timesteps)
    else:
        betas = scheduler.betas.double()
    if zero_signal and prediction == "eps":
        raise ValueError(f"{where}: rescale_betas_zero_snr ends at alpha_bar = 0, where eps says nothing of x0")
    final = 1.0 if c.get("set_alpha_to_one", True) else float(1 - betas[0])
    return Parameterisation(NoiseSchedule(betas, c.get("steps_offset", 0), final), prediction)


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
