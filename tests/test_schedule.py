"""The schedule and the kernels against formulas written out another way."""

import math

import pytest
import torch

from dsg.schedule import NoiseSchedule, linear_betas, reverse_kernel, scaled_linear_betas

SCHEDULE = NoiseSchedule(linear_betas())
STEPS = [SCHEDULE.steps(20, "linspace")[k] for k in (3, 10, 18)]


def draws():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 3, 8, 8, generator=generator)
    return x0, eps


def at(step, x0, eps):
    return math.sqrt(step.alpha_bar) * x0 + math.sqrt(1 - step.alpha_bar) * eps


@pytest.mark.parametrize("step", STEPS, ids=lambda s: f"t={s.t}")
def test_ddpm_is_bayes_rule(step):
    """q(x_prev | x_t, x0) as the product of two Gaussians: precisions add."""
    x0, eps = draws()
    x_t = at(step, x0, eps)
    forward = 1 / step.beta * (step.alpha_bar / step.alpha_bar_prev)  # precision of x_prev seen through x_t
    prior = 1 / (1 - step.alpha_bar_prev)
    bayes = (
        x_t / math.sqrt(step.alpha_bar / step.alpha_bar_prev) * forward + math.sqrt(step.alpha_bar_prev) * x0 * prior
    )
    mean, sigma = reverse_kernel("ddpm", 1.0, "fixed_small", step, x_t, x0, eps, None)
    torch.testing.assert_close(mean, bayes / (forward + prior), rtol=1e-4, atol=1e-5)
    assert sigma == pytest.approx((forward + prior) ** -0.5, rel=1e-6)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: f"t={s.t}")
def test_ddim_at_eta_one_is_ddpm_with_its_small_variance(step):
    x0, eps = draws()
    x_t = at(step, x0, eps)
    ddim, ddim_sigma = reverse_kernel("ddim", 1.0, "fixed_small", step, x_t, x0, eps, None)
    ddpm, ddpm_sigma = reverse_kernel("ddpm", 1.0, "fixed_small", step, x_t, x0, eps, None)
    torch.testing.assert_close(ddim, ddpm, rtol=1e-4, atol=1e-5)
    assert ddim_sigma == pytest.approx(ddpm_sigma, rel=1e-3)  # ddim's is rounded where the released code rounds


def test_learned_variance_lies_between_its_bounds():
    x0, eps = draws()
    step = STEPS[1]
    x_t = at(step, x0, eps)
    variance = {}
    for v in (-1.0, 0.0, 1.0):
        _, sigma = reverse_kernel("ddpm", 1.0, "learned_range", step, x_t, x0, eps, torch.full_like(x_t, v))
        variance[v] = sigma[0, 0, 0, 0].item() ** 2
    assert variance[-1.0] == pytest.approx(step.beta_tilde, rel=1e-5)
    assert variance[1.0] == pytest.approx(step.beta, rel=1e-5)
    assert variance[0.0] == pytest.approx(math.sqrt(step.beta * step.beta_tilde), rel=1e-5)


def test_the_freedom_kernel():
    x0, eps = draws()
    step = STEPS[1]
    mean, sigma = reverse_kernel("freedom", 0.5, "fixed_small", step, at(step, x0, eps), x0, eps, None)
    noise = math.sqrt(1 - step.alpha_bar_prev)
    torch.testing.assert_close(mean, math.sqrt(step.alpha_bar_prev) * x0 + math.sqrt(0.75) * noise * eps)
    assert sigma == pytest.approx(0.5 * noise, rel=1e-6)


def test_stable_diffusion_s_schedule_never_ends_without_noise():
    schedule = NoiseSchedule(scaled_linear_betas(), steps_offset=1, final_alpha_bar=0.9991)
    ts = schedule.timesteps(50, "leading")
    assert (ts[0], ts[1], ts[-1]) == (1, 21, 981)
    last = schedule.steps(50, "leading")[-1]
    assert last.alpha_bar_prev == 0.9991 and last.index == 0
    assert math.sqrt(0.00085) == pytest.approx(math.sqrt(1 - schedule.alpha_bar[0].item()))
