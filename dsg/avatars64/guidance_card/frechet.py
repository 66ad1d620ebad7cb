"""Statistics of real faces in the evaluator's features, and Frechet distances to them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from dsg.checkpoints import file_hash
from dsg.files import temporary_name
from dsg.metrics.distribution import frechet_distance
from tasks.networks.evaluator import AvatarEvaluator

REFERENCE = range(2000, 6096)  # test faces of the statistics


def statistics(features: Tensor) -> dict[str, Tensor]:
    """Mean [F] and covariance [F, F] of features [N, F], float32, computed in float64."""
    features = features.double()
    return {"mean": features.mean(0).float(), "covariance": torch.cov(features.T).float().contiguous()}


def features_of(evaluator: AvatarEvaluator, images: np.ndarray) -> Tensor:
    """[N, F] of uint8 images [N, 64, 64, 3]."""
    parts = np.array_split(images, max(len(images) // 256, 1))
    return torch.cat([evaluator.features(part) for part in tqdm(parts, desc="features", unit="batch", leave=False)])


def blurred(images: np.ndarray) -> np.ndarray:
    """Means over 2x2 pixels, at the same size."""
    blocks = images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean((2, 4))
    return blocks.round().astype(np.uint8).repeat(2, 1).repeat(2, 2)


def write_statistics(path: Path, features: Tensor, seed: int, weights: Path) -> None:
    """`weights`: the evaluator's file that the features are of."""
    faces = f"split test, seed {seed}, indices {REFERENCE.start} to {REFERENCE.stop - 1}"
    about = {
        "what": "mean and covariance of tasks.networks.evaluator.AvatarEvaluator.features, for Frechet distances",
        "faces": f"{len(features)} of scripts/avatars64/render.py, {faces}",
        "attributes.safetensors": f"sha256 {file_hash(weights)}",
        "written by": "scripts/avatars64/describe_guidance.py",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    save_file(statistics(features), temporary, metadata={"about": json.dumps(about)})  # one key: the same bytes again
    temporary.chmod(0o644)
    temporary.replace(path)


def frechet_distances(path: Path, sets: dict[str, Tensor]) -> pd.DataFrame:
    """Of each set of features to the statistics in `path`."""
    reference = {name: value.numpy() for name, value in load_file(path).items()}
    rows = []
    for name, features in sets.items():
        own = {key: value.numpy() for key, value in statistics(features).items()}
        distance = frechet_distance(own["mean"], own["covariance"], reference["mean"], reference["covariance"])
        rows.append({"faces": name, "number": len(features), "distance": f"{distance:.3f}"})
    return pd.DataFrame(rows)
