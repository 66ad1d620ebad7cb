"""Images in and out, on cases that can be worked out by hand."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsg import image_files as images
from dsg.types import to_tensor, to_uint8


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
        Image.fromarray(gradient(64, 64)).convert("L").save(path)
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


# --- files as they come


def test_hidden_files_are_left_alone_and_files_without_a_suffix_are_read_if_they_are_images(tmp_path):
    Image.fromarray(gradient(64, 64)).save(tmp_path / "a.png")
    Image.fromarray(gradient(64, 64)).save(tmp_path / "b", format="PNG")
    (tmp_path / "notes").write_text("no image")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07 of macOS")
    (tmp_path / ".cache").mkdir()
    Image.fromarray(gradient(64, 64)).save(tmp_path / ".cache/c.png")
    assert list(images.find(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["gif", "avif", "jp2"])
def test_other_formats_are_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (64, 64), (200, 100, 50)).save(path)
    assert abs(images.read(path, 64).astype(int) - [200, 100, 50]).max() <= 4


def test_all_files_that_cannot_be_used_are_named_at_once_or_skipped(tmp_path, capsys):
    for name in ("a", "b", "c"):
        Image.fromarray(gradient(64, 64)).save(tmp_path / f"{name}.png")
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG no")
    files = images.find(tmp_path)

    def read(name, path):
        return images.read(path, 64)

    with pytest.raises(ValueError) as error:
        images.each(files, read)
    said = str(error.value)
    assert "2 of 3 files" in said and "a.png" in said and "c.png" in said and "\n" not in said
    assert list(images.each(files, read, "skip")) == ["b"]
    assert capsys.readouterr().err.count("skipped: ") == 2
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match="2 of 2 files"):
        images.each(images.find(tmp_path), read, "skip")


@pytest.mark.parametrize("name", ["x" * 200, "carriage\rreturn", "bell\a"])
def test_names_that_results_cannot_have_are_refused_before_work_starts(tmp_path, name):
    Image.fromarray(gradient(64, 64)).save(tmp_path / f"{name}.png")
    for root in (tmp_path, tmp_path / f"{name}.png"):  # alone, too
        with pytest.raises(ValueError, match="rename it") as error:
            images.find(root)
        assert len(str(error.value).splitlines()) == 1


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    Image.fromarray(gradient(64, 64)).save(
        os.path.join(os.fsencode(tmp_path), b"\xff.png").decode(errors="surrogateescape")
    )
    with pytest.raises(ValueError, match="not UTF-8"):
        images.find(tmp_path)


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_are_scaled_by_what_the_file_says(tmp_path, scale):
    Image.fromarray(np.full((64, 64), 0.5 * scale, np.float32)).save(tmp_path / "a.tif")
    assert abs(images.read(tmp_path / "a.tif", 64).astype(int) - 128).max() <= 1


@pytest.mark.parametrize("value", [-1.0, 300.0, float("nan")])
def test_floats_of_an_unknown_scale_are_refused(tmp_path, value):
    Image.fromarray(np.full((64, 64), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="what is white is not known"):
        images.read(tmp_path / "a.tif", 64)


def test_ten_bits_in_sixteen_are_refused_and_not_turned_black(tmp_path):
    Image.fromarray(np.full((64, 64), 1023, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no value above 1023"):
        images.read(tmp_path / "a.png", 64)


def test_masks_that_say_nothing_are_refused(tmp_path):
    Image.fromarray(gradient(64, 64)).save(tmp_path / "a.png")
    clear = np.full((64, 64, 4), 255, np.uint8)
    clear[:32, :, 3] = 0
    for name, mask in (
        ("white", np.full((64, 64), 255, np.uint8)),
        ("black", np.zeros((64, 64), np.uint8)),
        ("transparent", clear),
    ):
        Image.fromarray(mask).save(tmp_path / "mask.png")
        with pytest.raises(ValueError, match=name):
            images.read_mask(tmp_path / "mask.png", tmp_path / "a.png", 64)


@pytest.mark.parametrize("root", ["/", "/usr/..", "//"])
def test_the_whole_file_system_is_no_folder_of_images(root, monkeypatch):
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("it is searched"))
    with pytest.raises(ValueError, match="data.root=.* is the whole file system: name a folder of images"):
        images.find(Path(root))


def test_a_small_file_that_claims_gigabytes_is_refused(tmp_path):
    Image.new("1", (13000, 13000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 100_000
    with pytest.raises(ValueError, match="more than 100 million"):
        images.read(tmp_path / "a.png", 64)
