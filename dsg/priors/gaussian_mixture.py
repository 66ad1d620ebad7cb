"""A prior whose posterior is known: a mixture of Gaussians in R^d, each with a low-rank covariance plus a floor.

    p(x0) = sum_k w_k N(mu_k, Sigma_k),    Sigma_k = U_k diag(s_k) U_k^T + floor_k^2 (I - U_k U_k^T),    U_k [d, r].

Diffused to x_t = sqrt(ab) x0 + sqrt(1 - ab) eps it stays a mixture, so that everything a sampler can ask for has a
closed form: responsibilities, E[x0 | x_t] (per component the Wiener filter), the score (Tweedie), Cov[x0 | x_t]. All of
it costs O(d K r): no d x d matrix is made unless a covariance of full rank was given. float64 throughout (float32 on
MPS, which has no other).
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dsg.priors.base import Prediction, Prior, Prompts
from dsg.priors.gaussian_conditional import Conditional
from dsg.priors.prediction import network_input, to_prediction
from dsg.schedule import NoiseSchedule, linear_betas
from dsg.weights import read_weights, require

NETWORK = {"vp": "eps", "flow": "flow", "edm": "x0"}  # what is predicted on each path


class GaussianMixture(Prior):
    """Args:
        weights: [K], positive; normalised here.
        means: [K, d].
        factors: [K, d, r], columns F_k of Sigma_k = F_k F_k^T + floor_k^2 I; or none, for spheres.
        floor: standard deviation of what the factors leave, a number or [K]; 0 if not given. Without one there is no
            density at ab = 1.
        covariances: [K, d, d] instead of `factors` and `floor`.
        shape: (C, H, W) with C H W = d; (1, 1, d) if not given.
        path: on which path and for what quantity its closed form stands for a network: vp (eps), flow (eps - x0) or edm
            (x0). The samples are the same.
        name: for results.

    Points are tensors [B, d] or [B, *shape]; what comes back has their shape and dtype.

    Raises:
        ValueError: shapes that do not fit, a weight that is not positive, a covariance that is no covariance.
    """

    def __init__(
        self, weights, means, factors=None, floor=None, covariances=None, shape: Sequence[int] | None = None,
        path: str = "vp", name: str = "gaussian_mixture",
    ):  # fmt: skip
        super().__init__()
        self.name, self.schedule = name, NoiseSchedule(linear_betas(), path=path)
        given = {"weights": weights, "means": means, "factors": factors, "floor": floor, "covariances": covariances}
        given = {key: _tensor(values) for key, values in given.items() if values is not None}
        self._weights_hash = _hash_of(given)
        weights, self.means = given.pop("weights"), given.pop("means")
        _check(weights, self.means)
        count, d = self.means.shape
        self.shape = (1, 1, d) if shape is None else tuple(shape)
        if math.prod(self.shape) != d:
            raise ValueError(f"model.shape={self.shape} does not hold {d} dimensions")
        self.log_weights = (weights / weights.sum()).log()
        self.basis, self.spectrum, self.outside = _eigen(count, d, **given)
        self._arrange()

    def _arrange(self) -> None:
        """What every evaluation needs: all bases side by side, and the means in them."""
        self.columns = self.basis.permute(1, 0, 2).flatten(1)  # [d, K r]
        self.means_in = torch.einsum("kd,kdr->kr", self.means, self.basis)
        self.means_squared = self.means.square().sum(1)

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    @property
    def weights(self) -> Tensor:
        """[K], summing to 1."""
        return self.log_weights.exp()

    @property
    def weights_hash(self) -> str:
        """A hash of what the mixture was made from, be it a file, options or tensors; the same on every processor."""
        return self._weights_hash

    def to(self, device) -> "GaussianMixture":
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        for name in ("log_weights", "means", "basis", "spectrum", "outside"):
            setattr(self, name, getattr(self, name).to(device, dtype))
        self._arrange()
        return self

    def predict(self, x_t: Tensor, t: float, prompts: Prompts | None = None) -> Prediction:
        """The exact eps = E[eps | x_t], like x_t."""
        x = x_t.to(self.means.dtype)  # before the difference: it cancels at small t
        out = self.network(network_input(x, self.schedule, t)[0], *self.schedule.alpha_sigma(t))
        prediction = to_prediction(out, x, self.schedule.alpha_bar_at(t), NETWORK[self.schedule.path])
        return Prediction(*(None if tensor is None else tensor.to(x_t) for tensor in prediction))

    def network(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """What a perfect network predicts for x = alpha x0 + sigma eps, like x."""
        scale = math.hypot(alpha, sigma)
        x0 = self.denoise(x / scale, (alpha / scale) ** 2)
        if self.schedule.path == "edm":
            return x0
        eps = (x - alpha * x0) / sigma
        return eps if self.schedule.path == "vp" else eps - x0

    # --- closed forms, at the noise level ab = alpha_bar in (0, 1]

    def denoise(self, x_t: Tensor, ab: float) -> Tensor:
        """E[x0 | x_t], like x_t."""
        return self.conditional(x_t, ab).mean.reshape(x_t.shape).to(x_t)

    def score(self, x_t: Tensor, ab: float) -> Tensor:
        """grad log p_t(x_t), like x_t; ab < 1 (Tweedie's formula)."""
        return (math.sqrt(ab) * self.denoise(x_t, ab) - x_t) / (1 - ab)

    def responsibilities(self, x_t: Tensor, ab: float = 1.0) -> Tensor:
        """p(component | x_t), [B, K]."""
        return self.conditional(x_t, ab).responsibilities

    def log_density(self, x_t: Tensor, ab: float = 1.0) -> Tensor:
        """log p_t(x_t), [B]; of x0 itself at ab = 1.

        Raises:
            ValueError: there is no density: ab = 1, and a direction without variance.
        """
        lowest = [v.min() for v in self._variances(ab)[: 2 if self.basis.shape[2] < self.dimension else 1] if v.numel()]
        if min(lowest) <= 0:
            raise ValueError("a direction has no variance, so that there is no density: give a floor")
        return torch.logsumexp(self._log_joint(*self.project(x_t, ab), ab), dim=1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of x0, [count, *shape], in the mixture's dtype; the generator is a CPU one."""
        like = self.means
        index = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=generator).to(like.device)
        z = torch.randn(count, self.dimension, generator=generator, dtype=like.dtype).to(like)
        out = torch.empty_like(z)
        for k in range(len(self.means)):  # by component, so that no basis is gathered per draw
            out[index == k] = self.from_component(k, z[index == k])
        return out.reshape(count, *self.shape)

    def from_component(self, k: int, z: Tensor) -> Tensor:
        """Turn standard normal z [N, d] into draws of N(mu_k, Sigma_k), [N, d]."""
        lift = (z @ self.basis[k]) * (self.spectrum[k].sqrt() - self.outside[k].sqrt())
        return self.means[k] + self.outside[k].sqrt() * z + lift @ self.basis[k].T

    def mean(self) -> Tensor:
        """E[x0], [d]."""
        return self.weights @ self.means

    def dense_covariance(self) -> Tensor:
        """Cov[x0], [d, d]: for small d."""
        return self.component_covariances().mul(self.weights[:, None, None]).sum(0) + torch.einsum(
            "k,kd,ke->de", self.weights, self.means - self.mean(), self.means - self.mean()
        )

    def component_covariances(self) -> Tensor:
        """Sigma_k, [K, d, d]: for small d."""
        extra = self.basis * (self.spectrum - self.outside[:, None])[:, None]
        eye = torch.eye(self.dimension).to(self.means)
        return extra @ self.basis.mT + self.outside[:, None, None] * eye

    # --- how

    def project(self, x_t: Tensor, ab: float) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, d]; x - sqrt(ab) mu_k in the basis of k, [B, K, r]; its squared length outside of that, [B, K]."""
        x, root = x_t.flatten(1).to(self.means.dtype), math.sqrt(ab)
        inside = (x @ self.columns).unflatten(1, self.means_in.shape) - root * self.means_in
        squared = x.square().sum(1, keepdim=True) - 2 * root * x @ self.means.T + ab * self.means_squared
        return x, inside, (squared - inside.square().sum(2)).clamp_min(0)

    def _variances(self, ab: float) -> tuple[Tensor, Tensor]:
        """Variances of x_t given the component: in its basis [K, r], and outside [K]."""
        return ab * self.spectrum + (1 - ab), ab * self.outside + (1 - ab)

    def _log_joint(self, x: Tensor, inside: Tensor, outside: Tensor, ab: float) -> Tensor:
        """log w_k + log N(x_t; sqrt(ab) mu_k, ab Sigma_k + (1-ab) I), [B, K]."""
        var_in, var_out = self._variances(ab)
        rest = self.dimension - self.basis.shape[2]
        square, log_det = (inside.square() / var_in).sum(2), var_in.log().sum(1)
        if rest:
            square, log_det = square + outside / var_out, log_det + rest * var_out.log()
        return self.log_weights - 0.5 * (square + log_det + self.dimension * math.log(2 * math.pi))

    def conditional(self, x_t: Tensor, ab: float) -> Conditional:
        """p(x0 | x_t): its mean, its covariance as an operator, draws from it.

        Per component it is N(mu_k + gain (x_t - sqrt(ab) mu_k), C_k) (the Wiener filter), with
        gain = sqrt(ab) Sigma_k (ab Sigma_k + (1-ab) I)^-1 and C_k = (1-ab) Sigma_k (ab Sigma_k + (1-ab) I)^-1.
        """
        x, inside, outside = self.project(x_t, ab)
        r = torch.softmax(self._log_joint(x, inside, outside, ab), dim=1)
        var_in, var_out = self._variances(ab)
        root, tiny = math.sqrt(ab), torch.finfo(x.dtype).tiny
        gain_out = root * self.outside / var_out.clamp_min(tiny)
        extra = (root * self.spectrum / var_in.clamp_min(tiny) - gain_out[:, None]) * inside  # [B, K, r]
        mean = (r @ gain_out)[:, None] * x + (r * (1 - root * gain_out)) @ self.means
        mean = mean + (r[..., None] * extra).flatten(1) @ self.columns.T
        return Conditional(self, r, mean, x, extra, gain_out, root, ab)


def from_file(
    checkpoint: str, shape: Sequence[int], path: str = "vp", name: str = "gaussian_mixture"
) -> GaussianMixture:
    """A fitted mixture (scripts/fit_mixture.py): safetensors with weights, means, factors, floor.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no mixture.
    """
    file = require(checkpoint, name)
    tensors, weights_hash = read_weights(file, name)
    if not {"weights", "means"} <= set(tensors) <= {"weights", "means", "factors", "floor", "covariances"}:
        raise ValueError(f"{file} holds no Gaussian mixture: weights, means, factors and floor are expected")
    mixture = GaussianMixture(**tensors, shape=shape, path=path, name=name)
    mixture._weights_hash = weights_hash
    return mixture


def seeded(
    dimension: int, components: int, rank: int, floor: float, spread: float, scale: float, seed: int = 0,
    shape: Sequence[int] | None = None, path: str = "vp", name: str = "gaussian_mixture",
) -> GaussianMixture:  # fmt: skip
    """A random mixture: means N(0, spread^2 I), factors N(0, scale^2) along `rank` random directions, alike weights."""
    counts = {"dimension": dimension, "components": components, "rank": rank}
    if (
        not all(isinstance(v, int) for v in counts.values())
        or min(dimension, components) < 1
        or not 0 <= rank <= dimension
    ):
        raise ValueError(f"model: {counts}: expected integers, at least 1, and rank from 0 to dimension")
    g = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(components, dimension, generator=g, dtype=torch.float64)
    directions, _ = torch.linalg.qr(torch.randn(components, dimension, rank, generator=g, dtype=torch.float64))
    mixture = GaussianMixture(
        torch.ones(components), means, scale * directions, floor, shape=shape, path=path, name=name
    )
    made_of = (dimension, components, rank, float(floor), float(spread), float(scale), seed)
    mixture._weights_hash = hashlib.sha256(f"seeded {made_of}".encode()).hexdigest()
    return mixture


def _tensor(values) -> Tensor:
    return torch.as_tensor(values if isinstance(values, Tensor) else _plain(values), dtype=torch.float64)


def _plain(values):
    """Nested lists of a config as Python's own."""
    return [_plain(v) for v in values] if isinstance(values, Sequence) else values


def _hash_of(given: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and float64 values. (What is made of them depends on the processor's linear algebra.)"""
    digest = hashlib.sha256()
    for name, tensor in given.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _check(weights: Tensor, means: Tensor) -> None:
    positive = (weights > 0).all() and torch.isfinite(weights).all()
    if means.ndim != 2 or weights.shape != means.shape[:1] or not positive or not len(weights):
        raise ValueError(
            f"model.means {tuple(means.shape)} and model.weights {tuple(weights.shape)}: "
            "expected [K, d] and [K], weights positive"
        )
    if not torch.isfinite(means).all():
        raise ValueError("model.means: finite numbers are expected")


def _eigen(
    count: int, d: int, factors: Tensor | None = None, floor: Tensor | None = None, covariances: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal bases [K, d, r], the variances in them [K, r], and the variances outside of them [K]."""
    if covariances is not None:
        if factors is not None or floor is not None:
            raise ValueError("model.covariances says it all: give no factors and no floor beside it")
        basis, spectrum = _full(covariances, (count, d, d))
        return basis, spectrum, covariances.new_zeros(count)  # nothing is outside of a full basis
    outside = _variance(_tensor(0.0) if floor is None else floor, count)
    basis, variance = _span(_tensor(torch.zeros(count, d, 0)) if factors is None else factors, (count, d))
    return basis, variance + outside[:, None], outside


def _variance(floor: Tensor, count: int) -> Tensor:
    """[K], the squared floors."""
    if floor.shape not in ((), (count,)) or not torch.isfinite(floor).all() or not (floor >= 0).all():
        raise ValueError(f"model.floor={floor.tolist()}: expected a number, or one per component, 0 or more")
    return (floor**2).expand(count).clone()


def _span(factors: Tensor, leading: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Orthonormal basis and variances of F F^T."""
    if factors.shape[:2] != leading or factors.ndim != 3 or factors.shape[2] > leading[1]:
        raise ValueError(f"model.factors {tuple(factors.shape)}: expected [K, d, r] = {[*leading, 'r']} with r <= d")
    basis, singular, _ = torch.linalg.svd(factors, full_matrices=False)
    return basis, singular**2


def _full(covariances: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Eigenvectors and eigenvalues."""
    if covariances.shape != shape or not torch.allclose(covariances, covariances.mT):
        raise ValueError(f"model.covariances {tuple(covariances.shape)}: expected symmetric matrices {list(shape)}")
    values, vectors = torch.linalg.eigh(covariances)
    if (values < -1e-9 * values.abs().amax()).any():
        raise ValueError("model.covariances: an eigenvalue is negative")
    return vectors, values.clamp_min(0)
