"""What class a noised image is of: the posterior probabilities of a linear discriminant analysis."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dsg.priors.linear import LinearDenoiser


class ClassPosterior(nn.Module):
    """p(class | x_t) if the images of each class are Gaussian around a mean of its own, all with one covariance.

    Images are seen by K numbers z: their coordinates along the components of a `LinearDenoiser`. Buffers, float32:
    axes [K, K], the eigenvectors of the covariance of z within a class; variances [K] and means [classes, K] along
    them; shares [classes], how frequent each class is.
    """

    def __init__(self, classes: int, components: int):
        super().__init__()
        self.register_buffer("axes", torch.eye(components))
        self.register_buffer("variances", torch.ones(components))
        self.register_buffer("means", torch.zeros(classes, components))
        self.register_buffer("shares", torch.ones(classes))

    @classmethod
    def fit(cls, z: Tensor, labels: Tensor) -> "ClassPosterior":
        """To clean images' coordinates z [N, K] and their classes, int64 [N], each of 0..max(labels) at least once."""
        z, counts = z.double(), labels.bincount()
        means = torch.stack([z[labels == k].mean(0) for k in range(len(counts))])
        within = z - means[labels]
        variances, axes = torch.linalg.eigh(within.T @ within / len(z))
        made = cls(len(counts), z.shape[1])
        made.axes.copy_(axes)
        made.variances.copy_(variances.clamp_min(0))
        made.means.copy_(means @ axes)
        made.shares.copy_(counts / len(z))
        return made

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        """z [B, K] of x_t, alpha_bar [B] or [1] -> probabilities [B, classes]."""
        ab = alpha_bar[:, None]
        precision = 1 / (ab * self.variances + 1 - ab)
        fit = ab.sqrt() * (z @ self.axes * precision) @ self.means.T
        return (fit - ab / 2 * (precision @ self.means.square().T) + self.shares.log()).softmax(1)


def probabilities(
    linear: LinearDenoiser, posteriors: Iterable[ClassPosterior], x_t: Tensor, alpha_bar: Tensor
) -> Tensor:
    """Posteriors of all sets of classes, side by side: x_t [B, C, H, W], alpha_bar [B] or [1] -> [B, all classes]."""
    z = linear.coordinates(x_t, alpha_bar)
    return torch.cat([posterior(z, alpha_bar) for posterior in posteriors], 1)
