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
