"""The training of the prior of photographs: resumed to the step, released without touching its state."""

import numpy as np
import pytest
import torch
from conftest import script
from PIL import Image

from dsg.priors.photos import PhotoPrior


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (80, 120, 3), dtype=np.uint8)).save(path / f"{name}.jpg")
    return path


def train(folder, state, *options):
    words = ["--photos", folder, "--state", state, "--size", "16", "--batch", "1", "--every", "1", *options]
    return script("scripts/photos/train.py", *words)


def test_a_training_that_was_stopped_is_the_uninterrupted_one(folder, tmp_path):
    assert train(folder, tmp_path / "once.pt", "--steps", "3").returncode == 0
    assert train(folder, tmp_path / "twice.pt", "--steps", "2").returncode == 0
    assert train(folder, tmp_path / "twice.pt", "--steps", "3").returncode == 0
    once, twice = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("once", "twice"))
    assert once["step"] == twice["step"] == 3
    for part in ("net", "average"):
        for name, value in once[part].items():
            torch.testing.assert_close(value, twice[part][name])


def test_a_release_writes_weights_and_leaves_the_state(folder, tmp_path):
    state, weights = tmp_path / "state.pt", tmp_path / "model.safetensors"
    assert train(folder, state, "--steps", "1").returncode == 0
    before = state.read_bytes()
    assert train(folder, state, "--release", "2", "--weights", weights).returncode == 0
    assert state.read_bytes() == before
    eps = PhotoPrior("photos", str(weights)).predict(torch.randn(1, 3, 20, 20), 400).eps
    assert torch.isfinite(eps).all() and weights.stat().st_size < 20e6


def test_a_folder_without_photographs_is_one_line(tmp_path):
    result = train(tmp_path, tmp_path / "state.pt", "--steps", "1")
    assert result.returncode == 2 and "run python scripts/photos/collect.py" in result.stderr
    assert result.stderr.count("Traceback") == 0
