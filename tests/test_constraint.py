"""The spherical Gaussian constraint: closed forms."""

import math

import pytest
import torch

from dsg.constraint import spherical_gaussian_step

SHAPE = (4, 3, 16, 16)
N = 3 * 16 * 16


def draws(seed=0):
    g = torch.Generator().manual_seed(seed)
    mean, z, grad = (torch.randn(SHAPE, generator=g) for _ in range(3))
    return mean, z, grad


def norm(x):
    return x.flatten(1).norm(dim=1)


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_a_guided_step_has_length_sqrt_n_sigma(rate):
    mean, z, grad = draws()
    x = spherical_gaussian_step(mean, 0.3 * z, grad, 0.3, rate)
    torch.testing.assert_close(norm(x - mean), torch.full((4,), math.sqrt(N) * 0.3), rtol=1e-5, atol=0)


def test_rate_one_is_the_steepest_descent_on_the_sphere():
    mean, z, grad = draws()
    x = spherical_gaussian_step(mean, 0.3 * z, grad, 0.3, 1.0)
    best = -grad / norm(grad)[:, None, None, None] * math.sqrt(N) * 0.3
    torch.testing.assert_close(x - mean, best, rtol=1e-4, atol=1e-5)


def test_only_the_direction_of_the_gradient_matters():
    mean, z, grad = draws()
    torch.testing.assert_close(
        spherical_gaussian_step(mean, z, grad, 1.0, 0.2),
        spherical_gaussian_step(mean, z, 1e4 * grad, 1.0, 0.2),
        rtol=1e-4,
        atol=1e-5,
    )


def test_zero_gradient_or_sigma_is_the_plain_step_for_that_image_only():
    mean, z, grad = draws()
    grad[1] = 0
    sigma = torch.tensor([0.5, 0.5, 0.0, 0.5])
    deviation = sigma[:, None, None, None] * z
    x = spherical_gaussian_step(mean, deviation, grad, sigma, 0.2)
    plain = mean + deviation
    assert torch.equal(x[1], plain[1]) and torch.equal(x[2], plain[2])
    assert not torch.equal(x[0], plain[0])
    assert torch.isfinite(x).all()


def test_sigma_as_number_vector_or_field_agree_where_they_mean_the_same():
    mean, z, grad = draws()
    number = spherical_gaussian_step(mean, 0.4 * z, grad, 0.4, 0.2)
    for sigma in (torch.full((4,), 0.4), torch.full((4, 1, 1, 1), 0.4), torch.full(SHAPE, 0.4)):
        torch.testing.assert_close(spherical_gaussian_step(mean, 0.4 * z, grad, sigma, 0.2), number)


def test_the_radius_of_a_field_is_its_norm():
    mean, z, grad = draws()
    sigma = torch.rand(SHAPE) + 0.1
    x = spherical_gaussian_step(mean, sigma * z, grad, sigma, 0.2)
    torch.testing.assert_close(norm(x - mean), norm(sigma), rtol=1e-5, atol=0)


def test_images_do_not_see_each_other():
    mean, z, grad = draws()
    together = spherical_gaussian_step(mean, z, grad, 1.0, 0.2)
    alone = torch.cat(
        [spherical_gaussian_step(mean[i : i + 1], z[i : i + 1], grad[i : i + 1], 1.0, 0.2) for i in range(4)]
    )
    torch.testing.assert_close(together, alone)


def test_nan_is_not_hidden():
    mean, z, grad = draws()
    grad[0, 0, 0, 0] = math.nan
    x = spherical_gaussian_step(mean, z, grad, 1.0, 0.2)
    assert torch.isnan(x[0]).any() and torch.isfinite(x[1:]).all()


def test_errors():
    mean, z, grad = draws()
    with pytest.raises(ValueError, match="guidance_rate=1.5"):
        spherical_gaussian_step(mean, z, grad, 1.0, 1.5)
    with pytest.raises(ValueError, match="shape"):
        spherical_gaussian_step(mean, z, grad[:1], 1.0, 0.5)
