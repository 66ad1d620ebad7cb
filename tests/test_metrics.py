"""Metrics: against cases that can be worked out by hand, and against the reference packages."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, compose_config
from hydra.utils import instantiate

from dsg.metrics.base import at_once, in_parts
from dsg.metrics.distribution import EvaluatorFrechet, frechet_distance
from dsg.metrics.image import BACKBONES, LPIPS, PSNR, SSIM, HaarPSI, lpips_network
from dsg.metrics.semantic import load_evaluator
from dsg.statistics import mean_interval
from dsg.types import Input


def random_images(count=2, size=64):
    return np.random.default_rng(0).integers(40, 200, (count, size, size, 3)).astype(np.uint8)


def inputs_of(truths):
    return [Input(f"{i}", truth=truth) for i, truth in enumerate(truths)]


def test_metrics_by_hand():
    truths = random_images()
    shifted = truths + np.uint8(10)
    images = np.stack([truths[0], shifted[1]])
    assert PSNR()(images, inputs_of(truths))[1] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    ssim, haarpsi = (metric(images, inputs_of(truths)) for metric in (SSIM(), HaarPSI()))
    assert ssim[0] == pytest.approx(1, abs=1e-5) and haarpsi[0] == pytest.approx(1, abs=1e-5)
    assert ssim[1] == pytest.approx(SSIM()(shifted[1:], inputs_of(truths[1:]))[0], abs=1e-6) and ssim[1] < 1


def test_a_metric_gets_fewer_images_at_a_time_the_larger_they_are():
    truths = random_images(5, 512)
    sizes = []

    class Counting(PSNR):
        def __call__(self, images, inputs):
            sizes.append((len(images), len(inputs)))
            return super().__call__(images, inputs)

    shifted = truths + np.uint8(10)
    assert in_parts(Counting(), shifted, inputs_of(truths)) == PSNR()(shifted, inputs_of(truths))
    assert sizes == [(4, 4), (1, 1)]
    assert (at_once(64, 64), at_once(256, 256), at_once(4096, 4096)) == (64, 16, 1)


def test_metrics_of_the_truth_ask_for_one():
    assert PSNR().applies(inputs_of(random_images()))
    assert not PSNR().applies([Input("a", measurement=random_images()[0])])


@pytest.fixture
def random_backbone(tmp_path, request):
    """A file with random weights in torchvision's names, and the features that hold them."""
    torch.manual_seed(0)
    features = {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}[request.param]().features.eval()
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, tmp_path / "backbone.pth")
    lpips_network.cache_clear()
    return request.param, tmp_path / "backbone.pth", features


@pytest.mark.parametrize("random_backbone", ["alex", "vgg"], indirect=True)
def test_lpips_is_the_package_s_on_the_backbone_in_its_name(random_backbone, monkeypatch):
    import lpips

    net, file, features = random_backbone
    metric = LPIPS(net, str(file))
    assert metric.name == f"lpips_{net}" and metric.missing() is None
    assert metric.fingerprint != LPIPS(net, str(file.with_name("other.pth"))).fingerprint  # numbers of other weights
    truths, images = random_images(), random_images()[::-1].copy()
    found = metric(images, inputs_of(truths))
    name = {"vgg": "vgg16", "alex": "alexnet"}[net]
    monkeypatch.setattr(lpips.pretrained_networks.tv, name, lambda **_: SimpleNamespace(features=features))
    reference = lpips.LPIPS(net=net, version="0.1", verbose=False).eval()
    x, y = (torch.from_numpy(a).permute(0, 3, 1, 2).float() / 127.5 - 1 for a in (images, truths))
    with torch.no_grad():
        expected = reference(x, y).flatten()
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-6)
    assert (expected > 0.01).all()


@pytest.mark.parametrize("net", list(BACKBONES))
def test_a_missing_backbone_is_said_with_the_command_that_gets_it(monkeypatch, tmp_path, net):
    """Nothing is downloaded in a run."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert f"fetch_checkpoints.py lpips_{net}" in LPIPS(net).missing()


def test_intervals_have_the_width_of_the_standard_error():
    values = np.random.default_rng(1).standard_normal(400)
    mean, low, high = mean_interval(np.append(values, np.nan))
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert np.isnan(mean_interval(np.array([np.nan]))).all()


def test_frechet_distance_against_closed_forms():
    rng = np.random.default_rng(2)
    m1, m2 = rng.standard_normal((2, 6))
    c1, c2 = (a @ a.T for a in rng.standard_normal((2, 6, 6)))
    assert frechet_distance(m1, c1, m1, c1) == pytest.approx(0, abs=1e-9)
    low = c1[:, :2] @ c1[:, :2].T  # rank 2 of 6
    assert frechet_distance(m1, low, m1, low) == pytest.approx(0, abs=1e-4)
    a, b = rng.random((2, 6))
    diagonal = np.square(m1 - m2).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_distance(m1, np.diag(a), m2, np.diag(b)) == pytest.approx(diagonal)
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    expected = np.square(m1 - m2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [-np.eye(3), np.triu(np.ones((3, 3))), np.full((3, 3), np.nan)])
def test_frechet_distance_refuses_what_is_no_covariance(wrong):
    for first, second in ((wrong, np.eye(3)), (np.eye(3), wrong)):
        with pytest.raises(ValueError, match="covariance"):
            frechet_distance(np.zeros(3), first, np.zeros(3), second)


def test_the_evaluator_s_frechet_distance_is_small_for_real_faces_and_large_for_noise():
    """Of few images it is biased upwards; with half of the test faces as statistics the formula itself is checked
    above."""
    from PIL import Image

    metric = EvaluatorFrechet("checkpoints/avatars64/evaluator", smallest=64)
    faces = [np.asarray(Image.open(f).convert("RGB")) for f in sorted((ROOT / "data/avatars64/test").glob("*.png"))]
    faces = np.stack(faces)
    real, noise = metric(faces), metric(random_images(256))
    assert 0 < real < 15 and noise > 10 * real
    features = load_evaluator("checkpoints/avatars64/evaluator").features(faces)
    assert features.shape[0] == len(faces) and features.ndim == 2


def test_a_metric_s_config_builds_it_under_its_own_name():
    config = compose_config("metrics=[psnr,ssim,haarpsi,lpips_vgg,lpips_alex,evaluator_frechet]")
    built = {name: instantiate(metric) for name, metric in config.metrics.items()}
    assert all(metric.name == name for name, metric in built.items()) and len(built) == 6
    assert {metric.scope for metric in built.values()} == {"image", "set"}
