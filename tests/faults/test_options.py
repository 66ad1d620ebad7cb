"""Values that are no values, and numbers in another unit: one clear line, or a warning."""

import runpy

import pytest
from conftest import ROOT, compose_config, prepared

from dsg.runs import main
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
