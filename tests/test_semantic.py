"""Semantic tasks on the embedded prior: inputs, the guidance networks, the command line."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, compose_config, script
from hydra.utils import instantiate
from PIL import Image

from dsg.avatars64.attributes import IDENTITY, variation
from dsg.avatars64.captions import WORDS, asked_for, caption
from dsg.avatars64.drawing import render, render_parts
from dsg.priors.base import Prior
from dsg.runs.prepare import prepare
from dsg.types import Data, Input
from tasks.networks import base as networks
from tasks.prompts import read_prompts, slug
from tasks.segmentation import mean_iou
from tasks.semantic import SemanticTask
from tasks.style import TextStyle

TEST = ROOT / "data/avatars64"
SHAPE = (3, 64, 64)


def call(*overrides):
    return script("run.py", "wandb.mode=disabled", *overrides)


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


# ---- words


def test_a_prompt_says_what_it_says():
    asked = asked_for("A smiling person with long dark brown hair and pale skin, wearing a red shirt")
    assert asked["hair_color"] == {"BROWN_DARK"} and "BOB" in asked["hair"] and asked["skin"] == {"PALE"}
    assert asked["clothing_color"] == {"RED"} and "SMILE" in asked["mouth"] and "accessory" not in asked
    assert asked_for("a face") == {}


def test_captions_are_true_and_in_the_vocabulary():
    rows = pd.read_csv(TEST / "val_attributes.csv", keep_default_na=False).to_dict("records")
    rng = np.random.default_rng(0)
    said = set()
    for row in rows:
        text = caption(row, rng, keep=1.0)
        asked = asked_for(text)
        assert asked and all(row[name] in values for name, values in asked.items()), text
        assert set(text.split()) <= set(WORDS)
        said |= set(asked)
    assert said == {"hair", "hair_color", "skin", "facial_hair", "mouth", "accessory", "clothing", "clothing_color"}


@pytest.mark.parametrize("name", ["prompts", "prompts_val"])
def test_the_suite_s_prompts_ask_for_something_that_exists(name):
    rows = pd.read_csv(TEST / "test_attributes.csv", keep_default_na=False).to_dict("records")
    prompts = read_prompts(str(TEST / f"{name}.txt"), "clip_text")
    for prompt in prompts:
        asked = asked_for(prompt)
        assert set(prompt.split()) <= set(WORDS)
        assert asked and any(all(r[n] in values for n, values in asked.items()) for r in rows), prompt
    assert len(prompts) >= (32 if name == "prompts" else 10)


# ---- inputs


class Brightness(SemanticTask):
    """A loss of one's own, in a few lines."""

    def loss(self, image, condition):
        return image.mean((1, 2, 3)).abs()


class Toy(Brightness):
    reference_kind = "image"
    takes_prompt = True


def test_every_reference_with_every_prompt(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (80, 64), name == "a" and "red" or "blue").save(tmp_path / f"{name}.png")
    (tmp_path / "p.txt").write_text("# comment\na cat\n\na dog\n")
    both = Toy("toy", reference=str(tmp_path), prompt=str(tmp_path / "p.txt")).inputs(Data(), SHAPE)
    assert [i.id for i in both] == ["a__a-cat", "a__a-dog", "b__a-cat", "b__a-dog"]
    assert len({i.digest for i in both}) == 4 and both[0].prompt == "a cat"
    assert both[0].reference.shape == (64, 64, 3) and (both[0].reference == both[1].reference).all()
    one = Toy("toy", reference=str(tmp_path), prompt="a cat").inputs(Data(limit=1), SHAPE)
    assert [i.id for i in one] == ["a"]
    instead = Toy("toy", prompt="a cat").inputs(Data(root=str(tmp_path)), SHAPE)
    assert [i.id for i in instead] == ["a", "b"]


def test_names_of_prompts_are_file_names():
    assert slug("A person, with 'red' hair!") == "a-person-with-red-hair"
    long = "a person " * 20
    assert len(slug(long)) < 80 and slug(long) != slug(long + "x")
    assert slug("猫") != slug("犬") and "/" not in slug("猫/犬")


def test_a_loss_of_one_s_own_needs_neither():
    task = Brightness("mine")
    (only,) = task.inputs(Data(), SHAPE)
    assert only.id == "mine" and only.reference is None and only.prompt is None
    assert task.condition([only], 0) == {} and task.condition_image(only, {}) is None and task.weights_hash is None
    x = torch.full((2, 3, 4, 4), 0.5)
    assert [c.name for c in task.columns] == list(task.metrics(x, {})) == ["mine_loss"]


def test_an_input_is_encoded_once_while_batches_repeat_it():
    class Counting(Brightness):
        calls = 0

        def encode(self, input):
            self.calls += 1
            return {"number": torch.tensor([float(len(input.id))])}

    task, inputs = Counting("counting"), [Input("a", prompt="x"), Input("bc", prompt="y")]
    assert task.condition([inputs[0], inputs[0], inputs[1]], 0)["number"].tolist() == [1, 1, 2] and task.calls == 2
    assert task.condition([inputs[1]], 0)["number"].tolist() == [2] and task.calls == 2
    assert task.condition([inputs[0]], 0)["number"].tolist() == [1] and task.calls == 3


class Painter(Prior):
    """A prior that takes prompts."""

    takes_prompts, weights_hash = True, "none"

    def __init__(self, prompt=None):
        super().__init__()
        self.prompt = prompt

    def predict(self, x_t, t, prompts=None):
        raise NotImplementedError


def test_a_prompt_that_is_the_prior_s_has_to_be_one_prompt():
    network = instantiate(compose_config("task=style").task).guidance
    task = TextStyle("text_style", network, prompt="a face")
    task.check_prior(Painter(), [])
    with pytest.raises(ValueError, match="task.prompt and model.prompt are both the prior's prompt: give one"):
        task.check_prior(Painter("a cat"), [])
    wrong = Brightness("mine", prompt="a face")
    with pytest.raises(ValueError, match="no part of task=mine takes one .model.prompt is the prior's."):
        wrong.check_prior(Painter(), [])


def test_mean_iou_by_hand():
    labels = torch.tensor([[[0, 0], [1, 255]]])
    found = torch.tensor([[[0, 1], [1, 0]]])
    assert mean_iou(found, labels, 3).item() == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert mean_iou(labels.clamp(max=1), labels, 3).item() == 1


# ---- the guidance networks


@pytest.mark.parametrize("name", ["faceid", "clip_text", "style", "segmentation"])
def test_the_guidance_networks_tell_what_was_asked_for_from_something_else(name):
    task = instantiate(compose_config(f"task={name}").task)
    inputs = task.inputs(Data(str(TEST / "test"), 12), SHAPE)
    condition = task.condition(inputs, 0)
    if name == "clip_text":
        rows = pd.read_csv(TEST / "test_attributes.csv", keep_default_na=False, dtype={"id": str}).to_dict("records")
        ids = [next(r["id"] for r in rows if all(r[n] in v for n, v in asked_for(i.prompt).items())) for i in inputs]
        folder = "test"
    else:
        ids, folder = [i.id for i in inputs], {"faceid": "test_again"}.get(name, "test")
    x = torch.from_numpy(np.stack([pixels(TEST / folder / f"{i}.png") for i in ids])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        right, wrong = task.loss(x.float(), condition), task.loss(x.float().roll(1, 0), condition)
    assert (right < wrong).float().mean() > 0.8 and right.mean() < 0.9 * wrong.mean()


# ---- the command line

FAST = ["sampler.steps=3", "batch_size=3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("semantic") / "out"
    done = call("task=faceid", "task.reference=data/avatars64/val", "data.limit=2", "samples=2", *FAST, f"out={out}")
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_samples_references_and_metrics(run):
    assert sorted(p.name for p in (run / "images").iterdir()) == [f"0000{i}_{k}.png" for i in (0, 1) for k in (0, 1)]
    assert sorted(p.name for p in (run / "condition").iterdir()) == ["00000.png", "00001.png"]
    assert (pixels(run / "condition/00000.png") == pixels(TEST / "val/00000.png")).all()
    assert not any((run / "truth").iterdir())
    table = pd.read_csv(run / "per_image.csv", dtype={"id": str, "image": str})
    assert table[["id_distance", "identity_attributes", "same_identity"]].notna().all().all() and "psnr" not in table
    summary = json.loads((run / "metrics.json").read_text())
    assert summary["metrics"]["diversity"]["mean"] > 0.05
    weights = [line for line in (run / "config.yaml").read_text().splitlines() if line.strip().startswith("weights:")]
    assert len(weights) == 2  # the prior's and the guidance network's are in the run's identity
    x, y = pixels(run / "images/00000_0.png"), pixels(run / "images/00000_1.png")
    assert summary["metrics"]["diversity"]["high"] >= np.sqrt(np.square((x - y) / 127.5).mean()) * 0.99


@pytest.mark.slow
def test_more_references_extend_it_and_the_batch_does_not_matter(run, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in (run / "images").iterdir()}
    options = ["task=faceid", "task.reference=data/avatars64/val", "sampler.steps=3"]
    assert "finished already" in call(*options, "data.limit=2", "samples=2", f"out={run}").stdout
    assert call(*options, "data.limit=1", "samples=2", "batch_size=1", f"out={tmp_path / 'o'}").returncode == 0
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    for k in (0, 1):
        assert (pixels(run / f"images/00000_{k}.png") == pixels(tmp_path / f"o/images/00000_{k}.png")).all()


def test_prompts_from_a_text_and_from_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("a smiling person with red hair!\na sad person\n", encoding="utf-8-sig")
    done = call("task=clip_text", f"task.prompt={tmp_path / 'p.txt'}", *FAST, f"out={tmp_path / 'o'}")
    assert done.returncode == 0, done.stderr
    names = ["a-sad-person", "a-smiling-person-with-red-hair"]
    assert sorted(p.stem for p in (tmp_path / "o/images").iterdir()) == names
    assert (tmp_path / "o/condition/a-sad-person.txt").read_text() == "a sad person\n"
    table = pd.read_csv(tmp_path / "o/per_image.csv")
    assert sorted(table["prompt"]) == ["a sad person", "a smiling person with red hair!"]
    assert {"clip_score", "attribute_accuracy"} <= set(table)


@pytest.mark.slow
def test_a_person_and_a_prompt_together(tmp_path):
    options = ["task=composite", "task.reference=data/avatars64/val/00003.png", "task.prompt=a sad person"]
    done = call(*options, "samples=2", *FAST, f"out={tmp_path / 'o'}")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "o/per_image.csv")
    assert list(table["id"]) == ["00003_0", "00003_1"]
    sums = table["id_distance"] + 0.1 * table["clip_distance"]
    np.testing.assert_allclose(table["composite_loss"], sums, rtol=1e-4)
    assert table["identity_attributes"].notna().all() and table["attribute_accuracy"].notna().all()


def test_a_prompt_beside_a_label_map_goes_into_the_loss(tmp_path):
    parts = ["task=composite", "task.weights={faceid: 0, clip_text: 0.1, segmentation: 1}", "task.prompt=a sad person"]
    config = compose_config(*parts, "task.reference=data/avatars64/test_parts/00003.png")
    prepared = prepare(config, out=tmp_path / "o")
    assert set(prepared.task.condition(prepared.inputs, 0)) == {"clip_text/text", "segmentation/labels"}


def test_a_sum_takes_the_prompts_of_its_parts_and_names_the_rest_as_wrong():
    summed = instantiate(compose_config("task=composite").task)
    words = instantiate(compose_config("task=clip_text").task)
    assert summed.prompt == words.prompt and summed.evaluated_by == (
        "identity_attributes",
        "same_identity",
        "clip_score",
        "attribute_accuracy",
        "all_attributes",
    )
    assert instantiate(compose_config("task=composite", "task.weights.clip_text=0").task).prompt is None


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["task=faceid", "task.reference=nowhere"], "nowhere: no such image or folder"),
        (["task=faceid", "task.reference={tmp}/broken.png"], "broken.png cannot be read"),
        (["task=faceid", "task.reference={tmp}/tiny.png"], "tiny.png is too small: 16x16, at least 32x32"),
        (["task=faceid", "data.degraded=true"], "task=faceid restores nothing"),
        (["task=faceid", "task.guidance.checkpoint=none.pt"], "no checkpoint at"),
        (["task=faceid", "task.crop=[0,70,0,64]"], "task.crop=[0, 70, 0, 64]"),
        (["task=faceid", "model=celebahq256", "task.reference={tmp}/tiny.png"], "fetch_checkpoints.py"),
        (["task=clip_text", "task.prompt=a purple person"], "does not know 'purple'; its words are a, an, and"),
        (["task=clip_text", "task.prompt={tmp}/none.txt"], "none.txt cannot be read"),
        (["task=clip_text", "task.prompt={tmp}/empty.txt"], "no prompt in it"),
        (["task=clip_text", "task.prompt={tmp}/twice.txt"], "'a face' is there twice"),
        (["task=clip_text", "task.prompt=''"], "task.prompt= is empty"),
        (["task=clip_text", "task.prompt=null"], "task=clip_text needs task.prompt="),
        (["task=text_style", "task.prompt='a face'"], "this prior takes none"),
        (["task=style", "sampler=freedom", "sampler.scaling=text"], "needs a prior that follows prompts"),
        (["task=segmentation", "task.reference=data/avatars64/val/00000.png"], "is no label map"),
        (
            ["task=segmentation", "task.reference={tmp}/seven.png"],
            "class 7: the guidance network knows 0 background",
        ),
        (["task=composite", "+task.weights.sound=1"], "task.weights.sound: no such part"),
        (["task=composite", "task.weights.style=-1"], "task.weights.style=-1"),
        (["task=composite", "task.weights.faceid=0", "task.reference={tmp}/tiny.png"], "takes none"),
        (
            ["task=composite", "task.weights.clip_text=0", "task.prompt=a sad person"],
            "no part of task=composite takes one",
        ),
        (
            ["task=composite", "+task@task.parts.small=super_resolution", "+task.weights.small=1"],
            "task.weights.small: a measurement",
        ),
        (["task=faceid", "sampler.scaling=loud"], "sampler.scaling=loud is unknown: one of gradient, noise, text"),
    ],
)
def test_bad_input_is_one_clear_line_before_any_work(tmp_path, monkeypatch, overrides, words):
    monkeypatch.setattr(networks, "_loaded", {})
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16)).save(tmp_path / "tiny.png")
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(tmp_path / "seven.png")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "twice.txt").write_text("a face\na face\n")
    with pytest.raises((ValueError, OSError)) as error:
        prepare(compose_config(*(o.format(tmp=tmp_path) for o in overrides)), out=tmp_path / "o")
    message = str(error.value)
    assert words in message and "\n" not in message and not (tmp_path / "o").exists()
    assert networks._loaded == {}  # before weights load


def test_bad_input_on_the_command_line(tmp_path):
    done = call("task=clip_text", "task.prompt=a purple person", f"out={tmp_path / 'o'}")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and "'purple'" in done.stderr and not (tmp_path / "o").exists()


# ---- the suite


@pytest.mark.slow
def test_the_suite_s_tables_figures_and_a_second_call(tmp_path):
    command = ["scripts/reproduce.py", "--suite=semantic", "--steps=3", "--conditions=2", "--samples=2"]
    command += ["--tasks", "faceid", "clip_text", "--wandb=disabled", f"--out={tmp_path}"]
    first = script(*command)
    assert first.returncode == 0, first.stderr
    table = pd.read_csv(tmp_path / "table.csv")
    methods = ["unconditional", "freedom", "freedom_dsg", "mpgd", "mpgd_dsg", "real images"]
    assert set(table["method"]) == set(methods) and set(table["task"]) >= {"faceid", "clip_text"}
    faceid = table[table["task"] == "faceid"].pivot_table("mean", "method", "metric")
    assert faceid.loc["real images", "id_distance"] < faceid.loc["unconditional", "id_distance"]
    assert faceid["diversity"].drop("real images").gt(0).all()
    assert Image.open(tmp_path / "faceid.png").width > 500 and (tmp_path / "clip_text.png").exists()
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("images/*.png")}
    assert script(*command).returncode == 0
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("images/*.png")}


# ---- the data


def test_label_maps_and_second_images_are_what_the_script_draws():
    table = pd.read_csv(TEST / "test_attributes.csv", keep_default_na=False, dtype={"id": str})
    for row in table.to_dict("records")[:3]:
        name = row.pop("id")
        assert (render_parts(row) == pixels(TEST / f"test_parts/{name}.png")).all()
        again = variation(row, 0, int(name), 0)
        assert (render(again) == pixels(TEST / f"test_again/{name}.png")).all()
        assert all(again[k] == row[k] for k in IDENTITY) and again["background"] != row["background"]
