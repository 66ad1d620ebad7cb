"""The closed-form prior, against autograd, Monte Carlo, and formulas one can do by hand."""

import hashlib
import math
import runpy

import pytest
import torch
from conftest import ROOT, compose_config
from hydra.utils import instantiate
from torch.distributions import MultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from dsg.priors.gaussian_mixture import GaussianMixture, from_file, seeded
from dsg.samplers import Unconditional, sample

AB = 0.6


def low_rank(count=3, d=5, rank=2, floor=0.1):
    g = torch.Generator().manual_seed(0)
    means, factors = torch.randn(count, d, generator=g), torch.randn(count, d, rank, generator=g)
    return GaussianMixture(torch.rand(count, generator=g) + 0.1, means, factors, floor)


def full_rank(count=2, d=4):
    g = torch.Generator().manual_seed(1)
    f = torch.randn(count, d, d, generator=g, dtype=torch.float64)
    return GaussianMixture([0.3, 0.7], torch.randn(count, d, generator=g), covariances=f @ f.mT)


@pytest.fixture(params=[low_rank, full_rank], ids=["low rank", "full covariance"])
def mixture(request):
    return request.param()


@pytest.fixture
def x(mixture):
    return torch.randn(6, mixture.dimension, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_the_density_is_that_of_torch_distributions(mixture, x):
    eye = torch.eye(mixture.dimension, dtype=torch.float64)
    noisy = [
        MultivariateNormal(math.sqrt(AB) * m, AB * c + (1 - AB) * eye).log_prob(x)
        for m, c in zip(mixture.means, mixture.component_covariances())
    ]
    expected = (torch.stack(noisy, 1) + mixture.log_weights).logsumexp(1)
    torch.testing.assert_close(mixture.log_density(x, AB), expected, rtol=1e-10, atol=1e-10)


def test_the_score_is_the_gradient_of_the_log_density(mixture, x):
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_density(x, AB).sum(), x)
    torch.testing.assert_close(mixture.score(x, AB), gradient, rtol=1e-10, atol=1e-10)


def test_the_covariance_is_the_denoiser_s_jacobian(mixture, x):
    """Cov[x0 | x_t] = (1 - ab)/sqrt(ab) d E[x0 | x_t]/d x_t (Tweedie's second-order formula)."""
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda v: mixture.denoise(v[None], AB)[0], p) for p in x]
    )
    conditional = mixture.conditional(x, AB)
    torch.testing.assert_close(conditional.dense(), (1 - AB) / math.sqrt(AB) * jacobian, rtol=1e-9, atol=1e-9)
    columns = [conditional.apply(e.expand_as(x)) for e in torch.eye(mixture.dimension, dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(columns, 2), conditional.dense(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(conditional.trace(), conditional.dense().diagonal(dim1=1, dim2=2).sum(1))


def test_draws_have_the_moments_that_are_claimed(mixture, x):
    g = torch.Generator().manual_seed(3)
    draws = mixture.sample(200_000, g).flatten(1)
    scale = mixture.dense_covariance().diagonal().max().item()
    torch.testing.assert_close(draws.mean(0), mixture.mean(), rtol=0, atol=0.02 * scale**0.5)
    torch.testing.assert_close(draws.T.cov(), mixture.dense_covariance(), rtol=0, atol=0.03 * scale)
    conditional = mixture.conditional(x[:2], AB)
    draws = conditional.sample(100_000, g)
    scale = conditional.trace().max().item()
    torch.testing.assert_close(draws.mean(0), conditional.mean, rtol=0, atol=0.02 * scale**0.5)
    covariance = torch.stack([draws[:, i].T.cov() for i in range(2)])
    torch.testing.assert_close(covariance, conditional.dense(), rtol=0, atol=0.03 * scale)


def test_the_denoiser_by_importance_sampling():
    """E[x0 | x_t] from draws of the prior weighted with p(x_t | x0), which uses none of the formulas."""
    mixture = low_rank(count=2, d=2, rank=1, floor=0.3)
    x_t = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    draws = mixture.sample(400_000, torch.Generator().manual_seed(4)).flatten(1)
    weights = torch.softmax(-(x_t - math.sqrt(AB) * draws).square().sum(1) / (2 * (1 - AB)), 0)
    torch.testing.assert_close(mixture.denoise(x_t, AB)[0], weights @ draws, rtol=0, atol=0.01)


def test_one_gaussian_is_the_wiener_filter():
    mixture = GaussianMixture([1.0], [[1.0, -1.0]], covariances=[[[4.0, 0.0], [0.0, 0.25]]])
    x_t = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    mean, variance = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([4.0, 0.25], dtype=torch.float64)
    gain = math.sqrt(AB) * variance / (AB * variance + 1 - AB)
    torch.testing.assert_close(mixture.denoise(x_t, AB)[0], mean + gain * (x_t[0] - math.sqrt(AB) * mean))


def test_limits_of_the_noise(mixture, x):
    """Next to no noise: x0 is x_t, its covariance 0. Nothing but noise: the prior's mean and covariance."""
    clean = mixture.conditional(x, 1 - 1e-12)
    torch.testing.assert_close(clean.mean, x, rtol=0, atol=1e-4)
    assert clean.trace().max() < 1e-4
    lost = mixture.conditional(x, 1e-14)
    torch.testing.assert_close(lost.mean, mixture.mean().expand_as(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(lost.dense()[0], mixture.dense_covariance(), rtol=0, atol=1e-5)


def test_as_a_prior_it_gives_itself():
    """The unconditional sampler with many steps: moments of the mixture, to the error of 20,000 draws and 200 steps."""
    mixture = seeded(dimension=4, components=2, rank=2, floor=0.1, spread=0.5, scale=0.5)
    x_T = torch.randn(20_000, 1, 1, 4, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(6)
    out = sample(mixture, None, None, Unconditional(steps=200, clip_denoised=False), x_T).flatten(1).double()
    torch.testing.assert_close(out.mean(0), mixture.mean(), rtol=0, atol=0.02)
    torch.testing.assert_close(out.T.cov(), mixture.dense_covariance(), rtol=0, atol=0.03)
    torch.testing.assert_close(mixture.responsibilities(out).mean(0), mixture.weights, rtol=0, atol=0.02)


def test_no_dense_matrix_at_image_size():
    """64 px: a d x d matrix has 151 million entries; nothing that is made has a hundredth of that."""

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                self.entries = max(self.entries, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return out

    mixture = seeded(dimension=3 * 64 * 64, components=2, rank=3, floor=0.1, spread=0.5, scale=1.0, shape=(3, 64, 64))
    x_t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    v = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    with Largest() as largest:
        conditional = mixture.conditional(x_t, AB)
        applied = conditional.apply(v)
        (
            conditional.trace(),
            mixture.predict(x_t, 500),
            mixture.sample(4),
            mixture.log_density(x_t),
            conditional.sample(3),
        )
    assert 0 < largest.entries < (3 * 64 * 64) ** 2 / 100
    assert applied.shape == v.shape and (applied * v).flatten(1).sum(1).min() > 0
    # symmetric: <u, C v> = <C u, v>
    torch.testing.assert_close((x_t * applied).sum(), (conditional.apply(x_t) * v).sum(), rtol=1e-3, atol=1e-3)


def test_shape_and_dtype_come_back():
    mixture = seeded(dimension=12, components=2, rank=2, floor=0.1, spread=0.5, scale=0.5, shape=(3, 2, 2))
    x_t = torch.randn(5, 3, 2, 2)
    eps, v, text_shift, _ = mixture.predict(x_t, 500)
    assert eps.shape == x_t.shape and eps.dtype == torch.float32 and v is None and text_shift is None


def test_a_batch_changes_nothing():
    mixture = instantiate(compose_config("model=gaussian_mixture").model)
    x_t = torch.randn(16, *mixture.shape, generator=torch.Generator().manual_seed(9))
    together = mixture.predict(x_t, 300).eps
    alone = torch.cat([mixture.predict(x[None], 300).eps for x in x_t])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(weights=[1.0, -1.0], means=[[0.0], [1.0]]), "weights positive"),
        (dict(weights=[1.0], means=[[0.0], [1.0]]), "expected [K, d] and [K]"),
        (dict(weights=[1.0], means=[[0.0, 0.0]], factors=[[[1.0]]]), "expected [K, d, r]"),
        (dict(weights=[1.0], means=[[0.0, 0.0]], covariances=[[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (dict(weights=[1.0], means=[[0.0, 0.0]], covariances=[[[1.0, 2.0], [2.0, 1.0]]]), "negative"),
        (dict(weights=[1.0], means=[[0.0, 0.0]], shape=[3, 1, 1]), "does not hold 2"),
        (dict(weights=[1.0], means=[[0.0, math.nan]]), "finite"),
        (dict(weights=[math.inf], means=[[0.0]]), "weights positive"),
        (dict(weights=[1.0], means=[[0.0]], floor=-0.1), "model.floor"),
        (dict(weights=[1.0], means=[[0.0]], floor=[0.1, 0.2]), "model.floor"),
        (dict(weights=[1.0], means=[[0.0]], covariances=[[[1.0]]], floor=0.1), "no floor"),
    ],
)
def test_what_is_no_mixture_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[").replace("]", r"\]")):
        GaussianMixture(**arguments)


def test_a_seeded_mixture_wants_counts():
    for wrong in (dict(components=0), dict(components=2.5), dict(rank=5), dict(rank=-1)):
        with pytest.raises(ValueError, match="expected integers"):
            seeded(**{**dict(dimension=4, components=2, rank=2, floor=0.1, spread=0.5, scale=0.5), **wrong})


def test_em_finds_a_mixture_again():
    """The fit's density is the true one's, on points that it has not seen, to a few hundredths of a nat."""
    truth = seeded(dimension=6, components=2, rank=2, floor=0.2, spread=2.0, scale=1.0)
    g = torch.Generator().manual_seed(0)
    seen, unseen = truth.sample(4000, g).flatten(1).float(), truth.sample(4000, g).flatten(1)
    fit = runpy.run_path(str(ROOT / "scripts/fit_mixture.py"))["fit"]
    fitted = GaussianMixture(**fit(seen, components=2, rank=2, iterations=8, seed=0))
    gap = (truth.log_density(unseen) - fitted.log_density(unseen)).mean().item()
    assert 0 < gap < 0.05
    assert fitted.outside.sqrt().tolist() == pytest.approx([0.2, 0.2], rel=0.05)


def test_the_configs_give_mixtures():
    fitted = instantiate(compose_config("model=gaussian_mixture").model)
    assert fitted.shape == (3, 16, 16) and 0.05 < fitted.outside.sqrt().min() < fitted.outside.sqrt().max() < 0.2
    plane = instantiate(compose_config("model=gaussian_mixture_2d").model)
    assert plane.dimension == 2 and plane.weights.sum().item() == pytest.approx(1)
    assert instantiate(compose_config("model=gaussian_mixture_64d").model).shape == (1, 8, 8)


def test_the_hash_is_that_of_the_file():
    file = ROOT / "checkpoints/gaussian_mixture/avatars16.safetensors"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert instantiate(compose_config("model=gaussian_mixture").model).weights_hash == expected


def test_a_broken_file_is_one_clear_line(tmp_path):
    file = tmp_path / "mixture.safetensors"
    file.write_bytes((ROOT / "checkpoints/gaussian_mixture/avatars16.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        from_file(str(file), [3, 16, 16])
    with pytest.raises(ValueError, match="holds no Gaussian mixture"):
        from_file(str(ROOT / "checkpoints/avatars64/model.safetensors"), [3, 16, 16])


def test_the_hash_is_that_of_what_was_given_and_not_of_what_was_made_of_it(monkeypatch):
    """Eigenvectors may come with another sign, or another rounding, on another processor."""

    def hashes():
        options = dict(dimension=4, components=2, rank=2, floor=0.1, spread=0.5, scale=0.5)
        mixtures = low_rank(), full_rank(), seeded(**options), seeded(**options, seed=1)
        return [mixture.weights_hash for mixture in mixtures]

    here, eigh, svd, qr = hashes(), torch.linalg.eigh, torch.linalg.svd, torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (eigh(a)[0] * (1 + 1e-15), -eigh(a)[1]))
    monkeypatch.setattr(torch.linalg, "svd", lambda a, **k: (-svd(a, **k)[0], svd(a, **k)[1], -svd(a, **k)[2]))
    monkeypatch.setattr(torch.linalg, "qr", lambda a: tuple(-part for part in qr(a)))
    assert hashes() == here and len(set(here)) == 4


@pytest.mark.parametrize("changed", [{"weights": [0.5, 0.5]}, {"means": [[0.0, 0.0], [1.0, 2.0]]}, {"floor": 0.2}])
def test_another_mixture_has_another_hash(changed):
    given = {"weights": [0.3, 0.7], "means": [[0.0, 0.0], [1.0, 1.0]], "floor": 0.1}
    assert GaussianMixture(**given).weights_hash != GaussianMixture(**given | changed).weights_hash
    assert GaussianMixture(**given).weights_hash == GaussianMixture(**given).to("cpu").weights_hash
