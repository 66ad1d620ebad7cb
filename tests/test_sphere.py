"""Suite sphere: the radius dial and the matched angle, small."""

import pandas as pd
import pytest

from dsg.suites.main import main


@pytest.mark.slow
def test_the_suite_writes_radius_rate_and_additive(tmp_path):
    assert main(["--suite", "sphere", "--smoke", "--out", str(tmp_path)]) == 0
    radius = pd.read_csv(tmp_path / "radius.csv")
    assert radius["radius"].tolist() == [0.9, 1.0] and radius["psnr"].nunique() == 2
    assert (tmp_path / "radius.png").is_file()
    for part, option in (("rate", "guidance_rate"), ("additive", "step_size")):
        assert list(pd.read_csv(tmp_path / f"{part}.csv")[option])
