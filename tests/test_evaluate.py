"""Metrics that are added to finished runs, and runs compared image by image."""

import json
import runpy
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, script
from PIL import Image

from dsg.config import load_with_sources
from dsg.priors.adm import ADMPrior
from dsg.runs.evaluation import add_metrics, find_runs, finished_run
from dsg.runs.paired import compare
from dsg.runs.prepare import pick_device, prepare

FAST = ["sampler.steps=3", "wandb.mode=disabled", "metrics=[psnr]"]
SMALL = {"evaluator_frechet": {"smallest": 3}}


def make(out, *overrides):
    config, sources = load_with_sources([*FAST, *overrides])
    assert prepare(config, sources, out).execute() == []
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return make(folder / "a", "data.limit=3"), make(folder / "b", "data.limit=4", "sampler=unconditional")


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "run")


def summary(out):
    return json.loads((out / "metrics.json").read_text())


def without(value, *names):
    return {k: v for k, v in value.items() if k not in names}


def test_metrics_are_added_without_the_prior_and_nothing_else_changes(run, monkeypatch):
    before, images = summary(run), {f.name: f.stat().st_mtime_ns for f in (run / "images").iterdir()}
    monkeypatch.setattr(ADMPrior, "__init__", lambda *_, **__: pytest.fail("the prior was built"))
    assert add_metrics(run, ["ssim", "evaluator_frechet"], SMALL) == {}
    after = summary(run)
    assert set(after["metrics"]) == {*before["metrics"], "ssim"}
    assert without(after["metrics"], "ssim") == before["metrics"]
    assert after["set_metrics"]["evaluator_frechet"]["images"] == 3
    changed = ("metrics", "set_metrics", "columns")
    assert without(after, *changed) == without(before, *changed)
    assert {*before["columns"], "ssim"} <= set(after["columns"])
    assert "ssim" in pd.read_csv(run / "per_image.csv")
    assert images == {f.name: f.stat().st_mtime_ns for f in (run / "images").iterdir()}


def test_added_metrics_are_those_of_a_run_that_had_them_at_once(run, tmp_path):
    add_metrics(run, ["ssim", "evaluator_frechet"], SMALL)
    at_once = make(tmp_path / "at_once", "data.limit=3", "metrics=[psnr,ssim]")
    assert summary(run)["metrics"] == summary(at_once)["metrics"]


def test_what_is_there_already_is_not_computed_again(run):
    add_metrics(run, ["ssim"], {})
    files = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    add_metrics(run, ["ssim"], {})
    assert files == {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}


def test_what_was_added_stays_when_more_is_added_and_when_the_run_is_called_again(run):
    add_metrics(run, ["evaluator_frechet"], SMALL)
    add_metrics(run, ["ssim"], {})
    make(run, "data.limit=3")
    assert "ssim" in summary(run)["metrics"] and "evaluator_frechet" in summary(run)["set_metrics"]


def test_added_metrics_are_computed_on_the_run_s_device_or_on_what_the_machine_has(run):
    assert {metric.device.type for metric in finished_run(run).metrics} == {pick_device("auto").type}
    text = (run / "config.yaml").read_text()
    for device, found in (("cpu", "cpu"), ("cuda:99", pick_device("auto").type)):
        (run / "config.yaml").write_text(text.replace("device: auto", f"device: {device}"))
        assert f"device: {device}" in (run / "config.yaml").read_text()
        assert {metric.device.type for metric in finished_run(run).metrics} == {found}


def test_an_extended_run_is_evaluated_whole(run):
    make(run, "data.limit=4")
    assert len(finished_run(run).items) == 4
    add_metrics(run, ["ssim"], {})
    assert pd.read_csv(run / "per_image.csv")["ssim"].notna().sum() == 4


def test_failures_that_were_reported_stay_reported(run):
    """Of an image that was asked for after the folder's config was written."""
    failure = {"failed": "00003", "image": "00003", "step_index": 2, "t": 500.0}
    (run / "parts/1.jsonl").write_text(json.dumps(failure) + "\n")
    add_metrics(run, ["ssim"], {})
    assert summary(run)["failures"] == [{"id": "00003", "step_index": 2, "t": 500.0}]


def test_a_run_that_was_killed_before_its_summary_can_be_evaluated(run):
    (run / "metrics.json").unlink()
    assert add_metrics(run, ["ssim"], {}) == {}
    assert summary(run)["images"] == 3 and "ssim" in summary(run)["metrics"]


def test_why_there_is_no_number_is_said(run):
    reasons = add_metrics(run, ["fid", "evaluator_frechet", "same_identity"], {})
    assert "needs a reference set" in reasons["fid"]
    assert "3 images are too few: at least 500" in reasons["evaluator_frechet"]
    assert reasons["same_identity"] == "this task has nothing to compare with"
    assert summary(run)["set_metrics"] == {}


@pytest.mark.parametrize(
    "names, options, words",
    [
        (["psn"], {}, "metric psn is unknown"),
        (["fid"], {"fid": {"referenc": "x"}}, "did you mean fid.reference"),
        (["fid"], {"fid": {"smallest": "many"}}, "fid.smallest=many: expected an integer"),
        (["psnr"], {"fid": {"smallest": 2}}, "fid has options, but is not asked for"),
        (["kid"], {"kid": {"smallest": 10}}, "kid.subset_size=500"),
    ],
)
def test_wrong_metrics_and_options_are_one_line(run, names, options, words):
    with pytest.raises(ValueError, match=words) as refused:
        add_metrics(run, names, options)
    assert "\n" not in str(refused.value)


def test_an_image_that_was_exchanged_is_refused(run):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(next((run / "images").iterdir()))
    with pytest.raises(ValueError, match="are not as written"):
        add_metrics(run, ["ssim"], {})


@pytest.mark.parametrize("text", ["", "a: [", "model: {name: x}"])
def test_a_damaged_config_is_one_line(run, text):
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="config.yaml is damaged"):
        add_metrics(run, ["ssim"], {})


# --- two runs


def table(out, values, metric="psnr", digests=None, ids=None):
    """A run's table alone."""
    out.mkdir()
    ids = ids or [f"{i:05}" for i in range(len(values))]
    pd.DataFrame({"id": ids, "image": ids, "input": digests or ids, metric: values}).to_csv(
        out / "per_image.csv", index=False
    )
    return out


def test_differences_are_of_the_images_that_both_have(made):
    first, second = made
    found = {one.metric: one for one in compare(first, second)}
    a, b = (pd.read_csv(out / "per_image.csv", dtype={"id": str}).set_index("id")["psnr"] for out in made)
    expected = (b - a).dropna()
    psnr = found["psnr"].difference
    assert psnr.images == len(expected) == 3
    assert psnr.difference == pytest.approx(expected.mean(), rel=1e-5)
    assert psnr.low <= psnr.difference <= psnr.high
    assert "network_evaluations" not in found and "seconds" in found


def test_pairing_finds_a_small_difference_between_images_that_differ_much(tmp_path):
    rng = np.random.default_rng(0)
    values = 30 + 5 * rng.standard_normal(100)
    shifted = values + 0.1 + 0.05 * rng.standard_normal(100)
    first, second = table(tmp_path / "a", values), table(tmp_path / "b", shifted)
    (one,) = compare(first, second)
    found = one.difference
    assert found.verdict == "higher" and found.low > 0.08 and found.high < 0.12
    (one,) = compare(first, second, {"psnr": 0.2})
    assert one.difference.verdict == "higher, within the margin"
    (one,) = compare(first, second, {"psnr": 0.05})
    assert one.difference.verdict == "higher"


def test_a_wide_interval_is_neither_a_difference_nor_equivalence(tmp_path):
    rng = np.random.default_rng(0)
    first, second = (table(tmp_path / name, rng.standard_normal(20)) for name in "ab")
    (one,) = compare(first, second, {"psnr": 0.1})
    assert one.difference.verdict == "open"


def test_images_may_be_called_what_pandas_takes_for_nothing(tmp_path):
    first, second = (table(tmp_path / name, [1.0, 2.0], ids=["NA", "US"]) for name in "ab")
    assert compare(first, second)[0].difference.images == 2


def test_one_image_has_no_interval(tmp_path):
    (one,) = compare(table(tmp_path / "a", [1.0]), table(tmp_path / "b", [2.0]))
    assert one.difference.difference == 1 and one.difference.verdict == "no interval of one image"


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first, other = table(tmp_path / "a", [1.0, 2.0]), table(tmp_path / "b", [1.0, 2.0], digests=["x", "y"])
    with pytest.raises(ValueError, match="image 00000 is not the same"):
        compare(first, other)
    with pytest.raises(ValueError, match="--margin ssim: the runs share psnr"):
        compare(first, table(tmp_path / "c", [1.0, 2.0]), {"ssim": 1})
    with pytest.raises(ValueError, match="no per_image.csv"):
        compare(first, tmp_path)
    (other / "per_image.csv").write_text("")
    with pytest.raises(ValueError, match="damaged"):
        compare(first, other)


def test_a_metric_that_raises_is_told_after_the_others_are_written(run, tmp_path):
    evaluator = shutil.copytree(ROOT / "checkpoints/avatars64/evaluator", tmp_path / "evaluator")
    (evaluator / "statistics.safetensors").write_bytes(b"damaged")
    options = {"evaluator_frechet": {"smallest": 3, "checkpoint": str(evaluator)}}
    with pytest.raises(ValueError, match="no evaluator_frechet: .* cannot be read as a checkpoint"):
        add_metrics(run, ["evaluator_frechet", "ssim"], options)
    assert "ssim" in summary(run)["metrics"]
    (evaluator / "statistics.safetensors").unlink()
    assert "statistics.safetensors" in add_metrics(run, ["evaluator_frechet"], options)["evaluator_frechet"]


# --- the command line


def test_the_command_says_why_there_is_no_number(run, capsys):
    main = runpy.run_path(str(ROOT / "scripts/evaluate.py"))["main"]
    assert main([str(run), "--metrics", "haarpsi", "evaluator_frechet"]) == 1
    said = capsys.readouterr()
    assert f"{run}: haarpsi 0." in said.out and "frechet" not in said.out
    assert f"{run}: no evaluator_frechet: 3 images are too few: at least 500" in said.err


def command(*arguments):
    return script("scripts/evaluate.py", *arguments)


@pytest.mark.slow
def test_the_command_adds_metrics_to_all_runs_below_a_folder(made, tmp_path):
    for out in made:
        shutil.copytree(out, tmp_path / "runs" / out.name)
    assert find_runs([tmp_path]) == [tmp_path / "runs/a", tmp_path / "runs/b"]
    (tmp_path / "runs/b/config.yaml").write_text("")
    done = command(tmp_path, "--metrics", "haarpsi", "fid", "--set", "fid.smallest=2")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "runs/a: haarpsi 0." in done.stdout and "runs/a: no fid: fid needs a reference set" in done.stderr
    assert "runs/b/config.yaml is damaged" in done.stderr


@pytest.mark.slow
def test_the_command_compares_two_runs(made):
    done = command(*made, "--margin", "psnr=0.2")
    assert done.returncode == 0 and "psnr" in done.stdout and "B - A" in done.stdout
    done = command(*made, "--margin", "psnr")
    assert done.returncode == 2 and "expected NAME=VALUE" in done.stderr
