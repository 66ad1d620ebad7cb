"""The parts of DSG one by one (switches of the loop), and what is made of them: the suite `factors`."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_samplers import GaussianPrior, Pull, keyed, start

from dsg.constraint import spherical_gaussian_step
from dsg.samplers import DPS, MPGD, sample
from dsg.samplers.ablations import subtracted_step
from dsg.studies.attribution import TOTAL, shares, weights
from dsg.studies.factors import Cell, Path, run_jobs, runs, theory_jobs
from dsg.suites.suite import load

N = start()[0].numel()
LOW = {"window": [0, 800], "clip_denoised": False}  # where x0 of the Gaussian prior is more than rounding


def draws():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(start().shape, generator=g) for _ in range(3)]


def norm(x):
    return x.flatten(1).norm(dim=1)


def guided(sampler):
    seen = []
    sample(GaussianPrior(), Pull(), torch.zeros_like(start()), sampler, start(), keyed(start()), seen.append)
    return seen


# --- the switches


@pytest.mark.parametrize("kernel", [{"kernel": "ddim"}, {"kernel": "ddpm", "variance": "fixed_small"}])
def test_the_additive_control_has_steps_of_the_sphere_s_length_and_no_sphere(kernel):
    """x_prev = mean + sigma z - rho sqrt(n) sigma g/|g|, and no guidance without noise."""
    *noisy, last = guided(DPS(steps=6, scaling="sphere", step_size=0.3, **kernel))
    for s in noisy:
        g = s.gradient / norm(s.gradient)[:, None, None, None]
        expected = s.mean + s.sigma * keyed(start())(s.index) - 0.3 * math.sqrt(N) * s.sigma * g
        torch.testing.assert_close(s.x_prev, expected, rtol=1e-5, atol=1e-5)
    assert last.gradient is None and torch.equal(last.x_prev, last.mean)


def test_scaled_by_the_residual_a_step_follows_half_the_squared_loss():
    for s in guided(DPS(steps=4, scaling="residual", step_size=0.2)):
        expected = s.unguided - 0.2 * s.loss[:, None, None, None] * s.gradient
        torch.testing.assert_close(s.x_prev, expected)


@pytest.mark.parametrize("rate", [0.1, 0.6, 1.0])
def test_all_parts_together_are_dsg(rate):
    mean, z, grad = draws()
    step = rate * math.sqrt(N) * 0.3 * grad / norm(grad)[:, None, None, None]
    ours = subtracted_step(mean, 0.3 * z, step, 0.3, projected=True, keeps_noise=False)
    torch.testing.assert_close(ours, spherical_gaussian_step(mean, 0.3 * z, grad, 0.3, rate), rtol=1e-4, atol=1e-5)


def test_on_the_sphere_keeping_the_noise_is_another_name_for_the_same_steps():
    """Projected, rate g without the noise and step size g/(1-g) with it go to the same point."""
    seen = [
        guided(DPS(steps=5, scaling="sphere", projected=True, keeps_noise=keeps, step_size=size, **LOW))
        for keeps, size in ((False, 0.2), (True, 0.25))
    ]
    for a, b in zip(*seen):
        torch.testing.assert_close(a.x_prev, b.x_prev, rtol=1e-4, atol=1e-4)


def test_the_switches_take_what_they_say():
    mean, z, grad = draws()
    deviation, radius = 0.3 * z, math.sqrt(N) * 0.3
    step = 0.4 * radius * grad / norm(grad)[:, None, None, None]
    projected = subtracted_step(mean, deviation, step, 0.3, True, True)
    torch.testing.assert_close(norm(projected - mean), torch.full((len(z),), radius), rtol=1e-4, atol=0)
    replaced = subtracted_step(mean, deviation, step, 0.3, False, False)
    torch.testing.assert_close(replaced, mean + 0.6 * deviation - step, rtol=1e-4, atol=1e-5)
    longer = subtracted_step(mean, deviation, 3 * step, 0.3, False, False)
    torch.testing.assert_close(longer, mean - 3 * step)  # no noise is left
    assert torch.equal(subtracted_step(mean, deviation, step, 0.3, False, True), mean + deviation - step)


def test_without_a_step_or_a_sphere_there_is_nothing_to_project():
    mean, z, grad = draws()
    sigma = torch.tensor([0.5, 0.0, 0.5, 0.5])
    step = 0.1 * grad
    step[0] = 0
    x = subtracted_step(mean, sigma[:, None, None, None] * z, step, sigma, True, True)
    assert torch.equal(x[0], mean[0] + 0.5 * z[0]) and torch.equal(x[1], mean[1] - step[1]) and torch.isfinite(x).all()


def test_beside_the_network_the_switches_are_the_same():
    """MPGD with DPS's spacing and eta is DPS with the gradient beside the network; on a prior that shrinks x by a
    number, only lengths differ, so that steps of the sphere's length agree."""
    through, beside = (guided(kind(steps=5, scaling="sphere", step_size=0.3, **LOW)) for kind in (DPS, MPGD))
    for a, b in zip(through, beside):
        torch.testing.assert_close(a.x_prev, b.x_prev, rtol=1e-3, atol=1e-3)


def test_what_a_switch_changes_nothing_of_is_said_and_its_value_is_searched_in_its_own_range():
    options = {"spherical": True, "kernel": "ddim"}
    assert {"projected", "keeps_noise", "scaling"} <= set(DPS.unused(options))
    assert DPS().tunable.start == 4.0 and DPS(scaling="sphere").tunable.start == 0.3
    assert DPS(scaling="sphere").tunable.high == math.inf
    assert DPS(scaling="sphere", keeps_noise=False).tunable.high == 1.0


# --- the suite

PATH = Path.of(
    "to DSG",
    {
        "from": {"gradient": "through the network", "length": "constant", "place": "added", "noise": "kept", "eta": 1},
        "to": {"length": "sphere", "place": "projected", "noise": "replaced"},
    },
)


def scores(of):
    """By cell, a number for each of 8 images."""
    images = np.random.default_rng(0).normal(0, 1, 8)
    return lambda cell: pd.Series(images + of(cell))


def test_of_parts_that_add_up_each_share_is_the_part_s_own():
    gains = {"length": 2.0, "place": 0.5, "noise": -0.25}
    ends = {"length": "sphere", "place": "projected", "noise": "replaced"}
    found = shares(PATH, scores(lambda c: sum(g for f, g in gains.items() if getattr(c, f) == ends[f])))
    assert {f: s.mean() for f, s in found.items()} == pytest.approx({**gains, TOTAL: 2.25})
    assert found["length"].std() == pytest.approx(0)  # image by image


def test_shares_add_up_to_the_whole_and_a_gain_of_two_together_is_halved():
    found = shares(PATH, scores(lambda c: 3.0 * (c.length == "sphere" and c.place == "projected")))
    assert {f: s.mean() for f, s in found.items()} == pytest.approx(
        {"length": 1.5, "place": 1.5, "noise": 0.0, TOTAL: 3.0}
    )
    middle = PATH.cell({"place"})
    failed = shares(PATH, lambda cell: scores(lambda c: 3.0)(cell)[int(cell == middle) :])  # an image, in one cell
    assert {len(one) for one in failed.values()} == {7}
    assert sum(failed[f].mean() for f in PATH.factors) == pytest.approx(failed[TOTAL].mean(), abs=1e-12)
    for factor in PATH.factors:
        assert sum(weights(PATH.factors, factor).values()) == pytest.approx(0)


def test_what_the_last_step_does_is_credited_to_no_part_that_leaves_it_alone_too():
    """The only gain is that of an unguided last step, which every cell on the sphere has."""
    path = Path.of("to DSG", {"from": vars(PATH.start), "to": {**vars(PATH.end), "last": "unguided"}})
    found = shares(path, lambda cell: scores(lambda c: 1.0 * (c.last == "unguided"))(cell.run))
    means = {f: s.mean() for f, s in found.items()}
    assert means == pytest.approx({"length": 0, "place": 0, "noise": 0, "last": 1.0, TOTAL: 1.0}, abs=1e-12)


def test_a_path_has_every_combination_and_runs_equal_ones_once():
    assert PATH.factors == ["length", "place", "noise"] and len(set(PATH.cells)) == 8
    assert len({cell.run for cell in PATH.cells}) == 7  # the sphere's length, projected: noise kept or not


def test_the_last_step_is_a_factor_where_it_can_be_guided():
    last = Path.of("last", {"from": vars(PATH.start), "to": {"last": "unguided"}})
    assert [cell.run.last for cell in last.cells] == ["guided", "unguided"]
    assert last.end.options["window"] == [0, 1000]  # t = 0 is outside
    on_a_sphere = Path.of("last", {"from": vars(PATH.end), "to": {"last": "unguided"}})
    assert len({cell.run for cell in on_a_sphere.cells}) == 1
    step = guided(DPS(steps=4, **last.end.options))[-1]
    assert step.gradient is None and guided(DPS(steps=4, **last.start.options))[-1].gradient is not None


@pytest.mark.parametrize("wrong", [{"length": "long"}, {"width": "wide"}, {}])
def test_unknown_factors_and_levels_are_named(wrong):
    levels = {"gradient": "through the network", "place": "added", "noise": "kept", "eta": 1}
    with pytest.raises(ValueError, match="paths: (length|width)"):
        Cell.of({"length": "sphere"} | levels | wrong if wrong else levels)


def test_the_suite_runs_every_cell_of_its_paths_on_images_and_mixtures(tmp_path):
    suite = load("factors", out=tmp_path, tasks=["inpaint"], steps=[20])
    suite.yaml["tuning"]["store"] = str(tmp_path)
    suite.yaml["paths"] = {"a": suite.yaml["paths"]["the additive control to DPS + DSG"]}
    suite.yaml["mixture"]["settings"].popitem()
    cells = runs(suite)
    jobs = run_jobs(suite)
    assert len(jobs) == len(cells) == len({job.key for job in jobs}) == len({job.search.key for job in jobs})
    (dsg,) = [j for j in jobs if j.report.value == "sphere,projected,replaced,eta1" and j.report.sampler == "dps"]
    sampler = dsg.report.sampler_object
    assert (sampler.scaling, sampler.projected, sampler.keeps_noise, sampler.eta) == ("sphere", True, False, 1.0)
    assert not sampler.spherical and sampler.spacing == "linspace" and sampler.tunable.high == 1.0
    mixtures = [job for job in theory_jobs(suite) if job.method != "exact"]
    assert len(cells) == 3 and len(mixtures) == 2 * 2 * len(cells)  # settings, steps
    assert {job.steps for job in mixtures} == set(suite.yaml["mixture"]["steps"])
    assert {job.build().through_network for job in mixtures if job.sampler == "dps"} == {True}
