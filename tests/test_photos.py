"""The prior of photographs: any size, tiles, padding; and runs whose images keep their size."""

import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT
from PIL import Image, ImageCms, ImageDraw
from safetensors.torch import save_file

import dsg
from dsg import image_files
from dsg.config import load_with_sources
from dsg.image_files import find, form_of, read_deep, say_once
from dsg.priors.photos import PatchUNet, PhotoPrior, starts
from dsg.runs.lettering import in_fonts
from dsg.runs.main import run_one
from dsg.types import Form
from tasks.linear import keep_observed


class Result(NamedTuple):
    returncode: int
    stderr: str


@pytest.fixture
def run_cli(capfd):
    """The work of run.py in this process, without Hydra's command line."""

    def call(*arguments) -> Result:
        try:
            code = run_one(*load_with_sources([str(argument) for argument in arguments]))
        except ValueError as error:
            return Result(2, f"error: {error}\n")
        lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
        return Result(code, "\n".join(line for line in lines if "pass/s" not in line) + "\n")

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights whose output is neither small nor smooth."""
    generator = torch.Generator().manual_seed(0)
    state = {k: 0.02 * torch.randn(v.shape, generator=generator) for k, v in PatchUNet().state_dict().items()}
    path = tmp_path_factory.mktemp("photos") / "random.safetensors"
    save_file({k: v.half() for k, v in state.items()}, path)
    return str(path)


def noisy(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(16, 16), (17, 90), (5, 8)])
def test_an_image_of_any_size_gets_noise_of_its_own_size(weights, size):
    eps = PhotoPrior("photos", weights).predict(noisy(2, 3, *size), 500).eps
    assert eps.shape == (2, 3, *size) and torch.isfinite(eps).all()


def test_an_image_is_the_same_alone_and_in_a_batch(weights):
    prior, x = PhotoPrior("photos", weights), noisy(3, 3, 40, 56)
    together = prior.predict(x, 300).eps
    assert torch.equal(together[1:2], prior.predict(x[1:2], 300).eps)


def test_a_shift_by_the_stride_shifts_the_result(weights):
    prior, x = PhotoPrior("photos", weights), noisy(1, 3, 208, 208)
    whole, shifted = prior.predict(x, 300).eps, prior.predict(x[..., 16:, 16:], 300).eps
    inner = slice(96, -96)
    torch.testing.assert_close(whole[..., 16:, 16:][..., inner, inner], shifted[..., inner, inner])


def test_tiles_agree_with_the_whole_image(weights):
    x = noisy(1, 3, 200, 330)
    whole = PhotoPrior("photos", weights, tile=0).predict(x, 300).eps
    tiled = PhotoPrior("photos", weights, tile=160, overlap=64).predict(x, 300).eps
    cut = PhotoPrior("photos", weights, tile=160, overlap=0).predict(x, 300).eps
    near, far = (tiled - whole).abs().max(), (cut - whole).abs().max()
    assert near < 0.02 * whole.std() and near < far / 4  # an overlap is what hides the seams


def test_the_gradient_through_tiles_is_that_of_the_whole_image(weights):
    gradients = []
    for tile in (0, 160):
        x = noisy(1, 3, 176, 240).requires_grad_()
        PhotoPrior("photos", weights, tile=tile).predict(x, 300).eps.square().sum().backward()
        gradients.append(x.grad)
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


@pytest.mark.parametrize("side", [256, 257, 449, 1000, 4032])
def test_tiles_cover_a_side_in_one_phase(side):
    begins = starts(side, 256, 64)
    assert all(b % 16 == 0 for b in begins) and begins[-1] < side <= begins[-1] + 256
    assert all(b - a <= 256 - 64 for a, b in zip(begins, begins[1:]))


@pytest.mark.parametrize("option", ["tile=100", "tile=64", "overlap=300"])
def test_a_tile_that_cannot_be_is_one_line(run_cli, weights, option, tmp_path):
    result = run_cli(f"model.{option}", "model=photos", f"model.checkpoint={weights}", f"out={tmp_path}/out")
    assert result.returncode == 2 and result.stderr.startswith(f"error: model.{option.split('=')[0]}=")


@pytest.fixture
def photographs(tmp_path):
    """Three images of two sizes."""
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for name, size in (("a", (40, 56)), ("b", (33, 48)), ("c", (40, 56))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def run(run_cli, weights):
    def call(folder, out, *options) -> Result:
        given = ("model=photos", f"model.checkpoint={weights}", f"data.root={folder}", "sampler=mpgd_dsg")
        return run_cli(*given, "sampler.steps=2", f"out={out}", "wandb.mode=disabled", *options)

    return call


def sizes(folder):
    return {path.stem: Image.open(path).size for path in sorted(folder.glob("*.png"))}


def pixels(folder):
    return {path.stem: np.asarray(Image.open(path)).tolist() for path in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("task", ["super_resolution", "inpaint"])
def test_images_keep_their_size(run, photographs, tmp_path, task):
    result = run(photographs, tmp_path / "out", f"task={task}", "metrics=[psnr,ssim]")
    assert result.returncode == 0, result.stderr
    assert sizes(tmp_path / "out/images") == sizes(photographs) == {"a": (56, 40), "b": (48, 33), "c": (56, 40)}
    assert (tmp_path / "out/grid.png").is_file()
    (tmp_path / "out/images/b.png").unlink()
    before = pixels(tmp_path / "out/images")
    assert run(photographs, tmp_path / "out", f"task={task}", "metrics=[psnr,ssim]").returncode == 0
    alone = run(photographs / "b.png", tmp_path / "alone", f"task={task}", "metrics=[psnr,ssim]")
    assert alone.returncode == 0, alone.stderr
    after = pixels(tmp_path / "out/images")
    assert after["b"] == pixels(tmp_path / "alone/images")["b"] and {k: after[k] for k in before} == before


def test_a_degraded_photograph_is_enlarged_by_the_factor(run, photographs, tmp_path):
    options = ("task=super_resolution", "task.factor=2", "data.degraded=true")
    assert run(photographs, tmp_path / "out", *options).returncode == 0
    assert sizes(tmp_path / "out/images") == {"a": (112, 80), "b": (96, 66), "c": (112, 80)}


def test_a_mask_has_the_size_of_its_image(run, photographs, tmp_path):
    mask = np.full((40, 56), 255, np.uint8)
    mask[10:20, 10:20] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ("task=inpaint", f"task.mask={tmp_path}/mask.png", "data.degraded=true")
    wrong = run(photographs, tmp_path / "out", *options)
    assert wrong.returncode == 2 and "mask.png (56x40) does not fit" in wrong.stderr and "b.png" in wrong.stderr
    assert run(photographs / "a.png", tmp_path / "out", *options).returncode == 0


def test_a_number_crops_to_squares(run, photographs, tmp_path):
    assert run(photographs, tmp_path / "out", "task=inpaint", "data.size=32").returncode == 0
    assert set(sizes(tmp_path / "out/images").values()) == {(32, 32)}


@pytest.mark.parametrize(
    "options, words",
    [
        (("data.size=8",), "data.size=8: 16 or more, or native"),
        (("data.size=large",), "data.size=large: expected an integer or one of native or null"),
        (("task=style", f"task.reference={ROOT}/data/avatars64/test"), "data.size=256"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(run, photographs, tmp_path, options, words):
    result = run(photographs, tmp_path / "out", *options)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_a_prior_of_one_size_takes_no_other(run_cli):
    result = run_cli("data.size=native", "data.limit=1")
    assert result.returncode == 2 and "model=avatars64 takes images of 64x64 only" in result.stderr


def test_restore_keeps_an_image_s_size_or_enlarges_it(weights, photographs):
    overrides = [f"model.checkpoint={weights}", "sampler.steps=2"]
    file = photographs / "b.png"
    degraded = dsg.restore(file, "super_resolution", "mpgd_dsg", "photos", overrides)
    assert degraded.image.shape == (33, 48, 3) and degraded.measurement.shape == (9, 12, 3)
    enlarged = dsg.restore(file, "super_resolution", "mpgd_dsg", "photos", overrides, degraded=True)
    assert enlarged.image.shape == (132, 192, 3) and enlarged.measurement.shape == (33, 48, 3)


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    return folder / name


def test_a_file_keeps_its_form(run, tmp_path):
    folder, rng = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    grey, colours = rng.integers(0, 255, (32, 48), np.uint8), rng.integers(0, 255, (32, 48, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = np.full((32, 48, 1), 255, np.uint8)
    alpha[:8] = 0
    saved(folder, "grey.png", Image.fromarray(grey))
    saved(folder, "deep.png", Image.fromarray(grey.astype(np.uint16) * 257))  # its 16 bits stay if it is a measurement
    saved(folder, "alpha.png", Image.fromarray(np.concatenate([colours, alpha], axis=2)))
    saved(folder, "opaque.png", Image.fromarray(np.concatenate([colours, 0 * alpha + 255], axis=2)))
    saved(folder, "palette.png", Image.fromarray(colours).quantize(16))
    saved(folder, "cmyk.jpg", Image.fromarray(colours).convert("CMYK"))
    saved(folder, "profile.jpg", Image.fromarray(colours), icc_profile=profile)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    saved(folder, "turned.jpg", Image.fromarray(colours), exif=turned)
    for options, factor in ((("task=denoise",), 1), (("task=super_resolution", "data.degraded=true"), 4)):
        out = tmp_path / f"out{factor}"
        assert run(folder, out, "metrics=[psnr]", *options).returncode == 0
        found = {path.stem: Image.open(path) for path in (out / "images").glob("*.png")}
        modes = {name: image.mode for name, image in found.items()}
        assert modes == {"grey": "L", "deep": "L" if factor == 1 else "I;16", "alpha": "RGBA"} | dict.fromkeys(
            ("opaque", "palette", "cmyk", "profile", "turned"), "RGB"
        )
        assert found["profile"].info["icc_profile"] == profile and "icc_profile" not in found["grey"].info
        assert found["turned"].size == (32 * factor, 48 * factor) and found["grey"].size == (48 * factor, 32 * factor)
        opacity = np.asarray(found["alpha"])[..., 3]
        assert (opacity[: 6 * factor] == 0).all() and (opacity[10 * factor :] == 255).all()


@pytest.fixture
def noisy_photographs(tmp_path):
    """Three smooth images with noise of standard deviation .1 of [-1, 1]."""
    folder, rng = tmp_path / "noisy", np.random.default_rng(1)
    folder.mkdir()
    ramp = np.linspace(60, 190, 64)[None, :, None]
    for name in "abc":
        image = ramp + 12.75 * rng.standard_normal((48, 64, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def test_the_noise_of_measured_images_is_estimated_unless_it_is_given(run, noisy_photographs, tmp_path):
    degraded = ("task=denoise", "data.degraded=true")
    result = run(noisy_photographs, tmp_path / "out", *degraded, "data.limit=1")
    line = next(x for x in (tmp_path / "out/config.yaml").read_text().splitlines() if x.startswith("  sigma:"))
    assert 0.08 < float(line.split()[1]) < 0.12 and line.endswith("# estimated from the images")
    assert f"task.sigma={line.split()[1]} was estimated" in result.stderr
    assert run(noisy_photographs, tmp_path / "out", *degraded).returncode == 0  # a larger limit extends the run
    assert len(sizes(tmp_path / "out/images")) == 3
    given = run(noisy_photographs, tmp_path / "given", *degraded, "task.sigma=0.2")
    assert "estimated" not in given.stderr and "sigma: 0.2  # override" in (tmp_path / "given/config.yaml").read_text()
    clean = run(noisy_photographs, tmp_path / "clean", "task=denoise")
    assert "estimated" not in clean.stderr and "sigma: 0.2  # task" in (tmp_path / "clean/config.yaml").read_text()


def test_the_noise_of_an_image_with_a_hole_is_that_of_its_known_pixels(run, noisy_photographs, tmp_path):
    mask = np.full((48, 64), 255, np.uint8)
    mask[10:30, 20:40] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ("task=inpaint", f"task.mask={tmp_path}/mask.png", "data.degraded=true")
    run(noisy_photographs, tmp_path / "out", *options)
    line = next(x for x in (tmp_path / "out/config.yaml").read_text().splitlines() if x.startswith("  sigma:"))
    assert 0.08 < float(line.split()[1]) < 0.12


@pytest.fixture
def scratched(photographs, tmp_path):
    """A photograph, and the mask of a text and a scratch on it."""
    mask = Image.new("L", (56, 40), 255)
    ImageDraw.Draw(mask).text((5, 5), "24.12.", fill=0, font_size=16)
    ImageDraw.Draw(mask).line((0, 38, 55, 25), fill=0, width=2)
    mask.save(tmp_path / "mask.png")
    return photographs / "a.png", tmp_path / "mask.png"


@pytest.mark.parametrize("feather", ["null", "3"])
def test_known_pixels_stay_as_they_were(run, scratched, tmp_path, feather):
    image, mask = scratched
    options = ("task=inpaint", f"task.mask={mask}", "data.degraded=true", f"task.feather={feather}")
    assert run(image, tmp_path / "out", *options).returncode == 0
    before, known = np.asarray(Image.open(image)), np.asarray(Image.open(mask)) >= 128
    after = np.asarray(Image.open(tmp_path / "out/images/a.png"))
    assert (after[known] == before[known]).all() and (after[~known] != before[~known]).any(axis=-1).mean() > 0.9


def test_known_pixels_are_restored_too_where_that_is_asked_for(run, scratched, tmp_path):
    image, mask = scratched
    options = ("task=inpaint", f"task.mask={mask}", "data.degraded=true", "task.keep_observed=false")
    assert run(image, tmp_path / "out", *options).returncode == 0
    before, known = np.asarray(Image.open(image)), np.asarray(Image.open(mask)) >= 128
    assert (np.asarray(Image.open(tmp_path / "out/images/a.png"))[known] != before[known]).any()


def test_a_truth_is_not_kept_since_its_measurement_is_noisy(run, scratched, tmp_path):
    image, mask = scratched
    assert run(image, tmp_path / "out", "task=inpaint", f"task.mask={mask}").returncode == 0
    known = np.asarray(Image.open(mask)) >= 128
    measured = np.asarray(Image.open(tmp_path / "out/condition/a.png"))
    assert (np.asarray(Image.open(tmp_path / "out/images/a.png"))[known] != measured[known]).any()


def test_a_feather_hides_the_seam_of_a_result_that_is_too_bright():
    y, mask = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    image = torch.full_like(y, 0.4)
    hard, soft = (keep_observed(image, y, mask, feather)[0, 0] for feather in (0, 4))
    assert hard[16, 8] == pytest.approx(0.4) and soft[16, 8] < 0.15  # beside the edge
    assert (soft[16, 8:17].diff() >= 0).all() and soft[16, 16] > 0.3  # and as it was in the middle
    assert (soft[mask[0, 0] > 0] == 0).all()


def sixteen_bits(path):
    """The samples of a PNG that was written without filters, uint16."""
    return torchvision.io.read_image(str(path), torchvision.io.ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_measurement_of_16_bits_keeps_them(run, tmp_path, channels):
    """Known pixels come out as they went in, to the last bit."""
    values = np.random.default_rng(0).integers(0, 65536, (32, 48, channels), dtype=np.uint16)
    folder = tmp_path / "in"
    folder.mkdir()
    image_files.save(folder / "a.png", np.repeat(values, 3 // channels, axis=2), Form(grey=channels == 1))
    assert form_of(folder / "a.png").deep and (read_deep(folder / "a.png")[..., :channels] == values).all()
    mask = np.full((32, 48), 255, np.uint8)
    mask[10:20, 10:20] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ("task=inpaint", f"task.mask={tmp_path}/mask.png", "data.degraded=true")
    assert run(folder, tmp_path / "out", *options).returncode == 0
    after = sixteen_bits(tmp_path / "out/images/a.png")
    assert after.dtype == np.uint16 and after.shape == values.shape
    assert (after[mask > 0] == values[mask > 0]).all() and (after[mask == 0] % 257 != 0).any()


def test_what_is_no_image_is_named_in_one_line(photographs, capfd):
    for name in ("notes.txt", "film.mov", ".hidden", "sub/list.csv"):
        (photographs / name).parent.mkdir(exist_ok=True)
        (photographs / name).write_text("x")
    say_once.cache_clear()
    assert list(find(photographs)) == list(find(photographs)) == ["a", "b", "c"]
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"note: data.root={photographs}: no images, left out: film.mov, notes.txt, sub/list.csv"


def test_of_an_animation_the_first_frame_is_read_and_that_is_said(tmp_path, capfd):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (image_files.read(tmp_path / "a.gif", None)[0, 0] == (255, 0, 0)).all()
    assert capfd.readouterr().err == f"note: {tmp_path}/a.gif: the first of its 2 frames is taken\n"


def test_a_telephone_s_heic_is_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(tmp_path / "a.heic")
    assert list(find(tmp_path)) == ["a"]
    pixels = image_files.read(tmp_path / "a.heic", None)
    assert pixels.shape == (48, 64, 3) and abs(pixels.astype(int) - (200, 30, 30)).max() < 8


def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match="pip install pillow-heif"):
        image_files.read(tmp_path / "a.heic", None)


def test_restore_takes_a_pil_image(weights, photographs):
    arguments = ("super_resolution", "mpgd_dsg", "photos", [f"model.checkpoint={weights}", "sampler.steps=2"])
    with Image.open(photographs / "a.png") as image:
        assert (dsg.restore(image, *arguments).image == dsg.restore(photographs / "a.png", *arguments).image).all()


def test_a_contact_sheet_writes_any_script():
    shown = "".join(part for part, _ in in_fonts("Füße Ελλάδα Привет \U0010fffe"))
    assert shown == "Füße Ελλάδα Привет \\U0010fffe"
