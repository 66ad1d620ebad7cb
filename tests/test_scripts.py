"""Every script on its command line: its help, and one line for what cannot be used. test_avatars64.py has its own."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
WRONG = {
    "benchmark": [
        (["--batch", "0"], "argument --batch: 0: an integer, at least 1"),
        (["--samplers", "ddpm"], "invalid choice: 'ddpm'"),
        (["--model", "nope"], "model=nope is unknown: one of avatars64"),
        (["--device", "tpu"], "device=tpu is unknown"),
    ],
    "describe_expected": [(["--out", "x"], "unrecognized arguments: --out x")],
    "estimate_memory": [
        (["--models", "nope"], "model=nope is unknown"),
        (["--batch", "many"], "an integer, at least 1"),
    ],
    "evaluate": [
        ([], "which runs?"),
        (["/nowhere", "--metrics", "psnr"], "/nowhere: no run there"),
        (["/nowhere"], "--metrics, or two runs to compare"),
        (["/nowhere", "/nowhere"], "--paired compares two folders of runs"),
        (["/nowhere", "--metrics", "psn"], "metric psn is unknown: one of"),
        (["/nowhere", "--metrics", "fid", "--set", "reference"], "reference: expected NAME=VALUE"),
        (["/nowhere", "--metrics", "fid", "--set", "fid.smallest=["], "--set fid.smallest=[: [ cannot be read as YAML"),
        (["/nowhere", "--metrics", "psnr", "--margin", "psnr=much"], "--margin psnr=much: a number is expected"),
        (["--statistics", "/nowhere"], "--statistics needs --to"),
        (["--statistics", "/nowhere", "--to", "/nowhere/a.npz", "--resize", "lanczos"], "lanczos"),
        (["--statistics", "/nowhere", "--to", "/nowhere/a.npz", "--size", "0"], "an integer, at least 1"),
    ],
    "fault_trial": [
        (["--kills", "-1"], "argument --kills: -1: an integer, at least 0"),
        (["--folder", "/nowhere"], "--folder /nowhere: no such folder"),
        (["--out", "/nowhere/table.md"], "--out /nowhere/table.md: no such folder"),
    ],
    "fetch_checkpoints": [
        ([], "which? ffhq256"),
        (["nope"], "unknown checkpoint 'nope': one of ffhq256"),
        (["ffhq256", "sd14", "--source", "https://example.org"], "--source is for one name"),
    ],
    "fit_mixture": [
        ([], "avatars16.safetensors is there already: add --overwrite"),
        (["--rank", "0"], "an integer, at least 1"),
    ],
    "prepare_data": [
        ([], "the following arguments are required: dataset"),
        (["mnist"], "invalid choice: 'mnist'"),
        (["ffhq"], "which folder, .zip or .tar?"),
        (["ffhq", "/nowhere"], "/nowhere: no such folder, .zip or .tar"),
        (["ffhq", "/nowhere", "--ids", "/nowhere"], "--ids /nowhere: no such file"),
        (["ffhq", "/nowhere", "--size", "0"], "an integer, at least 1"),
    ],
    "report": [
        ([], "the following arguments are required: FOLDER"),
        (["/nowhere"], "/nowhere: no such folder, and no suite"),
        (["/nowhere", "--images", "-1"], "argument --images: -1: an integer, at least 0"),
        (["/nowhere", "--megabytes", "much"], "invalid float value: 'much'"),
    ],
    "reproduce": [
        (["--suite", "nope"], "invalid choice: 'nope'"),
        (["--tasks", "inpant"], "--tasks inpant: suite benchmark_small has super_resolution"),
        (["--images", "0"], "--images: 2 or more"),
        (["--steps", "many"], "--steps many: whole numbers are expected"),
        (["--most-steps", "0"], "an integer, at least 1"),
        (["--workers", "0"], "--workers: 1 or more"),
        (["--device", "tpu"], "device=tpu is unknown"),
        (["--options", "sampler.step=3"], "did you mean sampler.steps?"),
    ],
    "tune": [
        (["--tasks", "inpant"], "task=inpant is unknown: did you mean inpaint?"),
        (["--model", "nope"], "model=nope is unknown"),
        (["--tasks", "inpaint", "--samplers", "dsp"], "sampler=dsp is unknown: did you mean dps?"),
        (["--steps", "0"], "an integer, at least 1"),
        (["--trials", "0"], "an integer, at least 1"),
        (["--data", "/nowhere", "--tasks", "inpaint", "--steps", "20", "--samplers", "dps"], "/nowhere: no such image"),
        (["--device", "tpu", "--tasks", "inpaint", "--steps", "20", "--samplers", "dps"], "device=tpu is unknown"),
    ],
    "wandb_report": [
        ([], "the following arguments are required: FOLDER"),
        (["/nowhere"], "/nowhere: no such folder, and no suite"),
    ],
}


def called(name, options, monkeypatch, capsys):
    """Exit code, stdout and stderr of a script that runs in this process."""
    path = str(SCRIPTS / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, *options])
    code = None
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


def test_every_script_is_tried():
    assert list(WRONG) == NAMES


def test_scripts_use_the_package_that_is_installed():
    assert [path.name for path in SCRIPTS.rglob("*.py") if "sys.path" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_what_a_script_does_and_every_option(name, monkeypatch, capsys):
    code, said, errors = called(name, ["--help"], monkeypatch, capsys)
    first = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text())).splitlines()[0]
    assert code == 0 and errors == "" and first in said and "options:" in said


@pytest.mark.parametrize(
    "name, options, words",
    [(name, options, words) for name, tries in WRONG.items() for options, words in tries],
    ids=[" ".join([name, *options]) for name, tries in WRONG.items() for options, _ in tries],
)
def test_what_cannot_be_used_is_one_line(name, options, words, monkeypatch, capsys):
    code, said, errors = called(name, options, monkeypatch, capsys)
    assert code in (1, 2) and said == "", said
    assert words in errors and errors.startswith("error: ") and errors.count("\n") == 1, errors


def test_a_benchmark_leaves_a_report_that_is_there_unless_it_is_asked_for(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(SCRIPTS / "benchmark.py"))["main"]
    monkeypatch.setitem(main.__globals__, "benchmark", lambda args, device: "measured anew")
    report = tmp_path / "avatars64-cpu.md"
    for before, options, after in (("mine", [], "mine"), ("mine", ["--overwrite"], "measured anew")):
        report.write_text(before)
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "--device", "cpu", f"--out={tmp_path}", *options])
        main()
        said = capsys.readouterr()
        assert report.read_text() == after and "measured anew" in said.out
        assert said.err.count("stays as it is: --overwrite") == (after == "mine")
