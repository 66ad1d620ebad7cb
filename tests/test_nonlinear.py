"""Denoising, HDR and phase retrieval: closed forms, gradients, the oracle, several tries, and what is refused."""

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config
from hydra.utils import instantiate
from PIL import Image

import dsg
from dsg.config import load_with_sources
from dsg.noise import ImageNoise
from dsg.priors.base import CountedPrior, Prediction, Prior
from dsg.priors.gaussian_mixture import seeded
from dsg.runs.prepare import prepare
from dsg.runs.tries import best_try
from dsg.samplers import Unconditional, sample
from dsg.samplers.denoise_oracle import DenoiseOracle, matched
from dsg.schedule import NoiseSchedule, linear_betas
from dsg.studies.posterior.ground_truth import GroundTruth
from dsg.types import Data, Input
from tasks.denoise import Denoising
from tasks.linear import Inpainting
from tasks.nonlinear import HDR, PhaseRetrieval

TASKS = {"denoise": Denoising, "hdr": HDR, "phase_retrieval": PhaseRetrieval}


def image(size=8, seed=0, dtype=torch.float64):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


# --- operators


def test_denoising_is_its_svd():
    task, x = Denoising("denoise", sigma=0.3), image(dtype=torch.float32)
    condition = task.degrade(x, ["a", "b"], 0)
    assert torch.equal(task.forward(x, condition), x) and torch.equal(task.transpose(x, condition, x.shape), x)
    expected = (condition["y"] + 4 * x) / 5  # argmin |v - y|^2 + 4 |v - x|^2
    torch.testing.assert_close(task.proximal(x, condition, 4.0), expected)
    torch.testing.assert_close(task.pseudo_inverse(condition, x.shape), condition["y"])
    torch.testing.assert_close(task.residual(x, condition), torch.full((2,), 0.3), rtol=0.15, atol=0)


def test_hdr_clips_twice_the_image_and_teaches_nothing_where_it_does():
    task = HDR("hdr", sigma=0.0)
    x = torch.tensor([-1.0, -0.4, 0.0, 0.3, 0.6]).reshape(1, 1, 1, 5).requires_grad_()
    y = task.forward(x, {})
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, -0.8, 0.0, 0.6, 1.0]))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.flatten().tolist() == [0.0, 2.0, 2.0, 2.0, 0.0]


def test_phase_retrieval_is_the_magnitude_of_a_padded_transform():
    """By the definition of the transform, a sum over pixels; energy is kept; the zero frequency is in the middle."""
    task, x = PhaseRetrieval("phase_retrieval"), image()
    y = task.forward(x, {})
    assert y.shape == (2, 3, 12, 12) and task.measurement_size(8) == 12
    positions, frequencies = torch.arange(8) + 2.0, torch.arange(12) - 6.0
    wave = torch.exp(-2j * torch.pi / 12 * torch.outer(frequencies, positions).double())
    expected = (wave @ ((x + 1) / 2).to(wave.dtype) @ wave.T).abs() / 12
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(y.square().sum(), ((x + 1) / 2).square().sum())
    torch.testing.assert_close(y[:, :, 6, 6], ((x + 1) / 2).sum((2, 3)) / 12)


def test_phase_retrieval_cannot_tell_a_turned_or_a_shifted_image():
    task, x = PhaseRetrieval("phase_retrieval"), image()
    y = task.forward(x, {})
    torch.testing.assert_close(task.forward(x.flip(2, 3), {}), y)
    torch.testing.assert_close(task.forward(torch.cat([x[:, :1].flip(2, 3), x[:, 1:]], 1), {}), y)  # one channel
    small = x.clone()
    small[..., 6:] = -1  # black: there is room to move in
    torch.testing.assert_close(task.forward(small.roll(2, -1), {}), task.forward(small, {}))
    for moved in (x.flip(2), x.flip(3), x.roll(2, -1), -x):
        assert (task.forward(moved, {}) - y).abs().max() > 0.01


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_of_the_loss_is_that_of_finite_differences(name):
    task, x = TASKS[name](name), image(size=4)
    condition = task.degrade(x, ["a", "b"], 0)
    at = image(size=4, seed=1) * 0.45  # HDR does not saturate there
    assert torch.autograd.gradcheck(lambda x: task.loss(x, condition), at.requires_grad_())


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_leaves_a_residual_of_sigma(name):
    task, x = TASKS[name](name), image(size=24, dtype=torch.float32)
    residual = task.residual(x, task.degrade(x, ["a", "b"], 0))
    torch.testing.assert_close(residual, torch.full((2,), task.sigma), rtol=0.1, atol=0)


@pytest.mark.parametrize("name", TASKS)
def test_its_condition_can_be_looked_at(name):
    task, x = TASKS[name](name), image(size=8, dtype=torch.float32)
    condition = {k: v[:1] for k, v in task.degrade(x, ["a", "b"], 0).items()}
    shown = task.condition_image(Input("a"), condition)
    side = task.measurement_size(8)
    assert shown.shape == (side, side, 3) and shown.dtype == np.uint8 and shown.std() > 5
    if name == "phase_retrieval":  # the log magnitude: the zero frequency is brightest, and not the only one to be seen
        assert (shown[6, 6] == shown.max()).any() and np.median(shown) > 20


def test_seventy_percent_are_missing_by_one_option():
    task = instantiate(compose_config("task=inpaint", "task.masked_fraction=[0.7,0.7]").task)
    mask = task.degrade(torch.zeros(3, 3, 16, 16), ["a", "b", "c"], 0)["mask"]
    assert ((1 - mask).flatten(1).sum(1) == int(0.7 * 256)).all()


# --- who restores them

RESTORES = ("dps", "dps_dsg", "freedom_dsg", "mpgd_dsg", "diffrgd", "trust", "daps", "reddiff", "sitcom")
FAST = ["sampler.steps=3", "seed=1"]


@pytest.mark.parametrize("task", ["hdr", "phase_retrieval"])
@pytest.mark.parametrize("sampler", ["diffpir", "ddrm", "denoise_oracle"])
def test_samplers_that_need_a_linear_operator_say_so(task, sampler):
    words = {
        "diffpir": "needs a linear operator",
        "ddrm": "needs the singular values",
        "denoise_oracle": "denoise only",
    }
    with pytest.raises(ValueError, match=f"{words[sampler]}.*task={task}"):
        dsg.restore(np.zeros((16, 16, 3), np.uint8), task, sampler, "gaussian_mixture", FAST)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sampler", RESTORES)
def test_the_others_restore_them(task, sampler):
    truth = np.asarray(Image.open(ROOT / "data/avatars64/val/00000.png").resize((16, 16)))
    found = dsg.restore(truth, task, sampler, "gaussian_mixture", FAST)
    assert found.image.shape == (16, 16, 3) and found.image.std() > 0
    assert found.measurement.shape[0] == (24 if task == "phase_retrieval" else 16)


@pytest.mark.parametrize("task", ["phase_retrieval"])
def test_measurements_that_are_no_images(task, tmp_path):
    with pytest.raises(ValueError, match="a measurement is no image"):
        PhaseRetrieval(task).inputs(Data(str(tmp_path), degraded=True), (3, 8, 8))


@pytest.mark.parametrize(
    "options, words",
    [
        (["task=hdr", "task.scale=0.5"], "task.scale=0.5"),
        (["task=phase_retrieval", "task.oversample=-1"], "task.oversample=-1"),
        (["task=phase_retrieval", "task.tries=0"], "task.tries=0"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(Exception, match=words):
        instantiate(compose_config(*options).task)


# --- several tries


class Steps(Prior):
    """Nothing: eps is 0."""

    schedule, shape, weights_hash = NoiseSchedule(linear_betas()), (3, 4, 4), "none"

    def predict(self, x_t, t, prompts=None):
        return Prediction(torch.zeros_like(x_t))


def test_the_try_with_the_least_residual_is_kept_image_by_image():
    task, x = PhaseRetrieval("phase_retrieval", tries=3), image(size=4, dtype=torch.float32)
    condition = task.degrade(x, ["a", "b"], 0)
    wrong, broken = image(size=4, seed=5, dtype=torch.float32), torch.full_like(x, torch.nan)
    tried = [torch.stack([broken[0], wrong[1]]), torch.stack([x[0], broken[1]]), torch.stack([wrong[0], x[1]])]
    best, kept = best_try(task, Steps(), condition, tried.__getitem__)
    assert torch.equal(best, x) and kept.tolist() == [1, 2]
    turned = [x.flip(2, 3), wrong, wrong]  # the residual takes it for as good as the truth: the metrics do not
    assert torch.equal(best_try(task, Steps(), condition, turned.__getitem__)[0], x.flip(2, 3))


def test_a_run_tries_as_often_as_its_task_says(tmp_path):
    options = ["model=gaussian_mixture", "task=phase_retrieval", "data.limit=2", "metrics=[psnr]", "sampler=mpgd"]
    found = {}
    for tries in (1, 3):
        config, sources = load_with_sources([*options, "sampler.steps=4", f"task.tries={tries}", "wandb.mode=disabled"])
        run = prepare(config, sources, tmp_path / str(tries))
        assert run.work() == 2 * 4 * tries
        assert run.execute() == []
        found[tries] = run.results.table()
        assert (found[tries]["network_evaluations"] == 4 * tries).all()
    assert (found[3]["residual"] <= found[1]["residual"]).all()  # the first try is among the three


def test_the_best_of_several_samples_of_any_task(tmp_path):
    """By the task's loss; the first of the three is the sample of a run without."""
    options = ["model=gaussian_mixture", "task=inpaint", "data.limit=2", "metrics=[psnr]", "sampler=dps_dsg"]
    found, owners = {}, []
    for count in (None, 3):
        asked = [] if count is None else [f"samples_of={count}"]
        config, sources = load_with_sources([*options, *asked, "sampler.steps=4", "wandb.mode=disabled"])
        run = prepare(config, sources, tmp_path / str(count))
        assert run.execute() == []
        found[count] = run.results.table()
        owners.append(run.results.owner)
        assert (found[count]["network_evaluations"] == 4 * (count or 1)).all()
    assert (found[3]["residual"] <= found[None]["residual"]).all()
    assert owners[0] | {"samples_of": 3} == owners[1]
    with pytest.raises(ValueError, match="samples_of=0"):
        load_with_sources(["samples_of=0"])


# --- the oracle


class Listening(Prior):
    """A prior that notes the times."""

    schedule, shape, weights_hash = NoiseSchedule(linear_betas()), (3, 4, 4), "none"

    def __init__(self):
        super().__init__()
        self.seen = []

    def predict(self, x_t, t, prompts=None):
        self.seen.append(t)
        return Prediction(torch.zeros_like(x_t))


def test_the_oracle_starts_where_the_noise_is_that_of_y():
    schedule = NoiseSchedule(linear_betas())
    for sigma in (0.1, 0.2, 0.3, 5.0):
        t = schedule.time_of(matched(sigma))
        ab = schedule.alpha_bar_at(t)
        assert ((1 - ab) / ab) ** 0.5 == pytest.approx(sigma, rel=1e-9)
    prior, task = Listening(), Denoising("denoise", sigma=0.2)
    y = {"y": torch.ones(1, 3, 4, 4)}
    sampler = DenoiseOracle(steps=200)
    x_T = sampler.start(prior, task, y, torch.zeros_like(y["y"]))
    sample(prior, task, y, sampler, x_T)
    nearest = int(((1 / schedule.alpha_bar - 1).sqrt() - 0.2).abs().argmin())
    assert prior.seen[0] == pytest.approx(nearest, abs=0.5) and prior.seen[-1] == 0 and len(prior.seen) == 200
    assert np.allclose(np.diff(prior.seen), -prior.seen[0] / 199)
    torch.testing.assert_close(x_T, y["y"] / 1.04**0.5)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_the_oracle_reaches_the_exact_posterior(sigma):
    """As near as other exact samples are, but for 15 %; the posterior is much narrower than the prior."""
    prior = seeded(dimension=27, components=3, rank=4, floor=0.15, spread=0.3, scale=0.5, shape=(3, 3, 3))
    known = GroundTruth(prior, Denoising("denoise", sigma), observations=4, samples=200)
    found = known.compare(known.run(DenoiseOracle(steps=150, clip_denoised=False))).mean()
    floor = known.compare(known.floor()).mean()
    unguided = known.compare(known.run(Unconditional(steps=20, clip_denoised=False))).mean()
    assert found["sliced_wasserstein"] < 1.15 * floor["sliced_wasserstein"] < 0.2 * unguided["sliced_wasserstein"]
    assert found["spread"] == pytest.approx(1, abs=0.1) and found["in_region"] == pytest.approx(0.9, abs=0.05)


def test_the_oracle_counts_its_cost_and_asks_for_its_draws():
    prior = seeded(dimension=12, components=2, rank=2, floor=0.2, spread=0.3, scale=0.5, shape=(3, 2, 2))
    sampler, task, counted, asked = DenoiseOracle(steps=7), Denoising("denoise"), CountedPrior(prior), []
    condition = task.degrade(torch.zeros(2, 3, 2, 2), ["a", "b"], 0)
    noise = ImageNoise(0, ["a", "b"], [0, 0], prior.shape)

    def listening(step_index, repeat=0, purpose="step"):
        asked.append((purpose, step_index, repeat))
        return noise(step_index, repeat, purpose)

    sample(counted, task, condition, sampler, sampler.start(prior, task, condition, noise.start()), listening)
    assert (counted.forward_passes, counted.backward_passes) == sampler.cost(prior.schedule)
    assert asked == [tuple(draw) for draw in sampler.draws(prior.schedule)]


@pytest.mark.parametrize(
    "task, words", [(Denoising("denoise", 0.001), "task.sigma=0.001"), (Inpainting("inpaint"), "task=inpaint")]
)
def test_what_the_oracle_does_not_know(task, words):
    with pytest.raises(ValueError, match=words):
        DenoiseOracle().check(Listening(), task)
