"""States that are no images: time series [C, T] of a Gaussian process, and films [C, T, H, W]."""

import math

import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate

from dsg.noise import standard_normal
from dsg.priors.gaussian_mixture import seeded
from dsg.priors.gaussian_process import gaussian_process
from dsg.priors.mixture_posterior import task_posterior
from dsg.samplers import DPS, MPGD, FreeDoM, Unconditional, sample
from dsg.samplers.ddnm import DDNM
from dsg.samplers.diffpir import DiffPIR
from dsg.samplers.diffrgd import DiffRGD
from dsg.samplers.proximal import PiGDM, Proximal
from dsg.samplers.sitcom import SITCOM
from dsg.samplers.tfg import TFG
from dsg.samplers.trust import TrustSampling
from tasks.linear import Inpainting

SIGMA = 0.1


def keyed(shape, ids):
    """Noise [len(ids), *shape] by image."""
    return lambda index, repeat=0, purpose="step": torch.stack(
        [standard_normal(shape, i, index, repeat, purpose) for i in ids]
    )


@pytest.fixture(scope="module")
def series():
    """A process, a task, and the condition of one series of it."""
    prior, task = gaussian_process(steps=32, length_scale=4.0), Inpainting("inpaint", SIGMA)
    truth = prior.sample(1, torch.Generator().manual_seed(0)).float()
    return prior, task, task.degrade(truth, ["series"], 0), truth


def test_the_posterior_is_gaussian_process_regression(series):
    prior, task, condition, _ = series
    seen = condition["mask"].flatten().bool()
    times = torch.arange(32, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((times[:, None] - times) / 4) ** 2) + 0.05**2 * torch.eye(32)
    gain = torch.linalg.solve(kernel[seen][:, seen] + SIGMA**2 * torch.eye(int(seen.sum())), kernel[seen]).T
    posterior = task_posterior(prior, task, condition)
    y = condition["y"].flatten()[seen].double()
    torch.testing.assert_close(posterior.mean().flatten(), gain @ y, rtol=0, atol=1e-4)
    torch.testing.assert_close(posterior.dense_covariance(), kernel - gain @ kernel[seen], rtol=0, atol=1e-4)


def test_sampling_the_posterior_gives_its_mean_and_covariance(series):
    prior, task, condition, _ = series
    posterior, ids = task_posterior(prior, task, condition), range(400)
    noise = keyed(prior.shape, ids)
    sampler = Unconditional(steps=100, clip_denoised=False)
    x = sample(posterior, None, None, sampler, noise(0, purpose="start"), noise).flatten(1).double()
    spread = posterior.dense_covariance().diagonal().sqrt()
    assert ((x.mean(0) - posterior.mean().flatten()).abs() < 5 * spread / math.sqrt(len(x)) + 0.01).all()
    assert (torch.cov(x.T) - posterior.dense_covariance()).abs().max() < 0.1


@pytest.mark.parametrize("sampler", [PiGDM(steps=50, spacing="linspace"), DDNM(steps=50)], ids=lambda s: s.name)
def test_a_missing_stretch_is_filled_in_near_the_posterior_mean(series, sampler):
    prior, task, condition, _ = series
    sampler.clip_denoised = False
    noise = keyed(prior.shape, range(50))
    together = {key: value.expand(50, *value.shape[1:]) for key, value in condition.items()}
    x = sample(prior, task, together, sampler, noise(0, purpose="start"), noise)
    mean = task_posterior(prior, task, condition).mean().float().reshape(prior.shape)
    assert (x.mean(0) - mean).norm() < 0.3 * mean.norm()


SAMPLERS = [
    DPS(steps=5, spherical=True, clip_denoised=False),
    FreeDoM(steps=5, clip_denoised=False),
    MPGD(steps=5, scaling="sphere", clip_denoised=False),
    Proximal(steps=5, clip_denoised=False),
    TFG(steps=5, clip_denoised=False),
    DDNM(steps=5),
    DiffPIR(steps=5, clip_denoised=False),
    DiffRGD(steps=5, clip_denoised=False),
    SITCOM(steps=3, inner_steps=3, clip_denoised=False),
    TrustSampling(steps=5, inner_steps=2, clip_denoised=False),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
@pytest.mark.parametrize("shape", [(2, 9), (2, 3, 4, 5)], ids=["C,T", "C,T,H,W"])
def test_a_batch_is_its_states_one_by_one_in_any_shape(shape, sampler):
    prior = seeded(math.prod(shape), components=2, rank=2, floor=0.2, spread=0.3, scale=0.8, shape=shape)
    task, ids = Inpainting("inpaint", SIGMA), ["a", "b"]
    truth = prior.sample(2, torch.Generator().manual_seed(0)).float()
    condition = task.degrade(truth, ids, 0)
    assert condition["mask"].shape == (2, 1, *shape[1:])

    def restore(rows):
        noise = keyed(shape, [ids[row] for row in rows])
        of_rows = {key: value[rows] for key, value in condition.items()}
        x_T = sampler.start(prior, task, of_rows, noise(0, purpose="start"))
        return sample(prior, task, of_rows, sampler, x_T, noise)

    together = restore([0, 1])
    assert together.shape == truth.shape and together.isfinite().all()
    torch.testing.assert_close(together[1:], restore([1]), rtol=1e-4, atol=1e-5)


def test_the_model_is_in_the_configs_and_its_options_are_checked():
    assert instantiate(compose_config("model=gaussian_process").model).shape == (1, 64)
    for options in ({"steps": 0}, {"channels": 0}, {"length_scale": 0.0}, {"floor": -1.0}):
        ((option, value),) = options.items()
        with pytest.raises(ValueError, match=f"model.{option}={value}"):
            gaussian_process(**{"steps": 8, **options})
