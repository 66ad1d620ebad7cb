"""configs/tuned/ of the full-size priors: what the rivals' and the paper's codes released, where a run gets to it."""

import pandas as pd
import pytest
from conftest import ROOT

from dsg.config import load_with_sources

RELEASED = [  # model, task, sampler, steps, values
    ("ffhq256", "inpaint", "dps", 1000, {"step_size": 0.5, "kernel": "ddpm"}),
    ("ffhq256", "inpaint", "dps", 100, {"step_size": 1.0, "kernel": "ddim", "eta": 1.0}),
    ("ffhq256", "super_resolution", "dps_dsg", 100, {"guidance_rate": 0.1, "interval": 2}),
    ("ffhq256", "motion_deblur", "dps_dsg", 1000, {"guidance_rate": 0.2, "interval": 5}),
    ("ffhq256", "super_resolution", "mpgd", 50, {"step_size": 7.5, "eta": 0.5}),
    ("ffhq256", "gaussian_deblur", "diffrgd", 100, {"step_size": 7.0, "inner_steps": 3, "interval": 1}),
    ("ffhq256", "motion_deblur", "diffrgd", 1000, {"step_size": 2.5, "inner_steps": 3, "interval": 4}),
    ("ffhq256", "inpaint_box", "daps", 200, {"langevin_step_size": 5e-5, "tau": 0.01, "langevin_steps": 100}),
    ("ffhq256", "inpaint", "daps", 200, {"langevin_step_size": 1e-4}),
    ("ffhq256", "hdr", "daps", 200, {"langevin_step_size": 2e-5}),
    ("ffhq256", "inpaint", "diffpir", 20, {"data_weight": 1.0, "zeta": 1.0}),
    ("ffhq256", "motion_deblur", "diffpir", 100, {"data_weight": 1.0, "zeta": 0.1}),
    ("ffhq256", "gaussian_deblur", "trust", 200, {"step_size": 1.0, "inner_steps": 4, "norm_bound": 440}),
    ("ffhq256", "gaussian_deblur", "sitcom", 20, {"learning_rate": 0.02, "inner_steps": 30, "tolerance": 0.001}),
    ("imagenet256", "gaussian_deblur", "dps", 100, {"step_size": 0.4}),
    ("imagenet256", "motion_deblur", "diffrgd", 100, {"step_size": 0.5, "inner_steps": 3}),
    ("imagenet256", "denoise", "dps_dsg", 100, {"guidance_rate": 0.15, "interval": 5}),
    ("imagenet256", "super_resolution", "reddiff", 1000, {"learning_rate": 0.1, "prior_weight": 1.0}),
    ("imagenet256", "super_resolution", "reddiff", 100, {"learning_rate": 0.5, "prior_weight": 0.25}),
    ("imagenet256", "super_resolution", "ddrm", 20, {"eta": 0.85, "eta_b": 1.0}),
]


@pytest.mark.parametrize("model, task, sampler, steps, values", RELEASED)
def test_a_run_gets_the_released_values_and_says_where_from(model, task, sampler, steps, values):
    names = (f"model={model}", f"task={task}", f"sampler={sampler}", f"sampler.steps={steps}")
    config, sources = load_with_sources(names)
    assert {name: config.sampler[name] for name in values} == values
    tuned = next(iter(values))
    assert sources[f"sampler.{tuned}"] == f"tuned/{model}.csv" and not sources.notes


@pytest.mark.parametrize("model, value", [("ffhq256", 1.0), ("imagenet256", 0.4)])
def test_at_20_steps_nothing_was_released_and_the_run_says_what_it_took(model, value):
    """Not the .3 that DPS's code has for 1000 steps."""
    names = (f"model={model}", "task=gaussian_deblur", "sampler=dps", "sampler.steps=20")
    config, sources = load_with_sources(names)
    assert (config.sampler.step_size, sources["sampler.step_size"]) == (value, f"tuned/{model}.csv, at 100 steps")
    assert "not tuned for 20 steps, only for 100, 1000" in sources.notes[0]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/tuned").glob("*.csv")), ids=lambda path: path.stem)
def test_every_row_names_its_source_and_stands_once(path):
    rows = pd.read_csv(path, dtype=str)
    assert rows["source"].str.strip().str.len().gt(0).all()
    assert not rows.duplicated(["task", "sampler", "steps", "option"]).any()
    tasks, samplers = ({file.stem for file in (ROOT / "configs" / kind).glob("*.yaml")} for kind in ("task", "sampler"))
    assert set(rows["task"]) <= {*tasks, "any"} and set(rows["sampler"]) <= {*samplers, "any"}
