"""`dsg.load` and `dsg.restore`."""

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import dsg

FACE = ROOT / "data/avatars64/test/00003.png"


def test_three_lines_restore_an_image():
    prior = dsg.load("avatars64")
    restored = dsg.restore(FACE, "inpaint", "dps_dsg", overrides=["sampler.steps=20"])
    truth = np.asarray(Image.open(FACE).convert("RGB")).astype(float)
    assert prior.shape == (3, 64, 64) and restored.image.shape == (64, 64, 3)
    error = np.square(restored.image - truth).mean()
    assert error < 0.2 * np.square(restored.measurement - truth).mean()


def test_an_image_that_is_degraded_already_is_restored_from_its_mask():
    face = np.asarray(Image.open(FACE).convert("RGB")).copy()
    mask = np.ones((64, 64), np.uint8)
    mask[20:30, 20:30] = 0
    face[mask == 0] = 128
    restored = dsg.restore(face, overrides=["sampler.steps=20"], degraded=True, mask=mask).image
    observed = mask == 1
    assert np.abs(restored[observed].astype(float) - face[observed]).mean() < 12


def test_an_array_of_another_kind_is_one_line():
    with pytest.raises(ValueError, match="uint8"):
        dsg.restore(np.zeros((64, 64)))


def test_a_mask_of_one_s_own_is_what_degrades():
    mask = np.ones((64, 64), np.uint8)
    mask[20:30, 20:30] = 0
    measured = dsg.restore(FACE, overrides=["sampler.steps=2", "task.sigma=0.0"], mask=mask).measurement
    face = np.asarray(Image.open(FACE).convert("RGB"))
    assert (measured[mask == 1] == face[mask == 1]).all() and (measured[mask == 0] == 128).all()


SMALL, LARGE = (np.zeros((side, side, 3), np.uint8) for side in (16, 80))
ALL = np.ones((64, 64), np.uint8)


@pytest.mark.parametrize(
    "words, image, options",
    [
        ("task=faceid restores no image", FACE, {"task": "faceid"}),
        ("a measurement is no image", FACE, {"task": "phase_retrieval", "degraded": True}),
        ("the image is 80x80, and that of task=super_resolution 16x16", LARGE, {"task": "super_resolution"}),
        ("the image is 80x80, and that of task=inpaint 64x64", LARGE, {"mask": ALL}),
        ("needs mask=<array>", FACE, {}),
        ("takes no mask", SMALL, {"task": "super_resolution", "mask": ALL}),
        ("not all of it 0", FACE, {"mask": 0 * ALL}),
        ("mask: .64, 64. is expected", FACE, {"mask": ALL[:32]}),
        ("give dsg.restore mask=<array>", FACE, {"overrides": ["task.mask=/nowhere.png"], "degraded": False}),
        ("points of shape", FACE, {"model": "gaussian_mixture_2d", "task": "denoise", "degraded": False}),
    ],
)
def test_what_cannot_be_restored_is_one_line(words, image, options):
    with pytest.raises(ValueError, match=words) as refused:
        dsg.restore(image, **{"degraded": True, **options})
    assert "\n" not in str(refused.value)


def test_an_image_that_is_not_finite_is_no_black_image():
    with pytest.raises(ValueError, match="sampler=dps: the image is not finite"):
        dsg.restore(FACE, sampler="dps", overrides=["sampler.steps=3", "sampler.step_size=1e30"])


def test_a_measurement_of_another_size_is_restored():
    assert dsg.restore(SMALL, "super_resolution", overrides=["sampler.steps=2"], degraded=True).image.shape[0] == 64
