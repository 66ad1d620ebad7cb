"""FreeDoM's face parsing: BiSeNet as released, the loss, and the rule."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY, compose_config
from hydra.utils import instantiate
from PIL import Image

from dsg.runs.prepare import prepare
from dsg.types import Data
from tasks.networks import base as networks
from tasks.networks.bisenet import CLASSES, BiSeNet, read_bisenet

RECORDED = json.loads((PARITY / "bisenet.json").read_text())


def drawn(generator):
    """A state dict that leaves no two channels alike; drawn as for the recording."""
    state = {}
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in BiSeNet().state_dict().items()}
    for key, shape in sorted(shapes.items()):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) == 1:
            state[key] = key.endswith("weight") + 0.1 * torch.randn(shape, generator=generator)
        else:
            state[key] = torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
    return state


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as it is released, with other numbers, the image of the recording, and two references."""
    folder, generator = tmp_path_factory.mktemp("parsing"), torch.Generator().manual_seed(0)
    torch.save(drawn(generator), folder / "79999_iter.pth", _use_new_zipfile_serialization=False)
    image = torch.randn(1, 3, 128, 128, generator=generator)
    (folder / "references").mkdir()
    for i in range(2):
        coarse = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"references/{i}.png")
    yield folder, image
    networks._loaded.clear()


def options(folder, *more):
    return [
        "task=face_parsing", f"task.reference={folder}/references",
        f"task.guidance.checkpoint={folder}/79999_iter.pth", *more,
    ]  # fmt: skip


def test_the_network_has_the_released_keys_and_shapes():
    with torch.device("meta"):
        network = BiSeNet()
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == RECORDED["keys"]
    assert network.classes == len(CLASSES) == 19


@torch.no_grad()
def test_its_logits_are_those_of_the_released_code(released):
    folder, image = released
    network = read_bisenet(f"{folder}/79999_iter.pth", input_size=128)
    logits = network(image * network.std + network.mean)[0, ::6, 5::40, 7::40]
    recorded = torch.tensor(RECORDED["logits"])
    torch.testing.assert_close(logits.flatten(), recorded, rtol=1e-3, atol=1e-3)  # 40 layers in float32
    off = network(1.01 * image * network.std + network.mean)[0, ::6, 5::40, 7::40].flatten()  # one percent off
    assert not torch.allclose(off, recorded, rtol=1e-3, atol=1e-3)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_another_network_s_file_is_refused(released, tmp_path):
    folder, _ = released
    state = torch.load(f"{folder}/79999_iter.pth", weights_only=True)
    del state["ffm.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="another network than the config's: 1 keys missing .first: ffm.conv1.weight"):
        read_bisenet(str(tmp_path / "w.pth"))


@pytest.mark.slow
def test_the_loss_is_the_distance_of_logits_at_512_px(released):
    """FreeDoM's: the reference resized by Pillow, x0 by plain bicubic interpolation."""
    folder, _ = released
    task = instantiate(compose_config("model=celebahq256", *options(folder)).task)
    assert task.guidance.options == {"input_size": 512}
    one, other = task.inputs(Data(), (3, 256, 256))
    square = Image.open(folder / "references/0.png").resize((512, 512), Image.Resampling.BILINEAR)
    assert (one.reference == np.asarray(square)).all()
    condition = task.condition([one], 0)
    x = F.interpolate(torch.from_numpy(np.array(Image.open(folder / "references/1.png"))).permute(2, 0, 1)[None], 256)
    x = (x / 127.5 - 1).requires_grad_()
    loss = task.loss(x, condition)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert torch.isfinite(gradient).all() and (gradient != 0).float().mean() > 0.9
    network = read_bisenet(f"{folder}/79999_iter.pth")
    with torch.no_grad():
        wanted = network(torch.from_numpy(one.reference.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
        found = network(F.interpolate(x, 512, mode="bicubic"))
        assert found.shape == wanted.shape == (1, 19, 512, 512)
        assert loss.item() == pytest.approx((found - wanted).double().norm().item(), rel=1e-3)
        assert task.loss(x - 0.5 * gradient / gradient.norm(), condition) < loss
        numbers = task.metrics(x, condition)
    assert numbers["parsing_distance"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert 0 <= numbers["guidance_miou"].item() < 1


def test_the_embedded_network_guides_by_a_face_too(tmp_path):
    """The same code, at 64 px."""
    embedded = ["task=face_parsing", "sampler.steps=10", "data.limit=2", "wandb.mode=disabled", "sampler.window=null"]
    distances = {}
    for sampler in ("freedom_dsg", "unconditional"):
        run = prepare(compose_config(*embedded, f"sampler={sampler}", f"out={tmp_path / sampler}"))
        assert not run.execute()
        distances[sampler] = run.results.summary()["metrics"]["parsing_distance"]["mean"]
    assert distances["freedom_dsg"] < distances["unconditional"]
