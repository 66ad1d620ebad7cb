"""FID and KID: against torch-fidelity and pytorch-fid with the same random network, and against closed forms."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config
from hydra.utils import instantiate
from PIL import Image

from dsg.metrics import inception as inception_module
from dsg.metrics.distribution import FID, KID, EvaluatorFrechet, kernel_distance
from dsg.metrics.inception import Inception, Reference, folder_features, save_statistics

fidelity = pytest.importorskip("torch_fidelity")
COUNT = 8


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with a random Inception, in the names of pytorch-fid's."""
    file, generator = tmp_path_factory.mktemp("inception") / "random.pth", torch.Generator().manual_seed(0)
    state = torch.load(_released_names(file), weights_only=True)
    for name, value in state.items():
        if name.endswith("conv.weight"):  # keeps the size of the activations
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
    torch.save(state, file)
    return str(file)


def _released_names(file):
    """A state dict of the network as torch-fidelity has it, without its weights."""
    original = fidelity.FeatureExtractorInceptionV3.load_state_dict
    fidelity.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    try:
        torch.save({}, file)
        net = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(file))
    finally:
        fidelity.FeatureExtractorInceptionV3.load_state_dict = original
    torch.save(net.state_dict(), file)
    return file


def random_images(seed, size=40, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (COUNT, size, size, 3)).astype(np.uint8)


OURS, REAL = random_images(0), random_images(1, low=60, high=200)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "real").mkdir()
    for i, image in enumerate(REAL):
        Image.fromarray(image).save(tmp_path / f"real/{i}.png")
    return tmp_path / "real"


@pytest.fixture
def few_features(monkeypatch):
    """Mean and spread of each colour instead of the network's features, where those do not matter."""

    def features(self, images):
        pixels = np.stack(images).reshape(len(images), -1, 3) / 255
        return np.concatenate([pixels.mean(1), pixels.std(1)], axis=1) + (self.resize == "pytorch")

    monkeypatch.setattr(Inception, "features", features)


def reference_features(weights, images):
    net = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=weights)
    with torch.no_grad():
        return net(torch.from_numpy(images).permute(0, 3, 1, 2))[0]


def test_features_are_torch_fidelity_s(weights):
    found = Inception(weights).features(OURS)
    expected = reference_features(weights, OURS)
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=1e-4, atol=1e-5)
    assert expected.std(0).mean() > 1e-3  # the random network tells images apart


def test_features_with_pytorch_s_resize_are_pytorch_fid_s(weights, monkeypatch):
    released = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(released, "load_state_dict_from_url", lambda *_, **__: torch.load(weights, weights_only=True))
    net = released.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(OURS).permute(0, 3, 1, 2).float() / 255)[0].flatten(1)
    found = Inception(weights, "pytorch").features(OURS)
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - Inception(weights).features(OURS)).max() > 1e-3  # the resize matters


@pytest.mark.slow
def test_fid_and_kid_are_torch_fidelity_s(weights, folder):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    ours, real = reference_features(weights, OURS), reference_features(weights, REAL)
    expected = fid_statistics_to_metric(fid_features_to_statistics(ours), fid_features_to_statistics(real), False)
    found = FID(str(folder), weights=weights, smallest=2)(OURS)
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-3) and found > 1e-3
    expected = kid_features_to_metric(ours, real, kid_subsets=5, kid_subset_size=6, verbose=False)
    found = KID(str(folder), weights=weights, smallest=6, subsets=5, subset_size=6)(OURS)
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)


def test_the_kernel_distance_by_hand():
    x, y = np.array([[1.0, 1.0], [-1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    # kernels off the diagonal: x.x' = 0; y.y' = 0; x.y = 1, 2, 0, -1, 2, 0
    between = (1.5**3 + 2**3 + 1 + 0.5**3 + 2**3 + 1) / 6
    assert kernel_distance(x, y) == pytest.approx(1 + 1 - 2 * between)


def test_the_kernel_distance_has_no_bias():
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.standard_normal((2, 20, 16))) for _ in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20


def test_saved_statistics_stand_for_their_folder_and_remember_the_resize(weights, folder, tmp_path, few_features):
    file = tmp_path / "real.npz"
    save_statistics(folder, None, Inception(weights), file)
    for metric in (FID, KID):
        options = {"weights": weights, "smallest": 4} | ({"subset_size": 4, "subsets": 3} if metric is KID else {})
        of_folder, of_file = metric(str(folder), **options)(OURS), metric(str(file), **options)(OURS)
        assert of_file == pytest.approx(of_folder, rel=1e-3)
    with pytest.raises(ValueError, match="made with resize"):
        FID(str(file), resize="pytorch", weights=weights, smallest=4)(OURS)
    with pytest.raises(FileExistsError):
        save_statistics(folder, None, Inception(weights), file)
    assert list(tmp_path.glob("*.partial")) == []
    with np.load(file) as data:
        assert json.loads(str(data["made_with"]))["images"] == COUNT


def test_published_statistics_do_for_fid_but_not_for_kid(weights, folder, tmp_path, few_features):
    statistics = Reference(str(folder)).statistics(Inception(weights))
    np.savez(tmp_path / "published.npz", mu=statistics.mean, sigma=statistics.covariance)
    expected = FID(str(folder), weights=weights, smallest=2)(OURS)
    assert FID(str(tmp_path / "published.npz"), weights=weights, smallest=2)(OURS) == pytest.approx(expected)
    assert "has no features" in KID(str(tmp_path / "published.npz"), weights=weights).missing()


@pytest.mark.parametrize("content", [b"", b"text", "mu"])
def test_what_holds_no_statistics_is_one_line(weights, tmp_path, content, few_features):
    file = tmp_path / "wrong.npz"
    if content == "mu":
        np.savez(file, mu=np.zeros(3), sigma=np.zeros(3))
    else:
        file.write_bytes(content)
    assert "wrong.npz" in FID(str(file), weights=weights, smallest=2).missing()


def test_the_reference_s_size_is_a_setting_that_changes_the_number(weights, folder, few_features):
    whole, reduced = (FID(str(folder), reference_size=size, weights=weights, smallest=2) for size in (None, 20))
    assert whole.settings()["reference_prepared"] == "as it is"
    assert reduced.settings()["reference_prepared"] == "central square of 20 px"
    assert whole.fingerprint != reduced.fingerprint
    assert abs(whole(OURS) - reduced(OURS)) > 1e-6


def test_images_of_the_reference_are_read_as_those_of_a_run(tmp_path, monkeypatch):
    """Flattened on white, upright, 16 bits as 8."""
    Image.new("RGBA", (6, 6), (0, 0, 0, 0)).save(tmp_path / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter
    Image.new("RGB", (4, 8)).save(tmp_path / "b.png", exif=turned)
    Image.fromarray(np.full((6, 6), 0x8000, np.uint16)).save(tmp_path / "c.png")
    seen = []
    monkeypatch.setattr(Inception, "features", lambda self, images: seen.extend(images) or np.zeros((len(images), 1)))
    folder_features(tmp_path, None, Inception())
    assert [image.shape for image in seen] == [(6, 6, 3), (4, 8, 3), (6, 6, 3)]
    assert (seen[0] == 255).all() and (seen[2] == 0x80).all()


def test_a_reference_image_that_claims_to_be_huge_is_one_line(folder, monkeypatch, few_features):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="0.png cannot be read as an image: .* decompression bomb"):
        FID(str(folder), smallest=2)(OURS)


def test_settings_say_how_it_was_computed_and_change_with_the_reference(weights, folder):
    names = {"features", "weights", "resize", "reference", "reference_prepared", "reference_hash"}
    assert set(FID(str(folder), weights=weights).settings()) == names
    before = FID(str(folder), weights=weights).fingerprint
    (folder / "0.png").unlink()
    assert FID(str(folder), weights=weights).fingerprint != before


def test_what_is_missing_is_said(tmp_path, weights, folder, monkeypatch):
    assert "needs a reference set" in FID().missing()
    assert "fetch_checkpoints.py fid_inception" in FID(str(folder), weights=str(tmp_path / "none.pth")).missing()
    assert "no reference set at" in KID(str(tmp_path / "none"), weights=weights).missing()
    assert FID(str(folder), weights=weights).missing() is None
    assert f"has {COUNT} images; kid.subset_size=500" in KID(str(folder), weights=weights).missing()
    (tmp_path / "empty").mkdir()
    assert "no images in it" in FID(str(tmp_path / "empty"), weights=weights).missing()
    for folder_without in ("none", "empty"):
        assert FID(str(tmp_path / folder_without), weights=str(tmp_path / "none.pth")).fingerprint  # tables ask for it
    monkeypatch.setattr(inception_module, "find_spec", lambda name: None)
    assert "pip install torch-fidelity" in FID(str(folder), weights=weights).missing()


def test_the_evaluator_s_weights_and_statistics_are_settings(tmp_path):
    evaluator = shutil.copytree(ROOT / "checkpoints/avatars64/evaluator", tmp_path / "evaluator")
    prints = {EvaluatorFrechet(str(evaluator)).fingerprint}
    for name in ("labels.safetensors", "statistics.safetensors"):
        with open(evaluator / name, "ab") as file:
            file.write(b" ")
        prints.add(EvaluatorFrechet(str(evaluator)).fingerprint)
    assert len(prints) == 3
    (evaluator / "statistics.safetensors").unlink()
    assert "statistics.safetensors" in EvaluatorFrechet(str(evaluator)).missing()
    assert EvaluatorFrechet(str(evaluator)).fingerprint  # tables ask for it


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_inception_computes_on_the_run_s_device(device, folder, monkeypatch):
    """And on no other that the machine has."""

    class Asked(Exception):
        pass

    class Network:
        def to(self, device):
            raise Asked(str(device))

    monkeypatch.setattr(inception_module, "_trunk", lambda file: Network())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cpu")
    bound = FID(str(folder)).of(SimpleNamespace(device=torch.device(device)))
    with pytest.raises(Asked, match=f"^{device}$"):
        bound(OURS)
    with pytest.raises(Asked, match=f"^{device}$"):
        bound.reference.statistics(bound.inception)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="resize=nearest is unknown: one of tensorflow, pytorch"):
        FID(resize="nearest")
    with pytest.raises(ValueError, match="kid.subset_size=500: from 2 to kid.smallest=400"):
        KID(smallest=400)


def test_the_configs_build_them():
    metrics = {name: instantiate(metric) for name, metric in compose_config("metrics=[fid,kid]").metrics.items()}
    assert {name: metric.smallest for name, metric in metrics.items()} == {"fid": 1000, "kid": 1000}
    assert all(metric.name == name and metric.scope == "set" for name, metric in metrics.items())
