"""batch_size=auto, and what metrics.json says of speed and memory."""

import json

import numpy as np
import pytest
import torch
from conftest import compose_config
from PIL import Image

from dsg.config import load
from dsg.priors.base import Prediction, Prior
from dsg.runs.batches import FIRST, MOST, USUAL, Batches, batches, peak_memory
from dsg.runs.film import Film
from dsg.runs.prepare import prepare
from dsg.schedule import NoiseSchedule, linear_betas

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class SmallMemory(Prior):
    """A prior whose device holds `holds` images at a time; it fails at the second call, in the middle of a batch."""

    shape, weights_hash = (3, 64, 64), "none"
    schedule = NoiseSchedule(linear_betas())

    def __init__(self, holds):
        super().__init__()
        self.holds, self.calls, self.sizes = holds, 0, []

    def predict(self, x_t, t, prompts=None):
        self.calls = self.calls + 1 if t < 900 else 1
        if self.calls == 1:
            self.sizes.append(len(x_t))
        elif len(x_t) > self.holds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Prediction(0.5 * x_t)


def run_of(out, holds, sizes, *options, images=11):
    shared = ["sampler=dps", "sampler.steps=3", f"data.limit={images}", "metrics=[psnr]", "wandb.mode=disabled"]
    run = prepare(compose_config(*shared, "device=cpu", f"out={out}", *options))
    run.prior, run.batches = SmallMemory(holds), sizes
    return run


def test_the_batch_is_doubled_until_it_does_not_fit_and_no_image_is_lost(tmp_path):
    run, done = run_of(tmp_path / "o", 5, batches("auto", 4, CUDA)), []
    announced = run.work()
    assert run.execute(done.append) == []
    assert run.prior.sizes == [4, 7, 3, 3, 1]  # 8 were asked for, and 7 are left
    assert sum(done) == announced and min(done) < 0  # what the batch that failed had done is taken back
    assert run.results.summary()["images"] == 11 and run.results.summary()["speed"]["batch_size"] == 4
    whole = run_of(tmp_path / "whole", 99, Batches(11))
    whole.execute()
    for file in sorted((tmp_path / "whole/images").iterdir()):
        pixels = [np.asarray(Image.open(f), float) for f in (file, tmp_path / "o/images" / file.name)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_where_one_image_is_too_large_one_line_says_so(tmp_path):
    run = run_of(tmp_path / "o", 0, batches("auto", 4, CUDA))
    with pytest.raises(OSError, match="memory does not hold a batch of 1; docs/running.md has what takes less$"):
        run.execute()
    assert run.prior.sizes == [4, 2, 1]


def test_a_fixed_batch_that_does_not_fit_is_one_line_too(tmp_path):
    run = run_of(tmp_path / "o", 2, Batches(4))
    with pytest.raises(OSError, match="does not hold a batch of 4; try batch_size=2 or auto$"):
        run.execute()
    assert run.prior.sizes == [4]


def test_a_film_has_its_frames_once_though_its_batch_was_tried_twice(tmp_path):
    run = run_of(tmp_path / "o", 2, batches("auto", 4, CUDA), images=4)
    film = Film(run)
    run.execute(callback=film, on_batch=film.write)
    for name in ("00000", "00003"):
        with Image.open(tmp_path / f"o/film/{name}.gif") as film:
            assert film.n_frames == 3


def test_what_each_device_begins_with():
    assert [batches("auto", 4, CUDA).size, batches(None, 4, CUDA).size, batches(3, 4, CUDA).size] == [FIRST, USUAL, 3]
    for asked in (None, "auto"):  # on a CPU a larger one is no faster
        on_cpu = batches(asked, 4, CPU)
        on_cpu.fitted(4)
        assert on_cpu.size == 4 and batches(asked, 0, CPU).size == USUAL
    largest = Batches(MOST, finds=True)
    largest.fitted(MOST)
    assert largest.size == MOST
    settled = Batches(16, finds=True)
    settled.did_not_fit(16)
    settled.fitted(8)
    assert settled.size == 8  # it does not run into the wall again


def test_auto_is_an_option_and_no_part_of_a_run_s_identity(tmp_path):
    assert load(["batch_size=auto"]).batch_size == "auto"
    with pytest.raises(ValueError, match="batch_size=many"):
        load(["batch_size=many"])
    owners = [prepare(compose_config(f"batch_size={size}", f"out={tmp_path}")).results.owner for size in ("auto", 2)]
    assert owners[0] == owners[1]


def test_metrics_json_tells_speed_and_memory(tmp_path):
    run = run_of(tmp_path / "o", 99, Batches(2), images=3)
    run.execute()
    summary = json.loads((tmp_path / "o/metrics.json").read_text())
    speed, seconds = summary["speed"], summary["seconds_per_image"]
    assert speed["images_per_second"] == pytest.approx(1 / seconds, rel=1e-4)
    assert speed["network_evaluations_per_second"] == pytest.approx(3 / seconds, rel=1e-4)
    assert 0.05 < speed["peak_memory_gib"] <= 1.001 * peak_memory(CPU) and speed["batch_size"] == 2  # rounded
    assert "peak_memory" not in (tmp_path / "o/per_image.csv").read_text()
    assert set(summary["metrics"]) == {"psnr", "residual"}
