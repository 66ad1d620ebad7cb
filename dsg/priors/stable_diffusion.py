"""Stable Diffusion as a latent prior: a U-Net on an autoencoder's latents, under classifier-free guidance by text.

The samplers do not know: they diffuse latents, and a task's loss sees `decode(x0)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from dsg.files import first_line
from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.batching import in_fixed_batches
from dsg.priors.diffusers import CONFIG, SCHEDULER, hash_of, read_config, read_schedule
from dsg.priors.prediction import to_eps
from dsg.schedule import NoiseSchedule
from dsg.weights import load_pretrained, require_folder

PARTS, WEIGHTS = ("unet", "vae", "text_encoder"), ("*.safetensors", "*.bin")


class StableDiffusion(Prior):
    """Args:
        name: names the checkpoint in messages.
        checkpoint: a folder with a saved pipeline (unet/, vae/, text_encoder/, tokenizer/, scheduler/), or the id of
            such a repository on the Hugging Face hub; or a `Pipeline` in memory.
        prompt: what the image should show; empty or null: no text, and one pass through the U-Net instead of two.
        cfg: scale s of classifier-free guidance (Ho & Salimans, arXiv 2207.12598): eps = eps_0 + s (eps_text - eps_0).
        image_size: side of the images in pixels, a multiple of the autoencoder's factor.
        bf16: run the networks under bfloat16 autocast.
        use_checkpoint: recompute the activations of decoder and U-Net in the backward pass: less memory, more time.
        cpu_batch: on a CPU the network sees exactly this many images at a time (see `ADMPrior`).

    The schedule is the scheduler's own: for SD 1.4 scaled-linear betas, `steps_offset` 1, and a last alpha_bar of
    alpha_bar_0, so that the last step still takes noise.

    Raises:
        FileNotFoundError: no such folder, with what to do.
        ValueError: an option out of range; on `load`, a part that cannot be read.
    """

    takes_prompts = True

    def __init__(
        self,
        name: str,
        checkpoint: str | None,
        prompt: str | None = None,
        cfg: float = 5.0,
        image_size: int = 512,
        bf16: bool = False,
        use_checkpoint: bool = True,
        cpu_batch: int = 0,
    ):
        super().__init__()
        if isinstance(cfg, bool) or not isinstance(cfg, (int, float)) or cfg < 0:
            raise ValueError(f"model.cfg={cfg}: a number, 0 or more")
        self.prompt, self.cfg, self.image_size = prompt, float(cfg), image_size
        self.bf16, self.use_checkpoint, self.cpu_batch = bf16, use_checkpoint, cpu_batch
        self.net: nn.Module | None = None
        in_memory = isinstance(checkpoint, Pipeline)
        self.pipeline = checkpoint if in_memory else SavedPipeline(require_folder(checkpoint, name))
        self.schedule, self.prediction = self.pipeline.schedule, self.pipeline.prediction
        _check_size(image_size, self.pipeline.factor)
        side = image_size // self.pipeline.factor
        self.shape = (self.pipeline.channels, side, side)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    def load(self) -> "StableDiffusion":
        if self.net is None:
            self.net, self.vae, self.embed = self.pipeline.load()
            if self.use_checkpoint:
                self.net.enable_gradient_checkpointing()
                self.net.train()  # diffusers recomputes in training mode only; there is no dropout in it to wake
        return self

    @property
    def weights_hash(self) -> str:
        """Of the weights of every part, and of the scheduler's settings."""
        return self.load().pipeline.weights_hash

    def predict(self, x_t: Tensor, t: int, prompts: Prompts | None = None) -> Prediction:
        """eps of latents [B, C, H, W], float32. With a prompt under classifier-free guidance, which gives `text_shift`.

        Raises:
            ValueError: the prompts are not as many as the latents.
        """
        self.load()
        prompts = [self.prompt] * len(x_t) if prompts is None else prompts
        if len(prompts) != len(x_t):
            raise ValueError(f"{len(prompts)} prompts for a batch of {len(x_t)}")
        no_text = self._embedded([""] * len(x_t), x_t.device)
        if not any(prompts):
            return Prediction(self._eps(x_t, no_text, t))
        text = torch.cat([no_text, self._embedded(prompts, x_t.device)])
        unprompted, prompted = self._eps(torch.cat([x_t, x_t]), text, t).chunk(2)
        shift = self.cfg * (prompted - unprompted)
        return Prediction(unprompted + shift, text_shift=shift)

    def _eps(self, x: Tensor, text: Tensor, t: int) -> Tensor:
        return to_eps(self._run(x, text, t), x, self.schedule.alpha_bar[t].item(), self.prediction)

    def _embedded(self, prompts: Sequence[str | None], device: torch.device) -> Tensor:
        return torch.cat([self.embed(prompt or "") for prompt in prompts]).to(device)

    def _run(self, x: Tensor, text: Tensor, t: int) -> Tensor:
        def network(x: Tensor, text: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
                return self.net(x, t, encoder_hidden_states=text).sample.float()

        return in_fixed_batches(network, x, self.cpu_batch, text)

    def decode(self, x0: Tensor) -> Tensor:
        """Latents -> images [B, 3, 8 H, 8 W], about [-1, 1]; differentiable, its activations recomputed if so asked."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return recompute(self._decode, x0, use_reentrant=False)
        return self._decode(x0)

    def _decode(self, x0: Tensor) -> Tensor:
        config = self.vae.config
        latent = x0 / config.scaling_factor + (config.get("shift_factor") or 0.0)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.bf16):
            return torch.cat([self.vae.decode(z).sample for z in latent.split(1)]).float()


class SavedPipeline:
    """A pipeline in a folder: its settings; its networks when asked.

    Attributes:
        schedule, prediction: see `read_schedule`.
        channels: of a latent.
        factor: how many times smaller than the images its latents are.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        vae = read_config(folder / "vae" / CONFIG, "an AutoencoderKL", ["block_out_channels"])
        unet = read_config(folder / "unet" / CONFIG, "a UNet2DConditionModel")
        self.channels, self.factor = unet.get("in_channels", 4), 2 ** (len(vae["block_out_channels"]) - 1)
        self.schedule, self.prediction = read_schedule(folder)
        self.weights_hash: str | None = None

    def load(self) -> tuple[nn.Module, nn.Module, "TextEmbedder"]:
        """U-Net, autoencoder, and text -> [1, tokens, channels]."""
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        tokenizer = _tokenizer(self.folder / "tokenizer")
        net = _part(self.folder, "unet", UNet2DConditionModel, low_cpu_mem_usage=False)
        vae = _part(self.folder, "vae", AutoencoderKL, low_cpu_mem_usage=False)
        encoder = _part(self.folder, "text_encoder", CLIPTextModel)
        weights = (f for part in PARTS for pattern in WEIGHTS for f in (self.folder / part).glob(pattern))
        words = (f for f in (self.folder / "tokenizer").iterdir() if f.suffix in (".json", ".txt"))
        self.weights_hash = hash_of((*weights, *words, self.folder / "scheduler" / SCHEDULER))
        return net, vae, TextEmbedder(encoder, tokenizer)


@dataclass
class Pipeline:
    """A `SavedPipeline` of networks that are in memory already."""

    net: nn.Module
    vae: nn.Module
    embed: Callable[[str], Tensor]
    schedule: NoiseSchedule
    prediction: str
    weights_hash: str = "in memory"

    @property
    def channels(self) -> int:
        return self.net.config.in_channels

    @property
    def factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def load(self) -> tuple[nn.Module, nn.Module, Callable[[str], Tensor]]:
        return self.net.requires_grad_(False), self.vae.requires_grad_(False), self.embed


class TextEmbedder:
    """text -> [1, tokens, channels] on the CPU, each once; padded to the encoder's length, as released pipelines do."""

    def __init__(self, encoder: nn.Module, tokenizer):
        self.encoder, self.tokenizer, self.known = encoder, tokenizer, {}

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        if text not in self.known:
            length = self.encoder.config.max_position_embeddings
            tokens = self.tokenizer(
                [text], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            self.known[text] = self.encoder(tokens.input_ids)[0]
        return self.known[text]


def _check_size(image_size: int, factor: int) -> None:
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not whole or image_size < factor or image_size % factor:
        raise ValueError(f"model.image_size={image_size}: a multiple of {factor}")


def _part(folder: Path, name: str, kind: type, **options) -> nn.Module:
    """One network of a pipeline, in evaluation mode, float32, without parameter gradients. Errors are one line."""
    return load_pretrained(kind, folder / name, **options).float().eval().requires_grad_(False)


def _tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its parts raise
        raise ValueError(f"{folder} cannot be read as a CLIPTokenizer: {first_line(error)}") from None
