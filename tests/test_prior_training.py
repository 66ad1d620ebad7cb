"""The training of the embedded prior: its draws, its optimiser and its averages; killed and resumed."""

import argparse
import os
import runpy
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from torch import nn

SCRIPT = ROOT / "scripts/avatars64/train_prior.py"
train_prior = argparse.Namespace(**runpy.run_path(str(SCRIPT)))
TINY = {
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4],
    "num_head_channels": 32, "learn_sigma": False,
}  # fmt: skip


def training(out, **other):
    values = {
        "lr": 2e-3, "warmup": 2, "batch": 4, "seed": 0, "ema": [0.05, 0.15], "linear": 3, "unet": TINY, "steps": 6,
        "minutes": None, "device": "cpu", "bf16": False, "attributes": ["a", "b"], "compile": False, "out": out,
    }  # fmt: skip
    faces = torch.randint(0, 256, (10, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = [torch.arange(10) % 2, torch.arange(10) // 4]
    return train_prior.Training(argparse.Namespace(**{**values, **other}), faces, labels)


def test_an_epoch_shows_each_face_once():
    seen = torch.cat([train_prior.faces_of_step(step, 4, 10, seed=1) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_noise_levels_are_stratified_draws_of_their_density():
    density = train_prior.time_density()
    assert density.sum().item() == pytest.approx(1) and density.min() > 0.9 * 0.5e-3
    below = density.cumsum(0) - density  # probability of a smaller t
    for step in range(20):
        t = train_prior.timesteps(10, density, train_prior.generator(0, step))
        for stratum, value in enumerate(t.tolist()):
            assert below[value] < (stratum + 1) / 10 and below[value] + density[value] > stratum / 10


def test_an_orthogonal_update_has_singular_values_near_one():
    for shape in ((20, 50), (50, 20)):
        g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(train_prior.orthogonal(g))
        assert 0.6 < values.min() and values.max() < 1.3


def test_muon_moves_hidden_matrices_and_adam_the_rest(tmp_path):
    started = training(tmp_path)
    net, (adam, muon) = started.net, started.optimizers
    of_muon = {id(p) for p in muon.param_groups[0]["params"]}
    assert all((id(p) in of_muon) == (p.ndim > 1) for p in net.middle_block.parameters())
    assert not any(id(p) in of_muon for p in (*net.out.parameters(), net.label_emb.weight))
    assert len(of_muon) + len(adam.param_groups[0]["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.15])
def test_an_average_has_the_profile_of_its_width(width):
    """The weight of step i grows like i^gamma, whose relative standard deviation is the width (EDM2, eq. 123)."""
    net, average, steps = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False).requires_grad_(False), 2000
    power = train_prior.exponent(width)
    profile = torch.zeros(steps)
    for step in range(1, steps + 1):
        profile *= (1 - 1 / step) ** (power + 1)
        profile[step - 1] = 1 - (1 - 1 / step) ** (power + 1)
        net.weight.data.fill_(step / steps)
        train_prior.update_average(average, net, width, step)
    place = torch.arange(1, steps + 1) / steps
    mean = (profile * place).sum()
    assert average.weight.item() == pytest.approx(mean.item(), abs=1e-4)
    assert (profile * (place - mean) ** 2).sum().sqrt().item() == pytest.approx(width, rel=0.02)


def test_the_weights_hold_what_a_run_needs(tmp_path):
    started = training(tmp_path)
    started.run(lambda: started.step >= 3)
    weights = load_file(tmp_path / "model_0.05.safetensors")
    assert weights["linear.components"].dtype == torch.float16 and weights["classes.1.means"].dtype == torch.float32
    assert weights["label_emb.weight"].shape[0] == 5 and weights["label_emb.weight"].abs().max() > 0
    assert weights.keys() - {f"{m}.{k}" for m in ("linear", "classes") for k in started.modules[m].state_dict()} == {
        *started.net.state_dict()
    }


def test_a_training_is_not_resumed_with_other_options(tmp_path):
    started = training(tmp_path)
    started.train_step()
    started.save()
    with pytest.raises(ValueError, match="lr=0.002"):
        training(tmp_path, lr=1e-3)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    with pytest.raises(ValueError, match="lower --lr"):
        training(tmp_path).record(0.1, float("nan"))


def shard(folder, count=12):
    """Write noise as scripts/avatars64/render.py writes faces."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.savez(folder / f"shard_000000_{count}_seed0.npz", images=rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
    table = pd.DataFrame({"skin": list("abc" * 4), "hair_color": list("de" * 6)}).iloc[:count]
    table.to_csv(folder / f"shard_000000_{count}_seed0.csv", index_label="id")
    return folder


def test_the_command_stopped_and_called_again_is_bit_for_bit_the_uninterrupted_one(tmp_path, monkeypatch, capsys):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    options = ["--data", shard(tmp_path / "faces"), "--linear", 3, "--batch", 4, "--steps", 4, "--warmup", 2]
    options += ["--device", "cpu", "--unet", *(f"{name}={value}" for name, value in TINY.items()), "norm_groups=32"]
    step = train_prior.Training.train_step

    def call(out, stop_at=None):
        def train_step(self):
            if self.step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self)

        monkeypatch.setattr(train_prior.Training, "train_step", train_step)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options), "--out", str(tmp_path / out)])
        train_prior.main()
        return capsys.readouterr().out

    assert call("whole") == "4 steps, 16 faces seen, 100 % of the budget\n"
    assert call("parts", stop_at=2) == "2 steps, 8 faces seen, 50 % of the budget\n"
    assert call("parts") == "4 steps, 16 faces seen, 100 % of the budget\n"
    for width in ("0.03", "0.05", "0.1"):
        one, other = (load_file(tmp_path / out / f"model_{width}.safetensors") for out in ("whole", "parts"))
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    for number, handler in handlers.items():
        signal.signal(number, handler)
