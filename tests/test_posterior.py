"""Exact posteriors, and the distances of samples to them, by independent means."""

import math

import numpy as np
import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate

from dsg.metrics import sample_distances as distances
from dsg.priors.gaussian_mixture import GaussianMixture, seeded
from dsg.priors.mixture_posterior import explicit_matrix, posterior, task_posterior
from dsg.samplers import DPS, Unconditional
from dsg.studies.posterior.ground_truth import METRICS, GroundTruth

PLANE = instantiate(compose_config("model=gaussian_mixture_2d").model)
A = torch.tensor([[0.8, -0.5]], dtype=torch.float64)
Y = torch.tensor([0.2], dtype=torch.float64)


def test_the_posterior_on_a_grid():
    """p(x0) p(y | x0), normalised by summing over the plane, point by point."""
    exact = posterior(PLANE, A, Y, 0.1)
    line = torch.linspace(-2.5, 2.5, 801, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    log_joint = PLANE.log_density(points) - (Y - points @ A.T).square().sum(1) / (2 * 0.1**2)
    log_grid = log_joint - log_joint.logsumexp(0) - 2 * math.log(line[1] - line[0])
    heavy = log_grid > log_grid.max() - 12
    torch.testing.assert_close(exact.log_density(points[heavy]), log_grid[heavy], rtol=0, atol=1e-6)


def test_the_posterior_by_importance_sampling():
    exact = posterior(PLANE, A, Y, 0.2)
    draws = PLANE.sample(500_000, torch.Generator().manual_seed(0)).flatten(1)
    weights = torch.softmax(-(Y - draws @ A.T).square().sum(1) / (2 * 0.2**2), 0)
    mean = weights @ draws
    covariance = (draws - mean).T @ (weights[:, None] * (draws - mean))
    torch.testing.assert_close(exact.mean(), mean, rtol=0, atol=0.005)
    torch.testing.assert_close(exact.dense_covariance(), covariance, rtol=0, atol=0.005)
    torch.testing.assert_close(exact.weights, weights @ PLANE.responsibilities(draws), rtol=0, atol=0.005)


def test_one_component_is_the_kalman_update():
    mixture = GaussianMixture([1.0], [[1.0, 2.0, 3.0]], covariances=[[[2.0, 0.3, 0], [0.3, 1.0, 0], [0, 0, 0.5]]])
    c, a = mixture.component_covariances()[0], torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([2.0, 5.0], dtype=torch.float64)
    gain = c @ a.T @ torch.linalg.inv(a @ c @ a.T + 0.3**2 * torch.eye(2))
    exact = posterior(mixture, a, y, 0.3)
    torch.testing.assert_close(exact.mean(), mixture.mean() + gain @ (y - a @ mixture.mean()))
    torch.testing.assert_close(exact.dense_covariance(), c - gain @ a @ c)


def test_limits_of_the_measurement():
    """No noise: what is measured is met. No measurement, or nothing but noise: the prior."""
    sharp = posterior(PLANE, A, Y, 0.0)
    torch.testing.assert_close(sharp.means @ A.T, Y.expand(3, 1))
    torch.testing.assert_close((A @ sharp.component_covariances() @ A.T).abs().max().item(), 0.0, rtol=0, atol=1e-12)
    for matrix, y, sigma in ((A[:0], Y[:0], 0.1), (A, Y, 1e6)):
        nothing = posterior(PLANE, matrix, y, sigma)
        torch.testing.assert_close(nothing.mean(), PLANE.mean(), rtol=0, atol=1e-9)
        torch.testing.assert_close(nothing.dense_covariance(), PLANE.dense_covariance(), rtol=0, atol=1e-9)


def test_a_direction_measured_without_noise_or_variance_is_refused():
    flat = GaussianMixture([1.0], [[0.0, 0.0]], factors=[[[1.0], [0.0]]], floor=0.0)
    with pytest.raises(ValueError, match="singular at sigma=0"):
        posterior(flat, torch.tensor([[0.0, 1.0]]), torch.zeros(1), 0.0)


TASKS = {
    "inpaint": [], "inpaint_box": ["task.box=4", "task.margin=1"], "super_resolution": ["task.factor=2"],
    "gaussian_deblur": ["task.std=0.6"], "motion_deblur": ["task.kernel_size=5"], "linear": [],
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_every_linear_task_has_its_posterior(name):
    """Its density is prior times likelihood, up to one constant, with the likelihood computed by the task itself."""
    config = compose_config("model=gaussian_mixture_64d", f"task={name}", *TASKS[name])
    prior, task = instantiate(config.model), instantiate(config.task)
    truth = prior.sample(1, torch.Generator().manual_seed(0))
    condition = task.degrade(truth.float(), ["a"], 0)
    exact = task_posterior(prior, task, condition)
    x = exact.sample(5, torch.Generator().manual_seed(1))
    five = {k: v.double().expand(5, *v.shape[1:]) for k, v in condition.items()}
    joint = prior.log_density(x) - task.loss(x, five).square() / (2 * task.sigma**2)
    difference = exact.log_density(x) - joint
    torch.testing.assert_close(difference, difference[:1].expand(5), rtol=0, atol=1e-6)


def test_a_posterior_is_of_one_measurement():
    task = instantiate(compose_config("task=linear").task)
    with pytest.raises(ValueError, match="not of 2"):
        task_posterior(PLANE, task, {"y": torch.zeros(2, 1, 1, 1)})


# --- task=linear


def test_linear_is_its_matrix(tmp_path):
    matrix = np.arange(12.0).reshape(2, 6)
    np.save(tmp_path / "a.npy", matrix)
    for given in (matrix.tolist(), str(tmp_path / "a.npy")):
        task = instantiate(compose_config("task=linear").task, matrix=given)
        x = torch.randn(3, 1, 2, 3, dtype=torch.float64)
        y = task.forward(x, {})
        torch.testing.assert_close(y[:, 0, 0], x.flatten(1) @ torch.from_numpy(matrix).T)
        back = task.transpose(y, {}, x.shape)
        torch.testing.assert_close((y * y).sum(), (back * x).sum())
        torch.testing.assert_close(explicit_matrix(task, {"y": y[:1]}, (1, 2, 3)), torch.from_numpy(matrix))


@pytest.mark.parametrize(
    "options, words",
    [
        (["task.rows=0"], "task.rows=0"),
        (["task.rows=2", "task.matrix=[[1,2]]"], "a given matrix has its rows"),
        (["task.matrix=[[1,2],[3]]"], "rows of one length"),
        (["task.matrix=nowhere.npy"], "nowhere.npy"),
    ],
)
def test_a_bad_matrix_is_refused(options, words):
    with pytest.raises(Exception, match=words):
        instantiate(compose_config("task=linear", *options).task)
    with pytest.raises(ValueError, match="has 2 columns"):
        instantiate(compose_config("task=linear").task, matrix=[[1, 2]]).check((3, 16, 16))


# --- distances


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distances_of_a_shift_in_closed_form():
    """Points moved by v: each 1-D distance is |u.v|, so sliced W2 is |v|/sqrt(d), up to the choice of directions."""
    x, v = normal(300, 3, 0), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = distances.sliced_wasserstein(x, x + v, directions=20_000)
    assert found == pytest.approx(v.norm().item() / math.sqrt(3), rel=0.02)
    assert distances.sliced_wasserstein(x, x) == 0
    assert distances.sliced_wasserstein(x, x.repeat(3, 1)) == pytest.approx(0, abs=1e-12)  # more points to compare with
    with pytest.raises(ValueError, match="k points"):
        distances.sliced_wasserstein(x, x[:10])


def test_moments_and_distance_to_the_truth_in_closed_form():
    """Points around m with covariance 4 C: mean right, covariance 3 |C| off, spread 4."""
    c = torch.diag(torch.tensor([1.0, 0.25], dtype=torch.float64))
    x = 2 * normal(50_000, 2, 0) @ c.sqrt() + 3
    found = distances.moments(x, torch.full((2,), 3.0, dtype=torch.float64), c)
    assert found["mean_error"] < 0.02 and found["covariance_error"] == pytest.approx(3, rel=0.03)
    assert found["spread"] == pytest.approx(4, rel=0.02)
    at_mean = torch.full((10, 2), 3.0, dtype=torch.float64)
    assert distances.error_to_truth(at_mean, torch.tensor([4.0, 3.0]), c) == pytest.approx(1 / 2.5)


def test_energy_distance_in_one_dimension():
    """N(0, 1) against N(m, 1): 2 E|Z sqrt(2) + m| - 2 E|Z sqrt(2)| in closed form; against itself 0 on average."""
    m = 1.5
    folded = 2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * math.erf(m / 2)
    expected = 2 * folded - 2 * 2 / math.sqrt(math.pi)
    assert distances.energy_distance(normal(4000, 1, 0), normal(4000, 1, 1) + m) == pytest.approx(expected, rel=0.05)
    assert abs(distances.energy_distance(normal(4000, 1, 2), normal(4000, 1, 3))) < 0.01


@pytest.mark.slow
def test_exact_samples_reach_the_floor_and_others_do_not():
    config = compose_config("model=gaussian_mixture_2d", "task=linear", "task.rows=1", "task.sigma=0.1")
    known = GroundTruth(PLANE, instantiate(config.task), observations=6, samples=1000)
    floor = known.compare(known.floor()).mean()
    assert list(floor.index) == list(METRICS)
    assert floor["mean_error"] < 0.08 and floor["covariance_error"] < 0.15 and abs(floor["energy"]) < 0.01
    assert floor["spread"] == pytest.approx(1, abs=0.1) and floor["in_region"] == pytest.approx(0.9, abs=0.03)
    half = known.floor().mean(1, keepdim=True).expand(-1, 1000, -1)  # all at the mean: no spread
    collapsed = known.compare(half).mean()
    assert collapsed["spread"] < 1e-9 and collapsed["coverage"] == 0 and collapsed["sliced_wasserstein"] > 0.3
    broken = known.compare(torch.full_like(half, torch.nan))
    assert broken.isna().all().all()


def test_credible_regions_cover_as_often_as_they_say():
    """Over many truths, 90 % intervals of exact samples hold 90 % of the true coordinates, and 90 % regions 90 %."""
    prior = seeded(dimension=16, components=3, rank=4, floor=0.2, spread=0.3, scale=0.8)
    task = instantiate(compose_config("task=linear", "task.sigma=0.3").task)
    known = GroundTruth(prior, task, observations=60, samples=400)
    found = known.compare(known.floor()).mean()
    assert found["coverage"] == pytest.approx(0.9, abs=0.03)
    assert found["in_region"] == pytest.approx(0.9, abs=0.01)
    inside = [
        distances.in_credible_region(truth.reshape(1, -1).double(), posterior, exact)
        for truth, posterior, exact in zip(known.truths, known.posteriors, known.exact)
    ]
    assert sum(inside) / 60 == pytest.approx(0.9, abs=0.1)


def test_without_noise_there_is_no_density():
    with pytest.raises(ValueError, match="no variance"):
        posterior(PLANE, A, Y, 0.0).log_density(Y.expand(1, 2))
    with pytest.raises(ValueError, match="task.sigma=0"):
        GroundTruth(PLANE, instantiate(compose_config("task=linear", "task.sigma=0").task), 1, 1)


def test_a_posterior_too_large_for_memory_is_refused():
    prior = seeded(dimension=3 * 64 * 64, components=2, rank=2, floor=0.1, spread=0.5, scale=0.5)
    with pytest.raises(ValueError, match="too large"):
        posterior(prior, torch.ones(1, prior.dimension), torch.zeros(1), 0.1)


def test_the_oracle_reaches_the_posterior_as_steps_grow():
    prior = seeded(dimension=8, components=3, rank=2, floor=0.1, spread=0.5, scale=0.7)
    task = instantiate(compose_config("task=linear", "task.rows=2", "task.sigma=0.2").task)
    known = GroundTruth(prior, task, observations=4, samples=500)
    floor = known.compare(known.floor()).mean()
    errors = [known.compare(known.oracle(Unconditional(steps=n, clip_denoised=False))).mean() for n in (10, 50, 500)]
    distance = [e["sliced_wasserstein"] for e in errors]
    assert distance[0] > 1.5 * distance[1] > 1.5 * 1.1 * distance[2]
    assert distance[2] < 1.6 * floor["sliced_wasserstein"] and abs(errors[2]["spread"] - 1) < 0.1


def test_guidance_comes_nearer_to_the_posterior_than_none():
    prior = seeded(dimension=16, components=3, rank=4, floor=0.1, spread=0.3, scale=0.8)
    task = instantiate(compose_config("task=linear").task)
    known = GroundTruth(prior, task, observations=3, samples=100)
    unguided = known.compare(known.run(Unconditional(steps=20, clip_denoised=False))).mean()
    sampler = DPS(steps=20, clip_denoised=False, spherical=True, guidance_rate=0.4)
    guided = known.compare(known.run(sampler)).mean()
    assert guided["sliced_wasserstein"] < 0.5 * unguided["sliced_wasserstein"]
