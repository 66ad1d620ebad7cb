"""The contract of priors; the ADM prior: its switches, and the released networks at their full size."""

import hashlib

import pytest
import torch
from conftest import compose_config, tiny_network, tiny_overrides
from hydra.utils import instantiate

from dsg.priors import CountedPrior
from dsg.priors.adm import ADMPrior, ADMUNet
from dsg.priors.class_posterior import ClassPosterior
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.priors.linear import LinearDenoiser
from dsg.priors.prediction import to_eps
from dsg.samplers import sample


def gradient(prior, x, t=500):
    x = x.clone().requires_grad_()
    eps = prior.predict(x, t).eps
    return eps.detach(), torch.autograd.grad(eps.square().sum(), x)[0]


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# --- reading weights


def test_a_constructor_reads_no_weights(tmp_path):
    overrides = tiny_overrides(tmp_path)
    file = tmp_path / "tiny.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    prior = instantiate(compose_config(*overrides).model)
    assert len(prior.schedule) == 1000 and prior.shape[0] == 3 and prior.learns_variance
    assert all(p.is_meta for p in prior.parameters())
    for ask in (prior.load, lambda: prior.weights_hash, lambda: prior.to("cpu")):
        with pytest.raises(ValueError, match="tiny.pt cannot be read as a checkpoint") as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="tiny.pt cannot be read"):
        prior.predict(torch.randn(1, *prior.shape), 500)


def test_weights_are_read_once_and_hashed_as_they_are_read(tmp_path):
    prior = instantiate(compose_config(*tiny_overrides(tmp_path)).model)
    x = torch.randn(1, *prior.shape)
    expected = hashlib.sha256((tmp_path / "tiny.pt").read_bytes()).hexdigest()
    eps = prior.predict(x, 500).eps
    (tmp_path / "tiny.pt").unlink()
    assert prior.weights_hash == expected
    assert torch.equal(prior.to("cpu").predict(x, 500).eps, eps)


def test_weights_of_another_network_are_refused(tmp_path):
    prior = instantiate(compose_config(*tiny_overrides(tmp_path), "model.unet.num_res_blocks=3").model)
    with pytest.raises(ValueError, match="another network than the config's"):
        prior.load()


def test_half_precision_weights_are_computed_with_in_float32(avatars):
    assert {p.dtype for p in avatars.load().parameters()} == {torch.float32}


def test_no_parameter_ever_wants_a_gradient(avatars):
    assert not any(p.requires_grad for p in avatars.load().parameters()) and not avatars.net.training


# --- what networks predict


MEAN, VARIANCE = 0.3, 0.5


class ExactNetwork(torch.nn.Module):
    """The best that a network of a kind can learn where every pixel is N(MEAN, VARIANCE)."""

    def __init__(self, kind, schedule):
        super().__init__()
        self.kind, self.schedule = kind, schedule

    def forward(self, x, t):
        if self.kind == "flow":
            a, b = 1 - t.item() / 1000, t.item() / 1000
        else:
            ab = self.schedule.alpha_bar[t.item()].item()
            a, b = ab**0.5, (1 - ab) ** 0.5
        away = (x - a * MEAN) / (a**2 * VARIANCE + b**2)  # x = a x0 + b eps
        x0, eps = MEAN + a * VARIANCE * away, b * away
        out = {"eps": eps, "v": a * eps - b * x0, "x0": x0, "flow": eps - x0}[self.kind]
        return torch.cat([out, torch.zeros_like(out)], 1)  # and a variance that says nothing


@pytest.mark.parametrize("t", [0, 300, 999])
@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow"])
def test_whatever_a_network_predicts_the_exact_one_gives_the_exact_eps(kind, t, tmp_path):
    prior = instantiate(compose_config(*tiny_overrides(tmp_path), f"model.prediction={kind}").model).load()
    prior.net = ExactNetwork(kind, prior.schedule)
    d = torch.Size(prior.shape).numel()
    exact = GaussianMixture([1.0], torch.full((1, d), MEAN), floor=VARIANCE**0.5, shape=prior.shape)
    x_t = torch.randn(2, *prior.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(prior.predict(x_t, t).eps, exact.predict(x_t, t).eps, rtol=1e-6, atol=1e-6)


def test_all_kinds_of_prediction_are_the_same_eps():
    """From x0 and eps that are known."""
    g = torch.Generator().manual_seed(0)
    ab, x0, eps = 0.37, torch.randn(3, 3, 8, 8, generator=g), torch.randn(3, 3, 8, 8, generator=g)
    a, b = ab**0.5, (1 - ab) ** 0.5
    x_t = a * x0 + b * eps
    for kind, out in (("eps", eps), ("v", a * eps - b * x0), ("x0", x0), ("flow", eps - x0)):
        torch.testing.assert_close(to_eps(out, x_t, ab, kind), eps, rtol=1e-4, atol=1e-5)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="prediction=score"):
        instantiate(compose_config("model.prediction=score").model)
    with pytest.raises(ValueError, match="prediction=score"):
        to_eps(torch.zeros(1), torch.zeros(1), 0.5, "score")


# --- counting


@pytest.mark.parametrize(
    "sampler, forward, backward",
    [
        ("unconditional", 6, 0),
        ("dps", 6, 6),
        ("dps_dsg", 6, 5),  # the last step has no noise, so no sphere, so no gradient
        ("mpgd", 6, 0),
        ("mpgd_dsg", 6, 0),
        ("freedom", 8, 8),  # two steps are taken twice
        ("freedom_dsg", 8, 7),
    ],
)
def test_passes_through_the_network_are_counted(sampler, forward, backward):
    config = compose_config("model=gaussian_mixture", "task=super_resolution", f"sampler={sampler}", "sampler.steps=6")
    prior, task, sampler = (instantiate(c) for c in (config.model, config.task, config.sampler))
    calls = []
    counted = CountedPrior(prior, on_call=calls.append)
    condition = task.degrade(torch.zeros(2, *prior.shape), ["a", "b"], 0)
    sample(counted, task, condition, sampler, torch.randn(2, *prior.shape))
    assert (counted.forward_passes, counted.backward_passes) == (forward, backward)
    assert (calls.count("forward"), calls.count("backward")) == (forward, backward)
    assert sampler.cost(prior.schedule) == (forward, backward)


# --- the ADM prior


def test_bf16_is_close_and_the_rest_of_the_loop_stays_float32(avatars, x):
    prior = instantiate(compose_config("model.bf16=true").model)
    eps, exact = prior.predict(x, 500).eps, avatars.predict(x, 500).eps
    assert 0 < (eps - exact).norm() / exact.norm() < 0.05
    sampler = instantiate(compose_config("sampler.steps=3", "sampler=unconditional").sampler)
    assert sample(prior, None, None, sampler, x).dtype == torch.float32


def test_activation_checkpointing_changes_nothing(avatars, x):
    prior = instantiate(compose_config("model.unet.use_checkpoint=true").model)
    for recomputed, stored in zip(gradient(prior, x), gradient(avatars, x)):
        torch.testing.assert_close(recomputed, stored, rtol=1e-5, atol=1e-6)


def test_the_network_compiles_without_a_graph_break(avatars, x):
    compiled = torch.compile(avatars.load().net, backend="eager", fullgraph=True)
    t = torch.full((1,), 500)
    torch.testing.assert_close(compiled(x, t), avatars.net(x, t))


def test_one_time_for_all_is_the_same_as_one_each(avatars, x):
    net = avatars.load().net
    torch.testing.assert_close(net(x, torch.full((1,), 500)), net(x, torch.full((3,), 500)))


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
@pytest.mark.slow
def test_a_guided_run_at_full_size(name, size, tmp_path):
    """Two steps of DSG. (ImageNet's 553 M parameters at 64 px: at 256 px a step takes minutes on two cores.)"""
    prior = full_size(name, tmp_path, size)
    config = compose_config(f"model={name}", "task=super_resolution", "sampler.steps=2", "sampler.kernel=ddpm")
    task, sampler = instantiate(config.task), instantiate(config.sampler)
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen = []
    out = sample(prior, task, task.degrade(x, ["a"], 0), sampler, torch.randn(x.shape), callback=seen.append)
    assert out.shape == x.shape and torch.isfinite(out).all()
    assert seen[0].sigma.shape == x.shape  # the learned variance
    assert torch.isfinite(seen[0].gradient).all() and seen[0].gradient.norm() > 0
    length = (seen[0].x_prev - seen[0].mean).norm()
    assert length == pytest.approx(seen[0].sigma.norm().item(), rel=1e-3)  # on the sphere


# --- the difference to a linear denoiser


def test_the_linear_denoiser_is_the_posterior_mean_under_one_gaussian():
    x = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 1, 4)
    fitted = LinearDenoiser.fit(x, components=5)
    extra = (fitted.variances - fitted.rest).sqrt() * fitted.components
    exact = GaussianMixture([1.0], fitted.mean[None], extra[None], fitted.rest.sqrt().item(), shape=(3, 4, 4))
    for alpha_bar in (0.999, 0.5, 0.001):
        x_t = alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * torch.randn_like(x)
        found = fitted(x_t, torch.tensor([alpha_bar]))
        torch.testing.assert_close(found, exact.denoise(x_t, alpha_bar), rtol=1e-3, atol=1e-4)


def test_a_network_that_adds_nothing_leaves_the_linear_part(tmp_path):
    """v is that of the linear denoiser, faded by 1 - ab."""
    config, state = tiny_network()
    unet = {k: v for k, v in config.items() if k not in ("num_heads", "class_cond")}
    silent = {k: torch.zeros_like(v) if k.startswith("out.2") else v for k, v in state.items()}
    x = torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    linear = LinearDenoiser.fit(x, components=4)
    torch.save(silent | {f"linear.{k}": v for k, v in linear.state_dict().items()}, tmp_path / "weights.pt")
    prior = ADMPrior("tiny", str(tmp_path / "weights.pt"), unet, prediction="v", linear=4)
    ab = prior.schedule.alpha_bar[500].item()
    x0 = (x - (1 - ab) ** 0.5 * prior.predict(x, 500).eps) / ab**0.5
    v = (ab**0.5 * x - linear(x, torch.tensor([ab]))) / (1 - ab) ** 0.5
    torch.testing.assert_close(x0, ab**0.5 * x - (1 - ab) ** 0.5 * (1 - ab) * v, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="model.prediction=v"):
        ADMPrior("tiny", str(tmp_path / "weights.pt"), unet, linear=4)


# --- probabilities of classes


def test_a_class_posterior_is_bayes_rule_for_gaussian_classes():
    """Against the densities of x_t, of which z are coordinates in an orthonormal basis: K of D numbers."""
    g = torch.Generator().manual_seed(0)
    means, mix = 3 * torch.randn(3, 4, generator=g), torch.randn(4, 4, generator=g)
    labels = torch.randint(0, 3, (4000,), generator=g)
    z = means[labels] + torch.randn(4000, 4, generator=g) @ mix
    posterior = ClassPosterior.fit(z, labels)
    centred = torch.cat([z[labels == k] - z[labels == k].mean(0) for k in range(3)]).double()
    within = (centred.T @ centred / len(z)).float()
    ab = torch.tensor([0.3, 0.9])
    z_t = ab.sqrt()[:, None] * z[:2] + (1 - ab).sqrt()[:, None] * torch.randn(2, 4, generator=g)
    for i in range(2):
        density = [
            torch.distributions.MultivariateNormal(
                ab[i].sqrt() * z[labels == k].mean(0), ab[i] * within + (1 - ab[i]) * torch.eye(4)
            ).log_prob(z_t[i]) + (labels == k).float().mean().log()
            for k in range(3)
        ]  # fmt: skip
        expected = torch.stack(density).softmax(0)
        torch.testing.assert_close(posterior(z_t, ab)[i], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(posterior(z_t[i : i + 1], ab[i : i + 1])[0], expected, rtol=1e-3, atol=1e-4)


def test_the_network_is_given_probabilities_and_each_image_its_own(tmp_path):
    unet = {k: v for k, v in tiny_network()[0].items() if k not in ("num_heads", "class_cond")}
    net = ADMUNet(**unet, num_classes=5)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    linear = LinearDenoiser.fit(x, components=4)
    z = linear.coordinates(x, torch.ones(1))
    first, second = ClassPosterior.fit(z, torch.tensor([0, 1, 0, 1, 0, 1])), ClassPosterior.fit(z, torch.arange(6) // 2)
    state = net.state_dict() | {f"linear.{k}": v for k, v in linear.state_dict().items()}
    for i, posterior in enumerate((first, second)):
        state |= {f"classes.{i}.{k}": v for k, v in posterior.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    prior = ADMPrior("tiny", str(tmp_path / "weights.pt"), unet, "v", linear=4, classes=[2, 3], cpu_batch=4)
    ab, t = float(prior.schedule.alpha_bar[300]), torch.tensor([300.0])
    level = torch.tensor([ab])
    classes = torch.cat([p(linear.coordinates(x, level), level) for p in (first, second)], 1)
    torch.testing.assert_close(classes.sum(1), torch.full((6,), 2.0))
    v = net.eval()(x, t, classes)[:, :3] + linear.skip(x, level)
    torch.testing.assert_close(prior.predict(x, 300).eps, ab**0.5 * v + (1 - ab) ** 0.5 * x, rtol=1e-4, atol=1e-4)
    assert torch.equal(prior.predict(x, 300).eps[4:], prior.predict(x[4:], 300).eps)
    with pytest.raises(ValueError, match="needs model.linear"):
        ADMPrior("tiny", str(tmp_path / "weights.pt"), unet, "v", classes=[2, 3])
