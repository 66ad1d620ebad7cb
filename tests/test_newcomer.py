"""A sampler, a task with a text option, a metric of images and one of the set, from a folder of one's own: named in no
list of ours, and right in the tables, the figure, the HTML report and the W&B report."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from dsg.config import load_with_sources
from dsg.metrics.base import ImageMetric, SetMetric
from dsg.runs.prepare import prepare
from dsg.samplers import DPS
from dsg.suites.methods import styles
from dsg.suites.report.entries import read_entries
from dsg.suites.report.main import main
from dsg.types import Column
from tasks.denoise import Denoising


class Careful(DPS):
    """A sampler of one's own."""


class Captioned(Denoising):
    """A task with a text option."""

    def __init__(self, caption: str, **options):
        super().__init__(**options)
        self.caption = caption


class Brightness(ImageMetric):
    column = Column("brightness", "mean level", 1, True)

    def __call__(self, images, inputs):
        return [float(image.mean()) for image in images]


class Spread(SetMetric):
    column = Column("spread", "spread of the set", 2, False)

    def settings(self):
        return {"reference": "none"}

    def __call__(self, images):
        return float(np.std(images))


YAML = {
    "sampler/careful": "_target_: test_newcomer.Careful\nname: careful\nlabel: Careful DPS\nbase_method: dps\n",
    "task/captioned": "_target_: test_newcomer.Captioned\nname: captioned\nsigma: 0.2\ncaption: none\n",
    "metric/brightness": "_target_: test_newcomer.Brightness\n",
    "metric/spread": "_target_: test_newcomer.Spread\n",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of DPS and one of the newcomer."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name, text in YAML.items():
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / f"{name}.yaml").write_text(text)
    common = ["task=captioned", "task.caption=a sad person", "sampler.steps=2", "data.limit=2", "data=avatars64"]
    common += ["metrics=[psnr,brightness,spread]", "wandb.mode=disabled"]
    for sampler in ("dps", "careful"):
        config, sources = load_with_sources([*common, f"sampler={sampler}"], [folder / "mine"])
        assert isinstance(config.task.caption, str)
        assert prepare(config, sources, folder / "runs" / sampler).execute() == []
    return folder / "runs"


def test_it_is_in_the_report_and_the_tables(runs):
    assert main([str(runs), "--tables", "--images", "1"]) == 0
    page = (runs / "report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    shown = {run["method"]: run for run in data["runs"]}
    assert set(shown) == {"DPS", "Careful DPS"} and shown["DPS"]["color"] != shown["Careful DPS"]["color"]
    assert data["metrics"]["spread"] == {"title": "spread of the set", "digits": 2, "larger_is_better": False}
    assert shown["Careful DPS"]["settings"] == ["spread of the set: of 2 images; reference none"]
    assert "--config-dir" in shown["DPS"]["command"] and "'task.caption=a sad person'" in shown["DPS"]["command"]
    text, latex = (runs / "report.md").read_text(), (runs / "report.tex").read_text()
    for title, arrow in (("mean level", "↑"), ("spread of the set", "↓"), ("PSNR [dB]", "↑")):
        assert f"captioned: {title} {arrow}" in text and title in latex
    assert "Careful DPS" in text and "Careful DPS" in latex
    frame = pd.read_csv(runs / "report.csv").set_index(["method", "metric"])["mean"]
    best = min(("dps", "careful"), key=lambda name: frame[name, "spread"])
    row = next(line for line in text.splitlines() if line.startswith(f"| {shown_label(best)} "))
    assert f"**{frame[best, 'spread']:.2f}**" in row  # smaller is better


def shown_label(name):
    return {"dps": "DPS", "careful": "Careful DPS"}[name]


def test_it_has_a_look_of_its_own_in_figures(runs):
    looks = styles(entry.method for entry in read_entries([runs])[0])
    assert looks["careful"]["label"] == "Careful DPS" and looks["careful"]["color"] != looks["dps"]["color"]


def test_it_has_panels_in_the_report_of_wandb(runs):
    workspace = pytest.importorskip("dsg.suites.report.workspace", reason='needs the extra "report"')
    outline = workspace.outline(workspace.report(read_entries([runs])[0], "Title", "dsg"))
    assert "mean level, larger is better" in outline and "spread of the set, smaller is better" in outline
    assert "avatars64/captioned/careful/2" in outline
