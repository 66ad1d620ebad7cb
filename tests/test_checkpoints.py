"""Weights that the repository ships: a single bit that is not as it was is noticed before anything is computed."""

import argparse
import json
import shutil
import socket
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import ROOT

from dsg import weights
from dsg.files import file_hash

SHIPPED = json.loads((ROOT / "checkpoints/manifest.json").read_text())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one's own: nothing of the real one is touched."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(ROOT / "checkpoints/manifest.json", tmp_path / "checkpoints")
    monkeypatch.setattr(weights, "MANIFEST", tmp_path / "checkpoints/manifest.json")
    return tmp_path / "checkpoints"


def test_the_manifest_lists_the_shipped_weights():
    for name in ("avatars64", "gaussian_mixture"):
        files = (ROOT / "checkpoints" / name).rglob("*.safetensors")
        found = {path.relative_to(ROOT / "checkpoints").as_posix() for path in files}
        found = {file for file in found if "/training/" not in file}  # git ignores what trainings leave there
        assert found == {file for file in SHIPPED if file.startswith(f"{name}/")}
    for file, digest in SHIPPED.items():
        assert file_hash(ROOT / "checkpoints" / file) == digest


@pytest.mark.parametrize("file", SHIPPED)
def test_a_flipped_bit_in_shipped_weights_is_refused(repository, file):
    """Of the prior, the identity network, CLIP, the label network, the evaluator, the selector, the mixture."""
    path = repository / file
    path.parent.mkdir(parents=True)
    content = bytearray((ROOT / "checkpoints" / file).read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that the repository ships") as error:
        weights.read_weights(path, "avatars64")
    assert "git checkout -- " in str(error.value) and "\n" not in str(error.value)


def test_a_network_made_again_in_its_place_is_the_shipped_one_from_then_on(repository, tmp_path):
    path = repository / "avatars64/parts.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / "checkpoints/avatars64/identity.safetensors", path)
    weights.record_shipped(path)
    weights.read_weights(path, "avatars64")
    changed = json.loads((repository / "manifest.json").read_text())
    assert [file for file in SHIPPED if changed[file] != SHIPPED[file]] == ["avatars64/parts.safetensors"]
    for own in (tmp_path / "parts.safetensors", path.with_name("own.safetensors")):
        shutil.copy(path, own)
        weights.record_shipped(own)
    assert json.loads((repository / "manifest.json").read_text()) == changed


def test_a_flipped_bit_in_shipped_networks_of_the_hub_s_format_is_refused(repository):
    from transformers import CLIPModel

    shutil.copytree(ROOT / "checkpoints/avatars64/clip", repository / "avatars64/clip")
    path = repository / "avatars64/clip/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that the repository ships"):
        weights.load_pretrained(CLIPModel, path.parent)


def test_weights_of_one_s_own_may_have_any_name_elsewhere(repository, tmp_path):
    shutil.copy(ROOT / "checkpoints/avatars64/parts.safetensors", tmp_path / "model.safetensors")
    assert weights.read_weights(tmp_path / "model.safetensors", "avatars64")[0]


def test_a_hub_that_does_not_answer_is_given_up_and_what_was_fetched_before_is_used(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, and says nothing
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(weights, "TIMEOUT", 0.2)
        with pytest.raises(FileNotFoundError, match="no folder at someone/something, and the Hugging Face") as error:
            weights.require_folder("someone/something", "diffusers")
        assert "timed out" in str(error.value) and "\n" not in str(error.value)
        snapshot = tmp_path / "models--someone--something/snapshots/abc"
        for file, text in ((snapshot / "config.json", "{}"), (snapshot.parents[1] / "refs/main", "abc")):
            file.parent.mkdir(parents=True)
            file.write_text(text)
        assert weights.require_folder("someone/something", "diffusers") == snapshot


@pytest.mark.parametrize("part", ["evaluator", "selector"])
@pytest.mark.parametrize("damage", ["cut", "header", "bit"])
def test_a_damaged_evaluator_is_one_line(repository, part, damage):
    from tasks.networks.evaluator import AvatarEvaluator

    shutil.copytree(ROOT / "checkpoints/avatars64" / part, repository / "avatars64" / part)
    path = repository / "avatars64" / part / "attributes.safetensors"
    content = bytearray(path.read_bytes())
    content[3 if damage == "header" else -1000] ^= 1
    path.write_bytes(content[:-5000] if damage == "cut" else content)
    with pytest.raises(ValueError, match="is not the file that the repository ships") as error:
        AvatarEvaluator(str(path.parent))
    assert "\n" not in str(error.value)


# --- checkpoints as people have them


class Options(dict):
    """As Lightning's AttributeDict: a class of a package that the reader may not have."""


class Runs:
    """A pickle of it runs a program."""

    def __reduce__(self):
        return subprocess.check_call, (["touch", "ran"],)


def network():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(2, 3))


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def shapes_of(net):
    return {name: value.shape for name, value in net.state_dict().items()}


def with_prefix(prefix, state):
    return OrderedDict((prefix + name, value) for name, value in state.items())


NET, EMA = network(), network()
STATE, AVERAGE = NET.state_dict(), EMA.state_dict()
ADAM = torch.optim.Adam(NET.parameters())
LIGHTNING = {
    "epoch": 3,
    "best": np.float64(0.5),
    "state_dict": with_prefix("model.", STATE) | {"loss.scale": torch.ones(1)},
    "hyper_parameters": Options(a=argparse.Namespace(lr=1e-3)),
    "optimizer_states": [ADAM.state_dict()],
    "callbacks": {Options: {"best": argparse.Namespace()}},
}


@pytest.mark.parametrize(
    "content, key, expected",
    [
        (STATE, None, STATE),
        ({"state_dict": STATE}, None, STATE),
        ({"model": STATE, "ema": AVERAGE, "optimizer": ADAM.state_dict()}, None, AVERAGE),
        ({"model": STATE, "ema": AVERAGE}, "model", STATE),
        ({"step": 3, "model": STATE, "model_ema": with_prefix("module.", AVERAGE)}, None, AVERAGE),
        (with_prefix("module.", STATE), None, STATE),
        (with_prefix("model.", STATE), "model", STATE),
        (LIGHTNING, None, STATE),
        (LIGHTNING, "state_dict", STATE),
        (LIGHTNING, "state_dict.model", STATE),
        ({"model": STATE, "ema": {"decay": 0.99, "shadow_params": list(AVERAGE.values())}}, None, AVERAGE),
        (
            {
                "state_dict": with_prefix("model.net.", STATE)
                | {f"model_ema.net{name.replace('.', '')}": value for name, value in AVERAGE.items()}
            },
            None,
            AVERAGE,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.* is taken, of")
def test_the_network_is_found_in_what_a_training_saved(tmp_path, content, key, expected):
    path = saved(tmp_path / "last.ckpt", content)
    state, _ = weights.read_weights(path, "mine", shapes_of(NET), key)
    weights.load_into(network(), state, path)
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)


def test_safetensors_may_have_a_prefix(tmp_path):
    from safetensors.torch import save_file

    save_file(with_prefix("model.", STATE), tmp_path / "m.safetensors")
    state, _ = weights.read_weights(tmp_path / "m.safetensors", "mine", shapes_of(NET))
    assert torch.equal(state["0.weight"], STATE["0.weight"])


def test_a_choice_is_reported(tmp_path):
    path = saved(tmp_path / "m.pt", {"model": STATE, "ema": AVERAGE})
    with pytest.warns(UserWarning, match=r"m.pt: ema is taken, of model, ema \(model.key="):
        weights.read_weights(path, "mine", shapes_of(NET))


@pytest.mark.parametrize(
    "content, key, words",
    [
        ({"model": STATE}, "ema", r"no weights of this network at model.key=ema; there are: model \(4 tensors\)"),
        ({"epoch": 3, "net": {"other": torch.ones(2)}}, None, r"its keys: epoch, net; tensors at: net \(1 tensors\)"),
        ({"epoch": 3}, None, "holds no state dict .* its keys: epoch"),
        ([3], None, "holds no state dict"),
        (with_prefix("", {**STATE, "more": torch.ones(1)}), None, "1 unknown keys .first: more"),
        ({name: STATE[name] for name in list(STATE)[1:]}, None, "1 keys missing .first: 0.weight"),
    ],
)
def test_what_does_not_fit_lists_what_is_there(tmp_path, content, key, words):
    path = saved(tmp_path / "m.pt", content)
    with pytest.raises(ValueError, match=words) as error:
        state, _ = weights.read_weights(path, "avatars64", shapes_of(NET), key)
        weights.load_into(network(), state, path)
    assert_harmless(str(error.value))


def assert_harmless(message):
    """One line that asks nobody to delete a file, to run what is in it, or to use git."""
    for word in ("\n", "\x1b", "git ", "emove", "elete", "weights_only", "trust", "rm "):
        assert word not in message


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "m.pt", {"state_dict": STATE, "x": Runs()}, _use_new_zipfile_serialization=zipped)
    try:
        weights.read_weights(path, "avatars64", shapes_of(NET))
    except ValueError as error:
        assert_harmless(str(error))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 and so on"])
@pytest.mark.parametrize("file", ["m.pt", "m.ckpt", "m.safetensors"])
def test_a_broken_file_of_the_user_s_is_never_to_be_removed(tmp_path, content, file):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} cannot be read as a checkpoint") as error:
        weights.read_weights(tmp_path / file, "avatars64")
    assert_harmless(str(error.value))


def test_a_missing_file_of_the_user_s_is_not_to_be_had_from_git(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pt$") as error:
        weights.require(tmp_path / "none.pt", "avatars64")
    assert_harmless(str(error.value))
    with pytest.raises(FileNotFoundError, match="get it with: python scripts/fetch_checkpoints.py ffhq256"):
        weights.require("checkpoints/none.pt", "ffhq256")
