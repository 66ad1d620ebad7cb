"""Features of the Inception-v3 of the FID, 2048 per image, and the reference set that they are compared with.

The network is torch-fidelity's, with the weights of TensorFlow's Inception of 2015 (pip install dsg[fid]). How an image
is brought to its 299 x 299 pixels changes an FID by units: `resize` is an option, and printed under tables.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dsg import image_files as pictures
from dsg.files import file_hash, resolve, temporary_name
from dsg.weights import check_record

INPUT_SIZE, BATCH = 299, 32
RESIZES = {
    "tensorflow": "bilinear as in TensorFlow 1 (the original FID; torch-fidelity)",
    "pytorch": "bilinear as in PyTorch, not antialiased (pytorch-fid)",
}


@dataclass(frozen=True)
class Inception:
    """What turns images into features.

    Args:
        weights: file with pytorch-fid's weights.
        resize: one of RESIZES.
        device: where it computes.
    """

    weights: str = "checkpoints/pt_inception-2015-12-05-6726825d.pth"
    resize: str = "tensorflow"
    device: torch.device = field(default=torch.device("cpu"), compare=False)

    def __post_init__(self):
        if self.resize not in RESIZES:
            raise ValueError(f"resize={self.resize} is unknown: one of {', '.join(RESIZES)}")

    def missing(self) -> str | None:
        if find_spec("torch_fidelity") is None:
            return "pip install torch-fidelity"
        if not resolve(self.weights).is_file():
            return "python scripts/fetch_checkpoints.py fid_inception gets its network"
        return None

    def settings(self) -> dict:
        file = resolve(self.weights)
        return {
            "features": "Inception-v3, 2048 (torch-fidelity " + _version("torch-fidelity") + ")",
            "weights": file_hash(file)[:8] if file.is_file() else None,
            "resize": RESIZES[self.resize],
        }

    def features(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """float64 [N, 2048] of uint8 [H, W, 3] images."""
        trunk, found = _trunk(resolve(self.weights)).to(self.device), []
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.stack(images[start : start + BATCH])).permute(0, 3, 1, 2).float()
            with torch.no_grad():
                found.append(trunk(_resized(batch.to(self.device), self.resize)).cpu().double().numpy())
        return np.concatenate(found)


@dataclass(frozen=True)
class Statistics:
    """Statistics of the features of a set of images.

    Attributes:
        mean [2048], covariance [2048, 2048]: float64.
        features: [N, 2048], where they are kept.
        images: how many; None where statistics do not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray | None = None
    images: int | None = None

    @classmethod
    def of(cls, features: np.ndarray) -> "Statistics":
        return cls(features.mean(0), np.cov(features, rowvar=False), features, len(features))


@dataclass(frozen=True)
class Reference:
    """The set that images are compared with.

    Args:
        path: a folder of images, or an .npz with `mu` and `sigma` as pytorch-fid and others publish them, or one that
            scripts/evaluate.py --statistics saved.
        size: images of the folder are cropped to their central square and reduced to so many pixels (Lanczos); None:
            they go to the network as they are.
    """

    path: str
    size: int | None = None
    _found: dict = field(default_factory=dict, compare=False, repr=False)

    def missing(self, inception: Inception) -> str | None:
        """Images are looked for, statistics are read."""
        if not self._file.exists():
            return f"no reference set at {self.path}"
        try:
            self.features(inception)
        except ValueError as error:
            return str(error)
        return None

    def features(self, inception: Inception) -> int:
        """How many images' features `statistics` gives; of statistics that keep none, 0.

        Raises:
            ValueError: see `statistics`.
        """
        if self._file.is_dir():
            return len(pictures.find(self._file, "reference"))
        found = self.statistics(inception).features
        return 0 if found is None else len(found)

    def settings(self) -> dict:
        """`reference_hash`: of the .npz; of a folder's names and sizes of files, as a folder may be large."""
        prepared = f"central square of {self.size} px" if self.size and self._file.is_dir() else "as it is"
        return {"reference": self.path, "reference_prepared": prepared, "reference_hash": self._hash()}

    def statistics(self, inception: Inception) -> Statistics:
        """Computed once per process.

        Raises:
            ValueError: not such a file, or made with another network or resize; an image that cannot be read, or is
                too small.
        """
        return _statistics(str(self._file), self.size, self._hash(), inception)

    @property
    def _file(self) -> Path:
        return resolve(self.path)

    def _hash(self) -> str | None:
        if not self._file.is_dir():
            return file_hash(self._file)[:10] if self._file.is_file() else None
        try:
            found = pictures.find(self._file)
        except ValueError:  # `missing` says it
            return None
        lines = "".join(f"{name} {file.stat().st_size}\n" for name, file in found.items())
        return sha256(lines.encode()).hexdigest()[:10]


@cache
def _statistics(file: str, size: int | None, digest: str, inception: Inception) -> Statistics:
    if Path(file).is_dir():
        return Statistics.of(folder_features(Path(file), size, inception))
    try:
        with np.load(file, allow_pickle=False) as data:
            saved = {name: data[name] for name in ("mu", "sigma", "features", "made_with") if name in data.files}
    except (OSError, ValueError, BadZipFile, EOFError):
        raise ValueError(f"{file} cannot be read as statistics (.npz)") from None
    if not {"mu", "sigma"} <= set(saved) or saved["sigma"].shape != (len(saved["mu"]),) * 2:
        raise ValueError(f"{file} holds no statistics: mu [n] and sigma [n, n] are expected")
    made_with = json.loads(str(saved["made_with"])) if "made_with" in saved else {}
    now = inception.settings()
    for name in ("weights", "resize"):
        if made_with.get(name, now[name]) != now[name]:
            raise ValueError(f"{file} was made with {name} {made_with[name]}, not {now[name]}")
    return Statistics(saved["mu"], saved["sigma"], saved.get("features"), made_with.get("images"))


def folder_features(folder: Path, size: int | None, inception: Inception) -> np.ndarray:
    """float64 [N, 2048], of a folder that need not fit into memory. Images are read as those of a run.

    Raises:
        ValueError: naming an image that cannot be read, or is too small.
    """
    files, found = list(pictures.find(folder, "reference").values()), []
    for start in range(0, len(files), BATCH):
        part = files[start : start + BATCH]
        batch = [pictures.read(file, size) if size else pictures.as_array(file) for file in part]
        same = len({image.shape for image in batch}) == 1
        found += [inception.features(batch)] if same else [inception.features([image]) for image in batch]
    return np.concatenate(found)


def save_statistics(folder: Path, size: int | None, inception: Inception, file: Path) -> None:
    """The statistics of a folder of images, in the format of pytorch-fid, with the features and how they were made.

    Raises:
        FileExistsError: `file` is there.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already")
    found = Statistics.of(folder_features(folder, size, inception))
    made_with = {**inception.settings(), "folder": str(folder), "size": size, "images": found.images}
    partial = temporary_name(file)  # a kill leaves no half file under the name
    with open(partial, "xb") as out:
        np.savez(
            out, mu=found.mean, sigma=found.covariance, features=found.features.astype(np.float32),
            made_with=json.dumps(made_with),
        )  # fmt: skip
    partial.replace(file)


@cache
def _trunk(file: Path) -> nn.Sequential:
    """torch-fidelity's network up to its 2048 features."""
    from torch_fidelity import FeatureExtractorInceptionV3

    check_record(file)
    readable = io.BytesIO()  # what torch-fidelity reads may execute code; this cannot
    torch.save(torch.load(file, map_location="cpu", weights_only=True), readable)
    readable.seek(0)
    net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=readable)
    names = (
        "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2 "
        "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c AvgPool"
    )
    return nn.Sequential(*(net.get_submodule(name) for name in names.split()), nn.Flatten()).eval()


def _resized(images: Tensor, resize: str) -> Tensor:
    """[B, 3, 299, 299] as the network wants it, of [B, 3, H, W] in [0, 255]."""
    size = (INPUT_SIZE, INPUT_SIZE)
    if resize == "pytorch":
        return 2 * nn.functional.interpolate(images / 255, size, mode="bilinear", align_corners=False) - 1
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return (interpolate_bilinear_2d_like_tensorflow1x(images, size, align_corners=False) - 128) / 128


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"
