"""The training of the embedded prior: its draws, its loss, its optimiser and its averages; stopped and resumed."""

import argparse

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dsg.avatars64.prior_training.averages import Averages, exponent
from dsg.avatars64.prior_training.draws import faces_of_step, generator, time_density, timesteps
from dsg.avatars64.prior_training.loss import coarse_error, to_v, weight
from dsg.avatars64.prior_training.optimizers import optimizers, orthogonal
from dsg.avatars64.prior_training.recorded import Recorded
from dsg.avatars64.prior_training.trainer import Trainer

TINY = {
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "4",
    "num_head_channels": 32, "learn_sigma": False,
}  # fmt: skip


def options(out, **other):
    values = {
        "prediction": "v", "weighting": "balanced", "coarse": 0.0, "optimizer": "muon", "lr": 2e-3, "warmup": 2,
        "batch": 4, "flips": True, "seed": 0, "ema": [0.05, 0.15], "linear": 3, "unet": TINY, "steps": 6,
        "minutes": None, "init": None, "device": "cpu", "bf16": False, "classes": [],
        "compile": False, "out": out,
    }  # fmt: skip
    return argparse.Namespace(**{**values, **other})


def faces():
    return torch.randint(0, 256, (10, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def train(out, steps, **other):
    out.mkdir(exist_ok=True)
    trainer = Trainer(options(out, **other), faces())
    trainer.run(lambda: trainer.step >= steps)
    return trainer


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_epoch_shows_each_face_once():
    seen = torch.cat([faces_of_step(step, 4, 10, seed=1) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_noise_levels_are_stratified_draws_of_their_density():
    density = time_density()
    assert density.sum().item() == pytest.approx(1) and density.min() > 0.9 * 0.5e-3
    below = density.cumsum(0) - density  # probability of a smaller t
    for step in range(20):
        t = timesteps(10, density, generator(0, step))
        for stratum, value in enumerate(t.tolist()):
            assert below[value] < (stratum + 1) / 10 and below[value] + density[value] > stratum / 10


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_every_prediction_stands_for_the_same_v(prediction):
    x0, eps, ab = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double(), torch.tensor(0.3).double()
    v = ab.sqrt() * eps - (1 - ab).sqrt() * x0
    out = {"v": v, "eps": eps, "x0": x0}[prediction]
    torch.testing.assert_close(to_v(out, ab.sqrt() * x0 + (1 - ab).sqrt() * eps, ab, prediction), v)


@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_a_weight_makes_the_error_of_v_that_of_its_name(prediction):
    """Of eps itself; for eps = snr on x0, for x0 = 1."""
    ab = torch.tensor([0.2, 0.9]).double()
    x_t, true, wrong = torch.randn(3, 2).double()
    off = to_v(wrong, x_t, ab, prediction) - to_v(true, x_t, ab, prediction)
    torch.testing.assert_close(weight(ab, prediction) * off**2, (wrong - true) ** 2)


def test_the_coarse_error_is_that_of_the_means_of_blocks():
    alternating = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)  # no block's mean sees it
    torch.testing.assert_close(coarse_error(0.5 + alternating.expand(2, 3, 16, 16)), torch.full((2,), 0.25))


def test_an_orthogonal_update_has_singular_values_near_one():
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert 0.6 < values.min() and values.max() < 1.3


def test_muon_moves_hidden_matrices_and_adam_the_rest(tmp_path):
    net = Trainer(options(tmp_path), faces()).net
    adam, muon = optimizers(net, "muon", 1e-3)
    of_muon = {id(p) for p in muon.param_groups[0]["params"]}
    assert all((id(p) in of_muon) == (p.ndim > 1) for p in net.middle_block.parameters())
    assert not any(id(p) in of_muon for p in net.out.parameters())
    assert len(of_muon) + len(adam.param_groups[0]["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.15])
def test_an_average_has_the_profile_of_its_width(width):
    """The weight of step i grows like i^gamma, whose relative standard deviation is the width (EDM2, eq. 123)."""
    net, steps = nn.Linear(1, 1, bias=False), 2000
    averages = Averages(net, [width])
    profile = torch.zeros(steps)
    for step in range(1, steps + 1):
        profile *= (1 - 1 / step) ** (exponent(width) + 1)
        profile[step - 1] = 1 - (1 - 1 / step) ** (exponent(width) + 1)
        net.weight.data.fill_(step / steps)
        averages.update(net, step)
    place = torch.arange(1, steps + 1) / steps
    mean = (profile * place).sum()
    assert averages.nets[width].weight.item() == pytest.approx(mean.item(), abs=1e-4)
    assert (profile * (place - mean) ** 2).sum().sqrt().item() == pytest.approx(width, rel=0.02)


def test_a_stopped_training_is_bit_for_bit_the_uninterrupted_one(tmp_path):
    train(tmp_path / "whole", 6)
    train(tmp_path / "parts", 2)
    train(tmp_path / "parts", 6)
    for name in ("model_0.05.safetensors", "model_0.15.safetensors"):
        whole, parts = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert "linear.components" in whole


def test_a_training_is_not_resumed_with_other_options(tmp_path):
    train(tmp_path, 1)
    with pytest.raises(SystemExit, match="lr=0.002"):
        Trainer(options(tmp_path, lr=1e-3), faces())


@pytest.mark.parametrize("linear", [0, 3])
def test_a_training_may_begin_with_the_weights_of_another(tmp_path, linear):
    train(tmp_path / "old", 2, linear=linear)
    old = tmp_path / "old/model_0.05.safetensors"
    (tmp_path / "new").mkdir()
    begun = Trainer(options(tmp_path / "new", init=old), faces())
    assert all(torch.equal(v, load_file(old)[k].float()) for k, v in begun.net.state_dict().items())


def test_a_training_with_classes_begins_where_weights_without_them_stand(tmp_path):
    """The embeddings of classes are 0 then; they learn, and travel with what tells the classes."""
    train(tmp_path / "old", 2)
    old = tmp_path / "old/model_0.05.safetensors"
    labels = [torch.arange(10) % 2, torch.arange(10) // 4]
    (tmp_path / "new").mkdir()
    new = Trainer(options(tmp_path / "new", init=old, classes=[2, 3]), faces(), labels)
    x_t, t = torch.randn(4, 3, 8, 8), torch.arange(4) * 200
    plain = Trainer(options(tmp_path / "new", init=old), faces())
    given = new.probabilities(x_t, new.alpha_bar[t])
    assert given[0].shape == (4, 5) and torch.equal(new.net(x_t, t, *given), plain.net(x_t, t))
    new.run(lambda: new.step >= 3)
    weights = load_file(tmp_path / "new/model_0.05.safetensors")
    assert weights["label_emb.weight"].abs().max() > 0 and weights["classes.1.means"].dtype == torch.float32
    with pytest.raises(SystemExit, match="classes"):
        Trainer(options(tmp_path / "new"), faces())


def test_the_coarse_error_counts_in_the_loss(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "coarse").mkdir()
    image = {"unet": {**TINY, "image_size": 16}, "linear": 0}
    larger = torch.nn.functional.interpolate(faces(), 16)
    plain = Trainer(options(tmp_path / "plain", **image), larger).train_step()
    coarse = Trainer(options(tmp_path / "coarse", coarse=16.0, **image), larger).train_step()
    assert coarse[0] == plain[0] and coarse[1] > 1.1 * plain[1]


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    with pytest.raises(SystemExit, match="lower --lr"):
        Trainer(options(tmp_path), faces()).note([torch.full((2,), torch.nan)], None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_recorded_function_does_what_it_did_as_written():
    rate = torch.tensor(0.1, device="cuda")

    def averaging(average):
        return lambda x: [average.lerp_(x, rate).clone(), x.square().sum()]

    plain, recorded = averaging(torch.zeros(5, device="cuda")), Recorded(averaging(torch.zeros(5, device="cuda")))
    for call in range(8):
        rate.fill_(0.1 * call)  # a number that changes, in a tensor that stays
        x = torch.randn(5, device="cuda")
        for expected, found in zip(plain(x), recorded(x)):
            torch.testing.assert_close(found, expected)
