"""The targets of the Makefile, in a copy of it with another python: what they call, and what they leave."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

KEPT = ["results/avatars64/metrics.json", ".venv/bin/python", "checkpoints/ffhq_10m.pt", "dsg/mine.py"]
CACHES = ["dsg/__pycache__/a.pyc", ".pytest_cache/b", ".ruff_cache/c", "dsg.egg-info/d"]


def make(folder, *words):
    """make without its setup; the exit code, and what it said."""
    line = ["make", "-o", ".venv/.installed", *words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # of `make test` itself
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in (*KEPT, *CACHES):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("#!/bin/sh\necho called $*\nexit $CODE\n")
    os.chmod(tmp_path / ".venv/bin/python", 0o755)
    return tmp_path


def test_clean_removes_caches_and_nothing_that_was_computed_or_trained(copy):
    code, said = make(copy, "clean")
    assert code == 0, said
    assert [file for file in (*KEPT, *CACHES) if (copy / file).exists()] == KEPT


def test_distclean_lists_what_it_would_remove_and_wants_to_be_sure(copy):
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    code, said = make(copy, "distclean")
    assert code == 0 and "Would remove results/" in said and "SURE=yes removes these" in said, said
    assert all((copy / file).exists() for file in KEPT)
    assert make(copy, "distclean", "SURE=yes")[0] == 0 and not any((copy / file).exists() for file in KEPT)


@pytest.mark.parametrize("code", [0, 2])
def test_reproduce_goes_on_to_the_second_suite_if_the_first_lacks_something(copy, monkeypatch, code):
    monkeypatch.setenv("CODE", str(code))
    returned, said = make(copy, "reproduce", "DRY=1")
    called = [line.split()[2:] for line in said.splitlines() if line.startswith("called ")]
    assert called == [["--suite", "benchmark_small", "--dry"], ["--suite", "semantic_small", "--dry"]]
    assert (returned == 0) == (code == 0)


@pytest.mark.parametrize("size, steps", [("SMOKE=", 20), ("SMOKE=1", 2)])
def test_reproduce_ends_with_three_photographs(copy, monkeypatch, size, steps):
    monkeypatch.setenv("CODE", "0")
    *_, last = [line for line in make(copy, "reproduce", size)[1].splitlines() if line.startswith("called ")]
    assert last.startswith("called run.py model=photos task=super_resolution ") and f"sampler.steps={steps}" in last
    assert sum(path.suffix == ".png" for path in (ROOT / "data/photos/examples").iterdir()) == 3


def test_reproduce_stops_where_it_was_interrupted_and_one_suite_is_one(copy, monkeypatch):
    monkeypatch.setenv("CODE", "130")
    assert make(copy, "reproduce")[1].count("called ") == 1
    monkeypatch.setenv("CODE", "0")
    assert make(copy, "reproduce", "SUITE=theory")[1].count("called ") == 1
