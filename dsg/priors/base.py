"""What a prior is: a pretrained diffusion model behind one small interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from dsg.schedule import NoiseSchedule

Prompts = Sequence[str | None]


class Prediction(NamedTuple):
    """What the network says of x_t; every tensor has its shape.

    Attributes:
        eps: the predicted noise, of which x0 = (x_t - sqrt(1-ab) eps)/sqrt(ab) where x0 is not given.
        v: where the variance was learned, its interpolation in [-1, 1] between beta_tilde and beta (`dsg.schedule`).
        text_shift: what prompts add to eps under classifier-free guidance, s (eps_text - eps_0); None without prompts.
        x0: the predicted clean image of a prior whose noise ends without signal, such as a flow (ab = 0).
    """

    eps: Tensor
    v: Tensor | None = None
    text_shift: Tensor | None = None
    x0: Tensor | None = None


class Prior(nn.Module, ABC):
    """A pretrained diffusion model.

    The constructor is cheap: it checks options and files, and knows the schedule and the shapes. Weights are read by
    `load`, so that all input of a run is checked before gigabytes are.

    Attributes:
        schedule: the forward process.
        shape: (C, H, W) of what is diffused: an image, or a latent.
        learns_variance: whether `predict` gives v.
        takes_prompts: whether `predict` follows prompts.
        prompt: what it follows where none is given.
        cpu_batch: on a CPU the network sees exactly this many images at a time; 0: the whole batch.
    """

    schedule: NoiseSchedule
    shape: tuple[int, ...]
    learns_variance = False
    takes_prompts = False
    prompt: str | None = None
    cpu_batch = 0

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of `decode(x0)`, without the batch."""
        return self.shape

    @property
    def latent(self) -> bool:
        """Whether what is diffused are latents, which have no bounds."""
        return self.image_shape[1:] != self.shape[1:]

    def notes(self, images: Tensor) -> list[str]:
        """What the user should know before a run restores images like these, [B, *image_shape] in [-1, 1]."""
        return []

    @property
    @abstractmethod
    def weights_hash(self) -> str:
        """Identifies the weights in a run's identity."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: float, prompts: Prompts | None = None) -> Prediction:
        """The noise in x_t [B, *shape] at time t; differentiable in x_t.

        Args:
            t: of the schedule, from 0 to T-1, integer or not.
            prompts: a text, or None, for every entry of the batch; None: the prior's own. Ignored where none are taken.
        """

    def decode(self, x0: Tensor) -> Tensor:
        """Images [B, *image_shape], about [-1, 1], of x0 [B, *shape]; differentiable. Of a pixel prior, x0 itself."""
        return x0

    def encode(self, image: Tensor) -> Tensor:
        """x0 [B, *shape] of images [B, *image_shape] in [-1, 1]. Of a pixel prior, the images themselves."""
        return image

    def load(self) -> "Prior":
        """Read the weights, if that has not been done. `predict`, `to` and `weights_hash` do it themselves.

        Raises:
            ValueError: unreadable weights, or those of another network.
        """
        return self

    def to(self, *args, **kwargs) -> "Prior":
        self.load()
        return super().to(*args, **kwargs)


class CountedPrior(Prior):
    """A prior that counts what is asked of it, with the prompts of a batch.

    Args:
        prior: whose predictions these are.
        prompts: given to every `predict`.
        on_call: called with "forward" or "backward" after each, for progress bars.

    Attributes:
        forward_passes, backward_passes: calls of `predict` so far, and gradients taken through them.
    """

    def __init__(self, prior: Prior, prompts: Prompts | None = None, on_call: Callable[[str], None] | None = None):
        super().__init__()
        self.prior, self.prompts, self.on_call = prior, prompts, on_call
        self.schedule, self.shape = prior.schedule, prior.shape
        self.learns_variance, self.takes_prompts, self.prompt = prior.learns_variance, prior.takes_prompts, prior.prompt
        self.forward_passes = self.backward_passes = 0

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.prior.image_shape

    @property
    def weights_hash(self) -> str:
        return self.prior.weights_hash

    def load(self) -> "CountedPrior":
        self.prior.load()
        return self

    def predict(self, x_t: Tensor, t: float, prompts: Prompts | None = None) -> Prediction:
        prediction = self.prior.predict(x_t, t, self.prompts if prompts is None else prompts)
        self._count("forward")
        differentiated = prediction.eps if prediction.x0 is None else prediction.x0
        if differentiated.requires_grad:
            differentiated.register_hook(lambda gradient: self._count("backward"))
        return prediction

    def decode(self, x0: Tensor) -> Tensor:
        return self.prior.decode(x0)

    def encode(self, image: Tensor) -> Tensor:
        return self.prior.encode(image)

    def _count(self, kind: str) -> None:
        name = f"{kind}_passes"
        setattr(self, name, getattr(self, name) + 1)
        if self.on_call is not None:
            self.on_call(kind)
