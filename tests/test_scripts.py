"""Every script on its command line: its help, and one line for what cannot be used. test_avatars64.py has its own."""

import ast
import os
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import script

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
BENCHMARK = SCRIPTS.parent / "results/suite-benchmark"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
WRONG = {
    "benchmark": [
        (["--batch", "0"], "argument --batch: 0: an integer, at least 1"),
        (["--samplers", "ddpm"], "invalid choice: 'ddpm'"),
        (["--model", "nope"], "model=nope is unknown: one of avatars64"),
        (["--device", "tpu"], "device=tpu is unknown"),
    ],
    "demo": [(["--port", "0"], "argument --port: 0: an integer, at least 1")],
    "evaluate": [
        ([], "which runs?"),
        (["/nowhere", "--metrics", "psnr"], "/nowhere: no run there"),
        (["/nowhere"], "--metrics, or two runs to compare"),
        (["/nowhere", "/nowhere"], "--paired compares two folders of runs"),
        (["/nowhere", "--metrics", "psn"], "metric psn is unknown: one of"),
        (["/nowhere", "--metrics", "fid", "--set", "reference"], "reference: expected NAME=VALUE"),
        (["/nowhere", "--metrics", "fid", "--set", "fid.smallest=["], "--set fid.smallest=[: [ cannot be read as YAML"),
        (
            ["/nowhere", "--metrics", "psnr", "--margin", "psnr=much"],
            "--margin psnr=much: a number above 0 is expected",
        ),
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
    "fill_tables": [(["README.md"], "unrecognized arguments: README.md")],
    "fit_mixture": [
        ([], "avatars16.safetensors is there already: add --overwrite"),
        (["--rank", "0"], "an integer, at least 1"),
    ],
    "plot_compute": [
        ([], "the following arguments are required: suites, --out"),
        (["/nowhere", "--out", "/nowhere/o.png"], "/nowhere: no table.csv"),
        ([str(BENCHMARK), "--methods", "nope", "--out", "/nowhere/o.png"], "--methods nope: these suites have"),
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
        (["/nowhere", "--megabytes", "much"], "much: a number above 0 is expected"),
    ],
    "reproduce": [
        (["--suite", "nope"], "invalid choice: 'nope'"),
        (["--tasks", "inpant"], "--tasks inpant: suite benchmark_small has super_resolution"),
        (["--images", "0"], "--images: 2 or more"),
        (["--steps", "many"], "--steps many: whole numbers are expected"),
        (["--most-steps", "0"], "an integer, at least 1"),
        (["--workers", "0"], "an integer, at least 1"),
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


def test_every_script_is_tried():
    assert list(WRONG) == NAMES


def test_scripts_use_the_package_that_is_installed():
    assert [path.name for path in SCRIPTS.rglob("*.py") if "sys.path" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_what_a_script_does_and_every_option(name):
    code, said, errors = script(f"scripts/{name}.py", "--help")
    first = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text())).splitlines()[0]
    assert code == 0 and errors == "" and first in said and "options:" in said


@pytest.mark.parametrize(
    "name, options, words",
    [(name, options, words) for name, tries in WRONG.items() for options, words in tries],
    ids=[" ".join([name, *options]) for name, tries in WRONG.items() for options, _ in tries],
)
def test_what_cannot_be_used_is_one_line(name, options, words):
    code, said, errors = script(f"scripts/{name}.py", *options)
    errors = errors.rpartition("\r")[2]  # a slow machine shows a progress bar before
    assert code in (1, 2) and said == "", said
    assert words in errors and errors.startswith("error: ") and errors.count("\n") == 1, errors


def test_a_benchmark_leaves_a_report_that_is_there_unless_it_is_asked_for(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(SCRIPTS / "benchmark.py"))["main"]
    monkeypatch.setitem(main.__globals__, "benchmark", lambda args, device: ("measured anew", 0))
    report = tmp_path / "avatars64-cpu.md"
    for before, options, after in (("mine", [], "mine"), ("mine", ["--overwrite"], "measured anew")):
        report.write_text(before)
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "--device", "cpu", f"--out={tmp_path}", *options])
        main()
        said = capsys.readouterr()
        assert report.read_text() == after and "measured anew" in said.out
        assert said.err.count("stays as it is: --overwrite") == (after == "mine")


def stand_in(name, batch, *others):
    """A row of the benchmark; the first takes more memory than there is, the second is killed."""
    if (name, batch) == ("dps", 4):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    if (name, batch) == ("dps_dsg", 4):
        os._exit(9)
    base = "dps" if name == "dps_dsg" else ""
    shares = {"outside network": 0.0, "noise": 0.0, "DSG over its base method": 0.0}
    return {"sampler": name, "base method": base, "batch": batch, "image-steps/s": 10.0 * batch, **shares}


def test_rows_of_a_benchmark_that_fail_are_said_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(SCRIPTS / "benchmark.py"))["main"]
    monkeypatch.setitem(main.__globals__, "measure", stand_in)
    options = ["--device", "cpu", f"--out={tmp_path}", "--samplers", "dps", "dps_dsg"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options, "--batch", "1", "4"])
    assert main() == 1
    said = (tmp_path / "avatars64-cpu.md").read_text()
    assert said.strip() in capsys.readouterr().out
    assert [line.split("|")[1:4] for line in said.splitlines() if line.startswith("| dps")] == [
        [" dps       ", "               ", "       1 "],
        [" dps_dsg   ", " dps           ", "       1 "],
    ]
    assert "- dps_dsg: 1.00 times the speed of dps\n" in said and "in batches of 1: " not in said
    assert "- not measured: dps in batches of 4: CUDA out of memory.\n" in said
    assert "- not measured: dps_dsg in batches of 4: A process in the process pool was terminated abruptly" in said
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options, "--batch", "4", "--overwrite"])
    with pytest.raises(ValueError, match="nothing was measured: dps in batches of 4: CUDA out of memory"):
        main()
    assert (tmp_path / "avatars64-cpu.md").read_text() == said


@pytest.mark.parametrize(
    "name, options, part",
    [
        ("benchmark", ["--device", "cpu"], "dsg.runs.prepare.pick_device"),
        ("evaluate", ["/nowhere", "--metrics", "psnr"], "dsg.runs.evaluation.find_runs"),
        ("evaluate", ["--statistics", "a", "--to", "b.npz"], "dsg.runs.prepare.pick_device"),
        ("report", ["/nowhere"], "dsg.suites.report.main.folders_of"),
        ("wandb_report", ["/nowhere"], "dsg.suites.report.main.folders_of"),
    ],
)
def test_ctrl_c_is_one_line_and_exit_code_130(name, options, part, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(part, interrupted)
    code, said, errors = script(f"scripts/{name}.py", *options)
    assert code == 130 and said == "" and errors.splitlines()[-1].startswith("stopped; "), errors
    assert "Traceback" not in errors


def views(folder, level, *tasks):
    rows = [("compute", task, level, method, "psnr", 20.0 + k + level, 19.0, 40.0)
            for task in tasks for k, method in enumerate(("dps", "dps_dsg"))]  # fmt: skip
    rows += [("steps", tasks[0], 5, "dps", "psnr", 99.0, 99.0, 99.0)]
    rows += [("compute", tasks[0], level, "dps", "haarpsi", 0.9, 0.8, 1.0)]
    folder.mkdir()
    columns = ["view", "task", "level", "method", "metric", "mean", "low", "high"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "table.csv", index=False)
    return str(folder)


def test_the_figure_of_compute_has_the_tasks_that_all_suites_have(tmp_path):
    script, figures = runpy.run_path(str(SCRIPTS / "plot_compute.py")), []
    main = script["main"]
    main.__globals__["draw"] = lambda *parts: figures.append(script["draw"](*parts)) or figures[-1]
    folders = [views(tmp_path / "a", 6, "hdr", "inpaint"), views(tmp_path / "b", 15, "inpaint")]
    out = tmp_path / "o.png"
    assert main([*folders, "--methods", "dps", "dps_dsg", "--out", str(out)]) == 0
    (panel,) = figures[0].axes
    assert panel.get_title() == "inpaint" and out.stat().st_size > 0
    assert {line.get_label(): line.get_xydata().tolist() for line in panel.lines} == {
        "DPS": [[6, 26], [15, 35]], "DPS + DSG": [[6, 27], [15, 36]]
    }  # fmt: skip
