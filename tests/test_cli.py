"""run.py as a user calls it, on the embedded prior."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, compose_config, script
from PIL import Image

from dsg.runs.prepare import prepare

MEASURED = ["sampler.steps=3", "data.limit=3", "wandb.mode=disabled"]
FAST = [*MEASURED, "metrics=[]"]


def call(*overrides):
    return script("run.py", *overrides)


def call_in_a_process(*overrides, env=None):
    line = [sys.executable, str(ROOT / "run.py"), *map(str, overrides)]
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)


def saved_images(out):
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted((out / "images").glob("*.png"))}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    done = call_in_a_process(f"out={out}", *MEASURED, "wandb.mode=offline", "wandb.group=a-group")
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_what_is_promised(run):
    names = ["00000.png", "00001.png", "00002.png"]
    for folder in ("images", "condition", "truth"):
        assert sorted(p.name for p in (run / folder).iterdir()) == names
    table = pd.read_csv(run / "per_image.csv", dtype={"id": str})
    assert list(table["id"]) == ["00000", "00001", "00002"]
    assert table[["psnr", "ssim", "haarpsi", "residual", "seconds"]].notna().all().all()
    assert (table["network_evaluations"] == 3).all()
    summary = json.loads((run / "metrics.json").read_text())
    assert summary["images"] == 3 and summary["metrics"]["psnr"]["low"] <= summary["metrics"]["psnr"]["mean"]
    assert (run / "config.yaml").exists()


def test_the_offline_wandb_run_holds_config_metrics_and_images(run):
    (log,) = (run / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    for word in (b"a-group", b"guidance_rate", b"haarpsi/mean", b"seconds_per_image", b"per_image"):
        assert word in content, word
    assert len(list(log.parent.glob("files/media/images/*.png"))) == 2  # the panel and the contact sheet


def test_the_truth_is_the_image_and_the_condition_its_observed_part(run):
    truth = np.asarray(Image.open(run / "truth/00000.png"))
    assert (truth == np.asarray(Image.open(ROOT / "data/avatars64/test/00000.png"))).all()
    condition = np.asarray(Image.open(run / "condition/00000.png")).astype(int)
    missing = (abs(condition - 128) <= 1).all(-1)
    assert 0.25 < missing.mean() < 0.75
    assert abs(condition - truth)[~missing].mean() < 10  # noise of 6.4 / 255, clipped


def test_a_larger_limit_extends_and_a_finished_run_is_left_alone(run):
    before = {p: p.stat().st_mtime_ns for p in (run / "images").iterdir()}
    done = call(f"out={run}", *FAST)
    assert done.returncode == 0 and "finished already" in done.stdout
    assert call(f"out={run}", *FAST, "data.limit=4", "batch_size=1").returncode == 0
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert (run / "images/00003.png").exists()


def test_results_of_two_runs_never_mix(run):
    done = call(f"out={run}", *FAST, "sampler.guidance_rate=0.31")
    assert done.returncode == 2 and "guidance_rate" in done.stderr and "another" in done.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_saved_images(tmp_path):
    options = ["sampler.steps=8", "data.limit=4", "batch_size=1", "wandb.mode=disabled", "sampler=mpgd_dsg"]
    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), f"out={tmp_path / 'a'}", *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not list((tmp_path / "a/parts").glob("*")) and time.time() < deadline and killed.poll() is None:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert call(f"out={tmp_path / 'a'}", *options).returncode == 0
    assert call(f"out={tmp_path / 'b'}", *options, "batch_size=4").returncode == 0
    a, b = saved_images(tmp_path / "a"), saved_images(tmp_path / "b")
    assert list(a) == list(b) and len(a) == 4
    assert max(abs(a[k] - b[k]).max() for k in a) <= 2


def test_images_that_stop_being_finite_are_named_and_the_exit_code_says_so(tmp_path):
    out = tmp_path / "o"
    done = call(f"out={out}", *FAST, "sampler=dps", "sampler.step_size=1e38")
    assert done.returncode == 1 and "failed: 00001: not finite at step" in done.stderr
    summary = json.loads((out / "metrics.json").read_text())
    assert [f["id"] for f in summary["failures"]] == ["00000", "00001", "00002"] and summary["images"] == 0
    assert list((out / "images").iterdir()) == []


def write(path, size=(64, 64), mode="RGB"):
    Image.new(mode, size, 128 if mode == "L" else None).save(path)


BAD_INPUT = [
    (["sampler.steps=1"], ["sampler.steps=1", "2"]),
    (["sampler.steps=2000"], ["2000", "1000"]),
    (["sampler.guidance_rate=1.2"], ["guidance_rate=1.2"]),
    (["sampler.interval=0"], ["interval=0"]),
    (["device=tpu"], ["device=tpu", "cuda"]),
    (["device=cuda:99"], ["cuda:99"]),
    (["data.root=/nowhere"], ["/nowhere"]),
    (["data.root=null"], ["data.root"]),
    (["model=gaussian_mixture_2d"], ["(1, 1, 2)", "docs/theory.md"]),
    (["model=gaussian_mixture", "task=linear", "task.matrix=[[1,2]]"], ["2 columns", "768"]),
    (["model=gaussian_mixture", "task=linear", "data.degraded=true"], ["data.degraded"]),
    (["sampler.travel.repeats=2.5"], ["sampler.travel.repeats=2.5"]),
    (["task=inpaint_box", "task.box=10.5"], ["task.box=10.5"]),
    (["task=gaussian_deblur", "task.std=abc"], ["task.std=abc"]),
    (["device=cpu:"], ["device=cpu:"]),
    (["model.checkpoint=/nowhere.pt"], ["no checkpoint at /nowhere.pt"]),
    (["model=ffhq256", "data.root=data/avatars64/test", "model.checkpoint=README.md"], ["too small", "00000.png"]),
    (["model=ffhq256"], ["python scripts/fetch_checkpoints.py ffhq256"]),
    (["data.degraded=true", "task=super_resolution"], ["00000.png", "64x64", "must be 16"]),
    (["sampler.kernel=ddpm", "sampler.variance=learned_range"], ["fixed_small"]),
    (["task=super_resolution", "task.factor=1"], ["task.factor=1"]),
    (["data.degraded=true"], ["task.mask"]),
    (["assumed=3"], ["assumed=3: expected {option: value"]),
    (["task=composite", "task.weights=null"], ["task.weights=None: expected {option: value"]),
    (["task=composite", "task.parts=3"], ["task.parts=3: expected {option: value"]),
]


@pytest.mark.parametrize("overrides, words", BAD_INPUT, ids=[" ".join(overrides) for overrides, _ in BAD_INPUT])
def test_bad_input_is_one_clear_line_before_any_work(tmp_path, overrides, words):
    with pytest.raises((ValueError, OSError)) as error:
        prepare(compose_config(*FAST, *overrides), tmp_path / "o")
    assert all(word in str(error.value) for word in words) and not (tmp_path / "o").exists()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["sampler=nope"], ["dps_dsg", "mpgd"]),
        (["task=nope"], ["inpaint", "super_resolution"]),
        (["model=nope"], ["avatars64", "ffhq256"]),
        (["sampler.steps=1"], ["error: sampler.steps=1", "2"]),
        (["model=ffhq256"], ["python scripts/fetch_checkpoints.py ffhq256"]),
        (["--config-name", "nope"], ["--config-name", "--config-dir adds YAML files"]),
        (["-m", "launcher=slurn"], ["error: launcher slurn is unknown: one of local, slurm"]),
        (["--workers", "2"], ["error: ", "add -m"]),
    ],
)
def test_bad_input_on_the_command_line(tmp_path, overrides, words):
    done = call(f"out={tmp_path / 'o'}", *FAST, *overrides)
    assert done.returncode != 0 and "Traceback" not in done.stderr and not (tmp_path / "o").exists()
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    "file, text, words",
    [
        ("sampler/mine.yaml", "name: mine\n\tsteps: 3\n", "mine.yaml, line 2: found character"),
        ("tuned/avatars64.csv", "inpaint: [\n", "avatars64.csv, line 1: the columns are task,sampler,steps,option,"),
        ("tuned/avatars64.csv", "task,sampler,steps,option,value,source\na,b,c,d,e,f\n", "avatars64.csv, line 2: "),
    ],
)
def test_a_yaml_file_of_the_user_that_cannot_be_read_is_named(tmp_path, file, text, words):
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    for more in ([], ["-m"]):
        sampler = "mine" if "sampler" in file else "dps"
        done = call("--config-dir", str(tmp_path), *more, f"sampler={sampler}", f"out={tmp_path / 'o'}", *FAST)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_one_bad_run_does_not_stop_a_sweep(tmp_path):
    done = call(
        "-m",
        "sampler.steps=1,3,2",
        "data.limit=1",
        "wandb.mode=disabled",
        f"out={tmp_path / 'o'}-${{sampler.steps}}",
    )
    assert done.returncode == 2 and "error: sampler.steps=1: " in done.stderr
    assert (tmp_path / "o-3/images/00000.png").exists()
    head, *rows = done.stdout.splitlines()[-3:]  # both that ended well, side by side
    assert head.split()[:5] == ["task", "sampler", "steps", "images", "psnr"]
    assert [row.split()[:4] for row in rows] == [["inpaint", "dps_dsg", steps, "1"] for steps in "32"]


@pytest.mark.parametrize(
    "kind, words", [("truncated", "cannot be read"), ("foreign", "another network"), ("text", "cannot be read")]
)
def test_checkpoints_that_do_not_fit(tmp_path, kind, words):
    path = tmp_path / "weights.pt"
    if kind == "text":
        path.write_text("not weights")
    else:
        torch.save({"a": torch.zeros(1000)}, path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:700])
    done = call(f"model.checkpoint={path}", f"out={tmp_path / 'o'}", *FAST)
    assert done.returncode == 2 and words in done.stderr and str(path) in done.stderr


def test_bad_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.png").write_bytes(b"\x89PNG no")
    (tmp_path / "twice").mkdir()
    write(tmp_path / "twice/a.png")
    write(tmp_path / "twice/a.jpg")
    for name, word in (("empty", "no images"), ("twice", "both have the id a")):
        with pytest.raises((ValueError, OSError), match=word):
            prepare(compose_config(f"data.root={tmp_path / name}", f"out={tmp_path / 'o'}"))
    done = call(f"data.root={tmp_path / 'broken'}", f"out={tmp_path / 'o'}", *FAST)
    assert done.returncode == 2 and "x.png" in done.stderr


def test_what_cannot_be_used_is_skipped_where_that_is_asked_for_even_on_a_bare_machine(tmp_path):
    """Without git, a home, or a locale that knows the letters in the folder's name."""
    folder = tmp_path / "it's (2024) & 日本 😀"
    folder.mkdir()
    write(folder / "a.png")
    write(folder / "c.png")
    (folder / "b.png").write_bytes(b"\x89PNG no")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.tile(np.uint8([255, 0]), (64, 32))).save(tmp_path / "masks/a.png")
    options = [
        f"data.root={folder}",
        "data.on_error=skip",
        f"task.mask={tmp_path / 'masks'}",
        f"out={tmp_path / 'ö (1)'}",
    ]
    bare = {**os.environ, "LC_ALL": "POSIX", "PATH": "/nowhere", "HOME": "/proc/nowhere"}
    done = call_in_a_process(*options, *FAST, env=bare)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "ö (1)/images").iterdir()] == ["a.png"] and "ö (1)" in done.stdout
    assert json.loads((tmp_path / "ö (1)/metrics.json").read_text())["versions"]["code"] == ["unknown"]
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2 and "b.png cannot be read" in skipped[0] and "no mask for c" in skipped[1]


def test_own_degraded_images_with_a_mask(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/me.jpg", (100, 80))
    hole = np.full((80, 100), 255, np.uint8)
    hole[20:40, 30:50] = 0
    Image.fromarray(hole).save(tmp_path / "mask.png")
    options = [
        f"data.root={tmp_path / 'in'}",
        "data.degraded=true",
        f"task.mask={tmp_path / 'mask.png'}",
        f"out={tmp_path / 'o'}",
    ]
    assert call(*options, *FAST).returncode == 0
    assert (tmp_path / "o/images/me.png").exists() and not list((tmp_path / "o/truth").iterdir())
    Image.fromarray(np.tile(np.uint8([255, 0]), (80, 50))).save(tmp_path / "mask.png")
    changed = call(*options, *FAST)
    assert changed.returncode == 2 and "has changed" in changed.stderr  # images of two masks never mix
    write(tmp_path / "mask.png", (50, 50), "L")
    done = call(*options, *FAST, f"out={tmp_path / 'p'}")
    assert done.returncode == 2 and "does not fit" in done.stderr
