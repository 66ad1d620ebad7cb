"""Are the samples calibrated? Ranks of truths among them, and a test that they are uniform.

Simulation-based calibration (Talts et al., arXiv 1804.06788): a truth x0 is drawn from the prior, y from p(y | x0),
and N samples from a sampler. If they are from p(x0 | y), then x0 and the samples are exchangeable, so that along any
direction the rank of x0 among them is uniform on 0..N. Samples that are too narrow pile the ranks up at both ends,
samples that are too wide in the middle, a bias at one end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsg.noise import rng

DIRECTIONS = 32  # fixed, random
BINS = 10
RESAMPLES = 999
LIMIT = 0.01  # p below it: not calibrated


@dataclass(frozen=True)
class RankTest:
    """Attributes:
    histogram: [BINS], share of the truths in each bin of ranks, over all directions.
    low, high: [BINS], where 95 % of calibrated samplers would have it.
    chi2: mean over directions of Pearson's statistic over its degrees of freedom; about 1 if calibrated.
    p: how often a calibrated sampler would have a larger one.
    """

    histogram: list[float]
    low: list[float]
    high: list[float]
    chi2: float
    p: float

    @property
    def calibrated(self) -> bool:
        return self.p >= LIMIT


def rank_test(truths: Tensor, points: Tensor, seed: int = 0) -> RankTest:
    """Test the ranks of truths [L, d] among points [L, N, d], with N + 1 a multiple of BINS.

    Ranks along different directions depend on each other, so that the statistic has no chi-square distribution. Its
    own comes from exchangeability: if the sampler is right, any of a truth's N samples could take its place. So it is
    computed again with one of the N + 1 in its place, chosen at random for each truth (a randomisation test, exact
    for any N).

    Raises:
        ValueError: N does not suit, or a point is not finite.
    """
    count, size = points.shape[:2]
    if (size + 1) % BINS:
        raise ValueError(f"{size} samples: one less than a multiple of {BINS} are needed")
    if not torch.isfinite(points).all():
        raise ValueError("a point is not finite")
    ranks = pooled_ranks(truths, points, directions(points.shape[2]))
    found = histograms(ranks[:, 0], size)
    chosen = rng("rank test", seed).integers(0, size + 1, (RESAMPLES, count))
    null = torch.stack([histograms(ranks[torch.arange(count), row], size) for row in torch.from_numpy(chosen)])
    statistic, calibrated = chi_square(found), chi_square(null)
    shares = null.double().mean(1) / count
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=shares.dtype), dim=0)
    return RankTest(
        (found.double().mean(0) / count).tolist(), low.tolist(), high.tolist(), statistic.item(),
        (1 + (calibrated >= statistic).sum().item()) / (1 + RESAMPLES),
    )  # fmt: skip


def directions(dimension: int) -> Tensor:
    """float64 [dimension, DIRECTIONS], unit vectors, always the same."""
    u = torch.from_numpy(rng("rank directions", dimension).standard_normal((dimension, DIRECTIONS)))
    return u / u.norm(dim=0)


def pooled_ranks(truths: Tensor, points: Tensor, u: Tensor) -> Tensor:
    """[L, N + 1, D], ranks from 0 along each direction of u [d, D] in the pool of a truth (first) and its samples."""
    pool = torch.cat([truths.flatten(1)[:, None].double(), points.double()], 1) @ u
    return pool.argsort(1).argsort(1)


def histograms(ranks: Tensor, samples: int) -> Tensor:
    """[D, BINS] counts of ranks [L, D], each 0..samples."""
    bins = ranks * BINS // (samples + 1)
    return torch.nn.functional.one_hot(bins, BINS).sum(0)


def chi_square(counts: Tensor) -> Tensor:
    """Pearson's statistic of counts [..., D, BINS] against equal bins, over BINS - 1, mean over D: [...]."""
    expected = counts.sum(-1, keepdim=True).double() / BINS
    return ((counts - expected).square() / expected).sum(-1).mean(-1) / (BINS - 1)
