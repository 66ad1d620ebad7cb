"""Rivals that work in latents: replays of the official codes, invariances, and what they refuse."""

import pytest
import torch
from conftest import recording
from test_rivals import Anything, Bimodal, problem, relative, restore

from dsg.priors.base import CountedPrior, Prior
from dsg.samplers import sample
from dsg.samplers.psld import PSLD
from tasks.linear import Inpainting


class Autoencoded(Prior):
    """A prior of latents, whose autoencoder is the recordings': it does not give back what it was given."""

    def __init__(self, latents: Prior):
        super().__init__()
        self.latents, self.schedule, self.shape = latents, latents.schedule, latents.shape

    weights_hash = "none"

    def predict(self, x_t, t, prompts=None):
        return self.latents.predict(x_t, t)

    def decode(self, x0):
        return 1.5 * torch.tanh(x0)

    def encode(self, image):
        return 0.8 * image


def replay(prior, **options):
    """The recorded run, and ours; every state x_t."""
    r, task, states = recording("rivals/psld_inpaint"), Inpainting("inpaint"), []
    meta = r["meta"]
    draws = {tuple(key): z for key, z in zip(meta["draw_order"], r["draws"])}
    settings = {name: meta[name] for name in ("steps", "eta", "omega", "gamma")} | options

    def noise(index, repeat=0, purpose="step"):
        return draws[purpose, index, repeat]

    condition = task.observed(r["y"], mask=r["mask"])
    out = sample(prior, task, condition, PSLD(**settings), r["x_T"], noise, lambda state: states.append(state.x_t))
    return r, out, states


def test_the_official_run_of_psld_is_replayed(tiny_prior):
    prior = CountedPrior(Autoencoded(tiny_prior))
    r, out, states = replay(prior)
    assert relative(out, r["sample"]) <= 1e-4
    for found, x_t in zip(states, r["x_t"]):
        assert relative(found, x_t) <= 1e-4
    assert (prior.forward_passes, prior.backward_passes) == (6, 6)


@pytest.mark.parametrize("option", ["omega", "gamma"])
def test_an_option_that_is_one_percent_off_is_not_taken_for_rounding(tiny_prior, option):
    value = recording("rivals/psld_inpaint")["meta"][option]
    r, out, _ = replay(Autoencoded(tiny_prior), **{option: 0.99 * value})
    assert relative(out, r["sample"]) > 5e-4


def test_an_image_does_not_depend_on_its_batch():
    (task, condition, _), prior, sampler = problem(), Autoencoded(Bimodal()), PSLD(steps=6, eta=0.5)
    together = restore(sampler, task, condition, range(3), prior)
    torch.testing.assert_close(together[1:2], restore(sampler, task, condition, [1], prior), rtol=1e-4, atol=1e-5)


def test_the_encoder_pulls_what_is_not_observed():
    """Of a pixel prior the second term is the misfit once more, and moves nothing elsewhere beside the network."""
    (task, condition, _), prior = problem(1), Bimodal()
    step = prior.schedule.steps(6, "leading")[3]
    x_t = torch.randn(1, *prior.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for model, pulled in ((prior, False), (Autoencoded(prior), True)):
        _, gradient = PSLD(omega=0.0, gamma=1.0).gradient(model, task, condition, step, x_t, x_t)
        missing = gradient[condition["mask"].expand_as(gradient) == 0]
        assert bool((missing != 0).any()) == pulled


@pytest.mark.parametrize("option", ["omega", "gamma"])
def test_an_option_out_of_range_is_named(option):
    with pytest.raises(ValueError, match=f"sampler.{option}=-1"):
        PSLD(**{option: -1})


def test_a_task_without_a_linear_operator_is_refused():
    with pytest.raises(ValueError, match="sampler=psld needs a linear operator, which task=style has not"):
        PSLD().check(Bimodal(), Anything("style"))
