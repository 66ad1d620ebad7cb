"""Pictures in and out, and the measures, on cases that can be worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from dsg import images, metrics
from dsg.results import Results


def gradient(width, height):
    """A picture that shows which way is up: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)


def test_exif_rotation_is_honoured(tmp_path):
    upright = Image.fromarray(gradient(80, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to see it upright"
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert (images.read(tmp_path / "a.png", 80).pixels == np.asarray(upright)).all()


def test_transparency_is_flattened_on_white(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32, :, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    read = images.read(tmp_path / "a.png", 64).pixels
    assert (read[:32] == 0).all() and (read[32:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "LA", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    value = 200
    pixels = np.full((64, 64), value * 257 if mode == "I;16" else value, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert abs(images.read(path, 64).pixels.astype(int) - value).max() <= 1


def test_the_centre_is_cropped_and_reduced_with_antialiasing(tmp_path):
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[:, 64:192][::2] = 255  # the central square: stripes of one pixel, the sides black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = images.read(tmp_path / "a.png", 64).pixels
    assert read.shape == (64, 64, 3)
    assert 120 <= read[4:-4].min() and read[4:-4].max() <= 135  # stripes average, no moire


def test_the_mask_is_cropped_with_its_picture(tmp_path):
    Image.fromarray(gradient(128, 64)).save(tmp_path / "a.png")
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 32:64] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    picture = images.read(tmp_path / "a.png", 64)
    read = images.read_mask(tmp_path / "m.png", picture, 64)[0, 0]
    assert (read[:, :32] == 1).all() and (read[:, 32:] == 0).all()


def test_what_is_missing_does_not_bleed_into_what_is_observed(tmp_path):
    """Damage of one pixel in a picture four times too large: what is observed after the reduction is untouched."""
    pixels, mask = np.full((256, 256, 3), 200, np.uint8), np.full((256, 256), 255, np.uint8)
    for array in (pixels, mask):
        array[::37], array[100:140, 60:90] = 0, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    picture = images.read(tmp_path / "a.png", 64, filter=images.AVERAGE)
    observed = images.read_mask(tmp_path / "m.png", picture, 64)[0, 0].bool().numpy()
    assert 0.5 < observed.mean() < 1
    assert (picture.pixels[observed] == 200).all()


def test_a_picture_may_be_called_na(tmp_path):
    results = Results(tmp_path / "o", {"a": 1}, {"b": 2})
    results.add([{"id": "NA", "image": "NA", "input": "null", "psnr": float("nan")}])
    table = Results(tmp_path / "o", {"a": 1}, {"b": 2}).table
    assert list(table["id"]) == ["NA"] and table["input"].iloc[0] == "null" and np.isnan(table["psnr"].iloc[0])


def test_eight_bits_survive_the_tensor(tmp_path):
    Image.fromarray(gradient(64, 64)).save(tmp_path / "a.png")
    picture = images.read(tmp_path / "a.png", 64)
    assert (images.to_uint8(images.to_tensor([picture]))[0] == picture.pixels).all()


def test_ids_are_paths(tmp_path):
    (tmp_path / "b/c").mkdir(parents=True)
    for name in ("z.png", "b/y.png", "b/c/x.png"):
        Image.fromarray(gradient(64, 64)).save(tmp_path / name)
    assert list(images.find(tmp_path)) == ["b__c__x", "b__y", "z"]


def test_measures_by_hand():
    rng = np.random.default_rng(0)
    truth = rng.integers(40, 200, (2, 64, 64, 3)).astype(np.uint8)
    shifted = truth + np.uint8(10)
    measured = metrics.measure(np.stack([truth[0], shifted[1]]), truth)
    assert measured["psnr"][1] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert measured["ssim"][0] == pytest.approx(1, abs=1e-5) and measured["haarpsi"][0] == pytest.approx(1, abs=1e-5)
    alone = metrics.measure(shifted[1:], truth[1:])
    assert measured["ssim"][1] == pytest.approx(alone["ssim"][0], abs=1e-6) and measured["ssim"][1] < 1


def test_bootstrap_intervals_have_the_width_of_the_standard_error():
    values = np.random.default_rng(1).standard_normal(400)
    mean, low, high = metrics.bootstrap(np.append(values, np.nan))
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert np.isnan(metrics.bootstrap(np.array([np.nan]))).all()


def test_missing_lpips_weights_are_one_line_and_an_empty_column(monkeypatch, tmp_path, capsys):
    """As without a network: the backbone's weights can be had nowhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    metrics.lpips_network.cache_clear()
    x = torch.zeros(1, 64, 64, 3).byte().numpy()
    assert np.isnan(metrics.measure(x, x)["lpips"][0]) and np.isnan(metrics.measure(x, x)["lpips"][0])
    metrics.lpips_network.cache_clear()
    assert capsys.readouterr().err.count("cannot be had") == 1


def test_frechet_distance_against_closed_forms():
    rng = np.random.default_rng(2)
    m1, m2 = rng.standard_normal((2, 6))
    c1, c2 = (a @ a.T for a in rng.standard_normal((2, 6, 6)))
    assert metrics.frechet_distance(m1, c1, m1, c1) == pytest.approx(0, abs=1e-9)
    low = c1[:, :2] @ c1[:, :2].T  # rank 2 of 6
    assert metrics.frechet_distance(m1, low, m1, low) == pytest.approx(0, abs=1e-4)
    a, b = rng.random((2, 6))
    diagonal = np.square(m1 - m2).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert metrics.frechet_distance(m1, np.diag(a), m2, np.diag(b)) == pytest.approx(diagonal)
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    expected = np.square(m1 - m2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert metrics.frechet_distance(m1, c1, m2, c2) == pytest.approx(expected)
    assert metrics.frechet_distance(m2, c2, m1, c1) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [-np.eye(3), np.triu(np.ones((3, 3))), np.full((3, 3), np.nan)])
def test_frechet_distance_refuses_what_is_no_covariance(wrong):
    for first, second in ((wrong, np.eye(3)), (np.eye(3), wrong)):
        with pytest.raises(ValueError, match="covariance"):
            metrics.frechet_distance(np.zeros(3), first, np.zeros(3), second)
