"""TFG: the methods that it contains, its draws and its smoothing. Its recorded run is in test_rivals.py."""

import math
from dataclasses import dataclass

import pytest
import torch
from test_rivals import Bimodal, problem, restore

from dsg.noise import standard_normal
from dsg.priors.base import CountedPrior
from dsg.samplers import DPS, MPGD, FreeDoM, sample
from dsg.samplers.tfg import TFG, Smoothed, kept

SHAPE = Bimodal.shape
PLAIN = dict(steps=6, spacing="leading")
TRAVEL = {"repeats": 2, "window": [0, 1000]}


@dataclass
class Given(TFG):
    """With strengths that are functions of the step."""

    strengths: tuple = (lambda step: 0.0, lambda step: 0.0)

    def rho_at(self, step, schedule):
        return self.strengths[0](step)

    def mu_at(self, step, schedule):
        return self.strengths[1](step)


def run(sampler, prior=None):
    task, condition, _ = problem()
    return restore(sampler, task, condition, range(3), prior)


def through(length):
    return (lambda step: length(step) * math.sqrt(kept(step)), lambda step: 0.0)


@pytest.mark.parametrize(
    "own, sampler",
    [
        (DPS(step_size=0.3, **PLAIN), Given(strengths=through(lambda step: 0.3), smoothing=0, **PLAIN)),
        (
            FreeDoM(step_size=0.4, travel=TRAVEL, **PLAIN),
            Given(strengths=through(lambda s: 0.4 * math.sqrt(s.alpha_bar)), smoothing=0, travel=TRAVEL, **PLAIN),
        ),
        (
            MPGD(step_size=0.5, **PLAIN),
            Given(
                strengths=(None, lambda step: 0.5 / math.sqrt(step.alpha_bar_prev)), rho=0, mean_steps=1, smoothing=0,
                **PLAIN,
            ),
        ),
        (DPS(spherical=True, **PLAIN), TFG(mu=0, smoothing=0, spherical=True, **PLAIN)),
        (
            MPGD(scaling="sphere", **PLAIN),
            TFG(rho=0, smoothing=0, mean_steps=1, step_size=0.5, scaling="sphere", **PLAIN),
        ),
    ],
    ids=["DPS", "FreeDoM", "MPGD", "DPS + DSG", "MPGD, additive"],
)  # fmt: skip
def test_methods_that_it_contains_give_the_same_samples(own, sampler):
    torch.testing.assert_close(run(sampler), run(own), rtol=1e-4, atol=1e-5)


def test_lgd_is_dps_on_a_smoothed_loss():
    """LGD (arXiv 2306.14685) written down by itself: DPS on a loss that is smoothed by two draws."""
    task, condition, _ = problem()

    def noise(index, repeat=0, purpose="step"):
        return torch.stack([standard_normal(SHAPE, row, index, repeat, purpose) for row in range(3)])

    class PerStep:
        """Two draws for every call: DPS calls once per step."""

        steps = iter(Bimodal.schedule.steps(6, "leading"))

        def loss(self, image, condition):
            step = next(self.steps)
            offsets = [0.4 * math.sqrt(1 - step.alpha_bar) * noise(step.index, k, "smoothing") for k in range(2)]
            losses = torch.stack([task.loss(image + offset, condition) for offset in offsets])
            return -losses.neg().exp().mean(0).log()

    lgd = DPS(step_size=0.3, **PLAIN)
    expected = sample(Bimodal(), PerStep(), condition, lgd, noise(0, purpose="start"), noise)
    sampler = Given(strengths=through(lambda step: 0.3), smoothing=0.4, smoothing_samples=2, **PLAIN)
    torch.testing.assert_close(run(sampler), expected, rtol=1e-4, atol=1e-5)


def test_ugd_guides_at_both():
    """UGD (arXiv 2302.07121) written down by itself, with one backward step, in ddim at eta = 0: eps is changed, and so
    both its parts of x_prev."""
    task, condition, _ = problem(1)
    prior, strength = Bimodal(), 0.05
    x = standard_normal(SHAPE, 0, 0, 0, "start")[None]
    for step in prior.schedule.steps(6, "leading"):
        ab, ab_prev = step.alpha_bar, step.alpha_bar_prev
        x = x.detach().requires_grad_()
        eps = prior.predict(x, step.t).eps
        x0 = (x - math.sqrt(1 - ab) * eps) / math.sqrt(ab)
        (forward,) = torch.autograd.grad(task.loss(x0, condition).sum(), x)
        at = x0.detach().requires_grad_()
        (backward,) = torch.autograd.grad(task.loss(at, condition).sum(), at)
        eps = eps.detach() + strength * (math.sqrt(1 - ab) * forward + math.sqrt(ab / (1 - ab)) * backward)
        x0 = (x.detach() - math.sqrt(1 - ab) * eps) / math.sqrt(ab)
        x = math.sqrt(ab_prev) * x0 + math.sqrt(1 - ab_prev) * eps

    def moved(step):  # x_prev, by -eps
        ab, ab_prev = step.alpha_bar, step.alpha_bar_prev
        return math.sqrt(ab_prev * (1 - ab) / ab) - math.sqrt(1 - ab_prev)

    def mu(step):
        return strength * moved(step) * math.sqrt(step.alpha_bar / (1 - step.alpha_bar) / step.alpha_bar_prev)

    rho = through(lambda step: strength * math.sqrt(1 - step.alpha_bar) * moved(step))[0]
    sampler = Given(strengths=(rho, mu), mean_steps=1, smoothing=0, eta=0.0, clip_denoised=False, **PLAIN)
    torch.testing.assert_close(restore(sampler, task, condition, [0]), x, rtol=1e-4, atol=1e-5)


def test_the_smoothed_loss_is_the_mean_over_the_draws():
    task, condition, truth = problem(2)
    offsets = [0.1 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    smoothed = Smoothed(task, offsets).smoothed_loss(Bimodal(), truth, condition)
    likelihoods = torch.stack([task.loss(truth + offset, condition).neg().exp() for offset in offsets])
    torch.testing.assert_close(smoothed, -likelihoods.mean(0).log())


def test_strengths_are_shared_out_over_the_steps():
    schedule, sampler = Bimodal.schedule, TFG(rho=2.0, mu=3.0, mu_weights="decrease", **PLAIN)
    steps = schedule.steps(6, "leading")
    rho, mu = ([at(step, schedule) for step in steps] for at in (sampler.rho_at, sampler.mu_at))
    assert math.isclose(sum(rho), 12) and math.isclose(sum(mu), 18)
    assert rho == sorted(rho) and mu == sorted(mu, reverse=True)


def test_mean_guidance_alone_takes_no_backward_pass():
    prior = CountedPrior(Bimodal())
    run(TFG(rho=0, **PLAIN), prior)
    assert prior.backward_passes == 0


@pytest.mark.parametrize(
    "options", [{"rho": -1.0}, {"mu": -1.0}, {"smoothing": -0.1}, {"mean_steps": 0}, {"smoothing_samples": 0},
                {"rho_weights": "up"}, {"smoothing_weights": "increase"}]
)  # fmt: skip
def test_an_option_out_of_range_is_named(options):
    ((option, value),) = options.items()
    with pytest.raises(ValueError, match=f"sampler.{option}={value}"):
        TFG(**options)
