"""How long a pass takes: measured, where the weights are."""

import json

from conftest import compose_config
from omegaconf import OmegaConf

from dsg.suites.speed import speed_of


def config_of(*overrides):
    return json.dumps(OmegaConf.to_container(compose_config(*overrides).model))


def test_a_pass_is_measured_with_the_prior_s_weights():
    speed = speed_of(config_of("model=gaussian_mixture"), "cpu")
    assert speed.seconds > 0
    assert speed.how.startswith("gaussian_mixture: ") and speed.how.endswith("measured on cpu")


def test_nothing_is_said_of_a_prior_without_its_weights(tmp_path):
    assert speed_of(config_of("model=diffusers"), "cpu") is None
    assert speed_of(config_of("model=ffhq256", f"model.checkpoint={tmp_path / 'none.pt'}"), "cpu") is None
