"""The linear operators: transposes against the explicit matrix, conditions that depend on (seed, id) alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate

from dsg.types import Data, to_tensor, to_uint8
from tasks.linear import BoxInpainting, GaussianDeblur, Inpainting, MotionDeblur, SuperResolution
from tasks.matrix import Matrix

TASKS = {
    "inpaint": (Inpainting, {}),
    "inpaint_box": (BoxInpainting, {"box": 4, "margin": 2}),
    "super_resolution": (SuperResolution, {"factor": 3}),
    "gaussian_deblur": (GaussianDeblur, {"std": 1.2}),
    "motion_deblur": (MotionDeblur, {"kernel_size": 7}),
}


def make(name, **options):
    kind, usual = TASKS[name]
    return kind(name, **(usual | options))


@pytest.mark.parametrize("name", TASKS)
def test_transpose_is_that_of_the_explicit_matrix(name):
    task, shape = make(name), (1, 1, 12, 12)
    condition = {k: v.double() for k, v in task.degrade(torch.zeros(shape), ["a"], 0).items()}
    basis = torch.eye(144, dtype=torch.float64).reshape(144, 1, 1, 12, 12)
    matrix = torch.stack([task.forward(e, condition).flatten() for e in basis], dim=1)
    y = torch.randn_like(condition["y"])
    torch.testing.assert_close(task.transpose(y, condition, shape).flatten(), matrix.T @ y.flatten())


@pytest.mark.parametrize("name", TASKS)
def test_a_condition_depends_on_seed_and_id_alone(name):
    task, x = make(name), torch.rand(3, 3, 24, 24)
    batch = task.degrade(x, ["a", "b", "c"], 0)
    alone = task.degrade(x[1:2], ["b"], 0)
    for key in batch:
        torch.testing.assert_close(batch[key][1:2], alone[key])
    assert not torch.equal(task.degrade(x[1:2], ["b"], 1)["y"], alone["y"])
    assert not torch.equal(task.degrade(x[1:2], ["other"], 0)["y"], alone["y"])


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_leaves_a_residual_of_sigma(name):
    task, x = make(name), torch.rand(2, 3, 48, 48) * 2 - 1
    residual = task.residual(x, task.degrade(x, ["a", "b"], 0))
    torch.testing.assert_close(residual, torch.full((2,), 0.05), rtol=0.15, atol=0)


def test_inpainting_observes_what_its_mask_says():
    task, x = make("inpaint"), torch.ones(8, 3, 32, 32)
    condition = task.degrade(x, [str(i) for i in range(8)], 0)
    missing = 1 - condition["mask"].flatten(1).mean(1)
    assert ((missing >= 0.3 - 1e-3) & (missing <= 0.7)).all() and missing.std() > 0.02
    assert (condition["y"] * (1 - condition["mask"])).abs().max() == 0


def test_averages_are_kept():
    flat = torch.full((1, 3, 24, 24), 0.7)
    for name in ("super_resolution", "gaussian_deblur", "motion_deblur"):
        task = make(name)
        y = task.forward(flat, task.degrade(flat, ["a"], 0))
        torch.testing.assert_close(y, torch.full_like(y, 0.7))


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("inpaint_box", "box", 60),
        ("super_resolution", "factor", 100),
        ("gaussian_deblur", "std", 40),
        ("motion_deblur", "kernel_size", 129),
    ],
)
def test_options_that_do_not_fit_the_images(name, option, value):
    task = make(name, **{option: value})
    with pytest.raises(ValueError, match=f"task.{option}={value}"):
        task.check((3, 24, 24))


@pytest.fixture
def folder(tmp_path):
    """Two images of 32x24 pixels, and a mask for each that hides its left quarter."""
    (tmp_path / "masks").mkdir()
    rng, mask = np.random.default_rng(0), np.full((24, 32), 255, np.uint8)
    mask[:, :10] = 0  # the square begins at 4
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    return tmp_path


def test_inputs_are_truths_and_their_condition_is_what_degrade_makes(folder):
    task = make("super_resolution", factor=4)
    inputs = task.inputs(Data(str(folder), limit=2), (3, 24, 24))
    assert [i.id for i in inputs] == ["a", "b"] and all(i.measurement is None and i.mask is None for i in inputs)
    condition = task.condition(inputs, 7)
    expected = task.degrade(to_tensor([i.truth for i in inputs]), ["a", "b"], 7)
    assert torch.equal(condition["y"], expected["y"])
    one = {k: v[:1] for k, v in condition.items()}
    assert (task.condition_image(inputs[0], one) == to_uint8(one["y"])[0]).all()


def test_a_mask_of_one_s_own_belongs_to_the_input(folder):
    task = make("inpaint", mask=str(folder / "masks"))
    truths = Data(str(folder / "b.png"))
    (folder / "masks/b.png").rename(folder / "b_mask.png")
    with pytest.raises(ValueError, match="masks has no mask for b"):
        task.inputs(truths, (3, 24, 24))
    task.mask = str(folder / "b_mask.png")
    (only,) = task.inputs(truths, (3, 24, 24))
    condition = task.condition([only], 0)
    assert torch.equal(condition["mask"], only.mask) and only.mask[..., :6].sum() == 0 and only.mask[..., 6:].all()
    assert condition["y"][..., :6].abs().max() == 0


def test_measurements_are_taken_as_they_are(folder):
    degraded = Data(str(folder / "a.png"), degraded=True)
    (only,) = make("gaussian_deblur").inputs(degraded, (3, 24, 24))
    assert only.truth is None
    condition = make("gaussian_deblur").condition([only], 0)
    assert torch.equal(condition["y"], to_tensor([only.measurement]))
    task = make("inpaint", mask=str(folder / "masks/a.png"))
    (only,) = task.inputs(degraded, (3, 24, 24))
    assert torch.equal(task.condition([only], 0)["y"], only.mask * to_tensor([only.measurement]))


@pytest.mark.parametrize(
    "task, size, words",
    [
        (make("inpaint"), 24, "task=inpaint with data.degraded=true needs task.mask="),
        (make("motion_deblur"), 24, "task=motion_deblur with data.degraded=true needs task.kernel="),
        (make("gaussian_deblur"), 32, "a degraded image is not resized, its shorter side must be 32"),
        (make("super_resolution"), 24, "a degraded image is not resized, its shorter side must be 8"),
        (Matrix("linear"), 24, "task=linear: a measurement is no image"),
    ],
)
def test_measurements_that_do_not_suit(folder, task, size, words):
    with pytest.raises(ValueError, match=words):
        task.inputs(Data(str(folder / "a.png"), degraded=True), (3, size, size))


def test_a_given_kernel_is_used_in_place_of_a_draw():
    task, x = make("motion_deblur"), torch.rand(2, 3, 24, 24)
    kernel = torch.zeros(2, 3, 3)
    kernel[:, 1, 1] = 1
    clean = make("motion_deblur", sigma=0).degrade(x, ["a", "b"], 0, kernel=kernel)
    torch.testing.assert_close(clean["y"], x)
    noisy = task.degrade(x, ["a", "b"], 0, kernel=kernel)
    torch.testing.assert_close(task.residual(x, noisy), torch.full((2,), 0.05), rtol=0.15, atol=0)


def test_the_matrix_is_part_of_what_identifies_a_run(tmp_path):
    hashes = []
    for value in (1.0, 2.0):
        np.save(tmp_path / "a.npy", np.full((2, 12), value))
        hashes.append(Matrix("linear", matrix=str(tmp_path / "a.npy")).weights_hash)
    assert None not in hashes and hashes[0] != hashes[1]
    assert Matrix("linear").weights_hash is None


def test_a_kernel_of_one_s_own_blurs_and_restores(tmp_path):
    """A streak of three pixels; its scale does not matter."""
    streak = np.zeros((5, 5))
    streak[2, 1:4] = 7
    np.save(tmp_path / "kernel.npy", streak)
    task = MotionDeblur("motion_deblur", sigma=0.0, kernel=str(tmp_path / "kernel.npy"))
    x = torch.rand(2, 3, 24, 24)
    condition = task.degrade(x, ["a", "b"], 0)
    expected = (x[..., 1:-1] + x[..., :-2] + x[..., 2:]) / 3
    torch.testing.assert_close(condition["y"][..., 1:-1], expected)
    assert task.loss(x, task.observed(condition["y"])).max() < 1e-5
    task.check_degraded((3, 24, 24))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (4, 7), (6, 1)])
def test_a_kernel_of_any_size_is_correlated_with_reflected_borders(tmp_path, size):
    rng = np.random.default_rng(0)
    kernel, image = rng.random(size), rng.random((3, 16, 18))
    np.save(tmp_path / "kernel.npy", kernel)
    task = MotionDeblur("motion_deblur", sigma=0.0, kernel=str(tmp_path / "kernel.npy"))
    expected = np.stack([correlate(channel, kernel / kernel.sum(), mode="mirror") for channel in image])
    y = task.degrade(torch.from_numpy(image).float()[None], ["a"], 0)["y"]
    np.testing.assert_allclose(y[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_a_kernel_is_read_from_an_image(tmp_path, mode):
    values = np.array([[0, 100, 50], [25, 200, 0]], np.uint8)
    array = values.astype(np.uint16) * 257 if mode == "I;16" else values
    Image.fromarray(np.dstack([array] * 3) if mode == "RGB" else array).save(tmp_path / "kernel.png")
    task = MotionDeblur("motion_deblur", kernel=str(tmp_path / "kernel.png"))
    np.testing.assert_allclose(task.kernel.numpy(), values / values.sum(), atol=1e-6)


def test_an_image_that_is_no_kernel_is_refused(tmp_path):
    (tmp_path / "kernel.png").write_text("no image")
    with pytest.raises(ValueError, match="task.kernel=.*cannot be read as an image"):
        MotionDeblur("motion_deblur", kernel=str(tmp_path / "kernel.png"))


@pytest.mark.parametrize(
    "kernel", [np.zeros((3, 3)), np.ones((0, 4)), np.ones(3), -np.ones((3, 3)), np.full((3, 3), np.nan)]
)
def test_what_is_no_kernel_is_refused(tmp_path, kernel):
    np.save(tmp_path / "kernel.npy", kernel)
    with pytest.raises(ValueError, match="task.kernel"):
        MotionDeblur("motion_deblur", kernel=str(tmp_path / "kernel.npy"))


def test_a_matrix_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 12288)})
        file.write(bytes(1000))
    with pytest.raises(ValueError, match="a.npy cannot be read as a .npy array"):
        Matrix("linear", matrix=str(tmp_path / "a.npy"))


def test_what_is_not_observed_does_not_count():
    task, x = Inpainting("inpaint"), torch.rand(2, 3, 8, 8)
    mask = (torch.arange(8) < 4).float().expand(1, 1, 8, 8)
    assert torch.equal(task.loss(x, task.observed(x, mask)), torch.zeros(2))
