"""The steps for loops of one's own, against ours and those of diffusers."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from test_paths import mixture

from dsg.samplers import DPS, sample
from dsg.steps import ddim_step, flow_step


class Corner:
    def loss(self, images, condition):
        return (images - 0.3).flatten(1).norm(dim=1)


def ours(prior, spacing, dtype):
    """Our loop's result, its start and its draws."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 2, *prior.shape, generator=generator, dtype=torch.float64).to(dtype)
    sampler = DPS(steps=8, spacing=spacing, clip_denoised=False, spherical=True, guidance_rate=0.3)
    found = sample(prior, Corner(), None, sampler, z[8], lambda index, **key: z[index])
    return found, z[8], z, prior.schedule.steps(8, spacing)


def test_ddim_steps_are_those_of_our_loop_to_the_bit():
    prior = mixture()
    found, x, draws, steps = ours(prior, "linspace", torch.float32)
    for step in steps:
        x = x.detach().requires_grad_()
        eps = prior.predict(x, step.t).eps
        x0 = (1 / step.alpha_bar) ** 0.5 * x - (1 / step.alpha_bar - 1) ** 0.5 * eps
        gradient = torch.autograd.grad(Corner().loss(x0, None).sum(), x)[0] if step.index else None
        x = ddim_step(x, eps, step.alpha_bar, step.alpha_bar_prev, gradient, draws[step.index], guidance_rate=0.3)
    assert torch.equal(x, found)


def test_flow_steps_are_those_of_our_loop():
    """Ours has the state on the path that preserves variance: equal to rounding, here of float64."""
    prior = mixture("flow", own_schedule=True)
    found, x, draws, steps = ours(prior, "trailing", torch.float64)
    levels = [prior.schedule.alpha_sigma(step.t)[1] for step in steps]
    for step, s, s_prev in zip(steps, levels, [*levels[1:], 0.0]):
        x = x.detach().requires_grad_()
        u = prior.network(x, 1 - s, s)
        gradient = torch.autograd.grad(Corner().loss(x - s * u, None).sum(), x)[0] if step.index else None
        x = flow_step(x, u, s, s_prev, gradient, draws[step.index], guidance_rate=0.3)
    torch.testing.assert_close(x, found, rtol=1e-6, atol=1e-6)


def test_without_noise_a_flow_step_is_euler_s():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    x = y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for t, s, s_prev in zip(scheduler.timesteps, scheduler.sigmas.tolist(), scheduler.sigmas[1:].tolist()):
        x, y = flow_step(x, x.tanh(), s, s_prev, eta=0.0), scheduler.step(y.tanh(), t, y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="eta=0 draws no noise"):
        flow_step(x, x, 0.5, 0.4, gradient=x, eta=0.0)
