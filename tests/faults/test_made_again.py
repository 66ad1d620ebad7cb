"""Whatever a run leaves is made again where it is missing, damaged or older than what it shows."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FAST, prepared
from PIL import Image

from dsg.config import load_with_sources
from dsg.files import file_digest, process_name
from dsg.runs import contact_sheet, main, tracking
from dsg.runs.film import Film
from dsg.runs.results import Results


def call(out, *overrides):
    """`run.py` into `out`: the exit code."""
    return main.run_one(*load_with_sources([*FAST, f"out={out}", *overrides]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with its contact sheet."""
    out = tmp_path_factory.mktemp("whole") / "o"
    assert call(out) == 0
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "o")


def damages(content):
    return {
        "cut": content[: len(content) // 2],
        "emptied": b"",
        "a byte changed": content[:-60] + bytes([content[-60] ^ 1]) + content[-59:],
        "another file": b"GIF89a",
    }


@pytest.mark.parametrize("damage", ["removed", *damages(b"x" * 100)])
def test_a_contact_sheet_that_is_lost_or_damaged_is_made_again(copy, damage):
    sheet = copy / "grid.png"
    before = sheet.read_bytes()
    if damage == "removed":
        sheet.unlink()
    else:
        sheet.write_bytes(damages(before)[damage])
    assert call(copy) == 0 and sheet.read_bytes() == before


def test_a_run_that_stopped_before_its_contact_sheet_gets_it_with_the_next_call(tmp_path, whole, monkeypatch):
    """A kill between the last image and the sheet; a disk that is full at this moment."""

    def full(*_):
        raise OSError(28, "No space left on device", "grid.png")

    monkeypatch.setattr(main, "write_contact_sheet", full)
    assert call(tmp_path / "o") == 1 and not (tmp_path / "o/grid.png").exists()
    monkeypatch.undo()
    assert call(tmp_path / "o") == 0
    assert pixels(tmp_path / "o/grid.png") == pixels(whole / "grid.png")


def pixels(path):
    with Image.open(path) as image:
        return image.tobytes()


def test_the_sheet_of_a_killed_shard_is_renewed_when_the_table_has_more(tmp_path, whole, monkeypatch):
    """The first shard's sheet has its own images; the second was killed after its last one, and is called again."""
    out = tmp_path / "o"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert call(out) == 0
    early = pixels(out / "grid.png")
    monkeypatch.setenv("RANK", "1")
    prepared(out).execute()
    assert pixels(out / "grid.png") == early  # killed here
    assert call(out) == 0
    assert pixels(out / "grid.png") == pixels(whole / "grid.png") != early


def test_a_run_that_goes_on_with_a_smaller_limit_shows_the_smaller_set(copy, tmp_path):
    assert call(tmp_path / "two", "data.limit=2") == 0
    assert call(copy, "data.limit=2") == 0
    assert pixels(copy / "grid.png") == pixels(tmp_path / "two/grid.png")
    assert json.loads((copy / "metrics.json").read_text())["images"] == 2


def test_a_contact_sheet_that_fits_is_left_alone(copy, monkeypatch):
    monkeypatch.setattr(contact_sheet, "save", None)  # would raise
    before = (copy / "grid.png").stat().st_mtime_ns
    assert call(copy) == 0 and (copy / "grid.png").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"offline something else\n"])
def test_a_damaged_mark_of_what_was_logged_is_renewed_without_a_word(finished, tmp_path, monkeypatch, capsys, content):
    out = shutil.copytree(finished, tmp_path / "o")
    (out / tracking.MARK).write_bytes(content)
    run, logged = prepared(out), []
    run.config.wandb.mode = "offline"
    monkeypatch.setattr(tracking, "_log", logged.append)
    tracking.log(run)
    tracking.log(run)
    assert len(logged) == 1 and capsys.readouterr().err == ""


def dead_process():
    """The number of a process that lives no more."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    return done.stdout.strip()


def test_half_written_files_are_swept_from_a_finished_run_s_own_folders_only(copy):
    name = f"a.png.{process_name().rpartition('-')[0]}-{dead_process()}-abc.partial"
    ours = [copy / folder / name for folder in (".", "images", "condition", "truth", "parts")]
    others = [copy / "elsewhere" / name, copy / "images/deep" / name, copy.parent / name]
    alive = copy / f"images/a.png.{process_name()}-abc.partial"
    for file in (*ours, *others, alive):
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    assert call(copy) == 0
    assert not any(file.exists() for file in ours) and all(file.exists() for file in (*others, alive))


@pytest.mark.parametrize("out", ["/", "/tmp/.."])
def test_the_root_of_the_file_system_is_no_folder_of_results(out):
    with pytest.raises(ValueError, match=f"out={out} is the root"):
        prepared(Path(out))


def test_records_of_a_machine_whose_clock_is_behind_are_still_the_newer_ones(finished, tmp_path, monkeypatch):
    """An image is damaged, and made again by another machine, whose rounding differs: once, not at every call."""
    out = shutil.copytree(finished, tmp_path / "o")
    first = Results(out, prepared(out).results.owner).rows()["00001"]
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    later = Results(out, prepared(out).results.owner)
    image = out / "images/00001.png"
    Image.new("RGB", (64, 64)).save(image)
    later.add([{**first, "files": {**first["files"], "images/00001.png": file_digest(image)}}])
    assert prepared(out).pending() == []
    numbers = sorted(int(part.name.partition("-")[0]) for part in (out / "parts").glob("*.jsonl"))
    assert numbers == [1, 2]


def test_a_part_numbered_by_time_comes_before_the_new_ones(finished, tmp_path):
    """Folders of earlier versions."""
    out = shutil.copytree(finished, tmp_path / "o")
    (part,) = (out / "parts").glob("*.jsonl")
    part.rename(part.with_name("1764000000000000000-host-7-abc.jsonl"))
    results = Results(out, prepared(out).results.owner)
    row = results.rows()["00000"]
    results.add([{"id": "00000", "psnr": 1.0, "by:psnr": row["by:psnr"]}])
    assert Results(out, results.owner).rows()["00000"]["psnr"] == 1.0


def test_a_film_is_there_before_its_image_counts_as_done(tmp_path, monkeypatch):
    def killed(self, names, kept):
        raise KeyboardInterrupt

    monkeypatch.setattr(Film, "write", killed)
    assert call(tmp_path / "o", "save_film=true", "data.limit=1") == 130
    monkeypatch.undo()
    assert call(tmp_path / "o", "save_film=true", "data.limit=1") == 0
    assert (tmp_path / "o/film/00000.gif").exists()
