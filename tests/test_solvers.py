"""SVD, pseudo-inverse and proximal step of the linear operators against dense algebra."""

import numpy as np
import pytest
import torch

from tasks.linear import BoxInpainting, GaussianDeblur, Inpainting, MotionDeblur, SuperResolution
from tasks.matrix import Matrix

SHAPE = (2, 3, 12, 12)
RNG = np.random.default_rng(0)
OPERATORS = {
    "inpaint": Inpainting("inpaint"),
    "inpaint_box": BoxInpainting("inpaint_box", box=4, margin=2),
    "super_resolution": SuperResolution("super_resolution", factor=3),
    "gaussian_deblur": GaussianDeblur("gaussian_deblur", std=0.8),
    "matrix": Matrix("matrix", matrix=RNG.standard_normal((50, 432)).tolist()),
    "matrix_per_channel": Matrix("matrix_per_channel", matrix=RNG.standard_normal((20, 144)).tolist()),
}


def conditioned(task):
    """The condition of two images, float64, and A of each as a matrix."""
    images = torch.rand(SHAPE) * 2 - 1
    condition = {k: v.double() for k, v in task.degrade(images, ["a", "b"], 0).items()}
    basis = torch.eye(432, dtype=torch.float64).reshape(432, *SHAPE[1:])
    matrices = []
    for i in range(2):
        one = {k: v[i : i + 1].expand(432, *v.shape[1:]) for k, v in condition.items()}
        matrices.append(task.forward(basis, one).flatten(1).T)
    return condition, torch.stack(matrices)


def flat(x):
    return x.flatten(1)[..., None]


def normal_equations(condition, matrices, x, rho):
    """N, b: the proximal step is v with N v = b."""
    ridge = rho * torch.eye(432, dtype=torch.float64)  # in float32, rho itself is off by 2.5e-8 of it
    return matrices.mT @ matrices + ridge, matrices.mT @ flat(condition["y"]) + rho * flat(x)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_svd_is_that_of_the_matrix(name):
    condition, matrices = conditioned(OPERATORS[name])
    svd = OPERATORS[name].svd(condition, SHAPE)
    x = torch.randn(SHAPE, dtype=torch.float64)
    components = svd.into(x)
    torch.testing.assert_close(svd.into(svd.back(components)), components)  # V^T V = 1
    forward = OPERATORS[name].forward(x, condition)
    torch.testing.assert_close(svd.left(forward), svd.values * components)  # U^T A = diag(d) V^T
    transposed = svd.back(svd.values * svd.left(condition["y"]))
    torch.testing.assert_close(flat(transposed), matrices.mT @ flat(condition["y"]))
    values = svd.values.expand_as(components).flatten(1).sort(descending=True).values
    expected = torch.linalg.svdvals(matrices)
    torch.testing.assert_close(values[:, : expected.shape[1]], expected[:, : values.shape[1]])


@pytest.mark.parametrize("rho", [1e-4, 0.1, 30.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_proximal_step_is_the_minimum(name, rho):
    condition, matrices = conditioned(OPERATORS[name])
    x = torch.randn(SHAPE, dtype=torch.float64)
    found = OPERATORS[name].proximal(x, condition, rho)
    normal, right = normal_equations(condition, matrices, x, rho)
    # Not the solution itself: two exact solvers differ by the condition number (8e6 for "matrix" at rho = 1e-4) times
    # 1e-16. What is left of the equations does not grow with it.
    scale = torch.linalg.matrix_norm(normal, 2)[:, None, None]
    torch.testing.assert_close((normal @ flat(found) - right) / scale, torch.zeros_like(right), rtol=0, atol=2e-14)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_pseudo_inverse_leaves_out_what_would_amplify_noise(name):
    condition, matrices = conditioned(OPERATORS[name])
    found = OPERATORS[name].pseudo_inverse(condition, SHAPE)
    torch.testing.assert_close(flat(found), torch.linalg.pinv(matrices, rtol=0.03) @ flat(condition["y"]))


def test_what_is_measured_twice_has_no_more_singular_values():
    """A row that is there twice leaves singular values of rounding: 1e-17 is no measurement."""
    rows = RNG.standard_normal((20, 432))
    task = Matrix("matrix", matrix=np.concatenate([rows, rows]).tolist())
    svd = task.svd(conditioned(task)[0], SHAPE)
    assert (svd.values > 0).sum() == 20


def test_without_singular_values_the_proximal_step_is_iterated():
    task = MotionDeblur("motion_deblur", kernel_size=5)
    assert not task.has_svd
    condition, matrices = conditioned(task)
    x = torch.randn(SHAPE, dtype=torch.float64)
    for rho in (0.01, 1.0):
        expected = torch.linalg.solve(*normal_equations(condition, matrices, x, rho))
        torch.testing.assert_close(flat(task.proximal(x, condition, rho)), expected, rtol=1e-3, atol=1e-3)
    alone = task.proximal(x[1:], {k: v[1:] for k, v in condition.items()}, 0.01)
    torch.testing.assert_close(task.proximal(x, condition, 0.01)[1:], alone)
    smooth = task.pseudo_inverse(condition, SHAPE)
    assert (task.residual(smooth, condition) < 0.05).all()


def test_a_matrix_takes_measurements_of_any_layout():
    task = OPERATORS["matrix_per_channel"]
    x = torch.rand(SHAPE)
    y = task.forward(x, {})
    assert y.shape == (2, 3, 1, 20)
    for layout in (y, y.reshape(2, 3, 4, 5), y.reshape(2, 60)):
        assert task.loss(x, task.observed(layout)).max() == 0
    with pytest.raises(ValueError, match="19 numbers"):
        task.observed(torch.zeros(2, 1, 1, 19))
    task.check(SHAPE[1:])
    with pytest.raises(ValueError, match="task.matrix has 144 columns, images of shape .3, 10, 10. 300 numbers"):
        task.check((3, 10, 10))
