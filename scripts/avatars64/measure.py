"""Measure the embedded networks of avatars64: the tables and figures that their cards quote.

    python scripts/avatars64/render.py train=40960                   # for `prior`, which looks for nearest faces
    python scripts/avatars64/measure.py prior --tints 512            # checkpoints/avatars64/README.md
    python scripts/avatars64/measure.py guidance                     # checkpoints/avatars64/GUIDANCE.md

Each table goes to --out as <name>.csv, and to the terminal as Markdown; shares are fractions. `prior` takes minutes,
and 20 more for the tints of 512 samples; `guidance` some ten minutes on two cores. That draws people of `test`
identities, from index 1000 on (the repository's test faces are 0 to 255), and writes evaluator/statistics.safetensors:
mean and covariance of real faces in the evaluator's features, for Frechet distances.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_eer, multiclass_jaccard_index
from tqdm import tqdm

from dsg import config
from dsg import image_files as images
from dsg.arguments import Parser, exit_code, positive
from dsg.avatars64.attributes import IDENTITY, VALUES, VARIATIONS, draw_attributes, split_of, variation
from dsg.avatars64.captions import ALONE, CLOTHES, CLOTHES_COLORS, COLORED, HAIR, HAIR_COLORS, SKIN, asked_for, caption
from dsg.avatars64.drawing import PARTS, SIZE, check_extra, render, render_parts
from dsg.avatars64.faces import DATA, draw_faces, face, read_shards
from dsg.files import REPOSITORY, file_hash, write_text
from dsg.metrics.distribution import EvaluatorFrechet, frechet_distance
from dsg.noise import ImageNoise
from dsg.priors.linear import LinearDenoiser
from dsg.runs.prepare import build
from dsg.samplers import sample
from dsg.statistics import mean_interval
from dsg.types import Input, to_tensor, to_uint8
from dsg.weights import record_shipped, require
from tasks.clip import CLIPNetwork
from tasks.networks.evaluator import IDENTITY as COMPARED
from tasks.networks.evaluator import AvatarEvaluator, AvatarSelector
from tasks.networks.irse import read_irse
from tasks.networks.parts import read_parts
from tasks.segmentation import colored, mean_iou

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

WEIGHTS = REPOSITORY / "checkpoints/avatars64"
OTHERS = range(6096, 6608)  # test faces whose Frechet distance is the floor


def write_table(out: Path, name: str, table: pd.DataFrame) -> None:
    write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    print(f"\n{name}\n\n{table.to_markdown(index=False, floatfmt='.4g')}")


def in_batches(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`network(x)`, 64 images at a time."""
    with torch.no_grad():
        return torch.cat([network(part) for part in tqdm(x.split(64), unit="batch", leave=False)])


# --- the prior

TS = (999, 950, 900, 850, 800, 750, 700, 650, 600, 500, 400, 300, 200, 100, 50, 10, 1)


@torch.no_grad()
def denoising(prior, x: Tensor, linear: LinearDenoiser) -> pd.DataFrame:
    """PSNR [dB] of the predicted x0, clamped, at each t, for images x [B, C, H, W], all with one noise."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    rows = []
    for t in tqdm(TS, desc="denoising", unit="t"):
        ab = float(prior.schedule.alpha_bar[t])
        x_t = math.sqrt(ab) * x + math.sqrt(1 - ab) * noise
        eps = in_batches(lambda part, t=t: prior.predict(part, t).eps, x_t)
        estimates = {
            "network": (x_t - math.sqrt(1 - ab) * eps) / math.sqrt(ab),
            "linear": linear(x_t, torch.tensor([ab])),
            "mean_image": linear.mean.view(1, *x.shape[1:]).expand_as(x),
        }
        row = {"t": t, "alpha_bar": ab, "eps_error": (eps - noise).square().mean().item()}
        rows.append(row | {name: psnr(x0, x) for name, x0 in estimates.items()})
    return pd.DataFrame(rows)


def psnr(x0: Tensor, x: Tensor) -> float:
    """Mean over the images of -10 log10(mse), in dB, of x0 clamped to [-1, 1], at a range of 2."""
    return -10 * torch.log10(((x0.clamp(-1, 1) - x) / 2).square().flatten(1).mean(1)).mean().item()


def unconditional(prior, count: int, steps: int, name: str) -> np.ndarray:
    """Samples, uint8 [count, H, W, 3]."""
    sampler = instantiate(config.load(["model=avatars64", "sampler=unconditional", f"sampler.steps={steps}"]).sampler)
    samples = []
    for start in tqdm(range(0, count, 16), desc=f"samples, {name}", unit="batch"):
        ids = [f"{name}{i}" for i in range(start, min(start + 16, count))]
        noise = ImageNoise(0, ids, [0] * len(ids), prior.shape)
        x_T = sampler.start(prior, None, None, noise.start())
        samples.append(to_uint8(sample(prior, None, None, sampler, x_T, noise)))
    return np.concatenate(samples)


def nearest(queries: np.ndarray, faces: Tensor) -> tuple[np.ndarray, float]:
    """The training face nearest to each query by L2 on pixels, and the mean RMS distance in [-1, 1]."""
    q = torch.from_numpy(queries).permute(0, 3, 1, 2).flatten(1).float()
    distances = [
        torch.cdist(q, part.flatten(1).float(), compute_mode="use_mm_for_euclid_dist") for part in faces.split(4096)
    ]
    best, index = torch.cat(distances, 1).min(1)
    return faces[index].permute(0, 2, 3, 1).numpy(), (best / q.shape[1] ** 0.5 / 127.5).mean().item()


def draw_curves(log: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """Plot the loss over the training, and the denoising error over t."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    left.plot(log["minutes"], log["v_error"], lw=0.8)
    left.set(xlabel="minutes of training", ylabel="squared error of v, mean of 25 steps", yscale="log")
    for column, label in (("network", "network"), ("linear", "best linear denoiser"), ("mean_image", "mean image")):
        right.plot(table["t"], table[column], label=label, marker="." if column == "network" else None)
    right.set(xlabel="t", ylabel="PSNR of x0 [dB], test faces")
    right.legend()
    for ax in (left, right):
        ax.grid(alpha=0.3, which="both")
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def draw_samples(samples: np.ndarray, neighbours: np.ndarray, path: Path, columns: int = 6) -> None:
    fig, axes = plt.subplots(-(-len(samples) // columns), 2 * columns, figsize=(2.1 * columns, 9), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, pixels in zip(axes.flat, np.stack([samples, neighbours], 1).reshape(-1, *samples.shape[1:])):
        ax.imshow(pixels, interpolation="nearest")
    for i, ax in enumerate(axes[0]):
        ax.set_title(("sample", "nearest")[i % 2], fontsize=7)
    fig.subplots_adjust(0.01, 0.01, 0.99, 0.96, wspace=0.04, hspace=0.04)
    fig.savefig(path, dpi=110)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours [..., 3] in 0..255."""
    c = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def skin_distance(pixels: np.ndarray) -> np.ndarray:
    """Distance [N] in CIELAB of each image's skin, the median of the face's pixels, to the palette's nearest colour.

    An image without a face is infinitely far.
    """
    import python_avatars

    parts = in_batches(lambda x: read_parts(str(WEIGHTS / "parts.safetensors"))(x).argmax(1), to_tensor(pixels)).numpy()
    palette = lab([[int(e.value[i : i + 2], 16) for i in (1, 3, 5)] for e in python_avatars.SkinColor])
    distances = []
    for image, inside in zip(pixels, parts == PARTS.index("face")):
        skin = lab(np.median(image[inside], axis=0)) if inside.any() else np.full(3, np.inf)
        distances.append(np.linalg.norm(skin - palette, axis=1).min())
    return np.array(distances)


def tints(samples: np.ndarray, test: np.ndarray) -> pd.DataFrame:
    """Percent of the samples further from the palette than the 99th percentile of test faces; Frechet distances."""
    others = np.stack([face(0, "test", i)[1] for i in OTHERS[: len(samples)]])
    limit, distance = np.percentile(skin_distance(test), 99), skin_distance(samples)
    share, low, high = mean_interval(100.0 * (distance > limit))
    row = {"samples": len(samples), "limit": limit, "median": np.median(distance), "tinted": share, "low": low}
    frechet = EvaluatorFrechet(str(WEIGHTS / "evaluator"))
    row |= {"high": high, "frechet": frechet(samples), "frechet of real faces": frechet(others)}
    return pd.DataFrame([row])


def measure_prior(args: argparse.Namespace) -> None:
    _, (faces,) = read_shards(DATA / "train", "images")
    prior = build(config.load(["model=avatars64", f"model.checkpoint={args.weights.resolve()}"]).model).load()
    test, val = (np.stack(list(images.load(DATA / split, SIZE).values())) for split in ("test", "val"))
    linear = LinearDenoiser.fit(faces[:4096].float() / 127.5 - 1, 120)
    table = denoising(prior, to_tensor(test[:64]), linear)
    write_table(args.out, "denoising", table)
    draw_curves(pd.read_csv(args.weights.with_name("training_log.csv")), table, args.out / "loss.png")
    samples = unconditional(prior, 48, args.steps, "card")
    neighbours, distance = nearest(samples, faces)
    draw_samples(samples, neighbours, args.out / "samples.png")
    rows = [{"images": "samples", "distance": distance}, {"images": "val", "distance": nearest(val, faces)[1]}]
    write_table(args.out, "nearest", pd.DataFrame(rows))
    if args.tints:
        write_table(args.out, "tints", tints(unconditional(prior, args.tints, args.steps, "tint"), test))


# --- the guidance networks: what is drawn

FIRST = 1000  # index of the first person
REFERENCE = range(2000, 6096)  # test faces of the statistics
FAINT = 8  # levels of 255: a pixel that differs by no more counts as the same


def second(row: dict, seed: int, index: int) -> dict:
    """The same person again, with another number than the training identities, whose draws would come again."""
    return variation(row, seed, index, VARIATIONS)


def person(seed: int, index: int) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    """Attributes, image, label map and second image of face `index` of the test split."""
    row = draw_attributes(seed, "test", index)
    return row, render(row), render_parts(row), render(second(row, seed, index))


def neighbour(seed: int, name: str, index: int) -> tuple[dict, np.ndarray]:
    """The second image with another value of `name`; value "" and a black image where nobody like that is held out."""
    row = second(draw_attributes(seed, "test", index), seed, index)
    others = [{**row, name: value} for value in VALUES[name] if value != row[name]]
    others = [other for other in others if split_of(other) != "train"]
    if not others:
        return {"value": ""}, np.zeros((SIZE, SIZE, 3), np.uint8)
    other = others[np.random.default_rng([seed, 78, index]).integers(len(others))]
    return {"value": other[name]}, render(other)


def moved_pixels(row: dict, name: str, value: str) -> int:
    """How many pixels change if attribute `name` takes another value."""
    return int((np.abs(render(row).astype(int) - render({**row, name: value})).max(-1) > FAINT).sum())


def changes(seed: int, index: int) -> tuple[dict]:
    """How many pixels another value, drawn at random, moves, for each attribute."""
    row, rng = draw_attributes(seed, "test", index), np.random.default_rng([seed, 79, index])
    others = {name: str(rng.choice([v for v in values if v != row[name]])) for name, values in VALUES.items()}
    return ({name: moved_pixels(row, name, value) for name, value in others.items()},)


class Faces:
    """All that is drawn. Images are uint8.

    Attributes:
        table, rows: attributes of the people.
        first, parts, second: their images, label maps and second images.
        hard: attribute -> (indices of the people, second images with it changed).
        moves: pixels that another value moves, for each person and attribute.
        known_table, known: attributes and images of training faces.
        reference, others: images for the Frechet distance.
        other_person: whether face i and face i + 1 are two people.
        captions: all that can be said of each face.
    """

    def __init__(self, seed: int, count: int, pool: Executor):
        people = range(FIRST, FIRST + count)
        self.table, (self.first, self.parts, self.second) = draw_faces(partial(person, seed), people, "people", pool)
        self.hard = {}
        for name in IDENTITY:
            others, (pixels,) = draw_faces(partial(neighbour, seed, name), people, f"another {name}", pool)
            index = np.flatnonzero(others["value"] != "")
            self.hard[name] = (index, pixels[index])
        moves, _ = draw_faces(partial(changes, seed), people, "other values", pool)
        self.table, self.moves = self.table.reset_index(drop=True), moves.reset_index(drop=True)
        draw_split = partial(partial, face, seed)
        self.known_table, (self.known,) = draw_faces(draw_split("train"), range(count), "training faces", pool)
        _, (self.reference,) = draw_faces(draw_split("test"), REFERENCE, "reference", pool)
        _, (self.others,) = draw_faces(draw_split("test"), OTHERS, "others", pool)
        self.rows = self.table.to_dict("records")
        key = self.table[list(IDENTITY)].agg("/".join, axis=1).to_numpy()
        self.other_person = key != np.roll(key, -1)
        self.captions = [caption(row, np.random.default_rng([seed, i]), keep=1.0) for i, row in enumerate(self.rows)]


# --- what the guidance networks say


def identity_tables(network, evaluator: AvatarEvaluator, faces: Faces) -> dict[str, pd.DataFrame]:
    """Distances of features between two images: of one person, of two people, and of hard pairs."""
    f, g = (in_batches(network, to_tensor(pixels)) for pixels in (faces.first, faces.second))
    same, different = (f - g).norm(dim=1), (f - g.roll(-1, 0)).norm(dim=1)
    two, even = torch.from_numpy(faces.other_person), torch.arange(len(f)) % 2 == 0
    fitted = torch.cat([same[even], different[even & two]]).sort().values
    right = [pairs_right(same[even], different[even & two], threshold) for threshold in fitted]
    threshold = fitted[int(np.argmax(right))]
    scores = torch.cat([same, different[two]])
    labels = torch.cat([torch.zeros(len(same)), torch.ones(int(two.sum()))]).long()
    summary = {
        "same mean": same.mean(), "same std": same.std(correction=0), "different mean": different[two].mean(),
        "different std": different[two].std(correction=0), "pairs": len(scores), "threshold": threshold,
        "pairs right": pairs_right(same[~even], different[~even & two], threshold),
        "AUC": binary_auroc(scores / 2, labels), "equal error rate": binary_eer(scores / 2, labels),
    }  # fmt: skip
    answers, rows = answers_of(evaluator, faces.first), []
    for name, (index, pixels) in faces.hard.items():
        distance = (f[index] - in_batches(network, to_tensor(pixels))).norm(dim=1)
        row = {"changed": name, "pairs": len(index), "distance": distance.mean().item()}
        row["the same person is nearer"] = (same[index] < distance).double().mean().item()
        row["beyond the threshold"] = (distance > threshold).double().mean().item()
        found = alike(answers.iloc[index].reset_index(drop=True), answers_of(evaluator, pixels)) == 1
        rows.append(row | {"same_identity": found.mean()})
    return {"identity": pd.DataFrame([summary]).astype(float), "hard_pairs": pd.DataFrame(rows)}


def pairs_right(same: Tensor, different: Tensor, threshold: Tensor) -> float:
    """Share of the pairs that a threshold tells right, both kinds counted alike."""
    return ((same <= threshold).double().mean() + (different > threshold).double().mean()).item() / 2


GROUP = 100  # captions that an image is looked for among
ASK = {
    "smiling": "a smiling person", "sad": "a sad person", "glasses": "a person with glasses",
    "sunglasses": "a person with sunglasses", "eyepatch": "a person with an eyepatch", "beard": "a person with a beard",
    "moustache": "a person with a moustache", "beardless": "a beardless person",
}  # fmt: skip


def word_groups() -> list[tuple[str, str, dict[str, set[str]], str | dict[str, str], str]]:
    """Groups of words of which at most one is true of a face: name, attribute, words, prompts, garment worn."""
    groups = [
        ("hair colour", "hair_color", HAIR_COLORS, "a person with {} hair", ""),
        ("kind of hair", "hair", HAIR, "a person with {} hair", ""),
        ("skin", "skin", SKIN, "a person with {} skin", ""),
        ("clothes", "clothing", CLOTHES, "a person wearing a {}", ""),
    ]
    for name, attribute in (("facial hair", "facial_hair"), ("glasses", "accessory"), ("mouth", "mouth")):
        groups.append((name, attribute, {w: v for w, (a, v) in ALONE.items() if a == attribute}, ASK, ""))
    for garment in COLORED:
        prompt = f"a person wearing a {{}} {garment}"
        groups.append(("colour of clothes", "clothing_color", CLOTHES_COLORS, prompt, garment))
    return groups


def word_table(clip: CLIPNetwork, features: Tensor, answers: pd.DataFrame, faces: Faces) -> pd.DataFrame:
    """How often CLIP finds the right word of a group nearest to a face, and the evaluator one of the word's values."""
    parts = []
    for name, attribute, words, prompts, garment in word_groups():
        wanted = [prompts.format(w) if isinstance(prompts, str) else prompts[w] for w in words]
        texts = torch.cat([clip.text_features(prompt) for prompt in wanted])
        covers = np.array([[row[attribute] in values for values in words.values()] for row in faces.rows])
        wears = np.array([not garment or row["clothing"] in CLOTHES[garment] for row in faces.rows])
        index = np.flatnonzero(covers.any(1) & wears)
        truth, values = covers[index].argmax(1), list(words.values())
        by_cosine = (F.normalize(features[index]) @ F.normalize(texts).T).argmax(1).numpy()
        by_distance = torch.cdist(features[index], texts).argmin(1).numpy()
        evaluator = [answers[attribute][i] in values[k] for i, k in zip(index, truth)]
        part = {"group": name, "attribute": attribute, "words": len(words), "truth": truth, "evaluator": evaluator}
        parts.append(pd.DataFrame({**part, "cosine": truth == by_cosine, "distance": truth == by_distance}))
    told = [asked_for(caption(row, np.random.default_rng([80, i]))) for i, row in enumerate(faces.rows)]
    rows = []
    for name, part in pd.concat(parts).groupby("group", sort=False):
        row = {"group": name, "words": part["words"].iloc[0], "faces": len(part)}
        row |= {"CLIP, by cosine": part["cosine"].mean(), "CLIP, by the task's distance": part["distance"].mean()}
        row["commonest word"] = part["truth"].value_counts(normalize=True).max()
        row["in captions"] = np.mean([part["attribute"].iloc[0] in asked for asked in told])
        rows.append(row | {"evaluator": part["evaluator"].mean()})
    return pd.DataFrame(rows)


@torch.no_grad()
def clip_tables(clip: CLIPNetwork, answers: pd.DataFrame, faces: Faces) -> dict[str, pd.DataFrame]:
    """CLIP scores; how many images (r) and captions (b) find theirs, or an equal one, first or in the first five."""
    features = in_batches(clip.image_features, to_tensor(faces.first))
    texts = torch.cat([clip.text_features(c) for c in tqdm(faces.captions, desc="captions", leave=False)])
    cosine = F.normalize(features) @ F.normalize(texts).T
    said = [str(sorted((name, sorted(values)) for name, values in asked_for(c).items())) for c in faces.captions]
    codes = torch.tensor(pd.factorize(np.array(said))[0])
    ranks = {"r": [], "b": []}
    for start in range(0, len(said) - GROUP + 1, GROUP):
        part = slice(start, start + GROUP)
        same = codes[part, None] == codes[part]
        for key, scores in (("r", cosine[part, part]), ("b", cosine[part, part].T)):
            order = scores.argsort(1, descending=True)
            ranks[key].append(same.gather(1, order).float().argmax(1))
    row = {f"{key}{n}": (torch.cat(ranks[key]) < n).double().mean().item() for key in ranks for n in (1, 5)}
    row["score"] = 100 * cosine.diagonal().clamp_min(0).mean().item()
    row["score of another caption"] = 100 * cosine.roll(-1, 1).diagonal().clamp_min(0).mean().item()
    for name, vectors in (("images", features), ("captions", texts)):
        length = vectors.norm(dim=1)
        row |= {f"length of {name}": length.mean().item(), f"std of {name}": length.std(correction=0).item()}
    row["attributes per caption"] = np.mean([len(asked_for(c)) for c in faces.captions])
    return {"clip": pd.DataFrame([row]), "words": word_table(clip, features, answers, faces)}


def label_table(
    networks: dict[str, Callable[[Tensor], Tensor]], faces: Faces
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Label maps against the rendered ones, with IoU over all pixels of all faces; the maps [N, H, W]."""
    truth, rows, maps = torch.from_numpy(faces.parts.astype(np.int64)), [], {}
    wide = truth[:, None].float()
    border = (F.max_pool2d(wide, 3, 1, 1) != -F.max_pool2d(-wide, 3, 1, 1))[:, 0]
    for name, network in networks.items():
        found = in_batches(lambda x, network=network: network(x).argmax(1), to_tensor(faces.first))
        iou = multiclass_jaccard_index(found, truth, len(PARTS), average="none")
        wrong, per_face = found != truth, mean_iou(found, truth, len(PARTS))
        row = {"network": name, "pixels right": 1 - wrong.double().mean().item()}
        row |= {f"IoU {part}": value for part, value in zip(PARTS, iou.tolist())}
        row |= {"mean IoU": iou.mean().item(), "mean IoU per face": per_face.mean().item()}
        row |= {"worst face": per_face.min().item(), "pixels at a border": border.double().mean().item()}
        rows.append(row | {"errors at a border": (wrong & border).sum().item() / max(wrong.sum().item(), 1)})
        maps[name] = found.numpy()
    return pd.DataFrame(rows), maps


def answers_of(evaluator: AvatarEvaluator, pixels: np.ndarray) -> pd.DataFrame:
    """The values that evaluator or selector find in images, uint8 [N, 64, 64, 3]."""
    found = evaluator.recognised(to_tensor(pixels))
    return pd.DataFrame({name: np.array(evaluator.values[name])[index] for name, index in found.items()})


def alike(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str] = COMPARED) -> np.ndarray:
    """Share of these attributes, by default those that `identity_attributes` compares, found alike, per pair."""
    return (a[list(names)].to_numpy() == b[list(names)].to_numpy()).mean(1)


def attribute_tables(
    evaluator: AvatarEvaluator, answers: pd.DataFrame, faces: Faces, pool: Executor
) -> dict[str, pd.DataFrame]:
    """How well the evaluator recognises each attribute; the same for faces with each value of any attribute; errors."""
    truth, rows, by_value, errors = faces.table, [], [], []
    known = answers_of(evaluator, faces.known) == faces.known_table[list(answers)].reset_index(drop=True)
    for name in answers:
        right, shown = answers[name] == truth[name], faces.moves[name] > 0
        jobs = [(faces.rows[i], name, answers[name][i]) for i in np.flatnonzero(~right)]
        moved = list(pool.map(moved_pixels, *zip(*jobs), chunksize=8)) if jobs else [math.nan]
        row = {"attribute": name, "values": len(VALUES[name]), "accuracy": right.mean()}
        row |= {"training faces": known[name].mean(), "seen": shown.mean(), "where seen": right[shown].mean()}
        row |= {"another value moves": faces.moves[name][shown].median(), "a wrong answer moves": np.median(moved)}
        row |= {"errors": len(jobs), "unseen errors": sum(n == 0 for n in moved)}
        rows.append(row | {"commonest value": truth[name].value_counts(normalize=True).max()})
        for other in VALUES:
            shares = pd.DataFrame({"value": truth[other], "right": right, "seen": shown}).groupby("value")
            table = shares.mean().assign(faces=shares.size()).reset_index()
            by_value.append(table.assign(attribute=name, other=other))
        pairs = pd.DataFrame({"attribute": name, "truth": truth[name], "answer": answers[name]})[~right]
        errors.append(pairs.value_counts().reset_index(name="faces"))
    four = {"attribute": "the four of a person", "accuracy": (alike(answers, truth) == 1).mean()}
    rows.append(four | {"training faces": known[list(COMPARED)].all(axis=1).mean()})
    tables = {"attributes": pd.DataFrame(rows), "attributes_by_value": pd.concat(by_value)}
    return tables | {"attribute_errors": pd.concat(errors)}


def agreement(answers: pd.DataFrame, others: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """How often evaluator (`answers`) and selector (`others`) are right, agree, and err on the same faces."""
    rows = []
    for title, names in {**{name: [name] for name in answers}, "the four of a person": list(COMPARED)}.items():
        a, b = ((found[names] != truth[names]).any(axis=1) for found in (answers, others))
        same = (answers[names] == others[names]).all(axis=1)
        row = {"attribute": title, "evaluator right": 1 - a.mean(), "selector right": 1 - b.mean()}
        row |= {"agree": same.mean(), "both wrong": (a & b).mean(), "if independent": a.mean() * b.mean()}
        rows.append(row | {"wrong alike": (a & b & same).mean()})
    return pd.DataFrame(rows)


def metric_shares(evaluator: AvatarEvaluator, answers: pd.DataFrame, faces: Faces) -> dict[str, float]:
    """The metrics of perfect samples (the same person, the own caption), and of others."""
    again = answers_of(evaluator, faces.second)
    same = alike(answers, again)
    different = alike(answers, again.apply(np.roll, shift=-1))[faces.other_person]
    row = {"same_identity, one person": (same == 1).mean(), "same_identity, two people": (different == 1).mean()}
    row["the same with the nose, one person"] = (alike(answers, again, IDENTITY) == 1).mean()
    row |= {"identity_attributes, one person": same.mean(), "identity_attributes, two people": different.mean()}
    for whose, captions in (("own caption", faces.captions), ("another's", faces.captions[1:] + faces.captions[:1])):
        inputs = [Input(str(i), prompt=c) for i, c in enumerate(captions)]
        right = evaluator.right(faces.first, inputs).double()
        row[f"attribute_accuracy, {whose}"] = right.mean().item()
        row[f"all_attributes, {whose}"] = (right == 1).double().mean().item()
    return row


def frechet_table(evaluator: AvatarEvaluator, faces: Faces, seed: int, out: Path) -> pd.DataFrame:
    """Write the evaluator's statistics of real faces; return Frechet distances to them."""
    features = evaluator.features(faces.reference).double()
    statistics = {"mean": features.mean(0).float(), "covariance": torch.cov(features.T).float().contiguous()}
    where = f"split test, seed {seed}, indices {REFERENCE.start} to {REFERENCE.stop - 1}"
    about = {
        "what": "mean and covariance of tasks.networks.evaluator.AvatarEvaluator.features, for Frechet distances",
        "faces": f"{len(features)} of scripts/avatars64/render.py, {where}",
        "attributes.safetensors": f"sha256 {file_hash(WEIGHTS / 'evaluator/attributes.safetensors')}",
        "written by": "scripts/avatars64/measure.py",
    }
    path = out / "evaluator/statistics.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(statistics, path, metadata={"about": json.dumps(about)})  # one key: the same bytes again
    record_shipped(path)
    shipped = np.stack(list(images.load(DATA / "test", SIZE).values()))
    blocks = faces.others.reshape(len(faces.others), SIZE // 2, 2, SIZE // 2, 2, 3).mean((2, 4))
    indices = f"indices {OTHERS.start} to {OTHERS.stop - 1}"
    sets = {
        f"held out, {indices}": faces.others,
        f"of these the first {len(shipped)}": faces.others[: len(shipped)],
        "the repository's test faces, data/avatars64/test": shipped,
        f"training faces, indices 0 to {len(OTHERS) - 1}": faces.known[: len(OTHERS)],
        f"{indices}, averaged over 2x2 pixels": blocks.round().astype(np.uint8).repeat(2, 1).repeat(2, 2),
    }
    reference, rows = {name: value.double().numpy() for name, value in statistics.items()}, []
    for name, pixels in sets.items():
        x = evaluator.features(pixels).double().numpy()
        distance = frechet_distance(x.mean(0), np.cov(x.T), reference["mean"], reference["covariance"])
        rows.append({"faces": name, "number": len(pixels), "distance": distance})
    return pd.DataFrame(rows)


def draw_maps(path: Path, faces: Faces, answers: pd.DataFrame, maps: dict[str, np.ndarray], count: int = 12) -> None:
    """Draw the first faces, the evaluator's errors on them, and their label maps, whose wrong pixels are black."""
    names = ["face", "rendered", *maps]
    fig, axes = plt.subplots(len(names), count, figsize=(13, 6.2), squeeze=False)
    for i in range(count):
        truth = colored(faces.parts[i], len(PARTS))
        columns = [faces.first[i], truth, *(truth * (found[i] == faces.parts[i])[..., None] for found in maps.values())]
        for ax, pixels, name in zip(axes[:, i], columns, names):
            ax.imshow(pixels, interpolation="nearest")
            ax.set_xticks([]), ax.set_yticks([])
            ax.set_ylabel(name if i == 0 else "", fontsize=8)
        wrong = [
            f"{value}\n[{faces.rows[i][name]}]"
            for name, value in answers.iloc[i].items()
            if value != faces.rows[i][name]
        ]
        axes[0, i].set_title("\n".join(wrong), fontsize=4.5, color="tab:red")
    fig.tight_layout(pad=0.3)
    fig.savefig(path, dpi=110)


def measure_guidance(args: argparse.Namespace) -> None:
    evaluator, selector = AvatarEvaluator(str(WEIGHTS / "evaluator")), AvatarSelector(str(WEIGHTS / "selector"))
    layout = config.load(["model=avatars64", "task=faceid"]).task.guidance
    identity = read_irse(**{name: value for name, value in layout.items() if not name.startswith("_")})
    clip, parts = CLIPNetwork(str(WEIGHTS / "clip")), read_parts(str(WEIGHTS / "parts.safetensors"))
    files = {
        "identity": identity, "clip/model": clip.clip, "parts": parts, "evaluator/attributes": evaluator.attributes,
        "evaluator/labels": evaluator.labels, "selector/attributes": selector.attributes,
        "selector/labels": selector.labels,
    }  # fmt: skip
    rows = []
    for name, network in files.items():
        size = (WEIGHTS / f"{name}.safetensors").stat().st_size / 1e6
        rows.append({"file": name, "parameters [M]": sum(p.numel() for p in network.parameters()) / 1e6, "MB": size})
    write_table(args.out, "networks", pd.DataFrame(rows))
    with ProcessPoolExecutor(args.workers) as pool:
        faces = Faces(args.seed, args.people, pool)
        answers, others = answers_of(evaluator, faces.first), answers_of(selector, faces.first)
        tables = attribute_tables(evaluator, answers, faces, pool)
    tables |= identity_tables(identity, evaluator, faces) | clip_tables(clip, answers, faces)
    labelling = {"guidance network": parts, "evaluator": evaluator.labels, "selector": selector.labels}
    tables["labels"], maps = label_table(labelling, faces)
    shares = {"evaluator": metric_shares(evaluator, answers, faces), "selector": metric_shares(selector, others, faces)}
    tables["metrics"] = pd.DataFrame(shares).rename_axis("share").reset_index()
    tables["agreement"] = agreement(answers, others, faces.table)
    tables["frechet"] = frechet_table(evaluator, faces, args.seed, args.out)
    for name, table in tables.items():
        write_table(args.out, name, table)
    draw_maps(args.out / "guidance.png", faces, answers, maps)


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("what", choices=("prior", "guidance"))
    add("--out", type=Path, default=REPOSITORY / "results/avatars64", help="folder (results/avatars64)")
    weights = WEIGHTS / "model.safetensors"
    add("--weights", type=Path, default=weights, help="of the prior; training_log.csv is in the same folder")
    add("--steps", type=positive, default=100, help="of the prior's sampler (100)")
    add("--tints", type=positive, metavar="N", help="tints and Frechet distance of N samples, 500 to 512")
    add("--people", type=positive, default=1000, help=f"faces for guidance (1000; at least {GROUP})")
    add("--seed", type=int, default=0, help="of the faces (0)")
    add("--workers", type=positive, help="processes that draw (all cores)")
    args = parser.parse_args()
    if args.people < GROUP:
        parser.error(f"--people: at least {GROUP}")
    if args.tints and not 500 <= args.tints <= len(OTHERS):
        parser.error(f"--tints {args.tints}: 500 to {len(OTHERS)}")
    check_extra()
    require(args.weights, "avatars64")
    args.out.mkdir(parents=True, exist_ok=True)
    measure_prior(args) if args.what == "prior" else measure_guidance(args)


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
