"""The loop and the kernels: closed forms on a Gaussian prior, invariances on the embedded one."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dsg.constraint import norm
from dsg.noise import ImageNoise, standard_normal
from dsg.priors.base import CountedPrior, Prediction, Prior
from dsg.runs.results import identity
from dsg.samplers import DPS, MPGD, FreeDoM, Unconditional, sample
from dsg.samplers.diffrgd import DiffRGD
from dsg.samplers.tfg import TFG
from dsg.schedule import NoiseSchedule, linear_betas
from dsg.types import Data, to_tensor, to_uint8

SIDE = 32
KERNELS = [
    dict(kernel="ddim", eta=1.0),
    dict(kernel="ddim", eta=0.0),
    dict(kernel="ddpm", variance="fixed_small"),
    dict(kernel="freedom", eta=0.5),
]


class GaussianPrior(Prior):
    """x0 ~ N(0, s^2 I): eps is known in closed form."""

    schedule, shape, weights_hash, s = NoiseSchedule(linear_betas()), (3, SIDE, SIDE), "none", 0.5

    def predict(self, x, t, prompts=None):
        ab = self.schedule.alpha_bar[t].item()
        return Prediction(x * math.sqrt(1 - ab) / (ab * self.s**2 + 1 - ab))


class Pull:
    """Loss |x0 - condition| per image."""

    def loss(self, x0, condition):
        return (x0 - condition).flatten(1).norm(dim=1)


def start(batch=4, seed=0):
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def keyed(x):
    return lambda index, repeat=0, purpose="step": standard_normal(x.shape, index, repeat, purpose)


@pytest.mark.parametrize("options", KERNELS[:3])  # freedom's replaces too much of eps to keep the marginals exactly
def test_every_kernel_ends_at_the_prior_s_standard_deviation(options):
    x = sample(
        GaussianPrior(), None, None, Unconditional(steps=200, clip_denoised=False, **options), start(), keyed(start())
    )
    assert abs(x.std().item() - 0.5) < 0.02
    assert abs(x.mean().item()) < 0.02


@pytest.mark.parametrize("options", KERNELS)
def test_one_step_of_the_exact_prior_has_the_kernel_s_variance(options):
    seen = []
    sample(
        GaussianPrior(),
        None,
        None,
        Unconditional(steps=10, clip_denoised=False, **options),
        start(),
        keyed(start()),
        seen.append,
    )
    for s in seen[:-1]:
        if s.sigma > 0:
            assert abs((s.x_prev - s.mean).std().item() / s.sigma - 1) < 0.02
    assert seen[-1].sigma == 0


def test_spacings():
    schedule = NoiseSchedule(linear_betas())
    assert schedule.timesteps(5, "linspace") == [0, 250, 500, 749, 999]
    assert schedule.timesteps(5, "leading") == [0, 200, 400, 600, 800]
    latent = NoiseSchedule(linear_betas(), steps_offset=1, final_alpha_bar=0.9)
    assert latent.timesteps(5, "leading") == [1, 201, 401, 601, 801]
    assert latent.steps(5, "leading")[-1].alpha_bar_prev == 0.9


def test_dsg_stays_on_the_sphere_and_dps_does_not():
    target = torch.ones(4, 3, SIDE, SIDE)
    for sampler, exact in ((DPS(steps=20, spherical=True), True), (DPS(steps=20, step_size=5.0), False)):
        off = []
        sample(
            GaussianPrior(),
            Pull(),
            target,
            sampler,
            start(),
            keyed(start()),
            lambda s, off=off: (
                off.append(
                    ((s.x_prev - s.mean).flatten(1).norm(dim=1) / (math.sqrt(s.x_t[0].numel()) * s.sigma) - 1)
                    .abs()
                    .max()
                )
                if s.sigma
                else None
            ),
        )
        assert (max(off) < 1e-4) == exact


@pytest.mark.parametrize("method", [DPS, FreeDoM, MPGD])
@pytest.mark.parametrize("spherical", [False, True])
def test_guidance_lowers_the_loss(method, spherical):
    target = 0.3 * torch.ones(4, 3, SIDE, SIDE)
    plain = sample(GaussianPrior(), None, None, Unconditional(steps=20), start(), keyed(start()))
    guided = sample(
        GaussianPrior(), Pull(), target, method(steps=20, step_size=4.0, spherical=spherical), start(), keyed(start())
    )
    assert (Pull().loss(guided, target) < 0.9 * Pull().loss(plain, target)).all()


def test_interval_and_window_choose_the_guided_steps():
    seen = []
    sampler = DPS(steps=10, interval=3, window=[100, 800])
    sample(GaussianPrior(), Pull(), torch.zeros_like(start()), sampler, start(), keyed(start()), seen.append)
    assert [s.index for s in seen if s.gradient is not None] == [6, 3]
    assert all(s.loss is None for s in seen if s.gradient is None)


def test_travel_repeats_steps_of_its_window_with_noise_of_its_own():
    calls, seen = [], []

    def noise(index, repeat=0, purpose="step"):
        calls.append((index, repeat, purpose))
        return standard_normal(start().shape, index, repeat, purpose)

    sampler = FreeDoM(steps=10, spacing="leading", travel=dict(repeats=3, window=[400, 500]))
    sample(GaussianPrior(), Pull(), torch.zeros_like(start()), sampler, start(), noise, seen.append)
    assert [(s.index, s.repeat) for s in seen if s.t == 500] == [(5, 0), (5, 1), (5, 2)]
    assert [c for c in calls if c[2] == "travel"] == [
        (5, 0, "travel"),
        (5, 1, "travel"),
        (4, 0, "travel"),
        (4, 1, "travel"),
    ]


def test_mpgd_takes_no_gradient_through_the_network():
    class Counting(GaussianPrior):
        def predict(self, x, t, prompts=None):
            assert not torch.is_grad_enabled()
            return super().predict(x, t)

    sample(Counting(), Pull(), torch.zeros_like(start()), MPGD(steps=5, step_size=1.0), start(), keyed(start()))
    sample(Counting(), Pull(), torch.zeros_like(start()), DPS(steps=5, window=[-1, -1]), start(), keyed(start()))


@pytest.mark.parametrize(
    "option, value",
    [
        ("steps", 1),
        ("eta", 1.5),
        ("guidance_rate", -0.1),
        ("interval", 0),
        ("step_size", -1.0),
        ("kernel", "euler"),
        ("spacing", "quadratic"),
        ("variance", "large"),
        ("window", [5, 1]),
        ("steps", 2.5),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"sampler.{option}="):
        DPS(**{option: value})


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("dps", "freedom", "freedom_dsg")]


@pytest.mark.parametrize("name", ["dps_dsg", "mpgd", "mpgd_dsg", *SLOWER])
def test_a_batch_is_its_images_one_by_one(avatars, name):
    config = compose_config("task=gaussian_deblur", f"sampler={name}", "sampler.steps=10")
    task, sampler = instantiate(config.task), instantiate(config.sampler)
    inputs = task.inputs(Data(config.data.root, 4), avatars.shape)
    x, ids = to_tensor([i.truth for i in inputs]), [i.id for i in inputs]

    def restore(part):
        noise = ImageNoise(0, ids[part], [0] * len(ids[part]), avatars.shape)
        out = sample(avatars, task, task.degrade(x[part], ids[part], 0), sampler, noise.start(), noise)
        return to_uint8(out).astype(int)

    together = restore(slice(0, 4))
    for i in range(4):
        assert abs(together[i] - restore(slice(i, i + 1))[0]).max() <= 2


def restored(prior, faces, ids, steps):
    """8-bit images of DPS with DSG on random inpainting, from 64 px faces."""
    config = compose_config(f"sampler.steps={steps}")
    task, sampler = instantiate(config.task), instantiate(config.sampler)
    x = to_tensor(faces)[:, :, : prior.shape[1], : prior.shape[2]]
    noise = ImageNoise(0, ids, [0] * len(ids), prior.shape)
    out = sample(prior, task, task.degrade(x, ids, 0), sampler, noise.start(), noise)
    return to_uint8(out).astype(int)


@pytest.mark.parametrize(
    "which, count, steps", [pytest.param("avatars", 16, 6, marks=pytest.mark.slow), ("tiny_prior", 5, 8)]
)
def test_neither_the_batch_nor_the_order_changes_an_image(request, which, count, steps):
    """Also on a prior whose clamped x0 amplifies every rounding (the recorded network, random weights)."""
    prior = request.getfixturevalue(which)
    inputs = instantiate(compose_config().task).inputs(Data("data/avatars64/test", count), (3, 64, 64))
    faces, ids = [i.truth for i in inputs], [i.id for i in inputs]
    together = restored(prior, faces, ids, steps)
    backwards = restored(prior, faces[::-1], ids[::-1], steps)[::-1]
    assert abs(together - backwards).max() <= 2
    for i in range(0, count, 3):
        assert abs(together[i] - restored(prior, faces[i : i + 1], ids[i : i + 1], steps)[0]).max() <= 2


def test_a_non_finite_image_does_not_touch_the_others(avatars):
    class Broken(Pull):
        def loss(self, x0, condition):
            return super().loss(x0, condition) * torch.tensor([1.0, math.nan, 1.0])

    z = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    out = sample(avatars, Broken(), torch.zeros(3, 3, 64, 64), DPS(steps=3), z, keyed(z))
    whole = sample(avatars, Pull(), torch.zeros(3, 3, 64, 64), DPS(steps=3), z, keyed(z))
    assert torch.isnan(out[1]).any()
    torch.testing.assert_close(out[[0, 2]], whole[[0, 2]])


def test_the_norm_of_z_concentrates():
    """Laurent & Massart (2000): | |z|^2 - n | <= 2 sqrt(n x) + 2 x but with probability 2 exp(-x)."""
    n, x = 3 * 64 * 64, 6.0
    squares = standard_normal((500, n), "concentration").square().sum(1)
    assert ((squares - n).abs() <= 2 * math.sqrt(n * x) + 2 * x).float().mean() >= 1 - 2 * math.exp(-x) - 0.01
    assert squares.sqrt().std() / math.sqrt(n) < 0.02


# --- the contract


GUIDED = [
    DPS(steps=6),
    DPS(steps=6, spherical=True, interval=2),
    FreeDoM(steps=6, spherical=True, travel={"repeats": 2, "window": [300, 800]}),
    MPGD(steps=6),
    DiffRGD(steps=6, interval=2),
    TFG(steps=6, smoothing_samples=2, travel={"repeats": 2, "window": [300, 800]}),
]


@pytest.mark.parametrize("sampler", GUIDED, ids=lambda s: s.name)
def test_a_sampler_s_cost_is_what_it_asks_of_the_network(sampler):
    prior = CountedPrior(GaussianPrior())
    sample(prior, Pull(), torch.zeros_like(start()), sampler, start(), keyed(start()))
    assert (prior.forward_passes, prior.backward_passes) == sampler.cost(prior.schedule)


@pytest.mark.parametrize("kernel", [dict(kernel="ddim"), dict(kernel="ddpm", variance="fixed_small")])
def test_no_gradient_is_taken_that_is_not_used(kernel):
    """The last step takes no noise, so that DSG has no sphere there; its loss is told all the same. Without DSG it
    is guided."""
    for spherical, backward in ((True, 9), (False, 10)):
        prior, seen = CountedPrior(GaussianPrior()), []
        sampler = DPS(steps=10, spherical=spherical, **kernel)
        sample(prior, Pull(), torch.zeros_like(start()), sampler, start(), keyed(start()), seen.append)
        assert prior.backward_passes == backward
        assert (seen[-1].gradient is None) == spherical and seen[-1].loss is not None


def test_combine_sees_the_whole_step():
    seen = []

    class Spy(DPS):
        def combine(self, state):
            seen.append(state)
            return super().combine(state)

    sample(GaussianPrior(), Pull(), torch.zeros_like(start()), Spy(steps=3), start(), keyed(start()))
    assert len(seen) == 3
    for state in seen:
        assert state.x_t.shape == state.x0.shape == state.eps.shape == state.gradient.shape == start().shape
        noise = keyed(start())(state.index) if state.sigma else torch.zeros_like(start())
        torch.testing.assert_close(state.unguided, state.mean + state.sigma * noise)


@pytest.mark.parametrize("sampler", [*GUIDED, DPS(steps=6, kernel="ddim", eta=0.0)], ids=lambda s: f"{s.name} {s.eta}")
def test_draws_are_named_in_the_order_in_which_they_are_asked_for(sampler):
    asked = []

    def noise(index, repeat=0, purpose="step"):
        asked.append((purpose, index, repeat))
        return standard_normal(start().shape, index, repeat, purpose)

    sample(GaussianPrior(), Pull(), torch.zeros_like(start()), sampler, start(), noise)
    assert asked == sampler.draws(GaussianPrior.schedule) and (len(asked) >= 5 or sampler.eta == 0)


def test_scaling_by_the_text_is_refused_without_a_prior_that_takes_prompts():
    with pytest.raises(ValueError, match="sampler.scaling=text"):
        DPS(scaling="text").check(GaussianPrior(), Pull())


def test_every_image_of_diffrgd_moves_alone():
    target = 0.3 * torch.ones_like(start())
    together = sample(GaussianPrior(), Pull(), target, DiffRGD(steps=6), start(), keyed(start()))
    z = [keyed(start())(index) for index in range(6)]
    alone = sample(GaussianPrior(), Pull(), target[2:3], DiffRGD(steps=6), start()[2:3], lambda i, **_: z[i][2:3])
    torch.testing.assert_close(together[2:3], alone)


def test_diffrgd_stays_at_the_distance_that_the_noise_had():
    moved, seen = [], []

    class Spy(DiffRGD):
        def descend(self, prior, task, condition, mean, x, level):
            found = super().descend(prior, task, condition, mean, x, level)
            moved.append((mean, x, found[0]))
            return found

    sample(GaussianPrior(), Pull(), torch.ones_like(start()), Spy(steps=10), start(), keyed(start()), seen.append)
    assert len(moved) == 8 and [s.losses is not None for s in seen] == [True] * 8 + [False] * 2
    for mean, x, out in moved:
        torch.testing.assert_close(norm(out - mean), norm(x - mean))
        assert (norm(out - x) > 0.1).all()
    for state in seen[:8]:
        assert (state.losses[:, -1] < state.losses[:, 0]).all()


LABELS = {
    "unconditional": "unconditional", "dps": "DPS", "dps_dsg": "DPS + DSG", "additive": "DPS, additive",
    "freedom": "FreeDoM", "freedom_dsg": "FreeDoM + DSG", "freedom_additive": "FreeDoM, additive",
    "mpgd": "MPGD", "mpgd_dsg": "MPGD + DSG", "mpgd_additive": "MPGD, additive",
    "diffrgd": "DiffRGD", "trust": "Trust Sampling", "daps": "DAPS", "diffpir": "DiffPIR", "reddiff": "RED-diff",
    "prox": "proximal", "prox_dsg": "proximal + DSG", "prox_additive": "proximal, additive", "pigdm": "PiGDM",
    "pigdm_dsg": "PiGDM + DSG", "tfg": "TFG", "tfg_dsg": "TFG + DSG", "tfg_additive": "TFG, additive",
    "sitcom": "SITCOM", "ddrm": "DDRM", "ddnm": "DDNM", "psld": "PSLD",
    "denoise_oracle": "posterior of the prior itself",
}  # fmt: skip


@pytest.mark.parametrize(("name", "label"), LABELS.items())
def test_every_sampler_says_its_label_and_its_control(name, label):
    sampler = instantiate(compose_config(f"sampler={name}", "task=denoise").sampler)
    assert sampler.label == label
    controls = {"dps_dsg": "additive", "freedom_dsg": "freedom_additive", "mpgd_dsg": "mpgd_additive"}
    controls |= {"prox_dsg": "prox_additive", "tfg_dsg": "tfg_additive"}
    assert sampler.control == controls.get(name)
    if sampler.control is not None:
        control = instantiate(compose_config(f"sampler={sampler.control}").sampler)
        assert control.base_method == sampler.base_method and control.control is None


def test_a_label_of_one_s_own_and_a_control_change_no_run_s_identity():
    plain, named = (compose_config(*o) for o in ((), ("sampler.label=Ours", "sampler.control=mpgd")))
    assert instantiate(named.sampler).label == "Ours"
    plain, named = (identity(OmegaConf.to_container(config), "weights", None) for config in (plain, named))
    assert plain == named and not {"label", "control"} & set(plain["sampler"])


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3])
def test_the_radius_is_a_factor_of_dsg_s_offset_from_the_mean(factor):
    dsg = DPS(steps=4, spherical=True, guidance_rate=0.3, clip_denoised=False)
    seen = []
    sample(GaussianPrior(), Pull(), torch.zeros_like(start()), dsg, start(), keyed(start()), seen.append)
    scaled = DPS(steps=4, spherical=True, guidance_rate=0.3, clip_denoised=False, radius=factor)
    for state in seen[:-1]:
        x_prev = scaled.combine(state)
        torch.testing.assert_close(x_prev, state.mean + factor * (state.x_prev - state.mean))
        lengths = norm(x_prev - state.mean).flatten() / (math.sqrt(start()[0].numel()) * state.sigma)
        torch.testing.assert_close(lengths, torch.full((4,), factor), rtol=1e-4, atol=0)
        torch.testing.assert_close(replace(state, x_prev=x_prev).measured_radius, lengths)
        state.gradient[0] = 0  # an image without a gradient takes the unguided step
        assert torch.equal(scaled.combine(state)[0], (state.mean + (state.unguided - state.mean))[0])


def test_radius_1_is_dsg_to_the_byte_and_the_same_run():
    plain, one, less = (
        compose_config("sampler=dps_dsg", *o) for o in ((), ("sampler.radius=1",), ("sampler.radius=.9",))
    )
    owners = [identity(OmegaConf.to_container(config), "weights", None) for config in (plain, one, less)]
    assert owners[0] == owners[1] and "radius" not in owners[0]["sampler"]
    assert owners[2]["sampler"]["radius"] == 0.9
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="sampler.radius"):
            DPS(spherical=True, radius=wrong)
