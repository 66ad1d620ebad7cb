"""Suite sphere: the radius dial and the matched angle, small."""

import pandas as pd
import pytest

from dsg.suites.main import main


@pytest.mark.slow
def test_the_suite_writes_radius_rate_and_additive(tmp_path):
    assert main(["--suite", "sphere", "--smoke", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    psnr = table[table["metric"] == "psnr"].set_index("value")["mean"]
    assert set(psnr.index) == {"radius=0.9", "radius=1.0", "guidance_rate=0.1", "step_size=0.111"}
    assert psnr["radius=0.9"] != psnr["radius=1.0"] and (tmp_path / "radius.png").is_file()
