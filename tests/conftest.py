import io
import json
import runpy
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from dsg.config import load, load_with_sources
from dsg.runs.prepare import prepare

ROOT = Path(__file__).resolve().parents[1]
PARITY = Path(__file__).parent / "parity"


def pytest_configure() -> None:
    """A shell starts what it puts in the background with SIGINT ignored; tests of Ctrl-C need it heard."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def recording(name: str) -> dict:
    """Arrays of a recording as tensors, its JSON entries parsed."""
    data = np.load(PARITY / f"{name}.npz")
    return {k: json.loads(str(data[k])) if data[k].dtype.kind == "U" else torch.from_numpy(data[k]) for k in data.files}


def compose_config(*overrides: str):
    return load(overrides)


class Done(NamedTuple):
    """What a command leaves."""

    returncode: int
    stdout: str
    stderr: str


def script(path: str, *arguments) -> Done:
    """A script's exit code and what it prints, run in this process: one of its own imports torch for seconds."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [str(ROOT / path), *map(str, arguments)]
    code: int | str | None = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    if isinstance(code, str):
        return Done(1, out.getvalue(), f"{err.getvalue()}{code}\n")
    return Done(code or 0, out.getvalue(), err.getvalue())


TOKENS = ["<|startoftext|>", "<|endoftext|>", "a</w>", "c</w>", "cat</w>", "a", "c", "t", "t</w>", "ca"]


def save_tokenizer(folder: Path, length: int, ids: Sequence[int]) -> None:
    """A tokenizer of CLIP's kind that knows TOKENS, under these ids."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(dict(zip(TOKENS, ids))))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def clip_config(size: dict | None = None, image_size: int = 224):
    """CLIP's ViT-B/16, or of another `size`."""
    from transformers import CLIPConfig

    text = {"hidden_size": 512, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # ids as released
    vision = {"patch_size": 16, "image_size": image_size}
    return CLIPConfig(text_config=text | (size or {}), vision_config=vision | (size or {}), projection_dim=512)


def save_clip(folder: Path, size: dict | None = None, image_size: int = 224):
    """A random CLIP in the hub's format; returns the model."""
    from transformers import CLIPModel

    torch.manual_seed(0)
    config = clip_config(size, image_size)
    model = CLIPModel(config).eval().requires_grad_(False)
    model.save_pretrained(folder)
    last = config.text_config.vocab_size - 1
    save_tokenizer(folder, 77, [last - 1, last, *range(320, 318 + len(TOKENS))])
    settings = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    settings |= {"image_processor_type": "CLIPImageProcessor", "size": image_size, "crop_size": image_size}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


def tiny_network() -> tuple[dict, dict]:
    """The recorded network: hyper-parameters and state dict."""
    data = recording("adm_tiny")
    return data["cfg"], {k[3:]: v for k, v in data.items() if k.startswith("sd/")}


def tiny_overrides(folder: Path) -> list[str]:
    """Overrides that turn `model=ffhq256` into the recorded network, its checkpoint saved in `folder`."""
    config, state = tiny_network()
    torch.save(state, folder / "tiny.pt")
    unet = {k: v for k, v in config.items() if k not in ("num_heads", "class_cond")}
    return [
        "model=ffhq256",
        f"model.checkpoint={folder / 'tiny.pt'}",
        *(f"model.unet.{k}={json.dumps(v)}" for k, v in unet.items()),
    ]


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory):
    """The recorded network, as the command line would load it."""
    return instantiate(compose_config(*tiny_overrides(tmp_path_factory.mktemp("weights"))).model)


@pytest.fixture(scope="session")
def avatars():
    """The embedded prior."""
    return instantiate(compose_config().model)


# --- runs in this process

FAST = ["sampler.steps=3", "data.limit=3", "wandb.mode=disabled"]


def prepared(out, *overrides):
    config, sources = load_with_sources([*FAST, *overrides])
    return prepare(config, sources, out)


def snapshot(out):
    """Every file but W&B's, with content and time."""
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and "wandb" not in p.parts]
    return {str(p.relative_to(out)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "o"
    assert prepared(out).execute() == []
    return out
