"""Values that are no values, and numbers in another unit: one clear line, or a warning."""

import runpy
import sys
import warnings

import pytest
from conftest import ROOT, compose_config, prepared
from hydra.utils import instantiate

from dsg import image_files
from dsg.files import counted
from dsg.runs import main
from dsg.runs.prepare import pick_device
from dsg.suites.main import main as reproduce
from dsg.suites.report.main import main as report

evaluate = runpy.run_path(str(ROOT / "scripts/evaluate.py"))["main"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=composite", "task.weights={faceid: nan}"],
        ["sampler.window=[nan,nan]"],
        ["sampler.guidance_rate=inf"],
        ["assumed.sigma=nan"],
        ["task.sigma=-inf"],
    ],
)
def test_not_a_number_and_infinity_are_no_value_of_any_option(overrides):
    with pytest.raises(
        ValueError, match=r"(weights.faceid|window|guidance_rate|sigma)=.*(nan|inf).*: finite numbers only"
    ):
        compose_config(*overrides)


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "0"])
def test_a_margin_and_a_size_are_numbers_above_zero(finished, value, capsys):
    assert evaluate([str(finished), str(finished), "--margin", f"psnr={value}"]) == 2
    assert f"--margin psnr={value}: a number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report([str(finished), "--megabytes", value])
    assert "a number above 0" in capsys.readouterr().err


def test_a_metric_that_was_asked_for_by_name_and_is_not_there_is_a_failure(finished, capsys):
    assert evaluate([str(finished), "--metrics", "ssim", "fid"]) == 1
    done = capsys.readouterr()
    assert "no fid: " in done.err and "ssim 0." in done.out


@pytest.mark.parametrize("task", ["inpaint", "super_resolution", "phase_retrieval"])
def test_noise_in_another_unit_is_warned_of(tmp_path, task):
    notes = prepared(tmp_path / "o", f"task={task}", "task.sigma=12.75").notes
    assert any("task.sigma=12.75" in note and "units of [-1, 1]" in note for note in notes)


def test_images_that_do_not_fit_name_first_what_the_user_chose(tmp_path):
    run = prepared(tmp_path / "o", "sampler=dps", "sampler.step_size=1000", "data.limit=1")
    run.execute()
    (said,) = main.misfits(run)
    assert said.index("sampler.steps=3, sampler.step_size=1000") < said.index("task.sigma") < said.index("prior")


def test_a_prompt_that_is_cut_says_so(capfd):
    from tasks.clip import CLIPNetwork

    clip = CLIPNetwork(ROOT / "checkpoints/avatars64/clip")
    with pytest.warns(UserWarning, match=r"a prompt of 122 tokens: 32 are read, to '\.\.\..* face with red hair and'"):
        clip.text_features("a face with red hair and a hat " * 15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.text_features("a face with red hair")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sigma", ["12.75", "1e30"])
def test_noise_beyond_the_image_names_the_unit(sigma):
    task = instantiate(compose_config(f"task.sigma={sigma}").task)
    (note,) = [note for note in task.notes([]) if "sigma" in note]
    assert f"task.sigma={float(sigma):g} is more noise than there is image" in note and "127.5" in note


# --- one clear line


@pytest.mark.parametrize("rank", ["x", "-1", "1.5"])
def test_a_local_rank_that_is_no_number_is_named(monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(ValueError, match=f"LOCAL_RANK={rank}: expected a number"):
        pick_device("auto")


@pytest.mark.parametrize(
    "words, said",
    [
        (["ffhq", "/dev/zero"], "/dev/zero: no such folder, .zip or .tar"),
        (["imagenet", str(ROOT / "docs")], "no images of imagenet there (names like ILSVRC2012_val_00000001.JPEG)"),
        (["ffhq", str(ROOT / "docs"), "--out", ""], "--out: which folder?"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts/prepare_data.py"), run_name="__main__")
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_files_of_which_none_can_be_used_get_no_advice_to_skip_them(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_text("no image")
    with pytest.raises(ValueError, match="2 of 2 files cannot be used") as error:
        image_files.each(image_files.find(tmp_path), lambda name, path: image_files.read(path, 64), "skip")
    assert "data.on_error=skip" not in str(error.value)


def test_a_folder_of_configs_that_is_not_there_is_named(tmp_path, capsys):
    assert evaluate([str(tmp_path), "--config-dir", "/nonexistent", "--metrics", "psnr"]) == 2
    assert capsys.readouterr().err.strip() == "error: /nonexistent: no such folder of configs"


def test_a_plan_of_a_suite_names_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        reproduce(["--suite", "smoke", "--dry", "--out", str(tmp_path / "file/o")])
    assert "cannot be made" in capsys.readouterr().err


def test_one_image_is_no_images():
    assert (counted(1, "image"), counted(0, "image"), counted(2, "image")) == ("1 image", "0 images", "2 images")
