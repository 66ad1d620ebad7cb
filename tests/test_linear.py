"""The linear operators: transposes against the explicit matrix, conditions that depend on (seed, id) alone."""

import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate

TASKS = {
    "inpaint": [],
    "inpaint_box": ["task.box=4", "task.margin=2"],
    "super_resolution": ["task.factor=3"],
    "gaussian_deblur": ["task.std=1.2"],
    "motion_deblur": ["task.kernel_size=7"],
}


def make(name):
    return instantiate(compose_config("model=ffhq256", f"task={name}", *TASKS[name]).task)


@pytest.mark.parametrize("name", TASKS)
def test_transpose_is_that_of_the_explicit_matrix(name):
    task, shape = make(name), (1, 1, 12, 12)
    condition = {k: v.double() for k, v in task.measure(torch.zeros(shape), ["a"], 0).items()}
    basis = torch.eye(144, dtype=torch.float64).reshape(144, 1, 1, 12, 12)
    matrix = torch.stack([task.forward(e, condition).flatten() for e in basis], dim=1)
    y = torch.randn_like(condition["y"])
    torch.testing.assert_close(task.transpose(y, condition, shape).flatten(), matrix.T @ y.flatten())


@pytest.mark.parametrize("name", TASKS)
def test_a_condition_depends_on_seed_and_id_alone(name):
    task, x = make(name), torch.rand(3, 3, 24, 24)
    batch = task.measure(x, ["a", "b", "c"], 0)
    alone = task.measure(x[1:2], ["b"], 0)
    for key in batch:
        torch.testing.assert_close(batch[key][1:2], alone[key])
    assert not torch.equal(task.measure(x[1:2], ["b"], 1)["y"], alone["y"])
    assert not torch.equal(task.measure(x[1:2], ["other"], 0)["y"], alone["y"])


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_leaves_a_residual_of_sigma(name):
    task, x = make(name), torch.rand(2, 3, 48, 48) * 2 - 1
    residual = task.residual(x, task.measure(x, ["a", "b"], 0))
    torch.testing.assert_close(residual, torch.full((2,), 0.05), rtol=0.15, atol=0)


def test_inpainting_observes_what_its_mask_says():
    task, x = make("inpaint"), torch.ones(8, 3, 32, 32)
    condition = task.measure(x, [str(i) for i in range(8)], 0)
    missing = 1 - condition["mask"].flatten(1).mean(1)
    assert ((missing >= 0.3 - 1e-3) & (missing <= 0.7)).all() and missing.std() > 0.02
    assert (condition["y"] * (1 - condition["mask"])).abs().max() == 0


def test_averages_are_kept():
    flat = torch.full((1, 3, 24, 24), 0.7)
    for name in ("super_resolution", "gaussian_deblur", "motion_deblur"):
        task = make(name)
        y = task.forward(flat, task.measure(flat, ["a"], 0))
        torch.testing.assert_close(y, torch.full_like(y, 0.7))


@pytest.mark.parametrize(
    "name, override, message",
    [
        ("inpaint_box", "task.box=60", "task.box=60"),
        ("super_resolution", "task.factor=100", "task.factor=100"),
        ("gaussian_deblur", "task.std=40", "task.std=40"),
        ("motion_deblur", "task.kernel_size=129", "task.kernel_size=129"),
    ],
)
def test_options_that_do_not_fit_the_images(name, override, message):
    task = instantiate(compose_config(f"task={name}", override).task)
    with pytest.raises(ValueError, match=message):
        task.check((3, 24, 24))
