"""deepinv's physics as a task, and a prior as one of its denoisers."""

import math

import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate
from test_rivals import Bimodal

from dsg.noise import standard_normal
from dsg.samplers import DPS, sample
from dsg.samplers.proximal import Proximal

deepinv = pytest.importorskip("deepinv")
from dsg.priors.plug_and_play import PriorDenoiser  # noqa: E402
from tasks.deepinv import LinearPhysicsProblem, PhysicsProblem  # noqa: E402

SHAPE = (3, 16, 16)
PHYSICS = {  # with their options
    "Inpainting": {"img_size": SHAPE, "mask": 0.5},
    "Downsampling": {"img_size": SHAPE, "factor": 2, "filter": "bicubic"},
    "Blur": {"filter": deepinv.physics.blur.gaussian_blur(sigma=(1, 1)), "padding": "circular"},
    "Decolorize": {},
}


def images(batch=2):
    return 0.3 * torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PHYSICS)
def test_a_linear_physics_is_a_linear_problem(name):
    task, x = LinearPhysicsProblem("deepinv", sigma=0.0, physics=name, options=PHYSICS[name]), images()
    task.check(SHAPE)
    assert len(task.weights_hash) == 64
    condition = task.degrade(x, ["a", "b"], 0)
    torch.testing.assert_close(condition["y"], task.physics.A(x))
    assert (task.loss(x, condition) < 1e-4).all()
    y = torch.randn(condition["y"].shape, generator=torch.Generator().manual_seed(1))
    forward, back = (task.forward(x, condition) * y).sum(), (x * task.transpose(y, condition, x.shape)).sum()
    torch.testing.assert_close(forward, back, rtol=1e-3, atol=1e-3)
    found = task.proximal(torch.zeros_like(x), condition, rho=1e-2)
    assert (task.loss(found, condition) < 0.5 * task.loss(torch.zeros_like(x), condition)).all()


def test_what_a_physics_draws_is_the_same_in_every_process():
    hashes = {
        LinearPhysicsProblem("deepinv", physics="Inpainting", options=PHYSICS["Inpainting"]).weights_hash
        for _ in range(2)
    }
    assert len(hashes) == 1 and instantiate(compose_config("task=deepinv").task).weights_hash not in hashes
    other = deepinv.physics.Inpainting(img_size=SHAPE, mask=0.5, rng=torch.Generator().manual_seed(3))
    assert LinearPhysicsProblem("deepinv", physics=other).weights_hash not in hashes


def test_the_config_says_which_physics():
    options = ["task.physics=Downsampling", "task.options={factor: 4, filter: bicubic}"]
    task = instantiate(compose_config("task=deepinv", *options).task)
    assert task.forward(torch.zeros(1, 3, 64, 64), {}).shape == (1, 3, 16, 16) and task.measurement_size(64) == 16


@pytest.mark.parametrize("sampler", [DPS(steps=20, spherical=True), Proximal(steps=20)], ids=["dps_dsg", "prox"])
def test_a_sampler_restores_its_measurements(sampler):
    class Wide(Bimodal):
        shape = SHAPE

    def noise(index, repeat=0, purpose="step"):
        return standard_normal((1, *SHAPE), index, repeat, purpose)

    task = LinearPhysicsProblem("deepinv", sigma=0.05, physics="Inpainting", options=PHYSICS["Inpainting"])
    truth = 0.5 * standard_normal((1, *SHAPE), "truth").sign()
    condition = task.degrade(truth, ["0"], 0)
    out = sample(Wide(), task, condition, sampler, noise(0, purpose="start"), noise)
    unguided = noise(0, purpose="start")
    assert (task.loss(out, condition) < 0.4 * task.loss(unguided, condition)).all()


def test_a_nonlinear_physics_sees_images_between_0_and_1():
    linear = deepinv.physics.Inpainting(img_size=SHAPE, mask=torch.ones(SHAPE))
    task = PhysicsProblem("deepinv", sigma=0.0, physics=deepinv.physics.PhaseRetrieval(linear))
    x = images().requires_grad_()
    torch.testing.assert_close(task.forward(x, {}), ((x + 1) / 2).abs().square())
    task.loss(x, task.degrade(0 * x.detach(), ["a", "b"], 0)).sum().backward()
    assert x.grad.isfinite().all()


def test_what_is_no_linear_physics_is_refused():
    linear = deepinv.physics.Inpainting(img_size=SHAPE, mask=torch.ones(SHAPE))
    with pytest.raises(ValueError, match="task.physics=PhaseRetrieval is not linear"):
        LinearPhysicsProblem("deepinv", physics=deepinv.physics.PhaseRetrieval(linear))
    with pytest.raises(ValueError, match="task.physics=Blurr: deepinv.physics has none of that name"):
        LinearPhysicsProblem("deepinv", physics="Blurr")
    with pytest.raises(ValueError, match="task.physics=Inpainting with task.options={'masc': 1}: "):
        LinearPhysicsProblem("deepinv", physics="Inpainting", options={"masc": 1})
    with pytest.raises(ValueError, match="its noise is task.sigma, not a GaussianNoise"):
        noisy = deepinv.physics.Denoising(noise_model=deepinv.physics.GaussianNoise(0.1))
        LinearPhysicsProblem("deepinv", physics=noisy)
    with pytest.raises(ValueError, match=r"task.physics=Inpainting takes no images of shape \(3, 8, 8\)"):
        LinearPhysicsProblem("deepinv", physics=linear).check((3, 8, 8))


def test_a_prior_denoises_as_its_posterior_mean():
    """The bimodal prior's is known: for every number the mean of two Gaussians, weighted."""

    class Wide(Bimodal):
        shape = SHAPE

    denoiser, sigmas = PriorDenoiser(Wide()), torch.tensor([0.1, 0.3])
    x = (images() + 1) / 2
    noisy = 2 * x - 1
    variance = (0.1**2 + (2 * sigmas) ** 2)[:, None, None, None]
    centre = 0.5 * torch.tanh(0.5 * noisy / variance)
    expected = centre + 0.1**2 / variance * (noisy - centre)
    torch.testing.assert_close(denoiser(x, sigmas), (expected + 1) / 2, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(denoiser(x[:1], 0.1), denoiser(x, sigmas)[:1])
    assert math.isclose(Bimodal.schedule.alpha_bar_at(Bimodal.schedule.time_of(0.5)), 0.5)
