"""How well the guidance network of `faceid` tells people apart."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dsg.avatars64.guidance_card.people import People, is_other_person


@torch.no_grad()
def batched(network: Callable[[Tensor], Tensor], x: Tensor, description: str) -> Tensor:
    """`network(x)`, 64 images at a time."""
    return torch.cat([network(part) for part in tqdm(x.split(64), desc=description, unit="batch", leave=False)])


def identity_metrics(network, people: People, hard: Mapping[str, tuple[np.ndarray, Tensor]]) -> dict:
    """Distances of features between two images: of one person, of two, and of hard pairs.

    Args:
        hard: attribute -> (indices of the people, second images with it changed).
    """
    f, g = batched(network, people.x, "identity"), batched(network, people.again, "identity")
    same, other = (f - g).norm(dim=1).numpy(), is_other_person(people)
    different = (f - g.roll(-1, 0)).norm(dim=1).numpy()
    even = np.arange(len(same)) % 2 == 0
    threshold = best_threshold(same[even], different[even & other])
    rows, distances = [], {}
    for name, (index, images) in hard.items():
        distance = distances[name] = (f[index] - batched(network, images, name)).norm(dim=1).numpy()
        rows.append(
            {
                "changed": name,
                "pairs": len(index),
                "distance": distance.mean(),
                "the same person is nearer": (same[index] < distance).mean(),
                "beyond the threshold": (distance > threshold).mean(),
            }
        )
    return {
        "same": same,
        "different": different,
        "other": other,
        "threshold": threshold,
        "accuracy": told_right(same[~even], different[~even & other], threshold),
        "auc": area_under_curve(same, different[other]),
        "eer": equal_error_rate(same, different[other]),
        "hard": pd.DataFrame(rows),
        "hard distances": distances,
    }


def best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    """The distance that tells most pairs right."""
    candidates = np.sort(np.concatenate([same, different]))
    right = (same[None] <= candidates[:, None]).mean(1) + (different[None] > candidates[:, None]).mean(1)
    return float(candidates[right.argmax()])


def told_right(same: np.ndarray, different: np.ndarray, threshold: float) -> float:
    """Share of the pairs, both kinds counted alike."""
    return ((same <= threshold).mean() + (different > threshold).mean()) / 2


def area_under_curve(same: np.ndarray, different: np.ndarray) -> float:
    """Probability that a pair of one person is nearer than a pair of two."""
    return (same[:, None] < different).mean() + 0.5 * (same[:, None] == different).mean()


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Share of errors at the threshold where both kinds of error are as frequent."""
    thresholds = np.sort(np.concatenate([same, different]))
    missed, taken = (same[None] > thresholds[:, None]).mean(1), (different[None] <= thresholds[:, None]).mean(1)
    best = np.abs(missed - taken).argmin()
    return float(missed[best] + taken[best]) / 2
