"""average=true: the mean of the samples, and where they scatter."""

import numpy as np
import pandas as pd
from conftest import ROOT
from PIL import Image

from dsg.config import load_with_sources
from dsg.runs.main import run_one

FACES = ROOT / "data/avatars64/test"


def run(out, *options):
    given = ("task=denoise", "task.sigma=1.0", "sampler=mpgd_dsg", "sampler.steps=10", "data.limit=2")
    return run_one(*load_with_sources([*given, f"out={out}", "metrics=[psnr]", "wandb.mode=disabled", *options]))


def test_the_mean_of_samples_is_written_and_is_nearer_than_a_sample(tmp_path, capsys):
    assert run(tmp_path, "samples=4", "average=true") == 0
    name = sorted(FACES.glob("*.png"))[0].stem
    samples = np.stack([np.asarray(Image.open(tmp_path / f"images/{name}_{k}.png")) for k in range(4)]).astype(float)
    mean = np.asarray(Image.open(tmp_path / f"mean/{name}.png"))
    assert np.abs(mean - samples.mean(0)).max() <= 0.5
    deviation = np.asarray(Image.open(tmp_path / f"deviation/{name}.png"))
    assert deviation.shape == (64, 64)
    assert np.abs(deviation - (4 * samples.std(0, ddof=1).mean(-1)).clip(0, 255)).max() <= 0.51
    table = pd.read_csv(tmp_path / "averages.csv")
    single = pd.read_csv(tmp_path / "per_image.csv")["psnr"].mean()
    assert list(table.columns) == ["id", "samples", "deviation", "psnr"] and len(table) == 2
    assert table["psnr"].mean() > single + 0.5
    assert "mean of 4 samples: " in capsys.readouterr().out


def test_an_average_changes_no_run(tmp_path):
    assert run(tmp_path, "samples=2") == 0 and not (tmp_path / "mean").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    assert run(tmp_path, "samples=2", "average=true") == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    assert len(list((tmp_path / "mean").iterdir())) == 2


def test_one_sample_has_no_scatter(tmp_path, capsys):
    assert run(tmp_path, "average=true") == 2
    assert "average=true needs several samples" in capsys.readouterr().err
