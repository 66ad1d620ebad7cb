"""The rival samplers: replays of the official codes, invariances, costs, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config, recording
from hydra.utils import instantiate

from dsg.noise import standard_normal
from dsg.priors.base import CountedPrior, Prediction, Prior
from dsg.samplers import DPS, sample
from dsg.samplers.daps import DAPS, time_of
from dsg.samplers.ddnm import DDNM
from dsg.samplers.ddrm import DDRM
from dsg.samplers.diffpir import DiffPIR
from dsg.samplers.diffrgd import DiffRGD
from dsg.samplers.reddiff import REDDiff
from dsg.samplers.sitcom import SITCOM
from dsg.samplers.trust import TrustSampling
from dsg.schedule import EDMSchedule, FlowSchedule, NoiseSchedule, linear_betas, scaled_linear_betas
from tasks.linear import GaussianDeblur, Inpainting, SuperResolution
from tasks.matrix import Matrix
from tasks.semantic import SemanticTask

# options of a sampler <- names in the recordings' meta
RECORDED = {
    "trust": {"inner_steps": "inner", "step_size": "gradient_norm", "norm_bound": "norm_upper_bound"},
    "daps": {
        "sigma_max": "sigma_max",
        "sigma_min": "sigma_min",
        "ode_steps": "ode_steps",
        "ode_sigma_min": "ode_sigma_min",
        "langevin_steps": "inner",
        "langevin_step_size": "lr",
        "langevin_step_ratio": "lr_min_ratio",
        "tau": "tau",
    },
    "diffpir": {"data_weight": "lambda", "zeta": "zeta"},
    "reddiff": {
        "learning_rate": "lr",
        "prior_weight": "grad_term_weight",
        "data_weight": "obs_weight",
        "weighting": "denoise_term_weight",
    },
    "sitcom": {"learning_rate": "lr", "inner_steps": "inner", "projection": "projection_scale"},
    "ddrm": {"eta": "eta", "eta_b": "eta_b"},
    "tfg": {
        "rho": "rho",
        "mu": "mu",
        "rho_weights": "rho_schedule",
        "mu_weights": "mu_schedule",
        "mean_steps": "iter_steps",
        "smoothing": "sigma",
        "smoothing_weights": "sigma_schedule",
        "smoothing_samples": "eps_bsz",
        "travel.repeats": "recur_steps",
    },
    "ddnm": {"eta": "eta"},
}
# network evaluations and backward passes that the recorded runs need
NEEDED = {
    "trust": (25, 15), "daps": (21, 0), "diffpir": (9, 0), "reddiff": (7, 0), "sitcom": (22, 14), "ddrm": (8, 0),
    "tfg": (10, 10), "ddnm": (8, 0),
}  # fmt: skip
# short runs that stop early, if at all, at another point for each image
SHORT = {
    "trust": TrustSampling(steps=6, inner_steps=4, norm_bound=6.0),
    "daps": DAPS(steps=5, ode_steps=3, langevin_steps=4),
    "diffpir": DiffPIR(steps=6),
    "reddiff": REDDiff(steps=6),
    "sitcom": SITCOM(steps=4, inner_steps=6, learning_rate=0.1, tolerance=0.3),
    "ddrm": DDRM(steps=6),
    "ddnm": DDNM(steps=6),
}
SIDE = 8


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


class Replay:
    """A recorded run, by our sampler."""

    def __init__(self, name):
        self.recording = r = recording(f"rivals/{name}_inpaint")
        meta = r["meta"]
        overrides = [f"sampler.{option}={meta[key]}" for option, key in RECORDED[name].items()]
        config = compose_config("task=inpaint", f"sampler={name}", f"sampler.steps={meta['steps']}", *overrides)
        self.sampler, self.task = instantiate(config.sampler), instantiate(config.task)
        self.condition = self.task.observed(r["y"], mask=r["mask"])
        self.draws = {tuple(key): z for key, z in zip(meta["draw_order"], r["draws"])}
        self.asked, self.states = [], []

    def noise(self, index, repeat=0, purpose="step"):
        self.asked.append((purpose, index, repeat))
        return self.draws[purpose, index, repeat]

    def run(self, prior):
        r = self.recording
        x_T = r["x_T"] if "x_T" in r else r["mu_init"]
        return sample(prior, self.task, self.condition, self.sampler, x_T, self.noise, self.states.append)


@pytest.mark.parametrize("name", RECORDED)
def test_the_official_run_is_replayed(tiny_prior, name):
    replay, prior = Replay(name), CountedPrior(tiny_prior)
    out, r = replay.run(prior), replay.recording
    observed = r["mask"].bool().expand_as(out)
    assert relative(out, r["sample"]) <= 1e-4
    assert relative(out[observed], r["sample"][observed]) <= 1e-4
    for state, x_t in zip((s for s in replay.states if s.repeat == 0), r["x_t"]):
        assert relative(state.x_t, x_t) <= 1e-4
    assert (prior.forward_passes, prior.backward_passes) == NEEDED[name]
    assert [tuple(draw) for draw in replay.sampler.draws(tiny_prior.schedule)] == replay.asked


@pytest.mark.parametrize(
    "name, option", [("daps", "langevin_step_size"), ("diffpir", "zeta"), ("reddiff", "learning_rate"),
                     ("ddrm", "eta_b"), ("tfg", "rho"), ("tfg", "mu"), ("ddnm", "eta")]
)  # fmt: skip
def test_an_option_that_is_one_percent_off_is_not_taken_for_rounding(tiny_prior, name, option):
    """The limits above are ten times what another processor changes."""
    replay = Replay(name)
    setattr(replay.sampler, option, 0.99 * getattr(replay.sampler, option))
    assert relative(replay.run(tiny_prior), replay.recording["sample"]) > 5e-4


@pytest.mark.parametrize("name", ["daps", "ddrm", "diffpir"])
def test_runs_begin_where_the_official_run_began(tiny_prior, name):
    replay = Replay(name)
    r, steps = replay.recording, replay.sampler.steps
    x_T = replay.sampler.start(tiny_prior, replay.task, replay.condition, replay.draws["start", steps, 0])
    seen = r["mask"] if name == "diffpir" else 1  # the official code fills what is masked with -1 rather than 0
    assert relative(x_T * seen, r["x_T"] * seen) <= 1e-6


def test_ddnm_puts_y_without_noise_into_the_image(tiny_prior):
    """The official run of DDNM, without its +."""
    r, task = recording("rivals/ddnm_noiseless"), Inpainting("inpaint", sigma=0.0)
    draws = {index: z for (_, index, _), z in zip(r["meta"]["draw_order"], r["draws"])}
    condition, sampler = task.observed(r["y"], mask=r["mask"]), DDNM(steps=r["meta"]["steps"])
    out = sample(tiny_prior, task, condition, sampler, r["x_T"], lambda index: draws[index])
    assert relative(out, r["sample"]) <= 1e-4
    torch.testing.assert_close(r["mask"] * out, r["y"])


def test_reddiff_begins_at_the_pseudo_inverse(tiny_prior):
    replay = Replay("reddiff")
    mu = replay.sampler.start(tiny_prior, replay.task, replay.condition, torch.zeros(1, 3, 32, 32))
    assert torch.equal(mu, replay.recording["mu_init"])  # a copy of y: nothing is rounded


class Bimodal(Prior):
    """Every number of x0 is -.5 or .5, with a standard deviation of .1: eps has a closed form, not a linear one."""

    schedule, shape, weights_hash = NoiseSchedule(linear_betas()), (3, SIDE, SIDE), "none"

    def predict(self, x_t, t, prompts=None):
        ab = self.schedule.alpha_bar_at(t)
        variance = ab * 0.1**2 + 1 - ab
        centre = 0.5 * torch.tanh(math.sqrt(ab) * 0.5 * x_t / variance)  # expected mode
        return Prediction(math.sqrt(1 - ab) * (x_t - math.sqrt(ab) * centre) / variance)


def problem(batch=3, sigma=0.05):
    """A task, the condition of a batch, and the truth."""
    task, ids = Inpainting("inpaint", sigma), [str(i) for i in range(batch)]
    noise = torch.stack([standard_normal(Bimodal.shape, i, "noise") for i in ids])
    truth = 0.5 * torch.stack([standard_normal(Bimodal.shape, i, "truth") for i in ids]).sign() + 0.1 * noise
    return task, task.degrade(truth, ids, 0), truth


def restore(sampler, task, condition, rows, prior=None, callback=None):
    """The images of these rows, with noise that belongs to the row."""

    def noise(index, repeat=0, purpose="step"):
        return torch.stack([standard_normal(Bimodal.shape, row, index, repeat, purpose) for row in rows])

    prior = prior or Bimodal()
    of_rows = {key: value[list(rows)] for key, value in condition.items()}
    x_T = sampler.start(prior, task, of_rows, noise(0, purpose="start"))
    return sample(prior, task, of_rows, sampler, x_T, noise, callback)


@pytest.mark.parametrize("name", SHORT)
def test_an_image_does_not_depend_on_its_batch(name):
    task, condition, _ = problem()
    together = restore(SHORT[name], task, condition, range(3))
    alone = torch.cat([restore(SHORT[name], task, condition, [row]) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_ddrm_does_not_divide_rounding_by_a_blur_s_smallest_singular_values():
    task, ids = GaussianDeblur("gaussian_deblur", sigma=0.0), ["0"]
    truth = 0.5 * standard_normal(Bimodal.shape, "0", "truth").sign()[None]
    out = restore(DDRM(steps=8), task, task.degrade(truth, ids, 0), [0])
    assert out.square().mean().sqrt() < 1  # 239 with all of them


@pytest.mark.parametrize("name", ["trust", "sitcom"])
def test_images_of_a_batch_stop_at_different_points(name):
    """Else the test above would say little."""
    task, condition, _ = problem()
    passes = []
    for row in range(3):
        prior = CountedPrior(Bimodal())
        restore(SHORT[name], task, condition, [row], prior)
        passes.append(prior.forward_passes)
        assert prior.forward_passes < SHORT[name].cost(prior.schedule).forward
        assert prior.backward_passes < prior.forward_passes
    assert len(set(passes)) > 1


@pytest.mark.parametrize(
    "sampler",
    [
        TrustSampling(steps=4, inner_steps=2, norm_bound=1e6),
        DAPS(steps=3, ode_steps=2, langevin_steps=2),
        DiffPIR(steps=5),
        REDDiff(steps=4),
        REDDiff(steps=7),
        SITCOM(steps=3, inner_steps=3, tolerance=0.0),
        DDRM(steps=7),
        DDNM(steps=7),
    ],
    ids=lambda sampler: f"{sampler.name}{sampler.steps}",
)
def test_the_cost_is_what_is_asked_of_the_network(sampler):
    task, condition, _ = problem(1, sigma=0.0)  # so that sitcom does not stop before its steps are done
    prior = CountedPrior(Bimodal())
    restore(sampler, task, condition, [0], prior)
    assert (prior.forward_passes, prior.backward_passes) == sampler.cost(prior.schedule)


@pytest.mark.parametrize("name", ["daps", "diffpir", "reddiff", "ddrm", "ddnm"])
def test_no_graph_is_built_through_the_network(name):
    class Ungraded(Bimodal):
        def predict(self, x_t, t, prompts=None):
            assert not torch.is_grad_enabled()
            return super().predict(x_t, t)

    task, condition, _ = problem(1)
    assert not restore(SHORT[name], task, condition, [0], Ungraded()).requires_grad


@pytest.mark.parametrize(
    "sampler",
    [
        TrustSampling(steps=50, step_size=0.5),
        DAPS(steps=30, langevin_steps=50, tau=0.03),
        DiffPIR(steps=30),
        REDDiff(steps=100, learning_rate=0.1),
        SITCOM(),
        DDRM(),
        DDNM(),
    ],
    ids=lambda sampler: sampler.name,
)
def test_what_is_observed_is_restored_and_what_is_not_looks_like_the_prior(sampler):
    task, condition, truth = problem()
    out = restore(sampler, task, condition, range(3))
    observed = condition["mask"].bool().expand_as(out)
    assert (task.residual(out, condition) < 0.15).all()
    assert ((out - truth)[observed].square().mean().sqrt()) < 0.15
    missing = out[~observed].abs()
    assert (missing.median() - 0.5).abs() < 0.15


@pytest.mark.parametrize("steps", [2, 100, 501, 502, 1000])
def test_diffpir_takes_no_step_from_a_clean_image(steps):
    """Its times are dense there: with more than 501 steps the last is there twice."""
    sampler, schedule = DiffPIR(steps=steps), NoiseSchedule(linear_betas())
    found = sampler.reverse_steps(schedule)
    assert min(step.t for step in found) > 0 and found[-1].alpha_bar_prev == schedule.alpha_bar[0]
    assert sampler.cost(schedule).forward == len(found) <= steps - 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs/sampler").glob("*.yaml")))
def test_every_sampler_names_its_draws_beforehand(name):
    """A run asks for them."""
    sampler = instantiate(compose_config(f"sampler={name}", "sampler.steps=5").sampler)
    assert all(draw.step_index >= 0 for draw in sampler.draws(NoiseSchedule(linear_betas())))


OUT_OF_RANGE = [
    (TrustSampling, {"steps": 1}, {"eta": 1.1}, {"step_size": -1.0}, {"inner_steps": 0}, {"norm_bound": -1.0},
     {"clip_denoised": 1}),
    (DAPS, {"steps": 1}, {"sigma_max": 0.05}, {"sigma_min": 0.001}, {"ode_steps": 0},
     {"ode_sigma_min": 0.0}, {"langevin_steps": -1}, {"langevin_step_size": -1e-4}, {"langevin_step_ratio": 2.0},
     {"tau": 0.0}),
    (DiffPIR, {"steps": 1}, {"data_weight": 0.0}, {"zeta": 1.5}, {"clip_denoised": 1}),
    (REDDiff, {"steps": 1}, {"learning_rate": -0.1}, {"prior_weight": -1.0}, {"data_weight": math.nan},
     {"weighting": "cubic"}),
    (SITCOM, {"steps": 1}, {"learning_rate": -1.0}, {"inner_steps": 1.5}, {"tolerance": -0.1}, {"projection": 2.0},
     {"clip_denoised": None}),
    (DDRM, {"steps": 1}, {"eta": -0.1}, {"eta_b": 1.1}),
    (DDNM, {"steps": 1}, {"eta": -0.1}),
]  # fmt: skip


@pytest.mark.parametrize("kind, options", [(kind, o) for kind, *cases in OUT_OF_RANGE for o in cases])
def test_an_option_out_of_range_is_named(kind, options):
    ((option, value),) = options.items()
    with pytest.raises(ValueError, match=f"sampler.{option}={value}"):
        kind(**options)


class Anything(SemanticTask):
    """A loss, and no measurement."""

    def loss(self, image, condition):
        return image.flatten(1).norm(dim=1)


class Latent(Bimodal):
    """A prior whose images are larger than what is diffused."""

    image_shape = (3, 8 * SIDE, 8 * SIDE)


class OtherSchedule(Bimodal):
    """Stable Diffusion's."""

    schedule = NoiseSchedule(scaled_linear_betas())


class Opaque(Inpainting):
    """A linear operator whose singular values are not known."""

    has_svd = False


@pytest.mark.parametrize(
    "sampler, prior, task, words",
    [
        (DAPS(), OtherSchedule(), Inpainting("inpaint"), "sampler.sigma_max=100.0: this prior knows noise up to 14.61"),
        (DDRM(), Bimodal(), Opaque("motion"), "sampler=ddrm needs the singular values .* task=motion"),
        (TrustSampling(), Latent(), Anything("style"), "sampler.clip_denoised=true clamps latents"),
        (DiffRGD(), Latent(), Anything("style"), "sampler.clip_denoised=true clamps latents"),
        (DPS(), Latent(), Anything("style"), "sampler.clip_denoised=true clamps latents"),
        (REDDiff(steps=1001), Bimodal(), Inpainting("inpaint"), "sampler.steps=1001 is out of range"),
        *((s, Bimodal(), Anything("style"), f"sampler={n} restores") for n, s in SHORT.items() if n != "trust"),
        *((s, Latent(), Inpainting("inpaint"), f"sampler={n} .* no latent") for n, s in SHORT.items() if n != "trust"),
    ],
)
def test_what_a_sampler_cannot_work_with_is_refused(sampler, prior, task, words):
    with pytest.raises(ValueError, match=words):
        sampler.check(prior, task)


@pytest.mark.parametrize("name", SHORT)
def test_what_a_sampler_can_work_with_is_not_refused(name):
    SHORT[name].check(Bimodal(), Inpainting("inpaint"))


@pytest.mark.parametrize("name", SHORT)
def test_a_matrix_per_channel_does_what_the_operator_does(name):
    """Super-resolution, and its matrix as another would give it: the singular vectors differ, the samples do not."""
    task, channel = SuperResolution("sr", factor=2), SIDE * SIDE
    basis = torch.eye(channel, dtype=torch.float64).reshape(channel, 1, SIDE, SIDE)
    matrix = Matrix("sr", matrix=task.forward(basis, {}).flatten(1).T.tolist())
    condition = task.degrade(problem()[2], ["0", "1", "2"], 0)
    out = [restore(SHORT[name], t, t.observed(condition["y"]), range(3)) for t in (task, matrix)]
    # diffpir begins at the baselines, which are bicubic for the one and A^T y for the other
    assert relative(out[1], out[0]) <= (1e-2 if name == "diffpir" else 1e-3)


def test_the_noise_level_between_two_times_lies_between_theirs():
    schedule = NoiseSchedule(linear_betas())
    assert schedule.alpha_bar_at(7) == schedule.alpha_bar_at(7.0) == schedule.alpha_bar[7].item()
    between = np.log([schedule.alpha_bar_at(t) for t in (7, 7.25, 8)])
    assert between[1] == pytest.approx(0.75 * between[0] + 0.25 * between[2])
    assert schedule.alpha_bar_at(999) == schedule.alpha_bar[999].item()


def test_the_times_of_daps_are_those_of_its_noise_levels():
    """On DDPM's schedule, which the released code takes as continuous, nearly; on others exactly."""
    exact = NoiseSchedule(scaled_linear_betas()), FlowSchedule(shift=3), EDMSchedule()
    for schedule, tolerance in zip((NoiseSchedule(linear_betas()), *exact), (0.05, 1e-9, 1e-9, 1e-9)):
        for sigma in (0.05, 0.5, 5.0, 14.0):
            ab = schedule.alpha_bar_at(time_of(sigma, schedule))
            assert math.sqrt(1 / ab - 1) == pytest.approx(sigma, rel=tolerance)
