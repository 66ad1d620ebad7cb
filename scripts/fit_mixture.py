"""Fit the closed-form prior: a Gaussian mixture on the avatars' training split at 16 px.

    python scripts/avatars64/render.py train=40960
    python scripts/fit_mixture.py --overwrite

EM for a mixture of probabilistic PCA (Tipping & Bishop, Neural Computation 1999) from seeded k-means. Each component
has a mean, `rank` factors and a floor. Writes avatars16.safetensors (fp16) and samples.png to
checkpoints/gaussian_mixture/, and prints the table of likelihoods that its card, README.md, quotes.
"""

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
from dsg.avatars64.faces import DATA, read_shards
from dsg.config import load
from dsg.files import REPOSITORY, temporary_name
from dsg.priors.gaussian_mixture import GaussianMixture
from dsg.runs.prepare import build
from dsg.types import to_tensor, to_uint8
from dsg.weights import record_shipped

FOLDER = REPOSITORY / "checkpoints/gaussian_mixture"
SIZE = 16  # px
LEAST_FLOOR = 1 / 127.5  # one level of an 8-bit image


def k_means(x: Tensor, count: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """Responsibilities [N, K] of 0 and 1."""
    centres = x[torch.randperm(len(x), generator=generator)[:count]]
    for _ in range(rounds):
        nearest = torch.cdist(x, centres).argmin(1)
        hot = torch.nn.functional.one_hot(nearest, count).to(x)
        centres = hot.T @ x / hot.sum(0).clamp_min(1)[:, None]
    return hot


def maximise(x: Tensor, r: Tensor, rank: int) -> dict[str, Tensor]:
    """The M step: PCA of each component's weighted covariance."""
    total = r.sum(0)
    means = (r.T @ x) / total[:, None]
    factors, floors = [], []
    for k in range(r.shape[1]):
        centred = (x - means[k]) * r[:, k, None].sqrt()
        values, vectors = torch.linalg.eigh((centred.T @ centred / total[k]).double())
        floor = values[:-rank].mean().clamp_min(LEAST_FLOOR**2)
        factors.append(vectors[:, -rank:] * (values[-rank:] - floor).clamp_min(0).sqrt())
        floors.append(floor.sqrt())
    return {"weights": total / len(x), "means": means, "factors": torch.stack(factors), "floor": torch.stack(floors)}


def fit(x: Tensor, components: int, rank: int, iterations: int, seed: int) -> dict[str, Tensor]:
    """The arguments of `GaussianMixture`: weights, means, factors [K, d, rank] and floor, for points x [N, d]."""
    r = k_means(x, components, torch.Generator().manual_seed(seed))
    with tqdm(range(iterations), desc="EM", unit="iteration", disable=None) as bar:
        for _ in bar:
            parameters = maximise(x, r, rank)
            mixture = GaussianMixture(**parameters)
            bar.set_postfix_str(f"{log_density(mixture, x):.4f} nats per dimension")
            r = torch.cat([mixture.responsibilities(p) for p in x.split(4096)]).float()
    return parameters


def log_density(mixture: GaussianMixture, x: Tensor) -> float:
    """Mean per point and dimension, in nats."""
    return torch.cat([mixture.log_density(p) for p in x.split(4096)]).mean().item() / x[0].numel()


def shrink(faces: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32 [N, 3, SIZE, SIZE] in [-1, 1], with the runner's filter."""
    faces = tqdm(faces.permute(0, 2, 3, 1).numpy(), desc="shrinking", unit="face", disable=None)
    return to_tensor([np.asarray(Image.fromarray(face).resize((SIZE, SIZE), images.ANTIALIAS)) for face in faces])


def project(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Each point on the affine subspace of the component that explains it best, [B, *shape]."""
    k = mixture.responsibilities(x).argmax(1)
    basis, mean = mixture.basis[k], mixture.means[k]
    inside = torch.einsum("bdr,bd->br", basis, x.flatten(1).double() - mean)
    return (mean + torch.einsum("bdr,br->bd", basis, inside)).reshape(x.shape)


def draw_rows(rows: list[Tensor], path: Path, zoom: int = 5) -> None:
    picture = Image.fromarray(np.concatenate([np.concatenate(list(to_uint8(row)), axis=1) for row in rows]))
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)


def save(parameters: dict[str, Tensor], file: Path) -> None:
    """Write the mixture; a kill leaves the one that was there."""
    half = {"means": torch.float16, "factors": torch.float16}
    temporary = temporary_name(file)
    try:
        save_file({k: v.to(half.get(k, torch.float32)).contiguous() for k, v in parameters.items()}, temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    record_shipped(file)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--components", type=positive, default=16, help="of the mixture (16)")
    parser.add_argument("--rank", type=positive, default=16, help="factors of each component (16)")
    parser.add_argument("--iterations", type=positive, default=30, help="of EM (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the first centres (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the shipped mixture and its figure")
    args = parser.parse_args()
    file = FOLDER / "avatars16.safetensors"
    if file.exists() and not args.overwrite:
        parser.error(f"{file} is there already: add --overwrite to replace it")
    x = shrink(read_shards(DATA / "train", "images")[1][0])
    FOLDER.mkdir(parents=True, exist_ok=True)
    save(fit(x.flatten(1), args.components, args.rank, args.iterations, args.seed), file)
    mixture = build(load(["model=gaussian_mixture"]).model)  # as it will be read
    sets = {split: to_tensor(list(images.load(DATA / split, SIZE).values())) for split in ("val", "test")}
    sets = {"training": x, "validation": sets["val"], "test": sets["test"]}
    rows = [{"faces": name, "count": len(x), "log density": log_density(mixture, x)} for name, x in sets.items()]
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4f"))
    test, samples = sets["test"][:12], mixture.sample(12, torch.Generator().manual_seed(0))
    draw_rows([test, project(mixture, test), samples], FOLDER / "samples.png")


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
