"""Weights that the repository ships: a single bit that is not as it was is noticed before anything is computed."""

import json
import shutil
import socket

import pytest
from conftest import ROOT

from dsg import checkpoints, transfer

SHIPPED = json.loads((ROOT / "checkpoints/manifest.json").read_text())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one's own: nothing of the real one is touched."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(ROOT / "checkpoints/manifest.json", tmp_path / "checkpoints")
    monkeypatch.setattr(checkpoints, "MANIFEST", tmp_path / "checkpoints/manifest.json")
    return tmp_path / "checkpoints"


def test_the_manifest_lists_the_shipped_weights():
    for name in ("avatars64", "gaussian_mixture"):
        files = (ROOT / "checkpoints" / name).rglob("*.safetensors")
        found = {path.relative_to(ROOT / "checkpoints").as_posix() for path in files}
        found = {file for file in found if "/training/" not in file}  # git ignores what trainings leave there
        assert found == {file for file in SHIPPED if file.startswith(f"{name}/")}
    for file, digest in SHIPPED.items():
        assert checkpoints.file_hash(ROOT / "checkpoints" / file) == digest


@pytest.mark.parametrize("file", SHIPPED)
def test_a_flipped_bit_in_shipped_weights_is_refused(repository, file):
    """Of the prior, the identity network, CLIP, the label network, the evaluator, the selector, the mixture."""
    path = repository / file
    path.parent.mkdir(parents=True)
    content = bytearray((ROOT / "checkpoints" / file).read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that the repository ships") as error:
        checkpoints.read_weights(path, "avatars64")
    assert "git checkout -- " in str(error.value) and "\n" not in str(error.value)


def test_a_network_made_again_in_its_place_is_the_shipped_one_from_then_on(repository, tmp_path):
    path = repository / "avatars64/parts.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / "checkpoints/avatars64/identity.safetensors", path)
    checkpoints.record_shipped(path)
    checkpoints.read_weights(path, "avatars64")
    changed = json.loads((repository / "manifest.json").read_text())
    assert [file for file in SHIPPED if changed[file] != SHIPPED[file]] == ["avatars64/parts.safetensors"]
    for own in (tmp_path / "parts.safetensors", path.with_name("own.safetensors")):
        shutil.copy(path, own)
        checkpoints.record_shipped(own)
    assert json.loads((repository / "manifest.json").read_text()) == changed


def test_a_flipped_bit_in_shipped_networks_of_the_hub_s_format_is_refused(repository):
    from transformers import CLIPModel

    shutil.copytree(ROOT / "checkpoints/avatars64/clip", repository / "avatars64/clip")
    path = repository / "avatars64/clip/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that the repository ships"):
        checkpoints.load_pretrained(CLIPModel, path.parent)


def test_weights_of_one_s_own_may_have_any_name_elsewhere(repository, tmp_path):
    shutil.copy(ROOT / "checkpoints/avatars64/parts.safetensors", tmp_path / "model.safetensors")
    assert checkpoints.read_weights(tmp_path / "model.safetensors", "avatars64")[0]


def test_a_hub_that_does_not_answer_is_given_up_and_what_was_fetched_before_is_used(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, and says nothing
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
        with pytest.raises(FileNotFoundError, match="no folder at someone/something, and the Hugging Face") as error:
            checkpoints.require_folder("someone/something", "diffusers")
        assert "timed out" in str(error.value) and "\n" not in str(error.value)
        snapshot = tmp_path / "models--someone--something/snapshots/abc"
        for file, text in ((snapshot / "config.json", "{}"), (snapshot.parents[1] / "refs/main", "abc")):
            file.parent.mkdir(parents=True)
            file.write_text(text)
        assert checkpoints.require_folder("someone/something", "diffusers") == snapshot
