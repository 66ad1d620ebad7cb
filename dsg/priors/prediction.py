"""What networks predict, converted to eps in one place. Throughout x_t = sqrt(ab) x0 + sqrt(1-ab) eps."""

import math
from typing import Literal, get_args

from torch import Tensor

PredictionKind = Literal["eps", "v", "x0", "flow"]
PREDICTIONS = get_args(PredictionKind)


def check_prediction(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"model.prediction={prediction} is unknown: one of {', '.join(PREDICTIONS)}")


def to_eps(out: Tensor, x_t: Tensor, alpha_bar: float, prediction: str) -> Tensor:
    """The network's output as eps; all tensors [B, ...].

    eps: as it is. v = sqrt(ab) eps - sqrt(1-ab) x0 (Salimans & Ho, arXiv 2202.00512). x0: the clean image. flow:
    u = eps - x0 of a rectified flow (Liu et al., arXiv 2209.03003), whose network sees `flow_input`.

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


def flow_input(x_t: Tensor, alpha_bar: float) -> tuple[Tensor, float]:
    """What a flow's network sees instead of (x_t, t): (1-s) x0 + s eps, like x_t, and s in [0, 1]."""
    a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return x_t / (a + b), b / (a + b)
