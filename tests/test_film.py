"""The contact sheet and the films of a run."""

import numpy as np
import pytest
import torch
from conftest import prepared
from PIL import Image

from dsg.runs.film import Film
from dsg.samplers import StepState


def test_the_contact_sheet_shows_all_images(finished):
    from dsg.runs.contact_sheet import write_contact_sheet

    write_contact_sheet(prepared(finished))
    sheet = np.asarray(Image.open(finished / "grid.png"))
    assert sheet.shape == (24 + 3 * (24 + 192 + 6), 3 * (192 + 6), 3)  # headings; enlarged 3 times, with lines and gaps


@pytest.mark.parametrize(
    "frames, options",
    [
        (3, []),
        (6, ["sampler=diffpir", "sampler.steps=7"]),
        (6, ["sampler=reddiff", "sampler.steps=6"]),  # 1000 // 6 makes seven levels
        (3, ["sampler.travel.repeats=3", "sampler.travel.window=[0,1000]"]),
        (50, ["model=gaussian_mixture", "task=denoise", "sampler=unconditional", "sampler.steps=99"]),
    ],
)
def test_a_film_shows_every_step_and_has_fifty_frames_at_most(tmp_path, frames, options):
    run = prepared(tmp_path / "o", "data.limit=1", *options)
    film = Film(run)
    run.execute(callback=film, on_batch=film.write)
    with Image.open(tmp_path / "o/film/00000.gif") as shown:
        assert shown.n_frames == frames and shown.width == shown.height


def test_a_film_is_of_the_try_that_was_kept(tmp_path):
    run = prepared(tmp_path / "o", "data.limit=2")
    film, names = Film(run), ["dark", "bright"]
    run.results.out.mkdir()
    for level in (-1.0, 1.0):
        for index in (1, 0):
            film(StepState(index, 0.0, 0, None, torch.full((2, 3, 8, 8), level), None, None), names)
    film.write(names, [0, 1])
    shown = {name: np.asarray(Image.open(tmp_path / f"o/film/{name}.gif").convert("RGB")) for name in names}
    assert shown["dark"].max() == 0 and shown["bright"].min() == 255
