"""The full-size guidance networks with random weights, and the tasks that they guide."""

import json
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY, clip_config, compose_config, save_clip
from hydra.utils import instantiate
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large
from transformers import CLIPModel

from dsg.runs.prepare import prepare
from dsg.types import Data, to_tensor
from tasks.clip import CLIPNetwork, load_clip
from tasks.networks import base as networks
from tasks.networks.irse import IRSE, load_irse, read_irse
from tasks.networks.parts import read_lraspp

KEYS = json.loads((PARITY / "checkpoint_keys.json").read_text())["model_ir_se50"]
SIZE = 64
CPU = torch.device("cpu")
SMALL = dict(input_size=32, channels=[8, 8, 16], units=[1, 1], features=8)


def randomised(network):
    """Statistics of the norms too, or their weights could be mixed up."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.1, 0.1, generator=generator)
    return network.eval().requires_grad_(False)


def blurred_noise(batch=2, size=SIZE, seed=0):
    """Blurred noise in [-1, 1]."""
    x = torch.rand(batch, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(x, size=(size, size), mode="bilinear") * 1.8 - 0.9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """References, label maps and prompts, and the networks' weights under the names of their downloads."""
    folder = tmp_path_factory.mktemp("guidance")
    for name in ("references", "maps"):
        (folder / name).mkdir()
    for i, image in enumerate(((blurred_noise(2, 80, seed=1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image[:, 4:76] if i else image).save(folder / f"references/{i}.png")
    labels = np.kron(np.array([[0, 8, 15], [20, 255, 7], [3, 0, 1]]), np.ones((24, 24))).astype(np.uint8)
    Image.fromarray(labels).save(folder / "maps/0.png")
    Image.fromarray(labels.T.copy()).save(folder / "maps/1.png")
    (folder / "prompts.txt").write_text("# two\na cat\n\ncat\n")
    torch.save(face_network().state_dict(), folder / "model_ir_se50.pth", _use_new_zipfile_serialization=False)
    torch.save(labelling_network().state_dict(), folder / "lraspp.pth")
    return folder


SMALL_CLIP = dict(hidden_size=64, intermediate_size=128, num_attention_heads=2, num_hidden_layers=5)


@pytest.fixture(scope="module")
def clip(folder):
    """Of the released resolution and patches, but narrow."""
    return save_clip(folder / "clip", SMALL_CLIP)


@cache
def face_network():
    torch.manual_seed(0)
    return randomised(IRSE())


def labelling_network():
    torch.manual_seed(0)
    return randomised(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None))


# the networks


def test_the_face_network_has_the_released_keys_and_shapes():
    with torch.device("meta"):
        assert {k: list(v.shape) for k, v in IRSE().state_dict().items()} == KEYS


def test_the_face_network_loads_the_file_as_released(folder):
    network, expected = read_irse(str(folder / "model_ir_se50.pth")), face_network().state_dict()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())


SAVERS = {
    "w.pth": torch.save,
    "legacy.pth": partial(torch.save, _use_new_zipfile_serialization=False),
    "w.safetensors": save_file,
}


@pytest.mark.parametrize("name, save", SAVERS.items())
def test_whole_truncated_and_foreign_files(tmp_path, name, save):
    network, path = randomised(IRSE(**SMALL)), tmp_path / name
    save(network.state_dict(), path)
    loaded = read_irse(str(path), **SMALL).state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in network.state_dict().items())
    whole = path.read_bytes()
    refused(path, "of another network", **(SMALL | {"units": [2, 1]}))
    refused(path, "of another network", **(SMALL | {"features": 9}))
    for end in (1, 100, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:end])
        refused(path, "scripts/fetch_checkpoints.py arcface", **SMALL)


def refused(path, words, **layout):
    with pytest.raises(ValueError, match=words) as error:
        read_irse(str(path), **layout)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_clip_has_the_released_size():
    with torch.device("meta"):
        network = CLIPModel(clip_config())
    assert sum(p.numel() for p in network.parameters()) == 149_620_737  # of openai/clip-vit-base-patch16


@torch.no_grad()
def test_clip_s_features_are_those_of_transformers(folder, clip):
    network, x = CLIPNetwork(str(folder / "clip")), blurred_noise(1, 224)
    assert not any(p.requires_grad for p in network.parameters()) and not network.clip.training
    pixels = network.pixels(x)
    expected = clip.get_image_features(pixel_values=pixels)
    torch.testing.assert_close(network.image_features(x), features(expected), rtol=1e-4, atol=1e-5)
    for prompt in ("a cat", "cat"):
        tokens = network.tokenizer([prompt], return_tensors="pt", padding="max_length", max_length=77)
        expected = clip.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        torch.testing.assert_close(network.text_features(prompt), features(expected), rtol=1e-4, atol=1e-5)


def features(out):
    """Newer versions of transformers put the features into an object."""
    return out if isinstance(out, torch.Tensor) else out.pooler_output


def test_clip_s_pixels_are_those_of_its_processor(folder, clip):
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor.from_pretrained(folder / "clip")
    network, pixels = CLIPNetwork(str(folder / "clip"), 1), (blurred_noise(1, 224)[0] + 1).mul(127.5).byte()
    expected = processor(Image.fromarray(pixels.permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"]
    x = pixels[None] / 127.5 - 1
    torch.testing.assert_close(network.pixels(x), expected, rtol=0, atol=1e-5)
    bicubic = F.interpolate(
        blurred_noise(), size=(224, 224), mode="bicubic"
    )  # of another size: FreeDoM's interpolation
    torch.testing.assert_close(network.pixels(blurred_noise()), network.pixels(bicubic))


@torch.no_grad()
def test_style_keeps_three_blocks(folder, clip):
    network, x = task_of("style", folder).network(CPU), blurred_noise(1)
    assert len(network.clip.vision_model.encoder.layers) == 3
    hidden = clip.vision_model(pixel_values=network.pixels(x), output_hidden_states=True).hidden_states
    assert len(hidden) == 6
    torch.testing.assert_close(network.patch_tokens(x), hidden[3][:, 1:], rtol=1e-4, atol=1e-5)


def test_clip_s_folder_as_released_and_broken_ones(tmp_path):
    """Weights as a pickle, with the position ids that old versions saved; without its tokenizer; with other weights."""
    size = dict(
        hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2, max_position_embeddings=77
    )
    model = save_clip(tmp_path, size, 32)
    state = model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    positions = {
        f"{part}_model.embeddings.position_ids": torch.arange(n)[None] for part, n in (("text", 77), ("vision", 5))
    }
    torch.save(state | positions, tmp_path / "pytorch_model.bin")
    loaded = CLIPNetwork(str(tmp_path)).clip.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in state.items())
    torch.save({k: v for k, v in state.items() if "projection" not in k}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="projection") as error:
        CLIPNetwork(str(tmp_path))
    assert "\n" not in str(error.value)
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="cannot be read as a CLIP model: .*preprocessor_config.json") as error:
        CLIPNetwork(str(tmp_path))
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_the_labelling_network_is_torchvision_s(folder):
    network, original = read_lraspp(str(folder / "lraspp.pth")), labelling_network()
    transforms = LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.transforms()
    x = blurred_noise()
    normalised = ((x + 1) / 2 - torch.tensor(transforms.mean)[:, None, None]) / torch.tensor(transforms.std)[
        :, None, None
    ]
    torch.testing.assert_close((x - network.mean) / network.std, normalised, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(x), original(normalised)["out"], rtol=1e-4, atol=1e-4)
    assert network(x).shape == (2, network.classes, SIZE, SIZE) and network.classes == 21
    assert not any(p.requires_grad for p in network.parameters())


def test_the_classes_are_torchvision_s(folder):
    released = LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    ours = [name.replace(" ", "") for name in task_of("segmentation", folder).classes]
    assert len(ours) == 21 and all(r.strip("_").startswith(o) for o, r in zip(ours, released))


# the tasks

FACE, CLIP = "guidance.checkpoint={folder}/model_ir_se50.pth", "guidance.checkpoint={folder}/clip"
REFERENCE, PROMPT = "task.reference={folder}/references", "task.prompt={folder}/prompts.txt"
OPTIONS = {
    "faceid": [REFERENCE, f"task.{FACE}"],
    "clip_text": [PROMPT, f"task.{CLIP}"],
    "style": [REFERENCE, f"task.{CLIP}"],
    "segmentation": ["task.reference={folder}/maps", "task.guidance.checkpoint={folder}/lraspp.pth"],
    "composite": [REFERENCE, PROMPT, f"task.parts.faceid.{FACE}", f"task.parts.clip_text.{CLIP}"],
}


def task_of(name, folder):
    """At full size: celebahq256 overrides nothing. A network sees the batch as it is, as on a GPU."""
    parts = ("task.parts.faceid", "task.parts.clip_text") if name == "composite" else ("task",)
    options = [f"{part}.cpu_batch=0" for part in parts] + [option.format(folder=folder) for option in OPTIONS[name]]
    return instantiate(compose_config("model=celebahq256", f"task={name}", *options).task)


def inputs_of(task):
    return task.inputs(Data(), (3, SIZE, SIZE))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_small_step_against_the_gradient_lowers_the_loss(folder, clip, name):
    task = task_of(name, folder)
    task.check((3, SIZE, SIZE))
    found = inputs_of(task)
    assert len(found) == (4 if name == "composite" else 2)
    condition, x = task.condition([found[0], found[-1]], 0), blurred_noise().requires_grad_()
    assert all(len(value) == 2 for value in condition.values())
    loss = task.loss(x, condition)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.shape == (2,) and torch.isfinite(loss).all() and torch.isfinite(gradient).all()
    lengths = gradient.flatten(1).norm(dim=1)
    assert (lengths > 0).all()
    with torch.no_grad():
        step = 0.1 * gradient / lengths[:, None, None, None]
        assert (task.loss(x - step, condition) < loss).all()
        alone = task.loss(x[1:], {k: v[1:] for k, v in condition.items()})
    torch.testing.assert_close(alone, loss[1:], rtol=1e-5, atol=1e-6)
    for network in networks._loaded.values():
        assert not any(p.requires_grad for p in network.parameters())


def test_a_face_is_cropped_as_in_the_released_code(folder):
    """From 256 px, the reference resized by Pillow, to 112."""
    task, square = task_of("faceid", folder), Image.open(folder / "references/0.png")
    (one, _) = inputs_of(task)
    reference = np.array(square.resize((256, 256), Image.Resampling.BILINEAR))
    assert (one.reference == reference).all()
    x = torch.from_numpy(reference).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        face = F.adaptive_avg_pool2d(x[:, :, 35:223, 32:220], 112)
        expected = face_network()(face)
        torch.testing.assert_close(task.condition([one], 0)["feature"], expected, rtol=1e-4, atol=1e-5)
        assert task.loss(x, task.condition([one], 0)) < 1e-4
    assert expected.shape == (1, 512) and expected.norm().item() == pytest.approx(1, abs=1e-5)


def test_style_is_the_distance_of_gram_matrices(folder, clip):
    task = task_of("style", folder)
    _, one = inputs_of(task)
    assert one.reference.shape == (224, 224, 3)
    grams = []
    with torch.no_grad():
        for x in (to_tensor([one.reference]), blurred_noise(1)):
            pixels = task.network(x.device).pixels(x)
            tokens = clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[3][0, 1:]
            grams.append(tokens.T @ tokens)
        loss = task.loss(blurred_noise(1), task.condition([one], 0))
    assert grams[0].shape == (64, 64)
    assert loss.item() == pytest.approx((grams[1] - grams[0]).square().sum().sqrt().item(), rel=1e-4)


def test_labels_of_255_do_not_count(folder):
    task = task_of("segmentation", folder)
    one, _ = inputs_of(task)
    condition, x = task.condition([one], 0), blurred_noise(1)
    with torch.no_grad():
        log = task.logits(x, SIZE).log_softmax(1)[0]
        labels = condition["labels"][0]
        counted = [-log[labels[i, j], i, j] for i in range(SIZE) for j in range(SIZE) if labels[i, j] != 255]
        assert len(counted) < SIZE**2
        assert task.loss(x, condition).item() == pytest.approx(torch.stack(counted).mean().item(), rel=1e-4)


def test_a_sum_of_tasks_is_the_weighted_sum(folder, clip):
    task, x = task_of("composite", folder), blurred_noise(1)
    one = inputs_of(task)[3]
    with torch.no_grad():
        face, words = (part.loss(x, part.condition([one], 0)) for part in task.parts.values())
        torch.testing.assert_close(task.loss(x, task.condition([one], 0)), face + 0.1 * words)


def test_a_broken_guidance_network_is_found_before_anything_is_written(tmp_path, folder):
    (tmp_path / "w.pth").write_bytes((folder / "model_ir_se50.pth").read_bytes()[:1000])
    broken = f"guidance.checkpoint={tmp_path / 'w.pth'}"
    for options in (
        ["task=faceid", f"task.{broken}"],
        [*OPTIONS["composite"], "task=composite", f"task.parts.faceid.{broken}"],
    ):
        options = [option.format(folder=folder) for option in options]
        config = compose_config(
            "model=gaussian_mixture", "data.limit=1", f"out={tmp_path / 'o'}", "device=cpu", *options
        )
        with pytest.raises(ValueError, match="w.pth cannot be read as a checkpoint"):
            prepare(config)
    assert not (tmp_path / "o").exists()


def test_label_maps_of_sixteen_bits(tmp_path, folder):
    task = task_of("segmentation", folder)
    for value, words in ((20, None), (21, "holds class 21"), (256, "from 0 to 256"), (65535, "from 0 to 65535")):
        labels = np.zeros((SIZE, SIZE), np.uint16)
        labels[:9] = value
        Image.fromarray(labels).save(tmp_path / "a.png")
        task.reference = str(tmp_path / "a.png")
        if words is None:
            assert (inputs_of(task)[0].labels == labels).all()
        else:
            with pytest.raises(ValueError, match=words):
                inputs_of(task)


def test_a_network_is_read_once_and_not_before_it_is_needed(monkeypatch, folder):
    monkeypatch.setattr(networks, "_loaded", {})
    first, second = (load_irse(str(folder / "model_ir_se50.pth")) for _ in range(2))
    first.check()
    assert first.weights_hash == second.weights_hash and networks._loaded == {}
    assert first.load(CPU) is second.load(CPU)


def test_the_hash_of_a_folder_covers_weights_and_tokenizer(tmp_path):
    for name in ("model.safetensors", "vocab.json", "merges.txt", "README.md"):
        (tmp_path / name).write_text("a")
    whole = load_clip(str(tmp_path)).weights_hash
    (tmp_path / "README.md").write_text("b")
    assert load_clip(str(tmp_path)).weights_hash == whole
    for name in ("model.safetensors", "vocab.json", "merges.txt"):
        (tmp_path / name).write_text("b")
        changed = load_clip(str(tmp_path)).weights_hash
        assert changed != whole
        whole = changed


def test_a_package_that_is_not_installed_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs transformers: pip install -e '.\[semantic\]'"):
        load_clip(str(tmp_path)).check()


def test_label_maps_that_cannot_be_used_are_skipped_where_that_is_asked_for(tmp_path, capsys):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    task = instantiate(compose_config("task=segmentation", f"task.reference={tmp_path}").task)
    with pytest.raises(ValueError, match="2 of 3 files cannot be used: .*b.png is no label map.*c.png cannot be read"):
        task.inputs(Data(), (3, 64, 64))
    assert [i.id for i in task.inputs(Data(on_error="skip"), (3, 64, 64))] == ["a"]
    assert capsys.readouterr().err.count("skipped: ") == 2
