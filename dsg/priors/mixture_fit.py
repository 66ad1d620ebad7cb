"""Fits a `GaussianMixture`: EM for a mixture of probabilistic PCA (Tipping & Bishop, Neural Computation 1999)."""

import torch
from torch import Tensor
from tqdm import tqdm

from dsg.priors.gaussian_mixture import GaussianMixture

LEAST_FLOOR = 1 / 127.5  # one level of an 8-bit image


def k_means(x: Tensor, count: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """Responsibilities [N, K] of 0 and 1."""
    centres = x[torch.randperm(len(x), generator=generator)[:count]]
    for _ in range(rounds):
        nearest = torch.cdist(x, centres).argmin(1)
        hot = torch.nn.functional.one_hot(nearest, count).to(x)
        centres = hot.T @ x / hot.sum(0).clamp_min(1)[:, None]
    return hot


def maximise(x: Tensor, r: Tensor, rank: int) -> dict[str, Tensor]:
    """The M step: PCA of each component's weighted covariance."""
    total = r.sum(0)
    means = (r.T @ x) / total[:, None]
    factors, floors = [], []
    for k in range(r.shape[1]):
        centred = (x - means[k]) * r[:, k, None].sqrt()
        values, vectors = torch.linalg.eigh((centred.T @ centred / total[k]).double())
        floor = values[:-rank].mean().clamp_min(LEAST_FLOOR**2)
        factors.append(vectors[:, -rank:] * (values[-rank:] - floor).clamp_min(0).sqrt())
        floors.append(floor.sqrt())
    return {"weights": total / len(x), "means": means, "factors": torch.stack(factors), "floor": torch.stack(floors)}


def fit(x: Tensor, components: int, rank: int, iterations: int, seed: int) -> dict[str, Tensor]:
    """What `GaussianMixture` is made from: weights, means, factors [K, d, rank] and floor, for points x [N, d]."""
    r = k_means(x, components, torch.Generator().manual_seed(seed))
    with tqdm(range(iterations), desc="EM", unit="iteration") as bar:
        for _ in bar:
            parameters = maximise(x, r, rank)
            mixture = GaussianMixture(**parameters)
            parts = [mixture.log_density(p) for p in x.split(4096)]
            bar.set_postfix_str(f"{torch.cat(parts).mean().item() / x.shape[1]:.4f} nats per dimension")
            r = torch.cat([mixture.responsibilities(p) for p in x.split(4096)]).float()
    return parameters
