"""What a person would use instead of this repository: classical restoration, and plug-and-play with the same denoiser.

Everything takes a `Problem` and returns an image [H, W, 3] in [0, 1]. Needs the extra `photos`.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from bm3d import bm3d_rgb
from skimage import restoration
from torch import Tensor

from dsg import config
from dsg.priors.photos import PhotoPrior
from dsg.runs.prepare import build_task
from dsg.types import Input, to_uint8

SEED = 0
TASKS = {
    "super_resolution": ["task=super_resolution"],
    "inpaint": ["task=inpaint", "task.masked_fraction=[0.7,0.7]"],
    "gaussian_deblur": ["task=gaussian_deblur"],
    "motion_deblur": ["task=motion_deblur", "task.kernel_size=31"],
    "denoise": ["task=denoise"],
}
BORDER = 8  # px beyond the kernel's radius that deblurring reflects, against ringing
ITERATIONS = 20  # conjugate gradients of a proximal step, for blurs without an SVD
Restore = Callable[["Problem"], np.ndarray]


class Problem:
    """A degraded photograph.

    Attributes:
        y: [h, w, 3] in [0, 1]; condition: the task's, in [-1, 1].
        size: (H, W) of the truth; sigma: of the noise, in units of [0, 1].
    """

    def __init__(self, task: str, name: str, truth: np.ndarray):
        self.task, self.name, self.truth = task, name, truth
        self.operator = build_task(config.load(["model=photos", *TASKS[task]]))
        self.condition = self.operator.condition([Input(name, truth=truth)], SEED)
        self.y = image_of(self.condition["y"])
        self.size, self.sigma = truth.shape[:2], self.operator.sigma / 2

    @property
    def missing(self) -> np.ndarray:
        """[H, W], true where nothing is observed."""
        return self.condition["mask"][0, 0].numpy() == 0

    @property
    def kernel(self) -> np.ndarray:
        """[K, K], the blur's impulse response."""
        if "kernel" in self.condition:  # which is correlated with
            return self.condition["kernel"][0].flip(0, 1).numpy()
        row = self.operator.matrix(4 * self.operator.radius + 1)[2 * self.operator.radius]
        taps = row[self.operator.radius : 3 * self.operator.radius + 1]
        return np.outer(taps, taps)


def classical(task: str) -> dict[str, Restore]:
    """By the names that tables have."""
    deblurring = {"Wiener": wiener, "Richardson-Lucy": richardson_lucy}
    return {
        "super_resolution": {"bicubic": lambda p: enlarged(p, cv2.INTER_CUBIC), "Lanczos, unsharp": sharpened},
        "inpaint": {
            "biharmonic": lambda p: restoration.inpaint_biharmonic(p.y, p.missing, channel_axis=2),
            "Telea": lambda p: painted(p, cv2.INPAINT_TELEA),
            "Navier-Stokes": lambda p: painted(p, cv2.INPAINT_NS),
        },
        "gaussian_deblur": deblurring,
        "motion_deblur": deblurring,
        "denoise": {"CBM3D": lambda p: bm3d_rgb(p.y, p.sigma)},
    }[task]


def enlarged(p: Problem, filter: int) -> np.ndarray:
    return cv2.resize(p.y.astype(np.float32), p.size[::-1], interpolation=filter)


def sharpened(p: Problem) -> np.ndarray:
    """Lanczos, then an unsharp mask of 2 px and half its strength."""
    image = enlarged(p, cv2.INTER_LANCZOS4)
    return image + 0.5 * (image - cv2.GaussianBlur(image, (0, 0), 2.0))


def painted(p: Problem, method: int) -> np.ndarray:
    return cv2.inpaint(to_uint8(p.condition["y"])[0], p.missing.astype(np.uint8), 3, method) / 255


def wiener(p: Problem) -> np.ndarray:
    return best(p, [0.003, 0.01, 0.03, 0.1, 0.3], lambda y, k, o: restoration.wiener(y, k, o, clip=False))


def richardson_lucy(p: Problem) -> np.ndarray:
    return best(p, [5, 10, 20, 40], lambda y, k, o: restoration.richardson_lucy(y.clip(0, 1), k, o))


def best(p: Problem, options: Sequence, restore: Callable) -> np.ndarray:
    """The option of the highest PSNR against the truth: more than a person could choose."""
    radius = len(p.kernel) // 2 + BORDER
    padded = np.pad(p.y, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")

    def restored(option) -> np.ndarray:
        channels = [restore(padded[..., c], p.kernel, option) for c in range(3)]
        return np.stack(channels, axis=-1)[radius:-radius, radius:-radius]

    return min(map(restored, options), key=lambda x: np.square(x.clip(0, 1) - p.truth / 255).mean())


def plug_and_play(prior: PhotoPrior) -> Restore:
    """DPIR (Zhang et al., TPAMI 2021) as deepinv has it, with this prior's denoiser: 8 half-quadratic steps."""
    import deepinv

    class Denoiser(deepinv.models.Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, **_) -> Tensor:
            """x in [-1, 1]; sigma in units of [0, 1], in which DPIR's levels are."""
            return prior.whole(x, 2 * torch.as_tensor(sigma).reshape(-1))

    class Operator(deepinv.physics.LinearPhysics):
        def __init__(self, p: Problem):
            super().__init__()
            self.p, self.shape = p, (1, 3, *p.size)

        def A(self, x: Tensor, **_) -> Tensor:
            return self.p.operator.forward(x, self.p.condition)

        def A_adjoint(self, y: Tensor, **_) -> Tensor:
            return self.p.operator.transpose(y, self.p.condition, self.shape)

        def prox_l2(self, z: Tensor, y: Tensor, gamma: Tensor, **_) -> Tensor:
            return self.p.operator.proximal(z, {**self.p.condition, "y": y}, 1 / float(gamma), ITERATIONS)

    def restore(p: Problem) -> np.ndarray:
        with torch.no_grad():
            algorithm = deepinv.optim.DPIR(sigma=p.sigma, denoiser=Denoiser())
            return image_of(algorithm(p.condition["y"], Operator(p)))

    return restore


def one_pass(prior: PhotoPrior) -> Restore:
    """The denoiser alone, for task=denoise."""

    def restore(p: Problem) -> np.ndarray:
        with torch.no_grad():
            return image_of(prior.whole(p.condition["y"], torch.tensor([2 * p.sigma])))

    return restore


def image_of(x: Tensor) -> np.ndarray:
    """[h, w, 3] in [0, 1] of [1, 3, h, w] in [-1, 1]."""
    return (x[0].permute(1, 2, 0).numpy() + 1) / 2
