"""Whether `make reproduce` gave the committed scores again."""

import pandas as pd
import pytest
from conftest import ROOT

from dsg.suites.reproduced import compared, show
from dsg.suites.suite import Outcome, load

TABLE = pd.read_csv(ROOT / "results/suite-benchmark/images.csv", dtype={"image": str})
OURS = TABLE[(TABLE["steps"] == 20) & TABLE["image"].isin([f"0000{k}" for k in range(6)])]


def moved(rows, by):
    """Our scores, some of which another processor moves."""
    table = OURS.reset_index(drop=True)
    table.loc[rows, "psnr"] += by
    return table


def test_the_committed_scores_are_reproduced():
    number = OURS["psnr"].notna().sum()
    assert compared(OURS, TABLE).startswith(f"reproduced within 0.01 dB: {number} of {number} scores")
    assert compared(moved(range(0, len(OURS), 12), 0.05), TABLE).startswith("reproduced within 0.01 dB")
    said = compared(moved([0], 7.8), TABLE)
    assert said.startswith("reproduced") and "unconditional (1)" in said


@pytest.mark.parametrize("rows, by", [(slice(None), 0.02), (slice(None, None, 5), 0.5)])
def test_a_wrong_formula_is_not_taken_for_another_processor(rows, by):
    assert compared(moved(OURS.reset_index().index[rows], by), TABLE).startswith("not reproduced")


def test_a_method_that_is_off_in_few_images_is_not_reproduced():
    table = OURS.reset_index(drop=True)
    said = compared(moved(table.index[table["method"] == "mpgd_dsg"], 1.0), TABLE)
    assert said.startswith("not reproduced") and "mpgd_dsg" in said


def test_the_suite_prints_it(tmp_path, capsys):
    OURS.to_csv(tmp_path / "images.csv", index=False)
    suite = load("benchmark_small", out=tmp_path)
    spec = next(spec for spec in suite.yaml["tables"] if spec["_target_"] == "reproduced.show")
    assert show(Outcome(suite, []), spec["reference"]) == []
    assert capsys.readouterr().out.startswith("reproduced within 0.01 dB")
