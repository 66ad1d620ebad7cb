"""The seven networks that the card is about, and their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import nn

from dsg.avatars64.guidance_training.identity import LAYOUT
from dsg.avatars64.guidance_training.loop import JOBS, SEEDS
from tasks.clip import CLIPNetwork
from tasks.networks.evaluator import AvatarEvaluator, AvatarSelector
from tasks.networks.irse import read_irse
from tasks.networks.parts import read_parts


class File(NamedTuple):
    """Of one network.

    Attributes:
        path: in the folder of the weights.
        use: of the network.
        kind: its architecture.
        faces, people: that it was trained on; "-": people were not counted.
    """

    path: str
    use: str
    kind: str
    faces: int
    people: str


FILES = {
    name: File(JOBS[name].file, *about)
    for name, about in {
        "identity": ("guides `faceid`", "IR-SE, ArcFace's loss", 32768, "2,048"),
        "clip": ("guides `clip_text`, `style`", "CLIP, ViT and text transformer", 40960, "-"),
        "parts": ("guides `segmentation`", "U-Net", 32768, "2,048"),
        "attributes": ("evaluates identity, words, style", "DenseNet", 40960, "-"),
        "labels": ("evaluates label maps", "dilated convolutions", 32768, "2,048"),
        "selector_attributes": ("selects by identity, words, style", "ShuffleNet V2", 40960, "-"),
        "selector_labels": ("selects by label maps", "ConvNeXt blocks", 32768, "2,048"),
    }.items()
}


class Networks:
    """Read from a folder that is laid out as checkpoints/avatars64.

    Raises:
        FileNotFoundError: a file is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.identity = read_irse(str(folder / FILES["identity"].path), **LAYOUT)
        self.clip = CLIPNetwork(str(folder / "clip"))
        self.parts = read_parts(str(folder / FILES["parts"].path))
        self.evaluator = AvatarEvaluator(str(folder / "evaluator"))
        self.selector = AvatarSelector(str(folder / "selector"))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """By the names of FILES."""
        return {
            "identity": self.identity,
            "clip": self.clip.clip,
            "parts": self.parts,
            "attributes": self.evaluator.attributes,
            "labels": self.evaluator.labels,
            "selector_attributes": self.selector.attributes,
            "selector_labels": self.selector.labels,
        }

    @property
    def guide_nothing(self) -> dict[str, AvatarEvaluator]:
        return {"evaluator": self.evaluator, "selector": self.selector}

    @property
    def labelling(self) -> dict[str, nn.Module]:
        return {"guidance network": self.parts, **{who: own.labels for who, own in self.guide_nothing.items()}}


def sizes(networks: Networks, trained: Mapping[str, tuple[float, int]]) -> pd.DataFrame:
    """A row per network; `trained`: minutes and steps of its training."""
    rows = []
    for name, file in FILES.items():
        minutes, steps = trained[name]
        parameters = sum(p.numel() for p in networks.modules[name].parameters())
        rows.append(
            {
                "file": f"`{file.path}`",
                "use": file.use,
                "network": file.kind,
                "parameters [M]": f"{parameters / 1e6:.2f}",
                "size [MB]": f"{(networks.folder / file.path).stat().st_size / 1e6:.2f}",
                "training faces": f"{file.faces:,}",
                "of people": file.people,
                "seed": SEEDS.get(name, 0),
                "training [min]": f"{minutes:g}",
                "steps": f"{steps:,}" if steps else "?",
            }
        )
    return pd.DataFrame(rows)
