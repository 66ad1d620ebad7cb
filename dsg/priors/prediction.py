"""The conversion between a network and the samplers: its path, its time, and what it predicts. It is here only.

Samplers have x_t = sqrt(ab) x0 + sqrt(1-ab) eps. The network has its own path alpha x0 + sigma eps, which is x_t times
sqrt(alpha^2 + sigma^2), and predicts one of the combinations of x0 and eps below.
"""

import math
from typing import Literal, get_args

from torch import Tensor

from dsg.priors.base import Prediction
from dsg.schedule import NoiseSchedule

PredictionKind = Literal["eps", "v", "x0", "flow"]
PREDICTIONS = get_args(PredictionKind)


def check_prediction(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"model.prediction={prediction} is unknown: one of {', '.join(PREDICTIONS)}")


def network_input(x_t: Tensor, schedule: NoiseSchedule, t: float) -> tuple[Tensor, float]:
    """x_t on the network's own path, like x_t, and its time there: t of betas, 1000 s of a flow, ln(sigma)/4 of EDM."""
    if schedule.path == "vp":
        return x_t, t
    alpha, sigma = schedule.alpha_sigma(t)
    return x_t * math.hypot(alpha, sigma), 1000 * sigma if schedule.path == "flow" else math.log(sigma) / 4


def to_eps(out: Tensor, x_t: Tensor, alpha_bar: float, prediction: str) -> Tensor:
    """The network's output as eps; all tensors [B, ...].

    eps: as it is. v = sqrt(ab) eps - sqrt(1-ab) x0 (Salimans & Ho, arXiv 2202.00512). x0: the clean image. flow:
    u = eps - x0 of a rectified flow (Liu et al., arXiv 2209.03003).

    Raises:
        ValueError: unknown prediction.
    """
    check_prediction(prediction)
    a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction == "eps":
        return out
    if prediction == "v":
        return a * out + b * x_t
    if prediction == "x0":
        return (x_t - a * out) / b
    return (x_t + a * out) / (a + b)


def to_prediction(out: Tensor, x_t: Tensor, alpha_bar: float, prediction: str) -> Prediction:
    """eps, and x0 where eps alone would not give it well: of a flow, and at ab = 0. Arguments as of `to_eps`.

    Raises:
        ValueError: unknown prediction, or eps at ab = 0, which says nothing of x0.
    """
    eps = to_eps(out, x_t, alpha_bar, prediction)
    if prediction != "flow" and alpha_bar > 0:
        return Prediction(eps)
    if prediction == "eps":
        raise ValueError("the last noise level has no signal (alpha_bar = 0), where eps says nothing of x0")
    a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    x0 = {"v": lambda: a * x_t - b * out, "x0": lambda: out, "flow": lambda: (x_t - b * out) / (a + b)}[prediction]()
    return Prediction(eps, x0=x0)


def guided_prediction(free: Prediction, prompted: Prediction, scale: float) -> Prediction:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): free + scale (prompted - free)."""
    shift = scale * (prompted.eps - free.eps)
    x0 = None if free.x0 is None else free.x0 + scale * (prompted.x0 - free.x0)
    return Prediction(free.eps + shift, text_shift=shift, x0=x0)
