"""Records that no run of ours writes."""

import json
import shutil

import pytest
from conftest import prepared, snapshot

from dsg.runs.results import Results

GOOD = {"files", "id", "image", "sample", "input", "seconds", "network_evaluations", "backward_passes", "psnr", "code"}
WRONG = {
    "files null": {"files": None},
    "files a list": {"files": []},
    "no files": {"files": {}},
    "files elsewhere": {"files": {"images/00000.png": "x", "/dev/zero": "x"}},
    "files above": {"files": {"images/00000.png": "x", "images/../../config.yaml": "x"}},
    "a digest that is a number": {"files": {"images/00000.png": 5}},
    "no input": {"input": None},
    "another image": {"image": "00001"},
    "a sample that is none": {"sample": -1},
    "a sample that is a text": {"sample": "0"},
    "seconds a text": {"seconds": "1"},
    "a metric that is a text": {"psnr": "high"},
    "a metric that is a list": {"psnr": [1.0]},
    "a metric that is true": {"psnr": True},
    "a metric that is null": {"psnr": None},
    "a metric beyond a number": {"psnr": 10**400},
    "an extra column of text": {"remark": "x"},
    "an extra column of columns": {"remark": {"a": {"b": 1}}},
    "half a character": {"device": "\ud800"},
}


def spoilt_record(out, change):
    """Replace the record of image 00000 by one with this change; drops what else was said of it."""
    (part,) = (out / "parts").glob("*.jsonl")
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    own = next(line for line in lines if line.get("id") == "00000" and "files" in line)
    others = [line for line in lines if line.get("id") != "00000"]
    part.write_text("".join(json.dumps(line) + "\n" for line in [{**own, **change}, *others]))


@pytest.mark.parametrize("kind", WRONG)
def test_an_image_whose_record_is_wrong_is_made_again_with_one_line(finished, tmp_path, kind):
    out = shutil.copytree(finished, tmp_path / "o")
    image = (out / "images/00000.png").read_bytes()
    spoilt_record(out, WRONG[kind])
    run = prepared(out)
    (note,) = [note for note in run.notes if "counts for nothing" in note]
    assert "line 1: no record of an image" in note and "\n" not in note
    assert [item.name for item in run.pending()] == ["00000"]
    assert run.execute() == [] and prepared(out).finished
    assert (out / "images/00000.png").read_bytes() == image
    assert json.loads((out / "metrics.json").read_text())["images"] == 3


def test_a_record_without_one_of_its_fields_is_none(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "o")
    (part,) = (out / "parts").glob("*.jsonl")
    text = part.read_text()
    record = json.loads(text.splitlines()[0])
    for field in record.keys() & GOOD - {"files", "psnr"}:
        part.write_text(json.dumps({k: v for k, v in record.items() if k != field}) + "\n")
        assert Results(out, {**prepared(finished).results.owner}).rows() == {}, field


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[]",
        "5",
        '{"failed": "00000", "image": "00000", "step_index": "2", "t": 1.0}',
        '{"set": "fid", "of": "x", "by": "y", "value": "low"}',
        '{"set": "fid", "of": "x", "by": "y", "value": 1.0, "low": []}',
        '{"id": "00000", "psnr": "high"}',
        '{"id": ["00000"], "psnr": 1.0}',
    ],
)
def test_a_line_that_is_no_record_changes_nothing(finished, tmp_path, line):
    out = shutil.copytree(finished, tmp_path / "o")
    before = snapshot(out)
    (out / "parts/9-wrong.jsonl").write_text(line + "\n")
    run = prepared(out)
    assert run.finished and len(run.results.notes()) == 1
    run.execute()
    assert {k: v for k, v in snapshot(out).items() if "wrong" not in k} == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"columns": 5}', '{"columns": {"psnr": []}}', "[" * 100_000])
def test_a_summary_that_is_wrong_is_made_again(finished, tmp_path, text):
    out = shutil.copytree(finished, tmp_path / "o")
    before = json.loads((out / "metrics.json").read_text())
    (out / "metrics.json").write_text(text)
    prepared(out).execute()
    assert json.loads((out / "metrics.json").read_text()) == before
