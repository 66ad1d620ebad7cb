"""Priors that diffuse an autoencoder's latents and follow text: what the families of diffusers' pipelines share.

The samplers do not know: a task's loss sees `decode(x0)`. A family says which networks it is made of, how its text
becomes tensors, and how its network is called.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from dsg.files import first_line
from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.batching import in_fixed_batches
from dsg.priors.diffusers import CONFIG, SCHEDULER, hash_of, parse_schedule, read_config
from dsg.priors.prediction import guided_prediction, network_input, to_prediction
from dsg.weights import load_pretrained, require_folder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

WEIGHTS = ("*.safetensors", "*.bin")


class LatentPrior(Prior):
    """Args:
        name: names the checkpoint in messages.
        checkpoint: a folder with a saved pipeline, or the id of such a repository on the Hugging Face hub; or the
            pipeline itself, in memory.
        prompt: what the image should show; empty or null: no text, and one pass through the network instead of two.
        cfg: scale s of classifier-free guidance: eps = eps_0 + s (eps_text - eps_0). At 1 there is one pass.
        image_size: side of the images in pixels, a multiple of the autoencoder's factor.
        bf16: hold and run the network in bfloat16; latents, noise and the gradient of the loss stay float32. The
            autoencoder runs under bfloat16 autocast.
        use_checkpoint: recompute the activations of decoder and network in the backward pass: less memory, more time.
        preview: a folder or hub id of an `AutoencoderTiny` (TAESD, TAESD3, TAEF1), which decodes where a gradient is
            asked for: a fraction of the decoder's memory and time. Images are decoded by the autoencoder. null: none.
        cpu_batch: on a CPU the network sees exactly this many images at a time (see `ADMPrior`).
        embeddings: what the network sees instead of a prompt, [1, ...] or [B, ...] each: the names of diffusers,
            `prompt_embeds`, `pooled_prompt_embeds`, and `negative_...` for the pass without text.

    Text encoders stay where they are, on the CPU when read from a folder, and see every prompt once.

    Raises:
        FileNotFoundError: no such folder, with what to do.
        ValueError: an option out of range; on `load`, a part that cannot be read.
    """

    takes_prompts = True
    network: ClassVar[str]  # the part that is the network: unet, transformer
    parts: ClassVar[Mapping[str, str]]  # part of the pipeline -> its class in diffusers or transformers
    pipeline: ClassVar[str]  # diffusers' class
    not_needed: ClassVar[Mapping] = {}  # its other arguments
    guides_without_text = True  # whether cfg compares two passes
    usual_cfg: ClassVar[float] = 5.0

    def __init__(
        self,
        name: str,
        checkpoint: str | None,
        prompt: str | None = None,
        cfg: float = 5.0,
        image_size: int = 512,
        bf16: bool = False,
        use_checkpoint: bool = True,
        preview: str | None = None,
        cpu_batch: int = 0,
        embeddings: Mapping[str, Tensor] | None = None,
    ):
        super().__init__()
        if isinstance(cfg, bool) or not isinstance(cfg, (int, float)) or cfg < 0:
            raise ValueError(f"model.cfg={cfg}: a number, 0 or more")
        self.prompt, self.cfg, self.image_size, self.embeddings = prompt, float(cfg), image_size, dict(embeddings or {})
        self.bf16, self.use_checkpoint, self.cpu_batch = bf16, use_checkpoint, cpu_batch
        in_memory = checkpoint is not None and not isinstance(checkpoint, (str, Path))
        self.saved = LoadedPipeline(checkpoint) if in_memory else SavedPipeline(require_folder(checkpoint, name), self)
        self.preview_folder = require_folder(preview, f"{name} model.preview") if preview else None
        vae, net = self.saved.config("vae", ["block_out_channels"]), self.saved.config(self.network)
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        _check_size(image_size, factor * self.patch)
        side = image_size // factor
        self.schedule, self.prediction, _ = parse_schedule(self.saved.scheduler(), name, (side // 2) ** 2)
        self.shape = (self.channels(net), side, side)
        self.scale, self.shift = vae.get("scaling_factor") or 0.18215, vae.get("shift_factor") or 0.0
        self.net: nn.Module | None = None
        self._embedded: dict[str | None, dict[str, Tensor]] = {}

    # --- what a family says

    patch: ClassVar[int] = 1  # side of the patches that the network cuts latents into

    def channels(self, config: Mapping) -> int:
        """The shape of a latent, by the network's settings."""
        return config.get("in_channels", 4)

    @abstractmethod
    def encode_text(self, prompt: str | None) -> dict[str, Tensor]:
        """The text's tensors, [1, ...] each, under diffusers' names; None: those of the pass without text."""

    @abstractmethod
    def run(self, x: Tensor, time: Tensor, **text: Tensor) -> Tensor:
        """The network's output for latents x on its own path at `time` [1], all in the network's dtype."""

    @classmethod
    @abstractmethod
    def fits(cls, pipe: "DiffusionPipeline") -> bool:
        """Whether this family's network is the pipeline's."""

    # --- the contract of a prior

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    def load(self) -> "LatentPrior":
        if self.net is None:
            pipe = self.saved.load(self.bf16)
            if self.use_checkpoint:
                getattr(pipe, self.network).enable_gradient_checkpointing()
            self.pipe, self.net, self.vae = pipe, getattr(pipe, self.network), pipe.vae
            self.tiny = _tiny(self.preview_folder) if self.preview_folder else None
        return self

    @property
    def weights_hash(self) -> str:
        """A hash of the weights of every part, and of the scheduler's settings."""
        return self.load().saved.weights_hash

    def predict(self, x_t: Tensor, t: float, prompts: Prompts | None = None) -> Prediction:
        """Predict for latents [B, C, H, W], float32; with a prompt under classifier-free guidance (`text_shift`).

        Raises:
            ValueError: the prompts are not as many as the latents.
        """
        self.load()
        if prompts is not None and len(prompts) != len(x_t):
            raise ValueError(f"{len(prompts)} prompts for a batch of {len(x_t)}")
        given = self.embeddings if prompts is None and self.prompt is None else {}
        prompts = [self.prompt] * len(x_t) if prompts is None else prompts
        has_text = any(prompts) or bool(given)
        text = _part_of(given, negative=False) or self.embedded(prompts)
        if not self.guides_without_text or (has_text and self.cfg == 1):
            return self._predict(x_t, t, text)
        free = _part_of(given, negative=True) or self.embedded([None] * len(x_t))
        if not has_text:
            return self._predict(x_t, t, free)
        both = {key: torch.cat([_wide(free[key], x_t), _wide(text[key], x_t)]) for key in text}
        found = self._predict(torch.cat([x_t, x_t]), t, both)
        halves = zip(*(part.chunk(2) if part is not None else (None, None) for part in found))
        return guided_prediction(*(Prediction(*half) for half in halves), self.cfg)

    def _predict(self, x_t: Tensor, t: float, text: Mapping[str, Tensor]) -> Prediction:
        seen, time = network_input(x_t, self.schedule, t)
        dtype, times = self.net.dtype, torch.full((1,), time, device=x_t.device)

        def network(x: Tensor, *tensors: Tensor) -> Tensor:
            named = {key: tensor.to(x.device, dtype) for key, tensor in zip(text, tensors)}
            return self.run(x.to(dtype), times, **named).float()

        out = in_fixed_batches(network, seen, self.cpu_batch, *(_wide(tensor, x_t) for tensor in text.values()))
        return to_prediction(out, x_t, self.schedule.alpha_bar_at(t), self.prediction)

    def embedded(self, prompts: Prompts) -> dict[str, Tensor]:
        """Their texts' tensors, [B, ...] each; a prompt that is empty or None is the pass without text."""
        found = [self._embed(prompt or None) for prompt in prompts]
        return {key: torch.cat([one[key] for one in found]) for key in found[0]}

    @torch.no_grad()
    def _embed(self, prompt: str | None) -> dict[str, Tensor]:
        if prompt not in self._embedded:
            if getattr(self.pipe, "text_encoder", None) is None:
                missing = "negative_prompt_embeds" if prompt is None else "prompt_embeds"
                raise ValueError(f"the pipeline has no text encoders: give {missing} and its companions, or cfg=1")
            self._embedded[prompt] = {key: tensor.cpu() for key, tensor in self.encode_text(prompt).items()}
        return self._embedded[prompt]

    def decode(self, x0: Tensor) -> Tensor:
        """Latents -> images [B, 3, image_size, image_size], about [-1, 1]; differentiable."""
        if self.tiny is not None and x0.requires_grad:
            return self._with(self.tiny, x0)
        if self.use_checkpoint and torch.is_grad_enabled():
            return recompute(self._decode, x0, use_reentrant=False)
        return self._decode(x0)

    def _decode(self, x0: Tensor) -> Tensor:
        return self._with(self.vae, x0 / self.scale + self.shift)

    def _with(self, decoder: nn.Module, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=self.bf16):
            parts = [decoder.decode(z.to(decoder.dtype)).sample for z in latents.split(1)]
        return torch.cat(parts).float()

    def encode(self, image: Tensor) -> Tensor:
        """Images [B, 3, image_size, image_size] in [-1, 1] -> latents, the mode of the encoder's distribution."""
        self.load()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bf16):
            parts = [self.vae.encode(one.to(self.vae.dtype)).latent_dist.mode() for one in image.split(1)]
        return (torch.cat(parts).float() - self.shift) * self.scale


class SavedPipeline:
    """A pipeline in a folder: its settings; its networks when asked."""

    def __init__(self, folder: Path, family: LatentPrior):
        self.folder, self.family = folder, family
        self.weights_hash: str | None = None

    def config(self, part: str, needed: tuple[str, ...] | list[str] = ()) -> dict:
        kind = self.family.parts[part]
        article = "an" if kind[0] in "AEIOU" else "a"
        return read_config(self.folder / part / CONFIG, f"{article} {kind}", needed)

    def scheduler(self) -> dict:
        return read_config(self.folder / "scheduler" / SCHEDULER, "a scheduler")

    def load(self, bf16: bool) -> "DiffusionPipeline":
        import diffusers

        family = self.family
        there = {part: kind for part, kind in family.parts.items() if (self.folder / part).is_dir()}
        loaded = {part: self._part(part, kind, bf16) for part, kind in there.items()}
        weights = (f for part in there for pattern in WEIGHTS for f in (self.folder / part).glob(pattern))
        tokenizers = (self.folder / part for part in there if part.startswith("tokenizer"))
        words = (f for folder in tokenizers for f in folder.iterdir() if f.suffix in (".json", ".txt"))
        self.weights_hash = hash_of({*weights, *words, self.folder / "scheduler" / SCHEDULER})
        kind = getattr(diffusers, family.pipeline)
        index, missing = self.folder / "model_index.json", dict.fromkeys(set(family.parts) - set(there))
        settings = read_config(index, "a pipeline") if index.exists() else {}
        options = {key: settings[key] for key in ("force_zeros_for_empty_prompt",) if key in settings}
        return kind(**loaded, **missing, **options, **family.not_needed, scheduler=None)

    def _part(self, part: str, kind: str, bf16: bool):
        """A network in evaluation mode without parameter gradients, or a tokenizer. Errors are one line."""
        import diffusers
        import transformers

        folder, loader = self.folder / part, getattr(diffusers, kind, None) or getattr(transformers, kind)
        if part.startswith("tokenizer"):
            try:
                return loader.from_pretrained(folder)
            except Exception as error:  # transformers raises whatever its parts raise
                raise ValueError(f"{folder} cannot be read as a {kind}: {first_line(error)}") from None
        dtype = torch.bfloat16 if bf16 and part != "vae" else torch.float32
        options = {"low_cpu_mem_usage": False} if hasattr(diffusers, kind) else {}
        return load_pretrained(loader, folder, torch_dtype=dtype, **options).to(dtype).eval().requires_grad_(False)


class LoadedPipeline:
    """A pipeline in memory; its networks take no parameter gradients from then on."""

    weights_hash = "in memory"

    def __init__(self, pipe: "DiffusionPipeline"):
        self.pipe = pipe

    def config(self, part: str, needed: tuple[str, ...] | list[str] = ()) -> dict:
        return dict(getattr(self.pipe, part).config)

    def scheduler(self) -> dict:
        return {**self.pipe.scheduler.config, "_class_name": type(self.pipe.scheduler).__name__}

    def load(self, bf16: bool) -> "DiffusionPipeline":
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        return self.pipe


def _check_size(image_size: int, factor: int) -> None:
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not whole or image_size < factor or image_size % factor:
        raise ValueError(f"model.image_size={image_size}: a multiple of {factor}")


def _part_of(embeddings: Mapping[str, Tensor], negative: bool) -> dict[str, Tensor]:
    """The embeddings of the pass with text, or those without, under the names of the former."""
    prefix = "negative_"
    return {k.removeprefix(prefix): v for k, v in embeddings.items() if k.startswith(prefix) == negative}


def _wide(tensor: Tensor, x: Tensor) -> Tensor:
    """[1, ...] or [B, ...] as [B, ...] on the device of x."""
    return tensor.to(x.device).expand(len(x), *tensor.shape[1:])


def _tiny(folder: Path) -> nn.Module:
    from diffusers import AutoencoderTiny

    return load_pretrained(AutoencoderTiny, folder, low_cpu_mem_usage=False).eval().requires_grad_(False)
