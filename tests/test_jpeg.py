"""JPEG as an operator, against Pillow's."""

import io

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from dsg.config import load
from dsg.runs.prepare import build_task
from dsg.types import Data, to_tensor, to_uint8
from tasks.jpeg import Jpeg

PHOTOGRAPH = ROOT / "data/photos/examples/coffee.png"


def compressed(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def photograph():
    return np.asarray(Image.open(PHOTOGRAPH))[:201, :299]  # no multiple of 16


@pytest.mark.parametrize("quality", [5, 25, 75])
def test_the_operator_is_the_codec(photograph, quality):
    ours = to_uint8(Jpeg("jpeg", quality=quality).forward(to_tensor([photograph]), {}))[0].astype(int)
    theirs = decoded(compressed(photograph, quality=quality, subsampling="4:2:0")).astype(int)
    lost = np.abs(photograph.astype(int) - theirs).mean()
    assert np.abs(ours - theirs).mean() < 0.1 * lost + 0.8  # decoders round differently
    other = to_uint8(Jpeg("jpeg", quality=quality + 15).forward(to_tensor([photograph]), {}))[0].astype(int)
    assert np.abs(other - theirs).mean() > 2 * np.abs(ours - theirs).mean()  # another quality would be noticed


@pytest.mark.parametrize("sampling", ["4:2:0", "4:4:4"])
def test_a_file_s_own_tables_are_read(photograph, tmp_path, sampling):
    (tmp_path / "a.jpg").write_bytes(compressed(photograph, quality=12, subsampling=sampling))
    task = build_task(load(["model=photos", "task=jpeg", "task.quality=null"]))
    inputs = task.inputs(Data(str(tmp_path), degraded=True), (3, None, None))
    condition = task.condition(inputs, 0)
    seen = task.forward(to_tensor([photograph]), condition)
    assert (seen - condition["y"]).abs().mean() * 127.5 < 1.5
    assert (to_tensor([photograph]) - condition["y"]).abs().mean() * 127.5 > 3


def test_the_gradient_passes_through_the_rounding(photograph):
    x = to_tensor([photograph[:32, :32]]).mul(0.5).requires_grad_()
    task = Jpeg("jpeg")
    (task.forward(x, {}) * torch.linspace(-1, 1, 32)).sum().backward()
    expected = torch.linspace(-1, 1, 32).expand_as(x)
    assert torch.nn.functional.cosine_similarity(x.grad.flatten(), expected.flatten(), dim=0) > 0.95


def test_images_of_a_batch_have_their_own_tables(photograph, tmp_path):
    for name, quality in (("a", 10), ("b", 90)):
        (tmp_path / f"{name}.jpg").write_bytes(compressed(photograph, quality=quality))
    task = Jpeg("jpeg", quality=None)
    inputs = task.inputs(Data(str(tmp_path), degraded=True), (3, None, None))
    together = task.forward(to_tensor([photograph] * 2), task.condition(inputs, 0))
    for k, one in enumerate(inputs):
        alone = task.forward(to_tensor([photograph]), task.condition([one], 0))
        torch.testing.assert_close(together[k : k + 1], alone, atol=1 / 127.5, rtol=0)


@pytest.mark.parametrize("quality", [0, 101, 2.5])
def test_a_quality_that_cannot_be_is_one_line(quality):
    with pytest.raises(ValueError, match=f"task.quality={quality}"):
        Jpeg("jpeg", quality=quality)


def test_tables_of_what_is_no_jpeg_file(tmp_path):
    with pytest.raises(ValueError, match="coffee.png is no JPEG file"):
        Jpeg("jpeg", quality=None).inputs(Data(str(PHOTOGRAPH), degraded=True), (3, None, None))
    with pytest.raises(ValueError, match="data.degraded=true"):
        Jpeg("jpeg", quality=None).inputs(Data(str(PHOTOGRAPH)), (3, None, None))
