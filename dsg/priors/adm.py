"""The ADM U-Net of Dhariwal & Nichol (arXiv 2105.05233, "Diffusion Models Beat GANs on Image Synthesis") as a prior.

Module names follow openai/guided-diffusion, so that its checkpoints load with `strict=True`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from dsg.priors import noise_check
from dsg.priors.adm_blocks import AttentionBlock, Block, Resample, ResBlock, timestep_embedding, zeroed
from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.batching import in_fixed_batches
from dsg.priors.betas import betas_of
from dsg.priors.class_posterior import ClassPosterior, probabilities
from dsg.priors.linear import LinearDenoiser
from dsg.priors.prediction import PredictionKind, check_prediction, network_input, to_prediction
from dsg.schedule import NoiseSchedule
from dsg.weights import is_shipped, load_into, read_weights, require


class ADMUNet(nn.Module):
    """U-Net that predicts the noise of a diffusion step (and, with `learn_sigma`, its variance).

    Hyper-parameters carry guided-diffusion's names. `channel_mult` and `attention_resolutions` are lists or, as in
    its flags, comma-separated strings; `attention_resolutions` are feature-map sizes in pixels ("16" of a 256-px
    network is its 16x16 level).

    Args:
        image_size: side of the square training images in pixels; other sizes run if every level halves evenly.
        num_channels: base width; level i has `int(channel_mult[i] * num_channels)` channels.
        num_head_channels: width of an attention head; -1 uses `num_heads` heads instead.
        learn_sigma: twice the output channels, the second half being v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15).
        resblock_updown: residual blocks change the resolution; else pooling/nearest, followed by a convolution
            if `conv_resample`.
        norm_groups: groups of every GroupNorm; 32 in all released networks, fewer for narrow ones.
        use_checkpoint: recompute blocks in the backward pass instead of storing their activations.
        num_classes: the network also takes probabilities of so many classes.

    Raises:
        ValueError: if the hyper-parameters contradict each other, or ask for class conditioning.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        num_res_blocks: int,
        channel_mult: Sequence[float] | str,
        attention_resolutions: Sequence[int] | str | int,
        num_head_channels: int = -1,
        num_heads: int = 4,
        learn_sigma: bool = True,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        conv_resample: bool = True,
        dropout: float = 0.0,
        in_channels: int = 3,
        norm_groups: int = 32,
        class_cond: bool = False,
        use_checkpoint: bool = False,
        num_classes: int = 0,
    ):
        super().__init__()
        if class_cond:
            raise ValueError("class_cond=true: class-conditional networks are not supported, use an unconditional one")
        mult = _numbers(channel_mult, float)
        _check(image_size, num_channels, mult, norm_groups)
        self.in_channels, self.image_size = in_channels, image_size
        self.num_channels, self.learn_sigma = num_channels, learn_sigma
        make = _Layers(
            4 * num_channels, norm_groups, dropout, use_scale_shift_norm, resblock_updown, conv_resample,
            num_head_channels, num_heads, use_checkpoint,
        )  # fmt: skip
        attended = {image_size // size for size in _numbers(attention_resolutions, int)}
        levels = [_Level(int(m * num_channels), 2**i in attended) for i, m in enumerate(mult)]
        self.time_embed = nn.Sequential(nn.Linear(num_channels, make.emb), nn.SiLU(), nn.Linear(make.emb, make.emb))
        self.label_emb = nn.Embedding(num_classes, make.emb) if num_classes else None
        if self.label_emb:
            nn.init.zeros_(self.label_emb.weight)
        self.input_blocks, skips = _encoder(make, levels, num_res_blocks, in_channels)
        deepest, finest = levels[-1].channels, levels[0].channels
        self.middle_block = Block(make.res(deepest, deepest), make.attention(deepest), make.res(deepest, deepest))
        self.output_blocks = _decoder(make, levels, num_res_blocks, skips)
        out_channels = in_channels * (2 if learn_sigma else 1)
        last = zeroed(nn.Conv2d(finest, out_channels, 3, padding=1))
        self.out = nn.Sequential(nn.GroupNorm(norm_groups, finest), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """The prediction [B, C, H, W], or [B, 2C, H, W] if `learn_sigma`.

        Args:
            x: [B, C, H, W], an image in [-1, 1] plus noise.
            t: [B], or [1] for all, in 0..999.
            classes: probabilities [B, num_classes]; the embeddings of the classes are averaged by them.
        """
        emb = self.time_embed(timestep_embedding(t, self.num_channels))
        if classes is not None:
            emb = emb + classes @ self.label_emb.weight
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x).float()


@dataclass
class _Level:
    """A resolution of the network."""

    channels: int
    attended: bool


@dataclass
class _Layers:
    """Makes the layers of one network. The fields are hyper-parameters of `ADMUNet`; `emb` is the embedding's width."""

    emb: int
    norm_groups: int
    dropout: float
    use_scale_shift_norm: bool
    resblock_updown: bool
    conv_resample: bool
    num_head_channels: int
    num_heads: int
    use_checkpoint: bool

    def res(self, cin: int, cout: int, resample: str | None = None) -> ResBlock:
        return ResBlock(
            cin, cout, self.emb, self.norm_groups, self.dropout, self.use_scale_shift_norm, resample,
            self.use_checkpoint,
        )  # fmt: skip

    def attention(self, ch: int) -> AttentionBlock:
        heads = self.num_heads if self.num_head_channels == -1 else ch // self.num_head_channels
        if heads == 0 or ch % heads:
            raise ValueError(f"num_head_channels={self.num_head_channels} does not divide the {ch} channels of a level")
        return AttentionBlock(ch, heads, self.norm_groups, self.use_checkpoint)

    def at(self, level: _Level, cin: int) -> list[nn.Module]:
        """A residual block, and attention where the level has it."""
        res = self.res(cin, level.channels)
        return [res, self.attention(level.channels)] if level.attended else [res]

    def resample(self, ch: int, kind: str) -> nn.Module:
        return self.res(ch, ch, kind) if self.resblock_updown else Resample(ch, kind, self.conv_resample)


def _encoder(
    make: _Layers, levels: list[_Level], num_res_blocks: int, in_channels: int
) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the channels that each of its blocks leaves for the way up."""
    ch = levels[0].channels
    blocks, skips = nn.ModuleList([Block(nn.Conv2d(in_channels, ch, 3, padding=1))]), [ch]
    for level in levels:
        for _ in range(num_res_blocks):
            blocks.append(Block(*make.at(level, ch)))
            ch = level.channels
            skips.append(ch)
        if level is not levels[-1]:
            blocks.append(Block(make.resample(ch, "down")))
            skips.append(ch)
    return blocks, skips


def _decoder(make: _Layers, levels: list[_Level], num_res_blocks: int, skips: list[int]) -> nn.ModuleList:
    """The way up; uses up `skips`."""
    blocks, ch = nn.ModuleList(), levels[-1].channels
    for level in reversed(levels):
        for i in range(num_res_blocks + 1):
            layers = make.at(level, ch + skips.pop())
            ch = level.channels
            if level is not levels[0] and i == num_res_blocks:
                layers.append(make.resample(ch, "up"))
            blocks.append(Block(*layers))
    return blocks


def _numbers(value: Sequence | str | int, kind: type) -> list:
    if isinstance(value, str):
        value = value.split(",")
    return [kind(v) for v in ([value] if isinstance(value, (int, float)) else value) if str(v).strip()]


def _check(image_size: int, num_channels: int, mult: list[float], groups: int) -> None:
    if not mult:
        raise ValueError("channel_mult is empty: give one multiplier per resolution level")
    if image_size % 2 ** (len(mult) - 1):
        raise ValueError(f"image_size={image_size} cannot be halved {len(mult) - 1} times (channel_mult={mult})")
    for m in mult:
        if int(m * num_channels) % groups:
            raise ValueError(
                f"{int(m * num_channels)} channels (channel_mult={mult}) do not divide into {groups} groups"
            )


class ADMPrior(Prior):
    """A pixel prior: an ADM U-Net with the weights of a guided-diffusion checkpoint.

    Args:
        name: names the checkpoint in messages (`python scripts/fetch_checkpoints.py <name>`).
        checkpoint: .pt or .safetensors file with guided-diffusion's keys; relative to the working directory or,
            failing that, to the repository.
        unet: hyper-parameters of `ADMUNet`.
        key: which weights of a training's checkpoint: a (dotted) key of the file. null: it is searched for the
            network's names, after any prefix; averages (EMA) come first.
        prediction: what the network gives: eps, v, x0 or flow (`dsg.priors.prediction`). A flow's network sees
            (1-s) x0 + s eps, and 1000 s as its time.
        schedule, train_steps: the betas of its training (`dsg.priors.betas.betas_of`).
        rescale_timesteps: the network was told 1000 t/train_steps instead of t.
        linear: the network learned the difference to the best linear denoiser of so many components, whose buffers are
            in the checkpoint as `linear.*`; `LinearDenoiser.skip` is added to its v (prediction=v). 0: it did not.
        classes: sizes of the sets of classes whose probabilities the network takes (their sum is its `num_classes`).
            They are computed from x_t (`ClassPosterior`, in the checkpoint as `classes.*`), so the prior is as
            unconditional as without. They need the linear denoiser.
        bf16: run the network under bfloat16 autocast.
        compile: `torch.compile` the network (worth it for many images; the first step takes a minute or so).
        channels_last: keep activations in NHWC order, faster on both CPUs and tensor cores.
        cpu_batch: on a CPU the network sees exactly this many images at a time, however large the batch (0: all of
            it). CPU kernels round differently for different batch sizes, and guidance amplifies that where x0 is
            clamped; with a fixed size an image comes out the same, bit for bit, in any batch.

    A network of one channel (`unet.in_channels=1`) gives greyscale images; they are decoded to three equal channels.

    Raises:
        FileNotFoundError: no such checkpoint, with the command that fetches it.
        ValueError: an option that is out of range; on `load`, an unreadable checkpoint, or one of another network.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str,
        unet: Annotated[Mapping, ADMUNet],
        prediction: PredictionKind = "eps",
        linear: int = 0,
        classes: Sequence[int] = (),
        bf16: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        cpu_batch: int = 0,
        key: str | None = None,
        schedule: str = "linear",
        train_steps: int | None = None,
        rescale_timesteps: bool = False,
    ):
        super().__init__()
        check_prediction(prediction)
        if linear and prediction != "v":
            raise ValueError(f"model.linear={linear} needs model.prediction=v, not {prediction}")
        if classes and not linear:
            raise ValueError(f"model.classes={list(classes)} needs model.linear")
        self.name, self.checkpoint, self.key = name, require(checkpoint, name), key
        self.prediction, self.bf16, self.channels_last, self.cpu_batch = prediction, bf16, channels_last, cpu_batch
        self.schedule = NoiseSchedule(betas_of(schedule, train_steps), path="flow" if prediction == "flow" else "vp")
        self.time_scale = 1000 / len(self.schedule) if rescale_timesteps else 1
        with torch.device("meta"):  # no memory and no random numbers: `load` puts the weights in
            self.net = ADMUNet(**unet, num_classes=sum(classes)).eval().requires_grad_(False)
            numbers = self.net.in_channels * self.net.image_size**2
            self.linear = LinearDenoiser(numbers, linear) if linear else None
            self.classes = nn.ModuleList(ClassPosterior(count, linear) for count in classes)
        if compile:
            self.net.compile()
        self.learns_variance = self.net.learn_sigma
        self.shape = (self.net.in_channels, self.net.image_size, self.net.image_size)
        self._weights_hash: str | None = None

    def load(self) -> "ADMPrior":
        if self._weights_hash is None:
            parts = [(kind, module) for kind, module in (("linear", self.linear), ("classes", self.classes)) if module]
            shapes = {name: value.shape for name, value in self.net.state_dict().items()}
            for kind, module in parts:
                shapes |= {f"{kind}.{name}": value.shape for name, value in module.state_dict().items()}
            state, weights_hash = read_weights(self.checkpoint, self.name, shapes, self.key)
            for kind, module in parts:
                part = {name: state.pop(f"{kind}.{name}", torch.empty(0)) for name in module.state_dict()}
                load_into(module, part, self.checkpoint, assign=True)
                module.float()
            load_into(self.net, state, self.checkpoint, assign=True)
            self.net.float()
            if self.channels_last:
                self.net.to(memory_format=torch.channels_last)
            self._weights_hash = weights_hash
        return self

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (3, *self.shape[1:]) if self.shape[0] == 1 else self.shape

    def decode(self, x0: Tensor) -> Tensor:
        return x0.expand(-1, self.image_shape[0], -1, -1)

    def notes(self, images: Tensor) -> list[str]:
        """Notes: options that cannot be right, for weights that are not the repository's; colours that are lost."""
        grey, notes = images.mean(1, keepdim=True), []
        if self.shape[0] == 1 and (images - grey).abs().max() > 2 / 255:
            notes.append(f"model={self.name} is greyscale: it cannot restore the colours of these images")
        if not is_shipped(self.checkpoint):
            known = grey if self.shape[0] == 1 else images
            notes += filter(None, [noise_check.doubt(self, known.to(next(self.net.parameters()).device))])
        return notes

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the checkpoint."""
        return self.load()._weights_hash

    def predict(self, x_t: Tensor, t: float, prompts: Prompts | None = None) -> Prediction:
        """eps and, if the network learned it, v: float32 [B, C, H, W]."""
        self.load()
        ab = self.schedule.alpha_bar_at(t)
        seen, time = network_input(x_t, self.schedule, t)
        time = time * self.time_scale if self.schedule.path == "vp" else time
        ts = torch.full((1,), time, device=x_t.device)  # one embedding serves the whole batch
        level = torch.tensor([ab], device=x_t.device, dtype=x_t.dtype)
        along = []
        if self.classes:
            of_part = partial(probabilities, self.linear, self.classes, alpha_bar=level)
            along = [in_fixed_batches(of_part, x_t, self.cpu_batch)]
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bf16):
            out = in_fixed_batches(lambda part, *rest: self.net(part, ts, *rest), seen, self.cpu_batch, *along)
        out, v = out.split(self.shape[0], dim=1) if self.learns_variance else (out, None)
        if self.linear:
            out = out + in_fixed_batches(lambda part: self.linear.skip(part, level), x_t, self.cpu_batch)
        return to_prediction(out, x_t, ab, self.prediction)._replace(v=v)
