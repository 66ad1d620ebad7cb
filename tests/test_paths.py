"""Priors on any Gaussian path: the same samples as VP, flow and EDM; the steps of diffusers; closed forms."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dsg.noise import ImageNoise
from dsg.priors.gaussian_mixture import GaussianMixture, seeded
from dsg.priors.prediction import PREDICTIONS, to_prediction
from dsg.samplers import DPS, MPGD, Unconditional, sample
from dsg.schedule import SPACINGS, EDMSchedule, FlowSchedule, NoiseSchedule, flux_shift, linear_betas, reverse_kernel
from tasks.denoise import Denoising
from tasks.linear import Inpainting

SAMPLERS = sorted(path.stem for path in (ROOT / "configs/sampler").glob("*.yaml"))
OWN = {"vp": NoiseSchedule(linear_betas()), "flow": FlowSchedule(shift=3.0), "edm": EDMSchedule()}


def mixture(path="vp", own_schedule=False):
    options = dict(dimension=48, components=3, rank=4, floor=0.1, spread=0.3, scale=0.5, shape=(3, 4, 4))
    prior = seeded(**options, path=path)
    if own_schedule:
        prior.schedule = OWN[path]
    return prior


def restored(prior, sampler, task, batch=2):
    """In float64: guidance amplifies the rounding of float32."""
    ids = [str(i) for i in range(batch)]
    condition = task.degrade(mixture().sample(batch, torch.Generator().manual_seed(0)), ids, 0)
    draws = ImageNoise(0, ids, [0] * batch, prior.shape)
    sampler.check(prior, task)
    x_T = sampler.start(prior, task, condition, draws.start().double())
    return sample(prior, task, condition, sampler, x_T, lambda *a, **k: draws(*a, **k).double())


def setting(name):
    config = OmegaConf.load(ROOT / f"configs/sampler/{name}.yaml")
    config.steps = 6
    return instantiate(config), Denoising("denoise") if name == "denoise_oracle" else Inpainting("inpaint", 0.05)


@cache
def as_vp(name):
    return restored(mixture(), *setting(name))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("path", ["flow", "edm"])
def test_every_sampler_draws_the_same_from_the_same_prior_on_another_path(path, name):
    found = restored(mixture(path), *setting(name))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, as_vp(name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("path", ["flow", "edm"])
def test_every_sampler_works_on_the_schedules_of_flows_and_edm(path, name):
    """From noise alone (s = 1) too: nothing divides by alpha."""
    sampler, task = setting(name)
    if hasattr(sampler, "sigma_max"):
        sampler.sigma_max = 50.0
    for spacing in SPACINGS if hasattr(sampler, "spacing") else [None]:
        sampler.spacing = spacing
        found = restored(mixture(path, own_schedule=True), sampler, task)
        assert torch.isfinite(found).all() and found.abs().max() < 1e3, (spacing, found.abs().max())


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("path", OWN)
def test_times_and_levels_are_inverse_and_ascend(path, spacing):
    schedule = OWN[path]
    ts = schedule.timesteps(20, spacing)
    assert len(ts) == 20 and 0 <= ts[0] and ts[-1] <= len(schedule) - 1 and (np.diff(ts) > 0).all()
    assert [schedule.time_of(schedule.alpha_bar_at(t)) for t in ts] == pytest.approx(ts, abs=1e-6)
    for t in ts:
        alpha, sigma = schedule.alpha_sigma(t)
        assert {"vp": alpha**2 + sigma**2, "flow": alpha + sigma, "edm": alpha}[path] == pytest.approx(1)
        assert alpha**2 / (alpha**2 + sigma**2) == pytest.approx(schedule.alpha_bar_at(t))
    ratios = np.array([np.divide(*schedule.alpha_sigma(t)[::-1]) for t in ts if schedule.alpha_bar_at(t) > 0])
    warped = {"karras": ratios ** (1 / 7), "log_snr": np.log(ratios)}.get(spacing)
    if warped is not None:
        assert np.diff(warped, 2) == pytest.approx(0, abs=1e-3)  # between entries of a table alpha_bar is log-linear


def test_the_time_of_edm_is_the_spacing_of_karras():
    schedule = EDMSchedule()
    assert schedule.timesteps(10, "karras") == pytest.approx(schedule.timesteps(10, "linspace"), abs=0.5)
    assert [schedule.alpha_sigma(t)[1] for t in (0, 999)] == pytest.approx([0.002, 80])


@pytest.mark.parametrize("shift", [1.0, 3.0, flux_shift(1024), flux_shift(4096)])
def test_noiseless_steps_of_a_flow_are_those_of_diffusers(shift):
    """`FlowMatchEulerDiscreteScheduler` as FLUX's and SD 3's pipelines call it, from s = 1 to 0."""
    prior, steps = mixture("flow"), 8
    prior.schedule = FlowSchedule(shift)
    x_T = torch.randn(2, *prior.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sample(prior, None, None, Unconditional(steps=steps, spacing="trailing", eta=0.0, clip_denoised=False), x_T)

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    x = x_T
    for t, s in zip(scheduler.timesteps, scheduler.sigmas.tolist()):
        x = scheduler.step(prior.network(x, 1 - s, s), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)
    assert scheduler.sigmas[:-1].flip(0).tolist() == pytest.approx(
        [prior.schedule.alpha_sigma(t)[1] for t in prior.schedule.timesteps(steps, "trailing")], abs=1e-6
    )


def test_the_shift_of_flux_is_that_of_its_pipeline():
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    for tokens in (256, 1024, 4096):
        assert flux_shift(tokens) == pytest.approx(math.exp(calculate_shift(tokens)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_trailing_steps_are_those_of_diffusers_ddim(eta):
    prior, steps = mixture(), 8
    x_T = torch.randn(2, *prior.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = torch.randn(steps, 2, *prior.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampler = Unconditional(steps=steps, spacing="trailing", eta=eta, clip_denoised=False)
    found = sample(prior, None, None, sampler, x_T, lambda step_index, **key: draws[step_index])

    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    x = x_T
    for index, t in zip(reversed(range(steps)), scheduler.timesteps):
        x = scheduler.step(prior.predict(x, t.item()).eps, t, x, eta=eta, variance_noise=draws[index]).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_the_velocity_of_a_gaussian_is_its_closed_form():
    """x0 ~ N(m, v): u = E[eps - x0 | x] of x = (1-s) x0 + s eps, by the regression of eps - x0 on x."""
    m, v = 0.7, 0.25
    prior = GaussianMixture([1.0], [[m]], covariances=[[[v]]], path="flow")
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for s in (1e-3, 0.3, 0.8, 1.0):
        slope = (s - (1 - s) * v) / ((1 - s) ** 2 * v + s**2)
        torch.testing.assert_close(prior.network(x, 1 - s, s), slope * (x - (1 - s) * m) - m)


@pytest.mark.parametrize("alpha_bar", [0.0, 1e-6, 0.3, 0.999])
def test_whatever_a_network_predicts_says_the_same(alpha_bar):
    x0, eps = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    outputs = {"eps": eps, "v": a * eps - b * x0, "x0": x0, "flow": eps - x0}
    assert set(outputs) == set(PREDICTIONS)
    for kind, out in outputs.items():
        if (kind, alpha_bar) == ("eps", 0):
            with pytest.raises(ValueError, match="eps says nothing of x0"):
                to_prediction(out, eps, 0.0, "eps")
            continue
        found = to_prediction(out, a * x0 + b * eps, alpha_bar, kind)
        torch.testing.assert_close(found.eps, eps)
        if found.x0 is not None:
            torch.testing.assert_close(found.x0, x0)
        assert (found.x0 is not None) == (kind == "flow" or alpha_bar == 0)


def test_a_flow_has_a_sphere_from_its_first_step_on():
    """At s = 1 the next state is sqrt(ab_prev) x0 + noise, all of it: the largest radius; the last step has none."""
    steps = FlowSchedule(shift=3.0).steps(10, "trailing")
    assert steps[0].alpha_bar == 0
    x0 = torch.ones(1, 3, 2, 2)
    for step in steps:
        mean, sigma = reverse_kernel("ddim", 1.0, "", step, x0, x0, x0, None)
        assert sigma == pytest.approx(math.sqrt(step.beta_tilde), rel=1e-3) and torch.isfinite(mean).all()
    assert [step.index for step in steps if step.beta_tilde == 0] == [0]


@pytest.mark.parametrize("kind", [DPS, MPGD])
def test_without_noise_there_is_no_sphere(kind):
    for options in ({"spherical": True}, {"scaling": "sphere"}):
        sampler = kind(eta=0.0, clip_denoised=False, **options)
        with pytest.raises(ValueError, match="sampler.eta=0 draws no noise and leaves no sphere"):
            sampler.check(mixture("flow"), Inpainting("inpaint"))
    kind(eta=0.0, clip_denoised=False).check(mixture("flow"), Inpainting("inpaint"))


@pytest.mark.parametrize("path", OWN)
def test_a_start_from_an_image_keeps_it(path):
    """The first state is the baseline with the noise of the first level; few steps change it little."""
    prior, task = mixture(path, own_schedule=True), Inpainting("inpaint", 0.05)
    truth = prior.sample(2, torch.Generator().manual_seed(0))
    condition, z = task.degrade(truth, ["a", "b"], 0), torch.zeros_like(truth)
    sampler = DPS(steps=20, start_t=300, clip_denoised=False, spherical=True)
    first = sampler.reverse_steps(prior.schedule)[0]
    assert first.t <= 300 and len(sampler.reverse_steps(prior.schedule)) < 20
    x_T = sampler.start(prior, task, condition, z)
    torch.testing.assert_close(x_T, math.sqrt(first.alpha_bar) * task.baseline(condition, truth.shape))
    assert sampler.cost(prior.schedule).forward == len(sampler.reverse_steps(prior.schedule))
    with pytest.raises(ValueError, match="sampler.start_t=1 lies below every level"):
        DPS(start_t=1, steps=20, spacing="trailing", clip_denoised=False).check(prior, task)
    with pytest.raises(ValueError, match="sampler.start_t=-1"):
        DPS(start_t=-1)
