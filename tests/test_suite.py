"""The suite, its tuner and its tables, small."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from dsg.suite import markdown_table, paired, summarise


def test_the_tuner_finds_an_optimum_far_from_its_grid():
    """On a curve whose best value is known: the grid is extended until the optimum is inside, then refined."""
    from dsg.search import next_value

    for optimum in (0.3, 4.0, 60.0):
        tried = pd.DataFrame(columns=["value", "score"], dtype=float)
        for _ in range(12):
            value = next_value(tried, "dps", 4.0)
            assert not np.isclose(tried["value"], value).any()  # no trial is spent twice
            tried.loc[len(tried)] = [value, -(np.log(value / optimum) ** 2)]
        best = tried["value"][tried["score"].idxmax()]
        assert abs(np.log(best / optimum)) < np.log(1.5)
        assert tried["value"].min() < best < tried["value"].max()


def test_guidance_rates_are_tuned_within_their_range():
    from dsg.search import next_value

    tried = pd.DataFrame(columns=["value", "score"], dtype=float)
    for _ in range(10):
        value = next_value(tried, "dps_dsg", 0.8)
        tried.loc[len(tried)] = [value, value]  # the larger the better
    assert tried["value"].max() == 1.0 and len(set(tried["value"])) == 10


def tables():
    """Two methods on three images; with DSG every image is 1 dB better."""
    base = pd.DataFrame({"psnr": [20.0, 22.0, 27.0], "seconds": 1.0, "network_evaluations": 20}, index=["a", "b", "c"])
    return {("inpaint", "dps", 20): base, ("inpaint", "dps_dsg", 20): base.assign(psnr=base["psnr"][::-1] + 1)}


def test_paired_differences_are_by_image():
    row = paired(tables(), ["psnr"]).iloc[0]
    assert (row["difference"], row["low"], row["high"], row["dsg_higher"], row["images"]) == (1, 1, 1, 3, 3)


def test_the_best_is_in_bold_and_missing_measures_have_no_column():
    text = markdown_table(summarise(tables(), ["psnr", "lpips"]))
    assert "**24.00**" in text and "**23.00**" not in text and "LPIPS" not in text


@pytest.mark.parametrize(
    "options, words",
    [
        (["--suite", "ffhq256"], "python scripts/fetch_checkpoints.py ffhq256"),
        (["--steps", "2000"], "2 to 1000"),
        (["--images", "0"], "2 or more"),
        (["--images", "500"], "there are 256"),
        (["--device", "tpu"], "device=tpu"),
        (["--suite", "theory", "--steps", "20"], "do not apply to suite theory"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, options, words):
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), f"--out={tmp_path / 'o'}", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite")
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), "--images=2", "--steps=2", f"--out={out}"]
    command += ["--suite", "smoke", "--wandb", "disabled"]
    return out, lambda: subprocess.run(command, capture_output=True, text=True)


def test_the_suite_leaves_its_tables_and_a_second_call_only_draws(suite):
    out, call = suite
    done = call()
    assert done.returncode == 0, done.stderr
    for name in (
        "table.md",
        "table.csv",
        "paired.csv",
        "grid.png",
        "steps.png",
        "step_sizes.png",
        "manifold_deviation.png",
    ):
        assert (out / name).stat().st_size > 0
    table = pd.read_csv(out / "table.csv")
    assert set(table["method"]) == {"A^T y", "unconditional", "dps", "dps_dsg"} and (table["images"] == 2).all()
    before = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/images/*.png") if "baseline" not in str(p)}
    again = call()
    assert again.returncode == 0 and "evaluation" not in again.stderr  # no bar: nothing was left to do
    assert before and all(p.stat().st_mtime_ns == t for p, t in before.items())


@pytest.fixture(scope="module")
def theory_suite(tmp_path_factory):
    out = tmp_path_factory.mktemp("theory")
    command = [
        sys.executable,
        str(ROOT / "scripts/theory.py"),
        f"--out={out}",
        "--settings",
        "plane",
        "--most-steps=10",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, command


def test_the_theory_suite_leaves_tables_and_figures(theory_suite):
    out, _ = theory_suite
    cells = pd.read_csv(out / "cells.csv").set_index("method")
    assert set(cells.index) == {
        "exact",
        "oracle",
        "unconditional",
        "dps",
        "dps_dsg",
        "freedom",
        "freedom_dsg",
        "mpgd",
        "mpgd_dsg",
    }
    distance = cells["sliced_wasserstein"]
    assert distance["exact"] < distance["oracle"] < distance["dps"] < distance["unconditional"]
    trials = pd.read_csv(out / "trials.csv")
    assert (trials.groupby("method").size() == 9).all() and trials["value"].between(0, 1).groupby(
        trials["method"]
    ).all()["dps_dsg"]
    for name in ("steps", "values", "calibration", "deviation", "concentration", "plane"):
        assert (out / f"{name}.png").stat().st_size > 0 and (out / f"{name}.pdf").stat().st_size > 0
    assert (out / "plane.gif").stat().st_size > 0 and "sliced W2" in (out / "table.md").read_text()


def test_the_theory_suite_redoes_only_what_is_missing(theory_suite):
    out, command = theory_suite
    before = pd.read_csv(out / "cells.csv")
    (out / "jobs/plane-mpgd-10.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "plane mpgd 10" in done.stderr and "dps" not in done.stderr
    pd.testing.assert_frame_equal(before, pd.read_csv(out / "cells.csv"))  # the same numbers again
    assert len(pd.read_csv(out / "trials.csv")) == 6 * 9


def test_tuning_does_not_mix_scores_on_other_faces():
    before = (ROOT / "results/tuning/avatars64.csv").read_bytes()
    command = [sys.executable, "scripts/tune.py", "--steps", "50", "--tasks", "faceid", "--faces", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "faceid was tuned on 24 faces: --faces 24" in done.stderr, done.stderr
    assert (ROOT / "results/tuning/avatars64.csv").read_bytes() == before
