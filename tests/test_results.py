"""The results folder: whose it is, what survives a kill, and several processes at once."""

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf

from dsg.config import load
from dsg.files import sweep, temporary_name, write_text
from dsg.runs.results import Results, identity


def row(name, **numbers):
    cost = {"seconds": 1.0, "network_evaluations": 3, "backward_passes": 3}
    made = {"input": "abc", "code": "unknown", "torch": "2", "device": "cpu", "files": {f"images/{name}.png": "0"}}
    return {"id": name, "image": name, "sample": 0, **cost, **made, **numbers}


def test_an_image_may_be_called_na(tmp_path):
    Results(tmp_path / "o", {"a": 1}).add([{**row("NA"), "input": "null", "psnr": float("nan")}])
    table = Results(tmp_path / "o", {"a": 1}).table()
    assert list(table["id"]) == ["NA"] and table["input"].iloc[0] == "null" and np.isnan(table["psnr"].iloc[0])


def test_parts_are_merged_and_rows_gain_what_is_added_later(tmp_path):
    first, second = (Results(tmp_path / "o", {"a": 1}) for _ in range(2))
    first.add([row("b", psnr=1.0)])
    second.add([row("a", psnr=2.0)])
    second.add([{"id": "b", "ssim": 0.5}])
    table = Results(tmp_path / "o", {"a": 1}).table()
    assert list(table.index) == ["a", "b"] and table.loc["b", "ssim"] == 0.5 and table.loc["b", "psnr"] == 1.0


def test_a_line_that_was_cut_short_counts_for_nothing(tmp_path):
    results = Results(tmp_path / "o", {"a": 1})
    results.add([row("a"), row("b")])
    (part,) = (tmp_path / "o/parts").iterdir()
    part.write_bytes(part.read_bytes()[:-5])
    assert list(Results(tmp_path / "o", {"a": 1}).rows()) == ["a"]


def test_metrics_without_their_image_say_nothing(tmp_path):
    results = Results(tmp_path / "o", {"a": 1})
    results.add([{"id": "a", "psnr": 3.0}])
    assert results.rows() == {} and results.table().empty


def test_an_image_that_is_not_as_it_was_written_is_not_whole(tmp_path):
    from dsg.files import file_digest

    results = Results(tmp_path / "o", {"a": 1})
    results.claim("b: 2\n")
    write_text(results.images / "a.png", "as written")
    described = {"files": {"images/a.png": file_digest(results.images / "a.png")}}
    assert results.whole(described)
    for damage in ("", "as writte", "another"):
        (results.images / "a.png").write_text(damage)
        assert not results.whole(described)
    (results.images / "a.png").unlink()
    assert not results.whole(described)


def test_a_folder_belongs_to_one_run(tmp_path):
    Results(tmp_path / "o", {"sampler": {"steps": 3}}).claim("")
    with pytest.raises(ValueError, match="another run: sampler.steps was 3, now 4"):
        Results(tmp_path / "o", {"sampler": {"steps": 4}})


def test_an_option_that_came_later_leaves_older_results_alone(tmp_path):
    sampler = {"_target_": "dsg.samplers.DPS", "steps": 3}
    Results(tmp_path / "o", {"sampler": sampler}).claim("")
    travel = {"repeats": 1, "window": [400, 700]}
    Results(tmp_path / "o", {"sampler": {**sampler, "radius": 1.0, "travel": travel}})  # the defaults
    with pytest.raises(ValueError, match="another run: sampler.radius was 1.0, now 0.9"):
        Results(tmp_path / "o", {"sampler": {**sampler, "radius": 0.9}})


def test_a_search_of_before_is_the_same_search(tmp_path):
    """Options that came later are in no identity where they are null, so that committed trials go on to count."""
    config = OmegaConf.to_container(load(["task=inpaint", "sampler=dps"]))
    found = identity(config, "weights", None)
    assert not {"start_t", "moment"} & set(found["sampler"]) and not {"keep_observed", "feather"} & set(found["task"])
    config["task"]["keep_observed"], config["sampler"]["start_t"] = True, 300
    found = identity(config, "weights", None)
    assert found["task"]["keep_observed"] is True and found["sampler"]["start_t"] == 300


@pytest.mark.parametrize("text", ["", "no: identity\n", "identity: 3\n", "[", "\x00", "{a: b"])
def test_a_damaged_config_is_one_line(tmp_path, text):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/config.yaml").write_text(text)
    with pytest.raises(ValueError, match="is damaged") as error:
        Results(tmp_path / "o", {"a": 1})
    assert len(str(error.value).splitlines()) == 1


def claim(out, number, barrier, outcome):
    results = Results(out, {"number": number})
    barrier.wait()
    try:
        results.claim("")
        outcome.put(number)
    except ValueError as error:
        outcome.put(str(error))


def test_of_two_runs_that_want_one_folder_at_the_same_moment_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    for trial in range(10):
        barrier, outcome = context.Barrier(2), context.Queue()
        both = [context.Process(target=claim, args=(tmp_path / f"{trial}", k, barrier, outcome)) for k in range(2)]
        for process in both:
            process.start()
        said = [outcome.get(timeout=60) for _ in both]
        for process in both:
            process.join()
        assert sum(isinstance(word, int) for word in said) == 1
        assert any("another run" in str(word) for word in said)


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    for _ in range(2):
        Results(tmp_path, {"number": 1}).claim("")
    with pytest.raises(ValueError, match="another run: number was 1, now 2"):
        Results(tmp_path, {"number": 2}).claim("")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("host", ["node", "node-1.cluster.org"])
def test_what_killed_processes_left_half_written_is_swept_and_what_living_ones_write_is_not(
    tmp_path, monkeypatch, host
):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary_name(tmp_path / "a.png")
    theirs = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    for file in (mine, theirs):
        file.write_text("half")
    sweep(tmp_path)
    assert mine.exists() and not theirs.exists()


def test_a_file_that_would_not_change_is_not_touched(tmp_path):
    write_text(tmp_path / "a", "same")
    before = (tmp_path / "a").stat()
    write_text(tmp_path / "a", "same")
    after = (tmp_path / "a").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_records_are_plain_json(tmp_path):
    results = Results(tmp_path / "o", {"a": 1})
    results.add([row("a", psnr=1 / 3)])
    (part,) = (tmp_path / "o/parts").iterdir()
    assert json.loads(part.read_text())["psnr"] == 1 / 3
    assert results.table().loc["a", "psnr"] == 1 / 3  # to the last bit


def test_an_image_that_was_made_again_loses_the_metrics_of_the_old_one(tmp_path):
    old, new = Results(tmp_path / "o", {"a": 1}), Results(tmp_path / "o", {"a": 1})
    old.add([{**row("a"), "files": {"images/a.png": "1"}}, {"id": "a", "psnr": 3.0}])
    new.add([{**row("a"), "files": {"images/a.png": "2"}}])
    assert new.rows()["a"]["files"] == {"images/a.png": "2"} and "psnr" not in new.rows()["a"]
    Results(tmp_path / "o", {"a": 1}).add([{"id": "a", "psnr": 4.0}])
    assert new.table().loc["a", "psnr"] == 4.0
