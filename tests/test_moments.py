"""Adam on the guidance gradient: the released code's run, and what the option leaves alone."""

import math
from dataclasses import dataclass

import pytest
import torch
from conftest import recording

from dsg.noise import standard_normal
from dsg.priors.base import CountedPrior
from dsg.samplers import DPS, MPGD, sample
from dsg.samplers.base import unused_options
from dsg.schedule import Step
from tasks.linear import Inpainting


@dataclass
class AsReleased(DPS):
    """With the step length of the released code."""

    def step_length(self, step: Step) -> float:
        return super().step_length(step) / math.sqrt(step.alpha_bar / step.alpha_bar_prev)


OPTIONS = dict(steps=5, spacing="leading", clip_denoised=False, moment="adam")


def replay(prior, sampler, seen=None):
    r, task = recording("rivals/adam_inpaint"), Inpainting("inpaint")
    draws = {tuple(key): z for key, z in zip(r["meta"]["draw_order"], r["draws"])}

    def noise(index, repeat=0, purpose="step"):
        return draws[purpose, index, repeat]

    condition = task.observed(r["y"], mask=r["mask"])
    return r, sample(prior, task, condition, sampler, r["x_T"], noise, seen)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_the_official_run_is_replayed(tiny_prior):
    seen, prior = [], CountedPrior(tiny_prior)
    r, out = replay(prior, AsReleased(step_size=0.05, **OPTIONS), seen.append)
    assert relative(out, r["sample"]) <= 1e-4
    for state, x_t in zip(seen, r["x_t"]):
        assert relative(state.x_t, x_t) <= 1e-4
    assert (prior.forward_passes, prior.backward_passes) == (5, 5)


def test_other_averages_are_not_taken_for_rounding(tiny_prior, monkeypatch):
    monkeypatch.setattr("dsg.samplers.moments.BETAS", (0.8, 0.995))
    r, out = replay(tiny_prior, AsReleased(step_size=0.05, **OPTIONS))
    assert relative(out, r["sample"]) > 5e-4


@pytest.mark.parametrize("sampler", [MPGD(steps=5, moment="adam"), DPS(steps=5, moment="adam", spherical=True)])
def test_an_image_does_not_depend_on_its_batch(avatars, sampler):
    ids, task = ["0", "1", "2"], Inpainting("inpaint")

    def restore(rows):
        shape = avatars.shape
        truth = 0.5 * torch.stack([standard_normal(shape, ids[k], "truth") for k in rows]).sign()

        def noise(index, repeat=0, purpose="step"):
            return torch.stack([standard_normal(shape, ids[k], index, repeat, purpose) for k in rows])

        condition = task.degrade(truth, [ids[k] for k in rows], 0)
        return sample(avatars, task, condition, sampler, noise(0, purpose="start"), noise)

    torch.testing.assert_close(restore([0, 1, 2])[1:2], restore([1]), rtol=1e-3, atol=1e-4)


def test_null_is_no_option_of_a_run_and_another_name_is_refused():
    options = {"_target_": "dsg.samplers.DPS", "spherical": True, "kernel": "ddim"}
    assert "moment" in unused_options(options | {"moment": None})
    assert "moment" not in unused_options(options | {"moment": "adam"})
    with pytest.raises(ValueError, match="sampler.moment=momentum is unknown: one of adam"):
        DPS(moment="momentum")
