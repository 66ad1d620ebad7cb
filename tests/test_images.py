"""Images in and out, on cases that can be worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from dsg.runs import images
from dsg.runs.inputs import to_tensor, to_uint8


def gradient(width, height):
    """An image that shows which way is up: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)


def test_exif_rotation_is_honoured(tmp_path):
    upright = Image.fromarray(gradient(80, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to see it upright"
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert (images.read(tmp_path / "a.png", 80) == np.asarray(upright)).all()


def test_transparency_is_flattened_on_white(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32, :, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    read = images.read(tmp_path / "a.png", 64)
    assert (read[:32] == 0).all() and (read[32:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "LA", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    value = 200
    pixels = np.full((64, 64), value * 257 if mode == "I;16" else value, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    read = images.read(path, 64)
    assert read.shape == (64, 64, 3) and abs(read.astype(int) - value).max() <= 1


def test_the_centre_is_cropped_and_reduced_with_antialiasing(tmp_path):
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[:, 64:192][::2] = 255  # the central square: stripes of one pixel, the sides black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = images.read(tmp_path / "a.png", 64)
    assert read.shape == (64, 64, 3)
    assert 120 <= read[4:-4].min() and read[4:-4].max() <= 135  # stripes average, no moire


def test_the_mask_is_cropped_with_its_image(tmp_path):
    Image.fromarray(gradient(128, 64)).save(tmp_path / "a.png")
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 32:64] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    read = images.read_mask(tmp_path / "m.png", tmp_path / "a.png", 64)[0, 0]
    assert (read[:, :32] == 1).all() and (read[:, 32:] == 0).all()


def test_what_is_missing_does_not_bleed_into_what_is_observed(tmp_path):
    """Damage of one pixel in an image four times too large: what is observed after the reduction is untouched."""
    pixels, mask = np.full((256, 256, 3), 200, np.uint8), np.full((256, 256), 255, np.uint8)
    for array in (pixels, mask):
        array[::37], array[100:140, 60:90] = 0, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    read = images.read(tmp_path / "a.png", 64, images.AVERAGE)
    observed = images.read_mask(tmp_path / "m.png", tmp_path / "a.png", 64)[0, 0].bool().numpy()
    assert 0.5 < observed.mean() < 1
    assert (read[observed] == 200).all()


def test_masks_that_do_not_fit_are_named(tmp_path):
    Image.fromarray(gradient(128, 64)).save(tmp_path / "a.png")
    for name, size, value in (("small", (30, 30), 255), ("black", (128, 64), 0)):
        Image.new("L", size, value).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="small.png .30x30. does not fit .*a.png .128x64.: same size, or 64x64"):
        images.read_mask(tmp_path / "small.png", tmp_path / "a.png", 64)
    with pytest.raises(ValueError, match="black.png is all black"):
        images.read_mask(tmp_path / "black.png", tmp_path / "a.png", 64)


def test_a_folder_of_masks_needs_one_for_every_image(tmp_path):
    (tmp_path / "masks").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "masks/a.png"):
        Image.new("RGB", (64, 64), "white").save(path)
    paths = {name: tmp_path / f"{name}.png" for name in ("a", "b")}
    with pytest.raises(ValueError, match="masks has no mask for b$"):
        images.read_masks(tmp_path / "masks", paths, 64)
    assert set(images.read_masks(tmp_path / "a.png", paths, 64)) == {"a", "b"}


def test_eight_bits_survive_the_tensor(tmp_path):
    Image.fromarray(gradient(64, 64)).save(tmp_path / "a.png")
    image = images.read(tmp_path / "a.png", 64)
    assert (to_uint8(to_tensor([image]))[0] == image).all()


def test_a_saved_image_is_there_whole_and_alone(tmp_path):
    for _ in range(2):
        images.save(tmp_path / "a.png", gradient(64, 64))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (np.asarray(Image.open(tmp_path / "a.png")) == gradient(64, 64)).all()
    images.save(tmp_path / "gray.png", gradient(64, 64)[..., :1])
    assert Image.open(tmp_path / "gray.png").mode == "L"


def test_ids_are_paths(tmp_path):
    (tmp_path / "b/c").mkdir(parents=True)
    for name in ("z.png", "b/y.png", "b/c/x.png"):
        Image.fromarray(gradient(64, 64)).save(tmp_path / name)
    assert list(images.find(tmp_path)) == ["b__c__x", "b__y", "z"]
    assert list(images.load(tmp_path, 64, limit=2)) == ["b__c__x", "b__y"]
