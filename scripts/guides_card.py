"""Write the card of the embedded guides and evaluators: checkpoints/avatars64/GUIDES.md and guides.png, and the evaluator's
statistics for Frechet distances, evaluator/statistics.safetensors.

    python scripts/guides_card.py          # about four minutes on two cores

Everything in the card is measured here, on faces of held-out identities that are rendered for it: `scripts/make_avatars.py`,
split `test`, from index 1000 on (the repository's 256 test faces are 0 to 255). Only the time and the steps of the trainings are told:
`--trained`.
"""

import argparse
import json
import textwrap
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from make_avatars import (
    CHOICES,
    IDENTITY,
    PARTS,
    VARIATIONS,
    draw_attributes,
    drawn,
    face,
    render,
    render_parts,
    split_of,
    variation,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from train_guides import IDENTITY_LAYOUT

from dsg import images
from dsg.checkpoints import REPOSITORY, file_hash
from dsg.metrics import frechet_distance
from dsg.results import write_text
from tasks.captions import ALONE, CLOTHES, CLOTHES_COLORS, COLORED, HAIR, HAIR_COLORS, SKIN, asked_for, caption
from tasks.clip import load_clip
from tasks.evaluator import IDENTITY as JUDGED
from tasks.evaluator import AvatarEvaluator
from tasks.irse import load_irse
from tasks.parts import load_parts
from tasks.segmentation import colored, mean_iou
from tasks.semantic import Case

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

FIRST = 1000  # of the people measured on
REFERENCE, OTHERS = range(2000, 6096), range(6096, 6608)  # faces of the statistics, and of their floor
GROUP = 100  # captions that a picture is looked for among
AIM = 0.95
FAINT = 8  # levels of 255: a pixel that differs by no more counts as the same
FEW = 20  # faces: shares of fewer are not told
TRAINED = "identity=23:1740 clip=33:1811 parts=8:950 attributes=37:3137 labels=8:2729"
FILES = {  # of each network: its file, what it is, what it was trained on
    "identity": ("identity.safetensors", "guide of `faceid`: IR-SE, ArcFace's loss", "identities"),
    "clip": ("clip/model.safetensors", "guide of `clip_text`, `style`: CLIP, ViT and text transformer", "train"),
    "parts": ("parts.safetensors", "guide of `segmentation`: U-Net", "identities"),
    "attributes": ("evaluator/attributes.safetensors", "evaluator of identity, words, style: DenseNet", "train"),
    "labels": ("evaluator/labels.safetensors", "evaluator of label maps: dilated convolutions", "identities"),
}
SEEDS = {"attributes": 1000, "labels": 1000}  # the others: 0
DATA = {"identities": "32,768 of 2,048 people", "train": "40,960"}
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
CARD = """# avatars64: the embedded guides and evaluators

Written by `python scripts/guides_card.py`; every number and picture here is measured by it, but for the time and steps of the trainings.

**What.** Five small networks on vector-drawn faces at 64x64, fp16 in safetensors, {total:.1f} MB together. Three guide the semantic tasks, two
judge what came out. No evaluator has the architecture, the seed or the weights of a guide; but all were trained on the same
renderings, so what the drawings never show none of them has learned. They say nothing about photographs.

{sizes}

Beside the weights: {others}.

**Data and licence.** Faces drawn by [python-avatars](https://github.com/ibonn/python_avatars) (MIT licence; its drawings follow Pablo
Stanley's "Avataaars", free for personal and commercial use), rendered by `scripts/make_avatars.py`, seed 0, with their attributes and
label maps. Training faces are of the identities that a hash puts in `train`. The weights carry the repository's MIT licence.

**Training.** `python scripts/train_guides.py <name> --minutes <minutes>`: AdamW with warm-up and cosine, gradient norm clipped at 1, bf16 autocast,
half of the faces blurred or noisy; one CPU core each, stopped by the clock, not by convergence. `attributes` was resumed after 26 minutes, which raised
its learning rate again, and finished with the loss of the nose counted three times.

**Measured on** {people} people of `test` identities, which no training saw (indices {first} to {last}; the repository's 256 test faces are others), in
two pictures each: expression, glasses, clothes and background are drawn again. "Faces" below are the first pictures. {error_bar}

![guides](guides.png)

## Identity guide

Distances |f - f'| (0 to 2) between two pictures. Two of the same person: {same}; of two people: {different}. With the threshold that is best on half
of the {pairs} pairs ({threshold:.2f}), {accuracy} of the other half are told right. AUC {auc:.5f}, equal error rate {eer}.

Hard pairs: the second picture once more, with a single attribute of the person changed (to a person who is held out as well) and all
else as it was.

{hard}

{hard_reason}

## CLIP

Captions say all that can be said (`caption(..., keep=1.0)`). Among {group} captions of {group} faces a picture finds its own, or one that says the same, first
in {r1}, in the first five in {r5} (by chance {c1} and {c5}); a caption finds its picture first in {b1}, in the first five in {b5}
(means of {groups} groups).

CLIP score, 100 max(cos, 0): {right:.1f} for the right caption, {shuffled:.1f} for another face's. Length of the features: pictures {norm_image}, captions {norm_text}
(the task's distance is between unnormalised features, and the training asks for 10).

Zero-shot, among the words of a table in `tasks/captions.py`, on faces for which the table has a word. Prompts: "a person with red hair", "a
smiling person". `commonest word`: always answering it. `in captions`: how many captions, made as for its training (`keep=0.6`), say anything of it.

{zero_shot}

{zero_shot_reason}

## Label maps: the guide and the evaluator

Against the rendered maps. IoU over all pixels of all faces; `mean IoU per face` is what `miou` and `guide_miou` report.

{labels}

{labels_reason}

## Attributes: the evaluator

A pixel moves if a channel of it changes by more than {faint} of 255 levels. `seen`: drawing another value, taken at random, moves a pixel; the face
counts for `where seen`. `another value moves`, `a wrong answer moves`: how many of the 4,096 pixels move, in the median, if a random other value, or the evaluator's
wrong answer, is drawn instead of the truth.

{attributes}

Skin, hair, hair colour and facial hair, all four, right: {all_right}. On training faces: {all_right_train}.

{reasons}

**Same person.** `same_identity` asks that the evaluator finds skin, hair, hair colour and facial hair alike in two pictures; the nose, the fifth, it
cannot tell: with it, one person would be found the same in {with_nose} of the pairs. It says so of {verdict_same} of the pairs of one person (the
ceiling of `same_identity` on perfect samples) and of {verdict_different} of the pairs of two people (the floor). Of hard pairs: {verdict_hard}.
`identity_attributes`, the share of the four, is {share_same} for one person, {share_different} for two. Read a run's numbers against these, not against 100 % and 0 %.

**Words.** An answer counts if it is among the values that the word covers.

{words}

{words_reason}

With all that the full caption says of a face ({asked:.1f} attributes in the mean), `attribute_accuracy` is {words_right}, and {words_shuffled} with another face's caption;
`all_attributes` is {all_words} and {all_words_shuffled}.

## Frechet distance

`evaluator/statistics.safetensors` holds mean and covariance (float32) of the attribute evaluator's {width} features over {reference} held-out faces (indices
{reference_first} to {reference_last}). Distance to them (`dsg.metrics.frechet_distance`), of real faces:

{frechet}

Few faces make it larger, whatever their quality (the trace of the covariance is {trace:.1f}): compare sets of the same size only. The evaluator was trained on
blurred and noisy faces too, and forgives what the last row shows. It is a distance in this evaluator's features, not the
FID of Inception's.
"""


@dataclass
class People:
    """Held-out faces: attributes, and uint8 pictures, label maps, second pictures of the same people."""

    table: pd.DataFrame
    first: np.ndarray
    parts: np.ndarray
    second: np.ndarray

    def __post_init__(self):
        self.rows = self.table.to_dict("records")
        self.x, self.again = tensor(self.first), tensor(self.second)


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def person(seed: int, index: int) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    row = draw_attributes(seed, "test", index)
    return row, render(row), render_parts(row), render(second(row, seed, index))


def second(row: dict, seed: int, index: int) -> dict:
    """Another number than those of the training identities, whose expressions and backgrounds would come again."""
    return variation(row, seed, index, VARIATIONS)


def neighbour(seed: int, name: str, index: int) -> tuple[dict, np.ndarray]:
    """The second picture with another value of `name`; value "" and no picture where nobody like that is held out."""
    row = second(draw_attributes(seed, "test", index), seed, index)
    others = [{**row, name: value} for value in CHOICES[name] if value != row[name]]
    others = [other for other in others if split_of(other) != "train"]
    if not others:
        return {"value": ""}, np.zeros((64, 64, 3), np.uint8)
    other = others[np.random.default_rng([seed, 78, index]).integers(len(others))]
    return {"value": other[name]}, render(other)


def moved(row: dict, other: dict) -> int:
    """How many pixels tell the two drawings apart."""
    return int((np.abs(render(row).astype(int) - render(other)).max(-1) > FAINT).sum())


def changes(seed: int, index: int) -> tuple[dict]:
    """Pixels moved by another value, drawn at random, of each attribute."""
    row, rng = draw_attributes(seed, "test", index), np.random.default_rng([seed, 79, index])
    others = {name: str(rng.choice([v for v in values if v != row[name]])) for name, values in CHOICES.items()}
    return ({name: moved(row, {**row, name: value}) for name, value in others.items()},)


def moved_by(job: tuple[dict, str, str]) -> int:
    row, name, value = job
    return moved(row, {**row, name: value})


@torch.no_grad()
def batched(network, x: Tensor, description: str) -> Tensor:
    return torch.cat([network(part) for part in tqdm(x.split(64), desc=description, unit="batch", leave=False)])


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def spread(values) -> str:
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.2f} +- {values.std():.2f}"


def table_of(frame: pd.DataFrame, **options) -> str:
    return frame.to_markdown(index=False, disable_numparse=True, **options)


# -- identity ---------------------------------------------------------------------------------------------------------


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


def is_other_person(people: People) -> np.ndarray:
    """Whether face i and face i + 1 are two people: pairs (i, second picture of i + 1)."""
    key = people.table[list(IDENTITY)].agg("/".join, axis=1).to_numpy()
    return key != np.roll(key, -1)


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


def hard_reason(hard: pd.DataFrame, seen: pd.DataFrame) -> str:
    """What the hard pairs say: the attributes by how well they are told, beside how many pixels they move."""
    ordered = hard.sort_values("the same person is nearer", ascending=False)
    told = ", ".join(f"{r['changed']} ({seen[r['changed']].median():.0f})" for r in ordered.to_dict("records"))
    text = f"From the best told to the worst, with the pixels that the change moves in the median: {told}."
    weak = [r for r in ordered.to_dict("records") if r["the same person is nearer"] < AIM]
    if weak:
        names = " and ".join(f"{r['changed']} ({percent(r['the same person is nearer'])})" for r in weak)
        text += f" Below {percent(AIM, 0)}: {names}; as a guide it will hardly pull a sample to the right one."
    return text


# -- CLIP -------------------------------------------------------------------------------------------------------------


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
        "norm_image": spread(pictures.norm(dim=1)),
        "norm_text": spread(texts.norm(dim=1)),
        "zero_shot": pd.DataFrame(zero_shot),
        "retrieved": ranks.tolist(),
    }


def zero_shot_reason(zero_shot: pd.DataFrame) -> str:
    weak = zero_shot[zero_shot["by cosine"] < AIM].sort_values("by cosine")
    if weak.empty:
        return f"All are above {percent(AIM, 0)}."
    names = ", ".join(f"{r['group']} ({percent(r['by cosine'])})" for r in weak.to_dict("records"))
    return (
        f"Below {percent(AIM, 0)}, the weakest first: {names}. A sample that this guide is content with may miss such a word; what counts is the "
        "evaluator's `attribute_accuracy`."
    )


# -- label maps -------------------------------------------------------------------------------------------------------


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


def labels_reason(rows: dict[str, dict]) -> str:
    at = " and ".join(f"{percent(row['errors at a border'])} of the {who}'s" for who, row in rows.items())
    share = next(iter(rows.values()))["pixels at a border"]
    return (
        f"Of the wrong pixels, {at} touch a border of two parts in the rendered map (as do {percent(share)} of all pixels): there the picture is "
        "antialiased and the map is not."
    )


# -- attributes -------------------------------------------------------------------------------------------------------


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


def reasons(measured: pd.DataFrame) -> str:
    """A line for every attribute below the aim: why, as far as the measured numbers say."""
    weak = measured[measured["accuracy"] < AIM].sort_values("accuracy").to_dict("records")
    if not weak:
        return f"All attributes are above {percent(AIM, 0)}."
    lines = [f"Below {percent(AIM, 0)}, the aim, the worst first; `[value]` is the true one:", ""]
    return "\n".join(lines + [f"- **{r['attribute']}, {percent(r['accuracy'])}.** {reason(r)}" for r in weak])


def reason(r: dict) -> str:
    said = []
    if r["accuracy"] < r["commonest"] + 0.05:  # a guess
        said.append(f"Hardly better than always answering the commonest value ({percent(r['commonest'])}).")
    if r["seen"] < 0.99 and r["unseen errors"]:
        by = f", most under {r['hidden by']}" if r["hidden by"] else ""
        said.append(
            f"Hidden on {percent(1 - r['seen'])} of the faces{by}: {r['unseen errors']} of the {r['errors']} errors are answers that draw the same "
            f"picture; {percent(r['where seen'])} where seen."
        )
    if r["where seen"] >= AIM:
        said.append("That explains it.")
    else:
        size = f"another value moves {r['another value moves']:.0f} of 4,096 pixels"
        near = f"a wrong answer {r['a wrong answer moves']:.0f}"
        alike_values = r["a wrong answer moves"] < 0.6 * r["another value moves"]
        said.append(
            f"{'Tiny' if r['another value moves'] < 100 else 'Not tiny'}: {size}, {near}"
            + (", so it mistakes values that look alike." if alike_values else ".")
        )
        gap, share = r["training faces"] - r["accuracy"], percent(r["training faces"])
        if gap > 2 * (2 * r["accuracy"] * (1 - r["accuracy"]) / r["faces"]) ** 0.5:
            said.append(f"On training faces {share}: {100 * gap:.1f} points do not carry over to new people.")
        else:
            said.append(f"On training faces {share}, the same within the error: not memorised, but too little learned.")
    words, share, count = r["weakest"]
    if share < r["accuracy"] - 0.1:
        said.append(f"Worst with {words} ({percent(share)} of {count} faces).")
    said.append(f"Commonest error: {r['mistake']}, {r['mistakes']} of {r['errors']}.")
    return " ".join(said)


def word_accuracy(answers: pd.DataFrame, rows: list[dict]) -> pd.DataFrame:
    found = []
    for group, attribute, _, words, takes_part in word_groups(rows):
        for i in np.flatnonzero(takes_part):
            values = next((v for v in words.values() if rows[i][attribute] in v), None)
            if values is not None:
                found.append({"word of": group, "right": answers[attribute][i] in values})
    shares = pd.DataFrame(found).groupby("word of", sort=False)["right"].agg(["size", "mean"]).reset_index()
    return shares.rename(columns={"size": "faces", "mean": "accuracy"})


def words_reason(judged: pd.DataFrame, zero_shot: pd.DataFrame) -> str:
    weak = judged[judged["accuracy"] < AIM]
    if weak.empty:
        return f"All are above {percent(AIM, 0)}."
    by_guide = zero_shot.set_index("group")["by cosine"]
    names = ", ".join(
        f"{group} (the guide, which chooses among these words only, an easier question: {percent(by_guide[group])})"
        for group in weak["word of"]
    )
    return f"Below {percent(AIM, 0)}, for the reasons of the attribute, above: {names}."


def judged_words(evaluator: AvatarEvaluator, pixels: np.ndarray, captions: list[str]) -> tuple[float, float]:
    """Means of attribute_accuracy and all_attributes, as a run reports them."""
    cases = [Case(str(i), prompt=c) for i, c in enumerate(captions)]
    found = evaluator.measure(pixels, cases, SimpleNamespace(judged_as=("words",)))
    return float(np.mean(found["attribute_accuracy"])), float(np.mean(found["all_attributes"]))


def alike(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, ...] = JUDGED) -> np.ndarray:
    """Share of the judged attributes of a person that are found alike, per pair."""
    return (a[list(names)].to_numpy() == b[list(names)].to_numpy()).mean(1)


# -- Frechet distance -------------------------------------------------------------------------------------------------


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


# -- the picture ------------------------------------------------------------------------------------------------------


def figure(path: Path, people: People, retrieved: list[str], answers: pd.DataFrame, maps: dict, pairs: list) -> None:
    """Captions and attributes of the first faces; label maps; pairs with their distances."""
    fig = plt.figure(figsize=(13, 12.6), facecolor="white")
    top, middle, bottom = fig.subfigures(3, 1, height_ratios=[5.1, 4.4, 3.1])
    draw_words(top, people, retrieved, answers)
    draw_maps(middle, people, maps)
    draw_pairs(bottom, pairs)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def show(ax, pixels: np.ndarray) -> None:
    ax.imshow(pixels, interpolation="nearest")
    ax.set_xticks([]), ax.set_yticks([])
    for side in ax.spines.values():
        side.set_color("0.8")


def heading(part, text: str) -> None:
    part.text(0.012, 0.985, text, fontsize=11, weight="bold", va="top")


def draw_words(part, people: People, retrieved: list[str], answers: pd.DataFrame, count: int = 5) -> None:
    heading(
        part,
        f"CLIP: the caption found first among {GROUP}.  Evaluator: the attributes it recognises (red: wrong, with [the true one])",
    )
    axes = part.subplots(1, count)
    part.subplots_adjust(0.012, 0.5, 0.988, 0.93, wspace=0.1)
    for i, ax in enumerate(axes):
        show(ax, people.first[i])
        lines = textwrap.wrap(retrieved[i], 38)
        ax.text(0, -0.05, "\n".join(lines), transform=ax.transAxes, fontsize=8, style="italic", va="top")
        for k, name in enumerate(answers):
            wrong = answers[name][i] != people.rows[i][name]
            text = f"{name.replace('_', ' ')}: {answers[name][i].replace('_', ' ').lower()}"
            text += f"  [{people.rows[i][name].replace('_', ' ').lower()}]" if wrong else ""
            color = "tab:red" if wrong else "0.25"
            ax.text(0, -0.33 - 0.073 * k, text, transform=ax.transAxes, fontsize=7.2, va="top", color=color)


def draw_maps(part, people: People, maps: dict[str, np.ndarray], count: int = 12) -> None:
    heading(part, "Label maps: rendered, by the guide, by the evaluator (black: wrong pixels)")
    axes = part.subplots(4, count)
    part.subplots_adjust(0.052, 0.01, 0.988, 0.93, wspace=0.04, hspace=0.04)
    truth = people.parts
    for i in range(count):
        show(axes[0, i], people.first[i])
        show(axes[1, i], colored(truth[i], len(PARTS)))
        for ax, found in zip(axes[2:, i], maps.values()):
            picture = colored(found[i], len(PARTS))
            picture[found[i] != truth[i]] = 0
            show(ax, picture)
    for ax, name in zip(axes[:, 0], ("face", "rendered", *maps)):
        ax.set_ylabel(name, fontsize=8)


def draw_pairs(part, pairs: list[tuple[str, float, bool, np.ndarray, np.ndarray]], columns: int = 6) -> None:
    heading(part, "Identity guide: distance of two pictures (green: told right at the threshold, red: wrong)")
    axes = part.subplots(2, columns)
    part.subplots_adjust(0.012, 0.01, 0.988, 0.86, wspace=0.06, hspace=0.12)
    for ax, (name, distance, right, a, b) in zip(axes.flat, pairs):
        show(ax, np.concatenate([a, np.full((64, 3, 3), 255, np.uint8), b], 1))
        ax.set_title(f"{name}: {distance:.2f}", fontsize=8.5, color="tab:green" if right else "tab:red", pad=3)


# -- the card ---------------------------------------------------------------------------------------------------------


def sizes(folder: Path, networks: dict, trained: dict[str, tuple[float, int]]) -> pd.DataFrame:
    rows = []
    for name, (file, what, data) in FILES.items():
        minutes, steps = trained[name]
        rows.append(
            {
                "file": f"`{file}`",
                "network": what,
                "parameters": f"{sum(p.numel() for p in networks[name].parameters()) / 1e6:.2f} M",
                "MB": f"{(folder / file).stat().st_size / 1e6:.2f}",
                "training faces": DATA[data],
                "seed": SEEDS.get(name, 0),
                "minutes": f"{minutes:g}",
                "steps": f"{steps:,}" if steps else "?",
            }
        )
    return pd.DataFrame(rows)


def read_trained(words: list[str]) -> dict[str, tuple[float, int]]:
    trained = {}
    for word in words:
        name, _, numbers = word.partition("=")
        minutes, _, steps = numbers.partition(":")
        trained[name] = (float(minutes), int(steps or 0))
    missing = [name for name in FILES if name not in trained]
    if missing:
        raise SystemExit(f"--trained: nothing on {', '.join(missing)} (name=minutes:steps)")
    return trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / "checkpoints/avatars64", help="weights, and the card"
    )
    parser.add_argument("--trained", nargs="+", default=TRAINED.split(), metavar="name=minutes:steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes that render (default: all cores)")
    args = parser.parse_args()
    if args.people < GROUP:
        parser.error(f"--people: at least {GROUP}")
    folder, seed, trained = args.folder, args.seed, read_trained(args.trained)
    warnings.filterwarnings("ignore", category=UserWarning)
    with ProcessPoolExecutor(args.workers) as pool:
        indices = range(FIRST, FIRST + args.people)
        people = People(*_flat(drawn(partial(person, seed), indices, "people", pool)))
        hard = {}
        for name in IDENTITY:
            table, (pictures,) = drawn(partial(neighbour, seed, name), indices, f"another {name}", pool)
            there = np.flatnonzero(table["value"] != "")
            hard[name] = (there, pictures[there])
        seen, _ = drawn(partial(changes, seed), indices, "what can be seen", pool)
        seen = seen.reset_index(drop=True)
        trained_on, (known,) = drawn(partial(face, seed, "train"), range(args.people), "training faces", pool)
        _, (reference,) = drawn(partial(face, seed, "test"), REFERENCE, "reference", pool)
        _, (others,) = drawn(partial(face, seed, "test"), OTHERS, "others", pool)
        card = measure(folder, people, hard, seen, trained_on, known, reference, others, trained, seed, pool)
    write_text(folder / "GUIDES.md", CARD.format(**card))
    print(f"{folder}: GUIDES.md, guides.png, evaluator/statistics.safetensors")


def _flat(pair: tuple) -> list:
    table, arrays = pair
    return [table, *arrays]


def measure(folder, people, hard, seen, trained_on, known, reference, others, trained, seed, pool) -> dict:
    """All that the card says; writes the picture and the statistics."""
    identity = load_irse(str(folder / "identity.safetensors"), "avatars64", **IDENTITY_LAYOUT)
    clip, parts = load_clip(str(folder / "clip")), load_parts(str(folder / "parts.safetensors"))
    evaluator = AvatarEvaluator(str(folder / "evaluator"))
    networks = {
        "identity": identity, "clip": clip.clip, "parts": parts, "attributes": evaluator.attributes, "labels": evaluator.labels,
    }  # fmt: skip
    size = sizes(folder, networks, trained)
    beside = [f for f in sorted((folder / "clip").iterdir()) if f.name != "model.safetensors" and f.is_file()]
    faces = measure_identity(identity, people, {name: (i, tensor(pictures)) for name, (i, pictures) in hard.items()})
    captions = [caption(row, np.random.default_rng([seed, i]), keep=1.0) for i, row in enumerate(people.rows)]
    words = measure_clip(clip, people, captions)
    rows, maps = {}, {}
    for who, network in (("guide", parts), ("evaluator", evaluator.labels)):
        rows[who], maps[who] = measure_labels(network, people, who)
    label_table = pd.DataFrame([{"": who, **row} for who, row in rows.items()])

    answers, again = named(evaluator, people.x, "attributes"), named(evaluator, people.again, "attributes, again")
    on_training = named(evaluator, tensor(known), "attributes, training")
    on_training = pd.DataFrame({k: on_training[k] == trained_on[k].to_numpy() for k in on_training})
    attributes = measure_attributes(answers, people.table, seen, on_training, pool)
    same, different = alike(answers, again), alike(answers, again.apply(np.roll, shift=-1))[faces["other"]]
    verdicts = {}
    for name, (index, pictures) in hard.items():
        pair = answers.iloc[index].reset_index(drop=True), named(evaluator, tensor(pictures), f"another {name}")
        verdicts[name] = (alike(*pair) == 1).mean()
    truth, judged = people.table.reset_index(drop=True), word_accuracy(answers, people.rows)
    right = judged_words(evaluator, people.first, captions)
    shuffled = judged_words(evaluator, people.first, captions[1:] + captions[:1])

    statistics_file = folder / "evaluator/statistics.safetensors"
    write_statistics(statistics_file, features_of(evaluator, reference), seed)
    floor = features_of(evaluator, others)
    committed = np.stack([p.pixels for p in images.load(REPOSITORY / "data/avatars64/test", 64)])
    frechet = measure_frechet(
        statistics_file,
        {
            f"held out, indices {OTHERS.start} to {OTHERS.stop - 1}": floor,
            f"of these the first {len(committed)}": floor[: len(committed)],
            "the repository's test faces, data/avatars64/test": features_of(evaluator, committed),
            f"training faces, indices 0 to {len(OTHERS) - 1}": features_of(evaluator, known[: len(OTHERS)]),
            f"indices {OTHERS.start} to {OTHERS.stop - 1}, averaged over 2x2 pixels": features_of(
                evaluator, blurred(others)
            ),
        },
    )
    figure(
        folder / "guides.png",
        people,
        [captions[i] for i in words["retrieved"]],
        answers,
        maps,
        some_pairs(people, hard, faces),
    )
    count = len(people.table)
    return {
        "total": sum((folder / file).stat().st_size for file, *_ in FILES.values()) / 1e6,
        "sizes": table_of(size),
        "others": ", ".join(f"`clip/{f.name}` ({f.stat().st_size / 1000:.1f} kB)" for f in beside)
        + f", `evaluator/statistics.safetensors` ({statistics_file.stat().st_size / 1000:.0f} kB)",
        "people": f"{count:,}",
        "first": FIRST,
        "last": FIRST + count - 1,
        "error_bar": f"A share of {count:,} faces is known to about {196 * (0.05 * 0.95 / count) ** 0.5:.1f} points near 95 %, {196 * 0.5 / count**0.5:.0f} near 50 % "
        "(95 % interval).",
        "same": spread(faces["same"]),
        "different": spread(faces["different"][faces["other"]]),
        "pairs": f"{count + faces['other'].sum():,}",
        "threshold": faces["threshold"],
        "accuracy": percent(faces["accuracy"]),
        "auc": faces["auc"],
        "eer": percent(faces["eer"]),
        "hard": formatted(faces["hard"], {"distance": "{:.2f}"}),
        "hard_reason": hard_reason(faces["hard"], seen),
        "group": GROUP,
        **{key: percent(words[key]) for key in ("r1", "r5", "b1", "b5")},
        "c1": percent(1 / GROUP, 0),
        "c5": percent(5 / GROUP, 0),
        **{key: words[key] for key in ("groups", "right", "shuffled", "norm_image", "norm_text")},
        "zero_shot": formatted(words["zero_shot"]),
        "zero_shot_reason": zero_shot_reason(words["zero_shot"]),
        "labels": formatted(label_table.drop(columns=["errors at a border", "pixels at a border"]), digits=2),
        "labels_reason": labels_reason(rows),
        "faint": FAINT,
        "attributes": formatted(
            attributes.drop(
                columns=["faces", "errors", "unseen errors", "mistake", "mistakes", "hidden by", "weakest", "commonest"]
            ),
            {"another value moves": "{:.0f}", "a wrong answer moves": "{:.0f}"},
        ),
        "all_right": percent((alike(answers, truth) == 1).mean()),
        "all_right_train": percent(on_training[list(JUDGED)].all(axis=1).mean()),
        "reasons": reasons(attributes),
        "verdict_same": percent((same == 1).mean()),
        "verdict_different": percent((different == 1).mean()),
        "verdict_hard": ", ".join(f"another {name} {percent(share)}" for name, share in verdicts.items()),
        "share_same": percent(same.mean()),
        "share_different": percent(different.mean()),
        "with_nose": percent((alike(answers, again, IDENTITY) == 1).mean()),
        "words": formatted(judged),
        "words_reason": words_reason(judged, words["zero_shot"]),
        "asked": float(np.mean([len(asked_for(c)) for c in captions])),
        "words_right": percent(right[0]),
        "words_shuffled": percent(shuffled[0]),
        "all_words": percent(right[1]),
        "all_words_shuffled": percent(shuffled[1]),
        "width": evaluator.attributes.width,
        "reference": f"{len(reference):,}",
        "reference_first": REFERENCE.start,
        "reference_last": REFERENCE.stop - 1,
        "frechet": table_of(frechet),
        "trace": load_file(statistics_file)["covariance"].trace().item(),
    }


def formatted(frame: pd.DataFrame, formats: dict[str, str] | None = None, digits: int = 1) -> str:
    """Shares in percent, counts as they are."""
    out = frame.astype(object)
    for name in frame:
        if name in (formats or {}):
            out[name] = ["-" if pd.isna(v) else formats[name].format(v) for v in frame[name]]
        elif pd.api.types.is_float_dtype(frame[name]):
            out[name] = [percent(v, digits) for v in frame[name]]
    return table_of(out)


def some_pairs(people: People, hard: dict, faces: dict) -> list:
    """Three pairs of the same person, three of two people, six with one attribute changed; the first ones, not selected."""
    pairs, threshold = [], faces["threshold"]
    for i in range(6, 9):
        distance = faces["same"][i]
        pairs.append(("same person", distance, distance <= threshold, people.first[i], people.second[i]))
    for i in np.flatnonzero(faces["other"][:-1])[6:9]:
        distance = faces["different"][i]
        pairs.append(("two people", distance, distance > threshold, people.first[i], people.second[i + 1]))
    for k, name in enumerate(("hair", "hair_color", "facial_hair", "skin", "nose", "nose")):
        (index, pictures), distance = hard[name], faces["hard distances"][name][k]
        title = f"another {name.replace('_', ' ')}"
        pairs.append((title, distance, distance > threshold, people.first[index[k]], pictures[k]))
    return pairs


if __name__ == "__main__":
    main()
