"""Proximal samplers: closed forms on a Gaussian prior, batch invariance, and what `check` refuses."""

import math

import pytest
import torch
from test_samplers import GaussianPrior, keyed, start

from dsg.constraint import spherical_gaussian_step
from dsg.noise import ImageNoise
from dsg.samplers import MPGD, sample
from dsg.samplers.proximal import PiGDM, Proximal
from tasks.linear import Inpainting, MotionDeblur, SuperResolution
from tasks.nonlinear import HDR

OPEN = {"steps": 4, "clip_denoised": False}


def states(sampler, task, condition, x=None):
    x, seen = start() if x is None else x, []
    sample(GaussianPrior(), task, condition, sampler, x, keyed(x), seen.append)
    return seen


def inpainting():
    task = Inpainting("inpaint", sigma=0.1)
    return task, task.degrade(0.5 * start(seed=1), list("abcd"), seed=0)


def proximal_point(task, condition, state, factor=1.0):
    """The mask is A: v = x0 + mask (y - x0)/(1 + rho)."""
    rho = factor * task.sigma**2 * state.step.alpha_bar / (1 - state.step.alpha_bar)
    return state.x0 + condition["mask"] * (condition["y"] - state.x0) / (1 + rho), rho


@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_the_proximal_point_replaces_x0_in_the_reverse_step(factor):
    task, condition = inpainting()
    for s in states(Proximal(rho_factor=factor, **OPEN), task, condition):
        v, _ = proximal_point(task, condition, s, factor)
        toward_noise = math.sqrt(max(1 - s.step.alpha_bar_prev - s.sigma**2, 0))
        expected = math.sqrt(s.step.alpha_bar_prev) * v + toward_noise * s.eps + (s.unguided - s.mean)
        torch.testing.assert_close(s.x_prev, expected, rtol=1e-3, atol=1e-3)


def test_under_the_constraint_the_direction_is_that_to_the_proximal_point():
    task, condition = inpainting()
    *noisy, last = states(Proximal(spherical=True, guidance_rate=0.3, **OPEN), task, condition)
    for s in noisy:
        v, _ = proximal_point(task, condition, s)
        expected = spherical_gaussian_step(s.mean, s.unguided - s.mean, s.x0 - v, s.sigma, 0.3)
        torch.testing.assert_close(s.x_prev, expected, rtol=1e-3, atol=1e-3)
    assert last.gradient is None and torch.equal(last.x_prev, last.mean)


def test_the_control_adds_a_step_of_the_sphere_s_length_in_that_direction():
    task, condition = inpainting()
    for s in states(Proximal(scaling="sphere", step_size=0.3, **OPEN), task, condition)[:-1]:
        towards = s.unguided - s.x_prev
        lengths = towards.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full((4,), 0.3 * math.sqrt(towards[0].numel()) * s.sigma))
        v, _ = proximal_point(task, condition, s)
        assert torch.cosine_similarity(towards.flatten(1), (s.x0 - v).flatten(1)).min() > 1 - 1e-4


def test_pigdm_takes_the_direction_back_through_the_network():
    """x0 = k x_t under the Gaussian prior: the direction times k, and the released factor sqrt(ab)."""
    task, condition = inpainting()
    for s in states(PiGDM(**OPEN), task, condition):
        ab, variance = s.step.alpha_bar, GaussianPrior.s**2
        k = math.sqrt(ab) * variance / (ab * variance + 1 - ab)
        v, _ = proximal_point(task, condition, s)
        torch.testing.assert_close(s.x_prev, s.unguided + math.sqrt(ab) * k * (v - s.x0), rtol=1e-3, atol=1e-3)


def test_without_an_svd_conjugate_gradients_find_the_same_point_in_a_bounded_number_of_iterations(monkeypatch):
    task, x = SuperResolution("sr", sigma=0.1), 0.5 * start(seed=1)
    condition = task.degrade(x, list("abcd"), seed=0)
    prior, step = GaussianPrior(), GaussianPrior.schedule.steps(10, "leading")[5]
    exact = Proximal().proximal_point(prior, task, condition, step, x)
    monkeypatch.setattr(SuperResolution, "has_svd", False)
    torch.testing.assert_close(Proximal().proximal_point(prior, task, condition, step, x), exact, rtol=1e-3, atol=1e-3)
    few = Proximal(solver_steps=1).proximal_point(prior, task, condition, step, x)
    assert not torch.allclose(few, exact, atol=1e-3)


def test_one_gradient_step_of_a_nonlinear_task_has_the_direction_of_mpgd():
    task, options = HDR("hdr"), {"spherical": True, "guidance_rate": 0.4, "spacing": "leading", **OPEN}
    condition = task.degrade(0.5 * start(seed=1), list("abcd"), seed=0)
    for ours, theirs in zip(states(Proximal(**options), task, condition), states(MPGD(**options), task, condition)):
        torch.testing.assert_close(ours.x_prev, theirs.x_prev, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [Proximal(spherical=True, **OPEN), Proximal(**OPEN), PiGDM(**OPEN)])
def test_an_image_comes_out_the_same_in_any_batch(sampler):
    task, ids = MotionDeblur("motion", sigma=0.05, kernel_size=9), list("abc")
    x = 0.5 * start(3, seed=1)

    def restored(chosen):
        names = [ids[i] for i in chosen]
        noise = ImageNoise(0, names, [0] * len(names), GaussianPrior.shape)
        condition = task.degrade(x[chosen], names, seed=0)
        return sample(GaussianPrior(), task, condition, sampler, noise.start(), noise)

    torch.testing.assert_close(restored([2]), restored([0, 1, 2])[2:], rtol=1e-3, atol=2 / 255)


def test_what_cannot_be_done_is_refused():
    class Latent(GaussianPrior):
        image_shape = (3, 256, 256)

    with pytest.raises(ValueError, match="no latent prior"):
        Proximal(clip_denoised=False).check(Latent(), Inpainting("inpaint"))
    with pytest.raises(ValueError, match="linear operator, which task=hdr"):
        PiGDM().check(GaussianPrior(), HDR("hdr"))
    Proximal().check(GaussianPrior(), HDR("hdr"))
    for wrong in ({"rho_factor": 0}, {"solver_steps": 0}, {"inner_steps": 0}, {"inner_length": -1}):
        with pytest.raises(ValueError, match=f"sampler.{next(iter(wrong))}"):
            Proximal(**wrong)


def test_a_proximal_step_needs_no_backward_pass():
    schedule = GaussianPrior.schedule
    assert Proximal(spherical=True, steps=10).cost(schedule) == (10, 0) and PiGDM(steps=10).cost(schedule) == (10, 10)
    assert Proximal().tunable.option == "rho_factor" and Proximal(spherical=True).tunable.option == "guidance_rate"
    assert Proximal(scaling="sphere").tunable.option == PiGDM().tunable.option == "step_size"
