"""configs/tuned/any.csv: the released rules of the base methods, written out."""

import math

import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate

from dsg.priors.base import Prediction, Prior
from dsg.schedule import NoiseSchedule, linear_betas, scaled_linear_betas


class ToyPrior(Prior):
    """eps is not linear in x, so that a gradient at x_t is not one at x0; it follows a prompt where `cfg` is given."""

    shape = (3, 8, 8)
    weights_hash = "none"

    def __init__(self, schedule, cfg=None):
        super().__init__()
        self.schedule, self.cfg = schedule, cfg

    def parts(self, x, t):
        """eps without a prompt, and what a prompt adds."""
        without = 0.7 * x + 0.2 * torch.tanh(x.flip(3)) + t / 2000
        return without, 0.3 * torch.sin(3 * x) - 0.1

    def predict(self, x_t, t, prompts=None):
        without, added = self.parts(x_t, t)
        if self.cfg is None:
            return Prediction(without)
        return Prediction(without + self.cfg * added, text_shift=self.cfg * added)


class ToyTask:
    """|x0 + tanh x0 - c| per image."""

    def loss(self, x0, condition):
        return (x0 + torch.tanh(x0) - condition).flatten(1).norm(dim=1)


CFG = 5.0
BETAS = {"celebahq256": NoiseSchedule(linear_betas()), "sd14": NoiseSchedule(scaled_linear_betas(), 1, 1 - 0.00085)}


def rms(x):
    return x.square().mean((1, 2, 3), keepdim=True).sqrt()


def by_hand(prior, target, x, z, ab, ab_prev, t, rule):
    """x_prev of one step of the released code."""
    x = x.clone().requires_grad_()
    eps = prior.predict(x, t).eps
    x0 = (x - math.sqrt(1 - ab) * eps) / math.sqrt(ab)
    (at_x,) = torch.autograd.grad(ToyTask().loss(x0, target).sum(), x, retain_graph=True)
    (at_x0,) = torch.autograd.grad(ToyTask().loss(x0, target).sum(), x0)
    x, eps, x0 = x.detach(), eps.detach(), x0.detach()
    c1 = math.sqrt(ab_prev) * (1 - ab / ab_prev) / (1 - ab)
    c2 = math.sqrt(ab / ab_prev) * (1 - ab_prev) / (1 - ab)
    c3 = math.sqrt((1 - ab_prev) * (1 - ab / ab_prev) / (1 - ab))
    text = rms(CFG * prior.parts(x, t)[1])

    def ddpm(x0):
        return c1 * x0 + c2 * x + c3 * z

    def freedom(x0):
        return math.sqrt(ab_prev) * x0 + math.sqrt(0.75 * (1 - ab_prev)) * eps + 0.5 * math.sqrt(1 - ab_prev) * z

    if rule == "faceid freedom":
        return freedom(x0) - 100 * math.sqrt(ab) * at_x
    if rule == "face_parsing freedom":
        return freedom(x0) - 0.2 * math.sqrt(ab) * at_x
    if rule == "faceid mpgd":
        return freedom(x0 - 0.015 / rms(at_x0) / math.sqrt(ab_prev) * at_x0)
    if rule == "clip_text freedom":
        return ddpm(x0) - 0.02 * c1 * rms(eps) * math.sqrt(1 - ab) / math.sqrt(ab) / rms(at_x) * at_x
    if rule == "clip_text mpgd":
        scale = (1.5 if 200 <= t <= 500 else 1) * c1 * rms(eps) * math.sqrt((1 - ab) / ab) / rms(at_x0)
        return ddpm(x0 - scale / math.sqrt(ab_prev) * at_x0)
    if rule == "text_style freedom":
        return ddpm(x0) - 0.2 * text / rms(at_x) * at_x
    if rule == "text_style mpgd":
        return ddpm(x0 - 15 * text / rms(at_x0) * at_x0)
    raise AssertionError(rule)


@pytest.mark.parametrize(
    "task, method, steps, guided_at",
    [
        ("faceid", "freedom", 100, lambda t: t > 100),
        ("faceid", "mpgd", 50, lambda t: t > 100),
        ("face_parsing", "freedom", 100, lambda t: t > 200),
        ("clip_text", "freedom", 100, lambda t: True),
        ("clip_text", "mpgd", 50, lambda t: t > 100),
        ("text_style", "freedom", 100, lambda t: 30 <= t // 10 < 70),
        ("text_style", "mpgd", 100, lambda t: 30 <= t // 10 < 70),
    ],
)
def test_the_released_rules_by_hand(task, method, steps, guided_at):
    model = "sd14" if task == "text_style" else "celebahq256"
    schedule, sampler = BETAS[model], sampler_of(model, task, method, steps)
    prior = ToyPrior(schedule, CFG if task == "text_style" else None)
    x, z, target = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in range(3))
    x[1] *= 2  # scales are per image
    for step in schedule.steps(steps, sampler.spacing):
        assert step.t == step.index * (1000 // steps) + (model == "sd14")
        guided = guided_at(step.t)
        assert sampler.guides(step) == guided
        if step.index % 7 or step.index == 0:
            continue
        state = sampler.reverse_step(prior, ToyTask(), target, x, step, 0, lambda index, **_: z)
        if guided:
            at = schedule.alpha_bar[step.t].item(), schedule.alpha_bar[step.t - 1000 // steps].item()
            expected = by_hand(prior, target, x, z, *at, step.t, f"{task} {method}")
            torch.testing.assert_close(state.x_prev, expected, rtol=1e-5, atol=1e-5)
            assert (state.x_prev - state.unguided).abs().max() > 1e-4
        else:
            assert torch.equal(state.x_prev, state.unguided)


def sampler_of(model, task, name, steps):
    config = compose_config(f"model={model}", f"task={task}", f"sampler={name}", f"sampler.steps={steps}")
    return instantiate(config.sampler)


def test_style_is_repeated_where_the_released_code_does():
    steps = BETAS["sd14"].steps(100, "leading")
    for name, repeats in (("freedom", 3), ("freedom_dsg", 3), ("dps_dsg", 3), ("mpgd", 1)):
        sampler = sampler_of("sd14", "text_style", name, 100)
        assert [sampler.repeats(s) for s in steps] == [repeats if 40 <= s.index < 70 else 1 for s in steps]


@pytest.mark.parametrize("task, rate", [("faceid", 0.05), ("text_style", 0.1)])
@pytest.mark.parametrize("name", ["dps_dsg", "freedom_dsg", "mpgd_dsg"])
def test_the_paper_s_rates_of_dsg(task, rate, name):
    sampler = sampler_of("sd14" if task == "text_style" else "celebahq256", task, name, 100)
    assert (sampler.spherical, sampler.guidance_rate, sampler.kernel, sampler.eta) == (True, rate, "ddim", 1.0)
    assert not sampler.clip_denoised and sampler.spacing == "leading"


def schedule_of(sampler, steps):
    """For every step: whether guidance is wanted, and how often the step is taken."""
    return [(sampler.wants_guidance(step), sampler.repeats(step)) for step in steps]


@pytest.mark.parametrize(
    "task", ["faceid", "clip_text", "style", "text_style", "segmentation", "face_parsing", "composite"]
)
def test_dsg_changes_the_step_alone(task):
    """Guided and repeated where its base method is, in the same spacing; so are the steps without guidance."""
    model = "sd14" if task == "text_style" else "celebahq256"
    steps = BETAS[model].steps(50, "leading")
    unguided = sampler_of(model, task, "unconditional", 50)
    for name in ("freedom", "mpgd"):
        base, dsg = (sampler_of(model, task, n, 50) for n in (name, f"{name}_dsg"))
        assert schedule_of(dsg, steps) == schedule_of(base, steps)
        assert dsg.spherical and not base.spherical and dsg.base_method == base.name
        for sampler in (base, dsg):
            assert (sampler.spacing, sampler.clip_denoised) == (unguided.spacing, unguided.clip_denoised)
