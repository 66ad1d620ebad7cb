"""What scripts/guides_card.py measures: numbers only; scripts/guides_text.py puts them into words."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from guides_people import People, is_other_person, moved_by
from make_avatars import CHOICES, PARTS
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from dsg.checkpoints import file_hash
from dsg.metrics import frechet_distance
from tasks.captions import ALONE, CLOTHES, CLOTHES_COLORS, COLORED, HAIR, HAIR_COLORS, SKIN, asked_for, caption
from tasks.evaluator import IDENTITY as JUDGED
from tasks.evaluator import AvatarEvaluator
from tasks.segmentation import mean_iou
from tasks.semantic import Case

GROUP = 100  # captions that a picture is looked for among
FEW = 20  # faces: shares of fewer are not told
REFERENCE = range(2000, 6096)  # faces of the statistics
ASK = {  # prompts of words that need no noun
    "smiling": "a smiling person",
    "sad": "a sad person",
    "glasses": "a person with glasses",
    "sunglasses": "a person with sunglasses",
    "eyepatch": "a person with an eyepatch",
    "beard": "a person with a beard",
    "moustache": "a person with a moustache",
    "beardless": "a beardless person",
}


# -- identity ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def batched(network, x: Tensor, description: str) -> Tensor:
    return torch.cat([network(part) for part in tqdm(x.split(64), desc=description, unit="batch", leave=False)])


def best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    candidates = np.sort(np.concatenate([same, different]))
    right = (same[None] <= candidates[:, None]).mean(1) + (different[None] > candidates[:, None]).mean(1)
    return float(candidates[right.argmax()])


def told_right(same: np.ndarray, different: np.ndarray, threshold: float) -> float:
    return ((same <= threshold).mean() + (different > threshold).mean()) / 2


def area_under_curve(same: np.ndarray, different: np.ndarray) -> float:
    return (same[:, None] < different).mean() + 0.5 * (same[:, None] == different).mean()


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    thresholds = np.sort(np.concatenate([same, different]))
    missed, taken = (same[None] > thresholds[:, None]).mean(1), (different[None] <= thresholds[:, None]).mean(1)
    best = np.abs(missed - taken).argmin()
    return float(missed[best] + taken[best]) / 2


def measure_identity(network, people: People, hard: dict[str, tuple[np.ndarray, Tensor]]) -> dict:
    """`hard`: attribute -> (indices of the people, second pictures with it changed)."""
    f, g = batched(network, people.x, "identity"), batched(network, people.again, "identity")
    same = (f - g).norm(dim=1).numpy()
    other = is_other_person(people)
    different = (f - g.roll(-1, 0)).norm(dim=1).numpy()
    even = np.arange(len(same)) % 2 == 0
    threshold = best_threshold(same[even], different[even & other])
    rows, distances = [], {}
    for name, (index, pictures) in hard.items():
        distance = distances[name] = (f[index] - batched(network, pictures, name)).norm(dim=1).numpy()
        rows.append(
            {
                "changed": name,
                "pairs": len(index),
                "distance": distance.mean(),
                "the same person is nearer": (same[index] < distance).mean(),
                "beyond the threshold": (distance > threshold).mean(),
            }
        )
    return {
        "same": same,
        "different": different,
        "other": other,
        "threshold": threshold,
        "accuracy": told_right(same[~even], different[~even & other], threshold),
        "auc": area_under_curve(same, different[other]),
        "eer": equal_error_rate(same, different[other]),
        "hard": pd.DataFrame(rows),
        "hard distances": distances,
    }


# -- CLIP --------------------------------------------------------------------------------------------------------------


def word_groups(rows: list[dict]) -> list[tuple[str, str, dict[str, str], dict[str, set], np.ndarray]]:
    """(group, attribute, word: prompt, word: values, whether a face takes part)."""
    everybody = np.ones(len(rows), bool)
    groups = []
    for group, attribute, words, ask in (
        ("hair colour", "hair_color", HAIR_COLORS, "a person with {} hair"),
        ("kind of hair", "hair", HAIR, "a person with {} hair"),
        ("skin", "skin", SKIN, "a person with {} skin"),
        ("clothes", "clothing", CLOTHES, "a person wearing a {}"),
    ):
        groups.append((group, attribute, {w: ask.format(w) for w in words}, words, everybody))
    for group, attribute in (("facial hair", "facial_hair"), ("glasses", "accessory"), ("mouth", "mouth")):
        words = {w: values for w, (a, values) in ALONE.items() if a == attribute}
        groups.append((group, attribute, {w: ASK[w] for w in words}, words, everybody))
    for garment in COLORED:
        wears = np.array([row["clothing"] in CLOTHES[garment] for row in rows])
        prompts = {w: f"a person wearing a {w} {garment}" for w in CLOTHES_COLORS}
        groups.append(("colour of clothes", "clothing_color", prompts, CLOTHES_COLORS, wears))
    return groups


@torch.no_grad()
def measure_clip(guide, people: People, captions: list[str]) -> dict:
    pictures = batched(guide.image_features, people.x, "CLIP")
    texts = torch.cat([guide.text_features(c) for c in tqdm(captions, desc="captions", leave=False)])
    cosine = F.normalize(pictures) @ F.normalize(texts).T
    said = [str(sorted((name, sorted(values)) for name, values in asked_for(c).items())) for c in captions]
    codes = torch.tensor(pd.factorize(np.array(said))[0])
    found = {"r1": [], "r5": [], "b1": [], "b5": []}
    ranks = torch.zeros(len(captions), dtype=torch.long)
    for start in range(0, len(captions) - GROUP + 1, GROUP):
        part = slice(start, start + GROUP)
        alike = codes[part, None] == codes[part]
        for key, scores in (("r", cosine[part, part]), ("b", cosine[part, part].T)):
            order = scores.argsort(1, descending=True)
            rank = alike.gather(1, order).float().argmax(1)
            found[f"{key}1"].append((rank < 1).float().mean().item())
            found[f"{key}5"].append((rank < 5).float().mean().item())
            if key == "r":
                ranks[part] = order[:, 0] + start
    rows = []
    for group, attribute, prompts, words, takes_part in word_groups(people.rows):
        wanted = torch.cat([guide.text_features(prompt) for prompt in prompts.values()])
        values = people.table[attribute].to_numpy()
        has = np.array([next((i for i, w in enumerate(words) if v in words[w]), -1) for v in values])
        index = np.flatnonzero((has >= 0) & takes_part)
        near = (F.normalize(pictures[index]) @ F.normalize(wanted).T).argmax(1).numpy()
        by_distance = torch.cdist(pictures[index], wanted).argmin(1).numpy()
        rows += [
            {
                "group": group,
                "attribute": attribute,
                "words": len(words),
                "truth": t,
                "cosine": t == a,
                "distance": t == b,
            }
            for t, a, b in zip(has[index], near, by_distance)
        ]
    told = [asked_for(caption(row, np.random.default_rng([80, i]))) for i, row in enumerate(people.rows)]
    zero_shot = []
    for group, part in pd.DataFrame(rows).groupby("group", sort=False):
        zero_shot.append(
            {
                "group": group,
                "words": part["words"].iloc[0],
                "faces": len(part),
                "by cosine": part["cosine"].mean(),
                "by the task's distance": part["distance"].mean(),
                "commonest word": part["truth"].value_counts(normalize=True).max(),
                "in captions": np.mean([part["attribute"].iloc[0] in asked for asked in told]),
            }
        )
    return {
        **{key: float(np.mean(values)) for key, values in found.items()},
        "groups": len(found["r1"]),
        "right": 100 * cosine.diagonal().clamp_min(0).mean().item(),
        "shuffled": 100 * cosine.roll(-1, 1).diagonal().clamp_min(0).mean().item(),
        "norm_image": pictures.norm(dim=1),
        "norm_text": texts.norm(dim=1),
        "zero_shot": pd.DataFrame(zero_shot),
        "retrieved": ranks.tolist(),
    }


# -- label maps --------------------------------------------------------------------------------------------------------


def measure_labels(network, people: People, name: str) -> tuple[dict, np.ndarray]:
    found = batched(lambda x: network(x).argmax(1), people.x, name)
    truth = torch.from_numpy(people.parts.astype(np.int64))
    confusion = torch.bincount((truth * len(PARTS) + found).flatten(), minlength=len(PARTS) ** 2)
    confusion = confusion.reshape(len(PARTS), -1).double()
    iou = confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())
    wide = truth[:, None].float()
    border = (F.max_pool2d(wide, 3, 1, 1) != -F.max_pool2d(-wide, 3, 1, 1))[:, 0]
    wrong = found != truth
    row = {
        "pixels right": 1 - wrong.float().mean().item(),
        **{f"IoU {part}": value for part, value in zip(PARTS, iou.tolist())},
        "mean IoU": iou.mean().item(),
        "mean IoU per face": mean_iou(found, truth, len(PARTS)).mean().item(),
        "worst face": mean_iou(found, truth, len(PARTS)).min().item(),
        "errors at a border": (wrong & border).sum().item() / max(wrong.sum().item(), 1),
        "pixels at a border": border.float().mean().item(),
    }
    return row, found.numpy().astype(np.uint8)


# -- attributes --------------------------------------------------------------------------------------------------------


def named(evaluator: AvatarEvaluator, x: Tensor, description: str) -> pd.DataFrame:
    """The evaluator's answers, as values."""
    parts = [evaluator.recognised(part) for part in tqdm(x.split(128), desc=description, unit="batch", leave=False)]
    found = {name: torch.cat([part[name] for part in parts]).tolist() for name in evaluator.values}
    return pd.DataFrame({name: [evaluator.values[name][i] for i in index] for name, index in found.items()})


def measure_attributes(
    answers: pd.DataFrame, truth: pd.DataFrame, seen: pd.DataFrame, training: pd.DataFrame, pool: ProcessPoolExecutor
) -> pd.DataFrame:
    """`seen`: pixels that another value moves; `training`: whether right, on training faces."""
    truth = truth.reset_index(drop=True)
    rows, faces = [], truth.to_dict("records")
    for name in answers:
        right, shown = answers[name] == truth[name], seen[name] > 0
        jobs = [(faces[i], name, answers[name][i]) for i in np.flatnonzero(~right)]
        errors = list(tqdm(pool.map(moved_by, jobs, chunksize=8), desc=f"errors, {name}", total=len(jobs), leave=False))
        mistakes = (answers[name][~right] + " for [" + truth[name][~right] + "]").value_counts()
        rows.append(
            {
                "attribute": name,
                "values": len(CHOICES[name]),
                "faces": len(right),
                "accuracy": right.mean(),
                "training faces": training[name].mean(),
                "seen": shown.mean(),
                "where seen": right[shown].mean(),
                "another value moves": seen[name][shown].median(),
                "errors": len(jobs),
                "a wrong answer moves": np.median(errors) if jobs else np.nan,
                "unseen errors": sum(n == 0 for n in errors),
                "mistake": mistakes.index[0] if jobs else "",
                "mistakes": mistakes.iloc[0] if jobs else 0,
                "hidden by": hidden_by(truth, ~shown, name),
                "weakest": weakest(truth, right, name),
                "commonest": truth[name].value_counts(normalize=True).max(),
            }
        )
    return pd.DataFrame(rows)


def hidden_by(truth: pd.DataFrame, hidden: pd.Series, name: str) -> str:
    """The values of other attributes on most of whose faces `name` is not seen."""
    found = []
    for other in CHOICES:
        shares = hidden.groupby(truth[other]).agg(["mean", "size"])
        if other != name:
            found += list(shares[(shares["mean"] > 0.5) & (shares["size"] >= FEW)].index)
    return ", ".join(found)


def weakest(truth: pd.DataFrame, right: pd.Series, name: str) -> tuple[str, float, int]:
    """The value of any attribute on whose faces `name` is answered worst: (words, accuracy, faces)."""
    shares = {}
    for other in CHOICES:
        for value, part in right.groupby(truth[other]):
            if len(part) >= FEW:
                shares[f"{other} {value}"] = (part.mean(), len(part))
    words = min(shares, key=lambda key: shares[key][0])
    return words, *shares[words]


def word_accuracy(answers: pd.DataFrame, rows: list[dict]) -> pd.DataFrame:
    found = []
    for group, attribute, _, words, takes_part in word_groups(rows):
        for i in np.flatnonzero(takes_part):
            values = next((v for v in words.values() if rows[i][attribute] in v), None)
            if values is not None:
                found.append({"word of": group, "right": answers[attribute][i] in values})
    shares = pd.DataFrame(found).groupby("word of", sort=False)["right"].agg(["size", "mean"]).reset_index()
    return shares.rename(columns={"size": "faces", "mean": "accuracy"})


def judged_words(evaluator: AvatarEvaluator, pixels: np.ndarray, captions: list[str]) -> tuple[float, float]:
    """Means of attribute_accuracy and all_attributes, as a run reports them."""
    cases = [Case(str(i), prompt=c) for i, c in enumerate(captions)]
    found = evaluator.measure(pixels, cases, SimpleNamespace(judged_as=("words",)))
    return float(np.mean(found["attribute_accuracy"])), float(np.mean(found["all_attributes"]))


def alike(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, ...] = JUDGED) -> np.ndarray:
    """Share of the judged attributes of a person that are found alike, per pair."""
    return (a[list(names)].to_numpy() == b[list(names)].to_numpy()).mean(1)


# -- Frechet distance --------------------------------------------------------------------------------------------------


def statistics(features: Tensor) -> dict[str, Tensor]:
    features = features.double()
    return {"mean": features.mean(0).float(), "covariance": torch.cov(features.T).float().contiguous()}


def features_of(evaluator: AvatarEvaluator, pixels: np.ndarray) -> Tensor:
    parts = np.array_split(pixels, max(len(pixels) // 256, 1))
    return torch.cat([evaluator.features(part) for part in tqdm(parts, desc="features", unit="batch", leave=False)])


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Means over 2x2 pixels, at the same size."""
    blocks = pixels.reshape(len(pixels), pixels.shape[1] // 2, 2, pixels.shape[2] // 2, 2, 3).mean((2, 4))
    return blocks.round().astype(np.uint8).repeat(2, 1).repeat(2, 2)


def write_statistics(path: Path, features: Tensor, seed: int) -> None:
    about = {
        "what": "mean and covariance of tasks.evaluator.AvatarEvaluator.features, for Frechet distances",
        "faces": f"{len(features)} of scripts/make_avatars.py, split test, seed {seed}, indices {REFERENCE.start} to {REFERENCE.stop - 1}",
        "attributes.safetensors": f"sha256 {file_hash(path.with_name('attributes.safetensors'))}",
        "written by": "scripts/guides_card.py",
    }
    partial_file = path.with_name(path.name + ".partial")
    save_file(
        statistics(features), partial_file, metadata={"about": json.dumps(about)}
    )  # one key: the same bytes again
    partial_file.chmod(0o644)
    partial_file.replace(path)


def measure_frechet(path: Path, sets: dict[str, Tensor]) -> pd.DataFrame:
    reference = {name: value.numpy() for name, value in load_file(path).items()}
    rows = []
    for name, features in sets.items():
        own = {key: value.numpy() for key, value in statistics(features).items()}
        distance = frechet_distance(own["mean"], own["covariance"], reference["mean"], reference["covariance"])
        rows.append({"faces": name, "number": len(features), "distance": f"{distance:.3f}"})
    return pd.DataFrame(rows)
