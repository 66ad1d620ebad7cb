"""Records that no run of ours writes, and half-written files of others."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import prepared

from dsg.files import process_name
from dsg.runs.results import Results


@pytest.mark.parametrize("line", ['{"id": "00000", "files": null}', '{"id": "00000", "files": []}', "[" * 100_000])
def test_a_wrong_record_counts_for_nothing(finished, tmp_path, line):
    out = shutil.copytree(finished, tmp_path / "o")
    (out / "parts/9-wrong.jsonl").write_text(line + "\n")
    run = prepared(out)
    assert run.finished and Results(out, run.results.owner).rows().keys() == {"00000", "00001", "00002"}
    assert json.loads((out / "metrics.json").read_text())["images"] == 3


def test_half_written_files_outside_of_the_run_are_left_alone(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    name = process_name().rpartition("-")[0] + f"-{dead.stdout.strip()}"
    ours, others = tmp_path / f"images/a.png.{name}-abc.partial", tmp_path / f"elsewhere/deep/a.png.{name}-abc.partial"
    for file in (ours, others):
        file.parent.mkdir(parents=True)
        file.write_text("")
    (tmp_path / "config.yaml").write_text("identity: {seed: 0}\n")
    Results(tmp_path, {"seed": 0}).claim("")
    assert others.exists() and not ours.exists()
