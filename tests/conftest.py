import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

ROOT = Path(__file__).resolve().parents[1]
PARITY = Path(__file__).parent / "parity"


def recording(name: str) -> dict:
    """Arrays of a recording as tensors, its JSON entries parsed."""
    data = np.load(PARITY / f"{name}.npz")
    return {k: json.loads(str(data[k])) if data[k].dtype.kind == "U" else torch.from_numpy(data[k]) for k in data.files}


def compose_config(*overrides: str):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("config", list(overrides))


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
