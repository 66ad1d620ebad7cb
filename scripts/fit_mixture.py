"""Fit the closed-form prior: a Gaussian mixture on the avatars' training split at 16 px.

    python scripts/avatars64/render.py train=40960
    python scripts/fit_mixture.py --overwrite

Each component has a mean, `rank` factors and a floor (`dsg/priors/mixture_fit.py`). Writes
checkpoints/gaussian_mixture/ (fp16 safetensors) and its card, with held-out likelihoods and samples.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dsg import image_files as images
from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64.faces import DATA, load_faces
from dsg.checkpoints import REPOSITORY, record_shipped
from dsg.config import load
from dsg.files import temporary_name, write_text
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.priors.mixture_fit import fit
from dsg.runs.prepare import build
from dsg.types import to_tensor, to_uint8

FOLDER = REPOSITORY / "checkpoints/gaussian_mixture"
CARD = """# gaussian_mixture: the closed-form prior

Written by `python scripts/fit_mixture.py`; every number and figure here is made by it.

**What.** A mixture of {components} Gaussians in {d} dimensions: 16x16 RGB avatars in [-1, 1]. Each has {rank} factors
and a floor (standard deviation {floor_low:.3f} to {floor_high:.3f} per number). {size:.0f} kB (fp16, safetensors).
What a sampler makes under it can be compared with the exact posterior (`docs/theory.md`).

**Data.** The {faces:,} training faces of avatars64 (`checkpoints/avatars64/README.md`: licence, split),
reduced to 16 px with Lanczos, as a run reduces its images.

**Fit.** EM for a mixture of probabilistic PCA from seeded k-means, {iterations} iterations. Log density per dimension,
in nats, of {table_words}:

{table}

Its samples are blurred where faces are not Gaussian: hair styles share a component, and a component's colours vary
along straight lines.

![Twelve test faces; their means given the component that explains them; twelve samples](samples.png)

Rows: test faces; the same after the projection on their component's affine subspace; samples.
"""


def shrink(faces: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, H, W] -> float32 [N, 3, size, size] in [-1, 1], with the runner's filter."""
    small = [
        np.asarray(Image.fromarray(face).resize((size, size), images.ANTIALIAS))
        for face in tqdm(faces.permute(0, 2, 3, 1).numpy(), desc="shrinking", unit="face")
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def project(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Each point on the affine subspace of the component that explains it best, [B, *shape]."""
    k = mixture.responsibilities(x).argmax(1)
    basis, mean = mixture.basis[k], mixture.means[k]
    inside = torch.einsum("bdr,bd->br", basis, x.flatten(1).double() - mean)
    return (mean + torch.einsum("bdr,br->bd", basis, inside)).reshape(x.shape)


def sheet(rows: list[Tensor], path: Path, zoom: int = 5) -> None:
    strips = [np.concatenate(list(to_uint8(row)), axis=1) for row in rows]
    picture = Image.fromarray(np.concatenate(strips))
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)


def write_card(mixture: GaussianMixture, sets: dict[str, Tensor], args: argparse.Namespace, size: float) -> None:
    rows = []
    for name, x in sets.items():
        density = torch.cat([mixture.log_density(p) for p in x.split(4096)]) / x[0].numel()
        rows.append({"faces": name, "count": len(x), "log density": density.mean().item()})
    test = sets["test"][:12]
    samples = mixture.sample(12, torch.Generator().manual_seed(0))
    sheet([test, project(mixture, test), samples], FOLDER / "samples.png")
    floor = mixture.outside.sqrt()
    card = CARD.format(
        components=len(floor), d=mixture.dimension, rank=mixture.basis.shape[2],
        floor_low=floor.min(), floor_high=floor.max(),
        size=size / 1000, faces=len(sets["training"]), iterations=args.iterations,
        table_words="faces whose identities were and were not seen",
        table=pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4f"),
    )  # fmt: skip
    write_text(FOLDER / "README.md", card)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--components", type=positive, default=16, help="of the mixture (16)")
    parser.add_argument("--rank", type=positive, default=16, help="factors of each component (16)")
    parser.add_argument("--iterations", type=positive, default=30, help="of EM (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the first centres (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the shipped mixture and its card")
    args = parser.parse_args()
    size, file = 16, FOLDER / "avatars16.safetensors"
    if file.exists() and not args.overwrite:
        parser.error(f"{file} is there already: add --overwrite to replace it")
    x = shrink(load_faces(), size)
    parameters = fit(x.flatten(1), args.components, args.rank, args.iterations, args.seed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    half = {"means": torch.float16, "factors": torch.float16}
    temporary = temporary_name(file)  # a kill leaves the mixture that was there
    try:
        save_file({k: v.to(half.get(k, torch.float32)).contiguous() for k, v in parameters.items()}, temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    record_shipped(file)
    mixture = build(load(["model=gaussian_mixture"]).model)  # as it will be read
    held_out = {s: to_tensor(list(images.load(DATA / s, size).values())) for s in ("val", "test")}
    write_card(
        mixture, {"training": x, "validation": held_out["val"], "test": held_out["test"]}, args, file.stat().st_size
    )
    print((FOLDER / "README.md").read_text())
    entropy = math.log(mixture.outside.sqrt().mean()) + 1.42
    print(f"differential entropy per dimension of a floor alone: {entropy:.3f} nats")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
