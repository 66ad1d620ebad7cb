"""The ADM prior: its switches, and the released networks at their full size."""

import pytest
import torch
from conftest import compose_config
from hydra.utils import instantiate

from dsg.priors.adm import ADMUNet
from dsg.samplers import sample


def gradient(prior, x, t=500):
    x = x.clone().requires_grad_()
    eps, _ = prior.predict(x, t)
    return eps.detach(), torch.autograd.grad(eps.square().sum(), x)[0]


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_bf16_is_close_and_the_rest_of_the_loop_stays_float32(avatars, x):
    prior = instantiate(compose_config("model.bf16=true").model)
    eps, _ = prior.predict(x, 500)
    exact, _ = avatars.predict(x, 500)
    assert 0 < (eps - exact).norm() / exact.norm() < 0.05
    sampler = instantiate(compose_config("sampler.steps=3", "sampler=unconditional").sampler)
    assert sample(prior, None, None, sampler, x).dtype == torch.float32


def test_activation_checkpointing_changes_nothing(avatars, x):
    prior = instantiate(compose_config("+model.unet.use_checkpoint=true").model)
    for ours, plain in zip(gradient(prior, x), gradient(avatars, x)):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_the_network_compiles_without_a_graph_break(avatars, x):
    compiled = torch.compile(avatars.net, backend="eager", fullgraph=True)
    t = torch.full((1,), 500)
    torch.testing.assert_close(compiled(x, t), avatars.net(x, t))


def test_one_time_for_all_is_the_same_as_one_each(avatars, x):
    torch.testing.assert_close(avatars.net(x, torch.full((1,), 500)), avatars.net(x, torch.full((3,), 500)))


def test_no_parameter_ever_wants_a_gradient(avatars):
    assert not any(p.requires_grad for p in avatars.parameters())


def full_size(name, tmp_path, size=256):
    """A released architecture with random weights, loaded as its checkpoint would be."""
    torch.manual_seed(0)
    config = compose_config(f"model={name}", f"model.checkpoint={tmp_path / 'w.pt'}", f"model.unet.image_size={size}")
    net = ADMUNet(**config.model.unet)
    for p in net.parameters():  # the zero-initialised layers too, or the gradient would be trivial
        if p.abs().max() == 0:
            torch.nn.init.normal_(p, std=0.02)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    return instantiate(config.model)


@pytest.mark.parametrize("name, size", [("ffhq256", 256), ("imagenet256", 64)])
def test_a_guided_run_at_full_size(name, size, tmp_path):
    """Two steps of DSG. (ImageNet's 553 M parameters at 64 px: at 256 px a step takes minutes on two cores.)"""
    prior = full_size(name, tmp_path, size)
    config = compose_config(f"model={name}", "task=super_resolution", "sampler.steps=2", "sampler.kernel=ddpm")
    task, sampler = instantiate(config.task), instantiate(config.sampler)
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen = []
    out = sample(prior, task, task.measure(x, ["a"], 0), sampler, torch.randn(x.shape), callback=seen.append)
    assert out.shape == x.shape and torch.isfinite(out).all()
    assert seen[0].sigma.shape == x.shape  # the learned variance
    assert torch.isfinite(seen[0].gradient).all() and seen[0].gradient.norm() > 0
    length = (seen[0].x_prev - seen[0].mean).norm()
    assert length == pytest.approx(seen[0].sigma.norm().item(), rel=1e-3)  # on the sphere


@pytest.mark.parametrize("name, bf16", [("ffhq256", False), ("imagenet256", True)])
def test_a_guided_step_of_four_images_fits_a_card_of_24_gb(name, bf16):
    from estimate_memory import guided_step_gib

    plain, recomputing = guided_step_gib(name, 4, bf16), guided_step_gib(name, 4, bf16, use_checkpoint=True)
    weights = sum(w.numel() for w in meta_network(name).parameters()) * 4 / 2**30
    assert weights < recomputing < 0.7 * plain and plain < 20


def test_a_step_of_stable_diffusion_decoded_in_the_loss_fits_a_card_of_24_gb():
    from estimate_memory import guided_step_gib

    assert 3.5 < guided_step_gib("sd14", 1, use_checkpoint=True) < 12  # as configs/model/sd14.yaml has it; weights: 3.5


def meta_network(name):
    with torch.device("meta"):
        return ADMUNet(**compose_config(f"model={name}").model.unet)
