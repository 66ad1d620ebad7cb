"""The scripts of avatars64: what they draw, and that they overwrite nothing."""

import io
import runpy
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, save_clip, script
from PIL import Image
from safetensors.torch import load_file

from dsg.avatars64 import drawing, faces
from dsg.avatars64.attributes import VALUES, draw_attributes
from dsg.avatars64.faces import face, read_shards
from tasks.networks.evaluator import IDENTITY as COMPARED

render, measure, train_guidance = (
    SimpleNamespace(**runpy.run_path(str(ROOT / f"scripts/avatars64/{name}.py")))
    for name in ("render", "measure", "train_guidance")
)
SHIPPED = ROOT / "data/avatars64"


def call(name, *options):
    return script(f"scripts/avatars64/{name}.py", *options)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def load_faces(folder):
    return read_shards(folder, "images")[1][0]


def draw(out, split, count, seed=0):
    with ThreadPoolExecutor(1) as pool:
        render.write_faces(out, split, count, seed, pool)


def alike(content, shipped):
    """Whether a PNG is the shipped one but for edges, which another build of resvg rounds by 2 of 255 at most; the
    bytes depend on the zlib that Pillow was built with."""
    one, other = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (content, shipped))
    return one.shape == other.shape and abs(one - other).max() <= 2


def test_a_face_is_the_shipped_one():
    attributes, image = face(0, "test", 3)
    assert set(attributes) == {*VALUES, "background"}
    assert alike(render.png(image), (SHIPPED / "test/00003.png").read_bytes())
    assert alike(render.png(drawing.render_parts(attributes)), (SHIPPED / "test_parts/00003.png").read_bytes())
    assert not alike(render.png(drawing.render(attributes | {"skin": "BLACK"})), render.png(image))


def test_the_values_are_those_that_python_avatars_draws():
    import python_avatars as pa

    assert set(VALUES["skin"]) == {e.name for e in pa.SkinColor}
    assert set(VALUES["hair"]) < {e.name for e in pa.HairType}
    assert set(VALUES["clothing_color"]) == {e.name for e in pa.ClothingColor}


def test_the_script_draws_the_shipped_files(tmp_path):
    done = call("render", "val=2", "--out", tmp_path, "--workers", 1)
    assert done.returncode == 0, done.stderr
    drawn = contents(tmp_path)
    table = drawn.pop("val_attributes.csv")
    assert len(drawn) == 6 and all(alike(content, (SHIPPED / name).read_bytes()) for name, content in drawn.items())
    assert (SHIPPED / "val_attributes.csv").read_bytes().startswith(table)


def test_faces_that_are_there_are_left_and_others_are_refused(tmp_path):
    draw(tmp_path, "val", 2)
    before = contents(tmp_path)
    draw(tmp_path, "val", 1)  # fewer: the table keeps its rows
    assert contents(tmp_path) == before
    (tmp_path / "val/00001.png").unlink()
    draw(tmp_path, "val", 2)
    assert contents(tmp_path) == before
    shutil.copy(tmp_path / "val/00001.png", tmp_path / "val/00000.png")
    changed = contents(tmp_path)
    with pytest.raises(ValueError, match="00000.png is there with other content"):
        draw(tmp_path, "val", 3)
    with pytest.raises(ValueError, match="val_attributes.csv is there with other content"):
        draw(tmp_path, "val", 2, seed=5)
    assert contents(tmp_path) == changed


def test_shards_are_read_as_they_were_drawn(tmp_path):
    with pytest.raises(FileNotFoundError, match="run 'python scripts/avatars64/render.py train=40960' first"):
        load_faces(tmp_path / "train")
    draw(tmp_path, "train", 3)
    before = contents(tmp_path)
    draw(tmp_path, "train", 3)
    assert contents(tmp_path) == before
    faces = load_faces(tmp_path / "train")
    assert faces.shape == (3, 3, 64, 64) and faces.dtype == torch.uint8
    attributes, image = face(0, "train", 2)
    assert (faces[2].permute(1, 2, 0).numpy() == image).all() and draw_attributes(0, "train", 2) == attributes


@pytest.mark.parametrize(
    "count, seed, words",
    [
        (5, 0, "train/shard_000002_1_seed0.npz and shard_000002_2_seed0.npz hold the same faces"),
        (3, 1, "train/shard_000000_2_seed0.npz and shard_000000_2_seed1.npz are of different seeds"),
    ],
)
def test_shards_of_two_sets_are_neither_drawn_nor_read_together(tmp_path, monkeypatch, count, seed, words):
    monkeypatch.setattr(faces, "SHARD", 2)
    draw(tmp_path, "train", 3)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=words):
        draw(tmp_path, "train", count, seed)
    assert contents(tmp_path) == before
    draw(tmp_path / "other", "train", count, seed)
    shutil.copytree(tmp_path / "other/train", tmp_path / "train", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=words):
        read_shards(tmp_path / "train")


def test_a_set_of_whole_shards_is_extended(tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "SHARD", 2)
    draw(tmp_path, "train", 2)
    draw(tmp_path, "train", 3)
    assert (load_faces(tmp_path / "train")[2].permute(1, 2, 0).numpy() == face(0, "train", 2)[1]).all()
    (tmp_path / "train/shard_mine.npz").touch()
    with pytest.raises(ValueError, match="shard_mine.npz: a name like shard_000000_2_seed0.npz is expected"):
        load_faces(tmp_path / "train")


@pytest.mark.parametrize("name", ["labels", pytest.param("identity", marks=pytest.mark.slow)])
def test_a_training_is_resumed_and_replaces_no_weights_of_another(tmp_path, name, monkeypatch):
    draw(tmp_path, "identities", 1)
    table, (images, parts) = read_shards(tmp_path / "identities", "images", "parts")
    assert set(table["identity"]) == {0} and images.shape[0] == parts.shape[0] == 16 and parts.max() < 4
    args = SimpleNamespace(
        name=name, minutes=1, seed=0, data=tmp_path, out=tmp_path / "out", bf16=False, overwrite=False
    )
    job = train_guidance.JOBS[name]
    monkeypatch.setattr(job, "batch", 4)
    training = train_guidance.Training(args)
    assert np.isfinite(training.train_step())
    training.save()
    again = train_guidance.Training(args)
    assert again.step == 1 and again.train_step() == training.train_step()
    weights = (args.out / job.file).read_bytes()
    (args.out / f"training_{name}.pt").unlink()
    with pytest.raises(FileExistsError, match="safetensors is there already: add --overwrite"):
        train_guidance.Training(args)
    assert (args.out / job.file).read_bytes() == weights
    args.overwrite = True
    assert train_guidance.Training(args).step == 0


@pytest.mark.slow
def test_the_command_trains_on_its_budget_of_time(tmp_path):
    draw(tmp_path, "identities", 1)
    options = ["selector_labels", "--minutes", 0.05, "--data", tmp_path, "--out", tmp_path / "out"]
    done = call("train_guidance", *options)
    assert "steps of 32 faces, loss" in done.stdout, done.stderr
    assert "finished already" in call("train_guidance", *options).stdout


def test_a_missing_extra_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "python_avatars", None)
    with pytest.raises(ValueError, match=r"drawing faces needs python_avatars: pip install -e '\.\[data\]'"):
        drawing.render(draw_attributes(0, "val", 0))


@pytest.mark.parametrize(
    "script, options, words",
    [
        ("render", ["val=0"], "expected is split=count"),
        ("render", ["val=2", "--workers", "0"], "an integer, at least 1"),
        ("train_guidance", ["nose"], "invalid choice: 'nose'"),
        ("train_guidance", ["parts", "--minutes", "nan"], "a number above 0"),
        ("train_guidance", ["parts", "--out", str(ROOT / "checkpoints/avatars64")], "add --overwrite"),
        ("train_prior", ["--minutes", "0"], "a number above 0"),
        ("train_prior", ["--unet", "num_channels=33"], "do not divide into 8 groups"),
        ("train_prior", ["--unet", "channels=32"], "unexpected keyword argument 'channels'"),
        ("train_prior", ["--device", "cuda:99"], "device=cuda:99: this machine has"),
        ("train_prior", ["--data", "/none", "--device", "auto"], "no faces in /none"),
        ("measure", ["prior", "--tints", "100"], "--tints 100: 500 to 512"),
        ("measure", ["prior", "--weights", "/none"], "no checkpoint at /none"),
        ("measure", ["guidance", "--people", "7"], "at least 100"),
    ],
)
def test_what_cannot_be_done_is_one_line(script, options, words, monkeypatch, capsys):
    path = str(ROOT / f"scripts/avatars64/{script}.py")
    monkeypatch.setattr(sys, "argv", [path, *options])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(path, run_name="__main__")
    said = capsys.readouterr()
    assert stopped.value.code == 2 and words in said.err and said.err.count("\n") == 1, said.err
    assert said.err.startswith("error: ") and said.out == ""


def test_agreement_counts_what_evaluator_and_selector_say_of_the_same_face():
    truth = pd.DataFrame({name: ["a"] * 5 for name in COMPARED})
    evaluator, selector = truth.copy(), truth.copy()
    evaluator["skin"] = ["a", "b", "b", "b", "a"]
    selector["skin"] = ["a", "b", "c", "a", "a"]
    selector["hair"] = ["a", "a", "a", "a", "b"]
    found = measure.agreement(evaluator, selector, truth).set_index("attribute")
    shares = ["evaluator right", "selector right", "agree", "both wrong", "if independent", "wrong alike"]
    assert found.loc["skin", shares].tolist() == pytest.approx([0.4, 0.6, 0.6, 0.4, 0.24, 0.2])
    assert found.loc["facial_hair", shares].tolist() == [1, 1, 1, 0, 0, 0]
    assert found.loc["the four of a person", shares].tolist() == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.36, 0.2])


@pytest.mark.slow
def test_few_faces_give_every_table_and_the_figure(tmp_path, monkeypatch):
    values = {"REFERENCE": range(2000, 2064), "OTHERS": range(6096, 6128), "GROUP": 10}
    for name, value in {**values, "ProcessPoolExecutor": lambda workers: ThreadPoolExecutor(1)}.items():
        monkeypatch.setitem(measure.main.__globals__, name, value)
    measure.measure_guidance(SimpleNamespace(out=tmp_path, people=12, seed=0, workers=1))
    tables = {file.stem: pd.read_csv(file) for file in tmp_path.glob("*.csv")}
    assert {"networks", "identity", "hard_pairs", "clip", "words", "labels", "metrics", "frechet"} < set(tables)
    assert tables["labels"]["network"].tolist() == ["guidance network", "evaluator", "selector"]
    assert tables["agreement"]["attribute"].iloc[-1] == tables["attributes"]["attribute"].iloc[-1]
    assert (tables["identity"]["same mean"] < tables["identity"]["different mean"]).all()
    assert (tmp_path / "guidance.png").is_file() and (tmp_path / "evaluator/statistics.safetensors").is_file()


def half_written(tensors, path):
    """As a full disk or a kill leaves a file."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_clip_s_files_are_replaced_when_they_are_whole(tmp_path, monkeypatch):
    weights = "model.safetensors"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    job = train_guidance.Clip.__new__(train_guidance.Clip)  # its data are many faces
    torch.nn.Module.__init__(job)
    job.network, job.tokenizer = save_clip(tmp_path / "any", small, image_size=32), train_guidance.word_tokenizer(32)
    job.save(tmp_path / "out")
    before = contents(tmp_path / "out")
    assert {f"clip/{name}" for name in (weights, "config.json", "tokenizer.json")} < set(before)
    job.network.visual_projection.weight.neg_()
    with monkeypatch.context() as patched:
        patched.setattr(type(job.network), "save_pretrained", lambda net, to: half_written(net, to / weights))
        with pytest.raises(OSError, match="No space left"):
            job.save(tmp_path / "out")
    assert contents(tmp_path / "out") == before and [f.name for f in (tmp_path / "out").iterdir()] == ["clip"]
    job.save(tmp_path / "out")
    after = contents(tmp_path / "out")
    assert set(after) == set(before) and {k for k in before if before[k] != after[k]} == {f"clip/{weights}"}
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["clip"]


def test_a_mixture_is_replaced_when_it_is_whole(tmp_path, monkeypatch):
    script = ROOT / "scripts/fit_mixture.py"
    main = runpy.run_path(str(script))["main"]
    monkeypatch.setattr(sys, "argv", [str(script), "--overwrite"])

    def no_card(config):
        raise KeyboardInterrupt

    faces = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    found = {"FOLDER": tmp_path, "read_shards": lambda *_: (None, [faces]), "build": no_card}
    for name, value in {**found, "fit": lambda *_: {"means": torch.ones(2)}}.items():
        monkeypatch.setitem(main.__globals__, name, value)
    (tmp_path / "avatars16.safetensors").write_bytes(b"before")
    with monkeypatch.context() as patched:
        patched.setitem(main.__globals__, "save_file", half_written)
        with pytest.raises(OSError, match="No space left"):
            main()
    assert contents(tmp_path) == {"avatars16.safetensors": b"before"}
    with pytest.raises(KeyboardInterrupt):
        main()
    assert list(contents(tmp_path)) == ["avatars16.safetensors"]
    assert load_file(tmp_path / "avatars16.safetensors")["means"].tolist() == [1, 1]
