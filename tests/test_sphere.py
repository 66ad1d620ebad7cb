"""The suite `sphere`: what its tables say of scores that are known."""

import numpy as np
import pandas as pd
import pytest

from dsg.studies import sphere
from dsg.suites.main import main


def scores(part, method, psnr, control="added", steps=20, task="inpaint"):
    """A row per image of every (c, g) that `psnr` has."""
    rows = [
        {"part": part, "task": task, "method": method, "control": control, "steps": steps, "c": c, "g": g,
         "image": f"{k}", "radius": c, "psnr": value + k, "haarpsi": 0.9}
        for (c, g), value in psnr.items() for k in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_radius_is_compared_with_radius_1_image_by_image():
    table = sphere.against_one(scores("radius", "own", {(0.9, 0.2): 31.0, (1.0, 0.2): 30.0, (1.1, 0.2): 28.5}))
    psnr = table[table["metric"] == "psnr"].set_index("radius")
    assert psnr["difference"].to_dict() == {0.9: 1.0, 1.1: -1.5}
    assert psnr.loc[0.9, ["low", "high", "n"]].tolist() == [1.0, 1.0, 3]  # the faces differ, their differences do not


def test_rates_and_steps_of_the_same_angle_are_compared():
    g = 0.3
    both = [
        scores("rate", "own", {(1.0, g): 31.0, (1.0, 0.5): 29.0}),
        scores("additive", "added", {(1.2, round(g / (1 - g), 4)): 30.0}, control=None),
    ]
    (psnr,) = sphere.same_angle(pd.concat(both)).query("metric == 'psnr'").to_dict("records")
    assert (psnr["g"], psnr["difference"], psnr["control_radius"]) == (g, 1.0, 1.2)


def test_what_validation_chooses_is_compared_on_test_images():
    tried = scores("tried", "own", {(1.0, 0.2): 30.0, (1.0, 0.3): 29.0, (0.9, 0.3): 32.0, (0.9, 0.2): 31.0})
    test = scores("chosen", "own", {(1.0, 0.2): 30.0, (1.0, 0.3): 35.0, (0.9, 0.3): 29.0, (0.9, 0.2): 36.0})
    found = sphere.together(pd.concat([tried, test])).query("metric == 'psnr'").to_dict("records")
    assert [(one["radius"], one["rate"], one["rate_at_1"], one["difference"]) for one in found] == [(0.9, 0.3, 0.2, -1)]


def test_the_range_of_good_rates_ends_where_the_score_has_fallen(tmp_path):
    values = [0.1, 0.2, 0.4, 0.8]
    trials = pd.DataFrame({"value": values, "psnr": [20, 30, 31, 27]})
    trials.assign(task="inpaint", sampler="own", steps=20).to_csv(tmp_path / "trials.csv", index=False)

    class Method:
        base_method, control, name = None, None, "own"

    (found,) = sphere.good_rates(tmp_path / "trials.csv", [Method], ["inpaint"], [20]).to_dict("records")
    assert found["low"] == pytest.approx(0.2) and found["high"] == pytest.approx(0.4 * 2**0.25)
    assert found["factor"] == pytest.approx(2 * 2**0.25)
    assert np.isnan(sphere.crossing(np.array([0.0, 1.0]), np.array([1.0, 0.5])))


@pytest.mark.slow
def test_the_smallest_suite_writes_every_table_that_it_can(tmp_path):
    assert main(["--suite", "sphere", "--smoke", "--out", str(tmp_path)]) == 0
    radius, angle = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("radius", "angle"))
    assert radius["radius"].unique().tolist() == [0.9] and (radius["difference"] != 0).all()
    assert angle["g"].unique().tolist() == [0.4] and (angle["control_radius"] > 1.05).all()
    assert (tmp_path / "radius.png").is_file() and (tmp_path / "angle.png").is_file()
