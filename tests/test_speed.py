"""How long a pass takes: measured, or scaled from a smaller one by operations that are counted."""

import json

import pytest
import torch
from conftest import compose_config
from omegaconf import OmegaConf

from dsg.priors.architectures import random_network
from dsg.suites.speed import _operations, speed_of


def config_of(*overrides):
    return OmegaConf.to_container(compose_config(*overrides).model)


@pytest.mark.parametrize("model, expected", [("ffhq256", 388e9), ("celebahq256", None)])
def test_the_operations_of_a_pass_are_those_that_are_known(model, expected):
    """388 GFLOP: guided-diffusion's network of FFHQ. A pass at a quarter of the side has about a sixteenth of them."""
    config = config_of(f"model={model}")
    full, quarter = (_operations(config, False, side) for side in (256, 64))
    assert expected is None or full == pytest.approx(expected, rel=0.01)
    assert 16 <= full / quarter < 20  # attention has more than 16 times fewer


def test_a_prior_without_its_weights_is_measured_with_random_ones_and_one_says_so(tmp_path):
    unet = [
        "image_size=32",
        "num_channels=32",
        "channel_mult=[1,1,1]",
        "attention_resolutions=[8]",
        "num_head_channels=32",
    ]
    overrides = [f"model.unet.{one}" for one in unet] + [f"model.checkpoint={tmp_path / 'none.pt'}"]
    speed = speed_of(json.dumps(config_of("model=ffhq256", *overrides)), "cpu")
    assert speed.seconds > 0 and speed.how.startswith("ffhq256: ")
    assert speed.how.endswith("measured on cpu with random weights at 8 of 32 px, scaled by the operations")
    speed = speed_of(json.dumps(config_of("model=gaussian_mixture")), "cpu")
    assert speed.how.endswith("measured on cpu with its weights")


def test_nothing_is_said_of_an_architecture_that_only_its_checkpoint_knows(tmp_path):
    assert speed_of(json.dumps(config_of("model=diffusers")), "cpu") is None
    assert random_network(config_of("model=diffusers"), torch.device("cpu")) is None
