"""What is assumed of y, where it is not what made it; and the suite that asks who breaks first."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose_config
from safetensors.torch import load_file, save_file

from dsg.config import load_with_sources
from dsg.runs.evaluation import finished_run
from dsg.runs.prepare import build_task, prepare
from dsg.studies.assumptions import CaseJob, breaks_at, cases, losses, sides_of
from dsg.studies.degraded import degraded_weights
from dsg.suites.run_jobs import ImageJob
from dsg.suites.suite import Outcome, load
from dsg.types import Data


def task_of(*overrides):
    return build_task(compose_config("model=gaussian_mixture", *overrides))


def image(seed=0):
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_truth_makes_y_and_what_is_assumed_does_the_rest():
    x, ids = image(), ["a", "b"]
    task = task_of("task=gaussian_deblur", "task.std=1.5", "task.sigma=0.2", "assumed.std=0.8", "assumed.sigma=0.1")
    true, assumed = (
        task_of("task=gaussian_deblur", *o) for o in (["task.std=1.5", "task.sigma=0.2"], ["task.std=0.8"])
    )
    condition = task.degrade(x, ids, 0)
    assert torch.equal(condition["y"], true.degrade(x, ids, 0)["y"]) and task.sigma == 0.1
    assert torch.equal(task.forward(x, condition), assumed.forward(x, condition))
    assert torch.equal(task.loss(x, condition), assumed.loss(x, condition))
    assert (task.loss(x, condition) != true.loss(x, condition)).all()


def test_nothing_assumed_is_the_task_itself():
    task = task_of("task=inpaint")
    same = task_of("task=inpaint", "assumed.sigma=0.05")
    x = image()
    for key, value in task.degrade(x, ["a", "b"], 3).items():
        assert torch.equal(value, same.degrade(x, ["a", "b"], 3)[key])
    assert task.made_by is None and same.made_by is not None


def test_a_wrong_mask_takes_missing_pixels_for_grey_ones():
    """The assumed mask has all that the true one observes, and more; there y is 0 and is believed."""
    options = ["task=inpaint", "task.masked_fraction=[0.6,0.6]"]
    task, true = task_of(*options, "assumed.masked_fraction=[0.5,0.5]"), task_of(*options)
    x, ids = image(), ["a", "b"]
    condition, honest = task.degrade(x, ids, 0), true.degrade(x, ids, 0)
    assert ((1 - condition["mask"]).flatten(1).sum(1) == 128).all()
    wrong = condition["mask"] - honest["mask"]
    assert wrong.min() == 0 and (wrong.flatten(1).sum(1) == int(0.6 * 256) - 128).all()
    assert torch.equal(condition["y"], honest["y"]) and (condition["y"] * wrong).abs().max() == 0
    less = task_of("task=inpaint", "task.masked_fraction=[0.5,0.5]", "assumed.masked_fraction=[0.6,0.6]")
    found = less.degrade(x, ids, 0)
    assert (found["y"] * (1 - found["mask"])).abs().max() == 0  # what is assumed to be missing is not used


@pytest.mark.parametrize(
    "options, words",
    [
        (["task=super_resolution", "assumed.factor=2"], "assumed: y has 4 pixels a side, but 8 would be assumed"),
        (["task=inpaint", "assumed.mask=a.png"], "assumed.mask"),
        (["task=inpaint", "assumed.sigm=1"], "unknown option assumed.sigm: did you mean assumed.sigma"),
        (["task=inpaint", "assumed.sigma=one"], "assumed.sigma=one: expected a number"),
        (["task=gaussian_deblur", "assumed.std=9"], "cannot be reflected"),
        (["task=gaussian_deblur", "assumed.std=0.5", "data.degraded=true"], "y is given"),
    ],
)
def test_assumptions_that_make_no_sense_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        config, sources = load_with_sources(["model=gaussian_mixture", "data.limit=1", *options])
        prepare(config, sources, tmp_path / "o")


def test_a_task_without_measurements_has_nothing_to_assume():
    with pytest.raises(ValueError, match="task=style makes no measurement"):
        build_task(compose_config("task=style", "assumed.image_size=32"))


def test_what_is_assumed_belongs_to_a_run(tmp_path):
    """It is in the identity and in config.yaml, where a finished run finds it; without it the identity is as ever."""
    options = ["model=gaussian_mixture", "task=denoise", "sampler=mpgd", "sampler.steps=2", "data.limit=1"]
    options += ["wandb.mode=disabled", "metrics=[psnr]"]
    runs = []
    for assumed in ([], ["assumed.sigma=0.4"]):
        config, sources = load_with_sources([*options, *assumed])
        runs.append(prepare(config, sources, tmp_path / str(len(assumed))))
    assert "assumed" not in runs[0].results.owner and runs[1].results.owner["assumed"] == {"sigma": 0.4}
    assert runs[1].execute() == []
    again = finished_run(tmp_path / "1").task
    assert again.sigma == 0.4 and again.made_by.sigma == 0.2
    with pytest.raises(ValueError, match="another run: assumed.sigma was 0.4, now None"):
        prepare(*load_with_sources(options), tmp_path / "1")


# --- the suite


def test_degraded_weights_are_as_far_off_as_they_say(tmp_path):
    state = {"a": torch.randn(40, 50) * 3, "bias": torch.randn(50)}
    save_file(state, tmp_path / "w.safetensors")
    files = [degraded_weights(str(tmp_path / "w.safetensors"), share, tmp_path / "out") for share in (0.1, 0.2)]
    small, large = map(load_file, files)
    off = [
        (part["a"] - state["a"]).square().mean().sqrt() / state["a"].square().mean().sqrt() for part in (small, large)
    ]
    assert off[0].item() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(large["a"] - state["a"], 2 * (small["a"] - state["a"]), rtol=1e-3, atol=1e-5)
    assert torch.equal(small["bias"], state["bias"])
    before = files[0].stat().st_mtime_ns
    assert degraded_weights(str(tmp_path / "w.safetensors"), 0.1, tmp_path / "out") == files[0]
    assert files[0].stat().st_mtime_ns == before and len(list((tmp_path / "out").iterdir())) == 2


CASE = {"task": "denoise", "axis": "noise", "assumed": 0.1, "values": [0.1, 0.3],
        "wrong": ["task.sigma=VALUE", "assumed.sigma=0.1"], "right": ["task.sigma=VALUE"]}  # fmt: skip


class Made(CaseJob):
    """As if it had run: with these scores, by side."""

    def tables(self):
        return {side: pd.DataFrame({"image": ["a", "b"], "psnr": psnr}) for side, psnr in self.scores.items()}


def test_what_is_lost_is_right_minus_wrong_image_by_image(tmp_path):
    plain = ImageJob("denoise", "gaussian_mixture", "denoise", "mpgd", 2, None, 2, 1, tmp_path / "runs/denoise")
    known = {"noise": CASE, "prior": {**CASE, "right": [], "wrong": ["task.sigma=VALUE"]}}
    sides = {name: sides_of(plain, name, case) for name, case in known.items()}
    assert sides["noise"][2].options == ["task.sigma=0.3", "assumed.sigma=0.1"]
    assert [side.value for side in sides["noise"]] == ["0.1-right", "0.3-right", "0.3-wrong"]
    assert [side.value for side in sides["prior"]] == ["0.1-right", "0.3-wrong"]  # nothing told depends on the value
    scores = {"0.1-right": [30.0, 28.0], "0.3-right": [25.0, 24.0], "0.3-wrong": [22.0, 23.0]}, {
        "0.1-right": [30.0, 28.0], "0.3-wrong": [29.5, 27.5]}  # fmt: skip
    jobs = [Made(replace(plain, section=name), None, sides=sides[name]) for name in known]
    for job, found in zip(jobs, scores):
        job.scores, job.part = found, "cases"
    suite = load("assumptions", out=tmp_path)
    suite.yaml = {**suite.yaml, "tasks": known}
    found = losses(Outcome(suite, jobs), "cases")
    lost = found.set_index(["case", "value"])["lost"]
    assert lost.to_dict() == {("noise", 0.1): 0.0, ("noise", 0.3): 2.0, ("prior", 0.1): 0.0, ("prior", 0.3): 0.5}
    one = found[found["case"] == "noise"]
    assert breaks_at(one, 0.1, 1.5) == "-"  # of two images, by Student's t, nothing is beyond chance
    sure = one.assign(low=0.1)
    assert breaks_at(sure, 0.1, 1.5) == "0.3" and breaks_at(sure, 0.1, 2.5) == "-"


def test_every_side_of_a_case_takes_the_value_chosen_where_the_assumption_holds(tmp_path):
    """The search is of the plain problem; the runs differ by what is true and what is assumed."""
    suite = load("assumptions", out=tmp_path, tasks=["blur"])
    suite.samplers = ["mpgd_dsg"]
    suite.yaml["tuning"]["store"] = str(tmp_path / "store")
    (job,) = cases(suite)
    assert job.runs() == {} and not any("std" in option for option in job.search.options)
    job.search.weights = "w"  # else found by `check`
    about = dict(zip(("task", "sampler", "steps"), job.search.key), images=4, seeds=1, weights="w")
    for value, psnr in zip((0.05, 0.1, 0.2, 0.4, 0.8), (20.0, 24.0, 25.0, 24.0, 20.0)):
        job.search.trials.add({**about, "value": value, "psnr": psnr}, {0: {"psnr": np.full(4, psnr)}})
    runs = job.runs()
    (value,) = {run.chosen_value for run in runs.values()}
    assert value == pytest.approx(0.2, rel=1e-3)
    assert set(runs) == {f"{v:g}-right" for v in (1, 1.5, 2, 2.5, 3)} | {f"{v:g}-wrong" for v in (1, 1.5, 2.5, 3)}
    assert "assumed.std=2.0" in runs["3-wrong"].options and "assumed.std=2.0" not in runs["3-right"].options
    assert len({run.out for run in runs.values()}) == 9


@pytest.mark.parametrize("name", ["noise", "blur", "mask", "prior"])
def test_every_case_of_the_suite_says_what_is_true_and_what_is_assumed(name, tmp_path):
    case = load("assumptions").yaml["tasks"][name]
    assert case["assumed"] in case["values"] and len(case["values"]) > 2
    if name == "prior":
        return
    wrong = [option.replace("VALUE", "0.6") for option in case["wrong"]]
    task = build_task(compose_config("model=avatars64", f"task={case['task']}", *wrong))
    assert task.made_by is not None
    assert len(task.inputs(Data("data/avatars64/val", limit=1), (3, 64, 64))) == 1
    y = task.degrade(torch.zeros(1, 3, 64, 64), ["a"], 0)["y"]
    assert np.isfinite(y.numpy()).all()
