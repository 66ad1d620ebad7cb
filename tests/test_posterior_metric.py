"""The distance of a run's samples to the exact posterior: its draws, its floor, when there is none."""

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from dsg.config import load_with_sources
from dsg.metrics.posterior import SlicedWasserstein
from dsg.priors.gaussian_mixture import seeded
from dsg.priors.mixture_posterior import PosteriorDraws, posterior
from dsg.runs.evaluation import add_metrics
from dsg.runs.prepare import prepare


def test_draws_are_those_of_the_dense_posterior():
    prior = seeded(dimension=6, components=3, rank=2, floor=0.2, spread=0.4, scale=0.7)
    a = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0.3, -0.2], dtype=torch.float64)
    draws, dense = PosteriorDraws(prior, a, y, 0.3), posterior(prior, a, y, 0.3)
    torch.testing.assert_close(draws.weights, dense.weights)
    assert draws.deviation == pytest.approx((dense.dense_covariance().trace().item() / 6) ** 0.5)
    x = draws.sample(100_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.mean(0), dense.mean(), rtol=0, atol=0.01)
    torch.testing.assert_close(torch.cov(x.T), dense.dense_covariance(), rtol=0, atol=0.01)
    with pytest.raises(ValueError, match="without noise"):
        PosteriorDraws(prior, a, y, 0.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A mixture of images of 4 px, well inside [-1, 1]: the overrides that choose it."""
    file = tmp_path_factory.mktemp("mixture") / "small.safetensors"
    g = torch.Generator().manual_seed(0)
    factors = 0.1 * torch.randn(2, 48, 3, generator=g, dtype=torch.float64)
    means = 0.2 * torch.randn(2, 48, generator=g, dtype=torch.float64)
    save_file({"weights": torch.ones(2).double(), "means": means, "factors": factors,
               "floor": torch.tensor(0.15).double()}, file)  # fmt: skip
    return ["model=gaussian_mixture", f"model.checkpoint={file}", "model.shape=[3,4,4]", "data.limit=2"]


def run_of(small, out, *options):
    config, sources = load_with_sources([*small, "wandb.mode=disabled", *options])
    return prepare(config, sources, out)


def found_by(small, out, *options):
    run = run_of(small, out, "samples=32", "metrics=[sliced_wasserstein]", *options)
    assert run.execute() == []
    return run.results.summary()["set_metrics"]["sliced_wasserstein"]


def test_an_exact_sampler_reaches_the_floor_and_an_unguided_one_does_not(small, tmp_path):
    denoise = ["task=denoise", f"data.root={ROOT / 'data/avatars64/val'}"]
    exact = found_by(small, tmp_path / "exact", *denoise, "sampler=denoise_oracle", "sampler.steps=60")
    unguided = found_by(small, tmp_path / "not", *denoise, "sampler=unconditional", "sampler.steps=20")
    assert exact["images"] == 2 * 32 and exact["floor"] == unguided["floor"] > 0.1
    assert exact["value"] < 1.15 * exact["floor"] and unguided["value"] > 2 * exact["floor"]
    assert exact["low"] <= exact["value"] <= exact["high"]


def test_it_can_be_added_to_a_finished_run(small, tmp_path):
    usual = ["task=super_resolution", "sampler=mpgd_dsg", "sampler.steps=5", "samples=16"]
    run = run_of(small, tmp_path / "now", *usual, "metrics=[sliced_wasserstein]")
    run.execute()
    later = run_of(small, tmp_path / "later", *usual, "metrics=[]")
    later.execute()
    assert add_metrics(tmp_path / "later", ["sliced_wasserstein"], {}) == {}
    assert later.results.summary()["set_metrics"] == run.results.summary()["set_metrics"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["task=denoise"], "samples=1: it takes 16 or more"),
        (["task=denoise", "task.sigma=0", "samples=16"], "the posterior of task=denoise is not known"),
        (["task=hdr", "samples=16"], "the posterior of task=hdr is not known"),
    ],
)
def test_where_there_is_none_it_says_why(small, tmp_path, options, words):
    run = run_of(small, tmp_path / "o", *options, "sampler.steps=2")
    (metric,) = [metric for metric in run.metrics if metric.name == "sliced_wasserstein"]  # by default, of this prior
    assert words in metric.missing()


def test_of_another_prior_nothing_is_known(tmp_path):
    run = run_of(["model=avatars64", "data.limit=1"], tmp_path / "o", "samples=16", "metrics=[sliced_wasserstein]")
    assert run.metrics[0].missing() == "the posterior of model=avatars64 is not known"
    assert SlicedWasserstein().missing() == "it belongs to a run"
