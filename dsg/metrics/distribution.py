"""Metrics of a set of images: distances between the distributions of their features."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dsg.files import file_hash, resolve
from dsg.metrics.base import EvaluatedRun, SetMetric
from dsg.metrics.inception import Inception, Reference, Statistics
from dsg.types import Column
from dsg.weights import read_state_dict, require


class InceptionMetric(SetMetric):
    """Compares features of Inception-v3 with those of a reference set.

    Args:
        reference: folder of images, or .npz with statistics; null: there is none.
        reference_size: see `Reference`.
        resize: see `dsg.metrics.inception.RESIZES`.
        weights: see `Inception`.
        smallest: number of images below which there is none: with few, the number says more about how many they are.
    """

    def __init__(
        self,
        reference: str | None = None,
        reference_size: int | None = None,
        resize: str = "tensorflow",
        weights: str = Inception.weights,
        smallest: int = 1000,
    ):
        self.inception = Inception(weights, resize)
        self.reference = None if reference is None else Reference(reference, reference_size)
        self.smallest = smallest

    def of(self, run: EvaluatedRun) -> "InceptionMetric":
        bound = super().of(run)
        bound.inception = replace(self.inception, device=run.device)
        return bound

    def missing(self) -> str | None:
        if self.reference is None:
            return f"{self.name} needs a reference set: {self.name}.reference=<folder, or .npz with statistics>"
        return self.inception.missing() or self.reference.missing(self.inception)

    def settings(self) -> dict:
        return {**self.inception.settings(), **(self.reference.settings() if self.reference else {})}


class FID(InceptionMetric):
    """Frechet inception distance (Heusel et al., arXiv 1706.08500): `frechet_distance` of Inception's features."""

    column = Column("fid", "FID", 2, False)

    def __call__(self, images: np.ndarray) -> float:
        ours, real = Statistics.of(self.inception.features(images)), self.reference.statistics(self.inception)
        return frechet_distance(ours.mean, ours.covariance, real.mean, real.covariance)


class KID(InceptionMetric):
    """Kernel inception distance (Binkowski et al., arXiv 1801.01401): `kernel_distance` of Inception's features, the
    mean over random subsets.

    Args:
        subsets, subset_size: 100 of 500. torch-fidelity has 1000, which of 1,000 images are one permutation.
    """

    column = Column("kid", "KID", 5, False)

    def __init__(
        self,
        reference: str | None = None,
        reference_size: int | None = None,
        resize: str = "tensorflow",
        weights: str = Inception.weights,
        smallest: int = 1000,
        subsets: int = 100,
        subset_size: int = 500,
    ):
        super().__init__(reference, reference_size, resize, weights, smallest)
        if not 2 <= subset_size <= smallest:
            raise ValueError(f"kid.subset_size={subset_size}: from 2 to kid.smallest={smallest}")
        self.subsets, self.subset_size = subsets, subset_size

    def settings(self) -> dict:
        return {**super().settings(), "subsets": self.subsets, "subset_size": self.subset_size}

    def missing(self) -> str | None:
        if reason := super().missing():
            return reason
        path, count = self.reference.path, self.reference.features(self.inception)
        if not count:
            return f"{path} has no features, which KID needs: a folder, or scripts/evaluate.py --statistics"
        return f"{path} has {count} images; kid.subset_size={self.subset_size}" if count < self.subset_size else None

    def __call__(self, images: np.ndarray) -> float:
        ours = self.inception.features(images)
        real = self.reference.statistics(self.inception).features.astype(np.float64)
        rng, size, found = np.random.RandomState(2020), self.subset_size, []  # torch-fidelity's draws
        for _ in range(self.subsets):
            some, others = (rng.choice(len(f), size, replace=False) for f in (ours, real))
            found.append(kernel_distance(ours[some], real[others]))
        return float(np.mean(found))


class EvaluatorFrechet(SetMetric):
    """FID's formula (Heusel et al., arXiv 1706.08500) in the features of an embedded evaluator: not FID, whose
    features are Inception's.

    Args:
        checkpoint: folder with the evaluator and `statistics.safetensors`, mean and covariance of its features over
            real images; null: this prior has none.
        smallest: number of images below which there is none: with few, the distance is too large.
    """

    column = Column("evaluator_frechet", "Frechet distance (evaluator)", 2, False)

    def __init__(self, checkpoint: str | None = None, smallest: int = 500):
        self.checkpoint, self.smallest = checkpoint, smallest

    @property
    def statistics(self) -> Path:
        return Path(self.checkpoint) / "statistics.safetensors"

    def missing(self) -> str | None:
        from tasks.networks.evaluator import files_of

        if self.checkpoint is None:
            return "this prior has no evaluator"
        try:
            files_of(self.checkpoint), require(self.statistics, "avatars64")
        except FileNotFoundError as error:
            return str(error)
        return None

    def settings(self) -> dict:
        """The evaluator's weights, and the statistics."""
        from tasks.networks.evaluator import hash_of

        if self.missing():
            return {"evaluator": None, "statistics": None}
        return {
            "evaluator": hash_of(self.checkpoint)[:10], "statistics": file_hash(resolve(self.statistics))[:10]
        }  # fmt: skip

    def __call__(self, images: np.ndarray) -> float:
        from tasks.networks.evaluator import load_evaluator

        real = read_state_dict(resolve(self.statistics), "avatars64")
        features = load_evaluator(self.checkpoint).features(images).double().numpy()
        mean, covariance = (real[name].double().numpy() for name in ("mean", "covariance"))
        return frechet_distance(features.mean(0), np.cov(features.T), mean, covariance)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of features [N, d] by the kernel (x.y/d + 1)^3, without bias: it may
    be below 0."""
    xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    return float((xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean())


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2).

    Dowson & Landau, "The Frechet distance between multivariate normal distributions", 1982; in float64, by
    eigenvalues. Between equal Gaussians rounding may leave it a little below 0. With covariances of few samples it
    is too large.

    Raises:
        ValueError: if a covariance is not symmetric or has an eigenvalue below -1e-5 of its largest. Smaller negative
            ones, the rounding of a float32 covariance without full rank, count as 0.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, dtype=np.float64) for a in (mean1, cov1, mean2, cov2))
    values, vectors = np.linalg.eigh(_symmetric(cov1))
    root1 = (vectors * _root(values)) @ vectors.T
    _root(np.linalg.eigvalsh(_symmetric(cov2)))  # for its check: the product below may hide a direction
    cross = _root(np.linalg.eigvalsh(root1 @ (cov2 + cov2.T) / 2 @ root1)).sum()
    return float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def _symmetric(covariance: np.ndarray) -> np.ndarray:
    if not np.isfinite(covariance).all():
        raise ValueError("frechet_distance: a covariance is not finite")
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max():
        raise ValueError("frechet_distance: a covariance is not symmetric")
    return (covariance + covariance.T) / 2


def _root(eigenvalues: np.ndarray) -> np.ndarray:
    lowest, largest = eigenvalues.min(initial=0), np.abs(eigenvalues).max(initial=0)
    if lowest < -1e-5 * largest:
        raise ValueError(f"frechet_distance: a covariance has the eigenvalue {lowest:.3g} (largest {largest:.3g})")
    return np.sqrt(np.maximum(eigenvalues, 0))
