"""How well the embedded CLIP finds captions of images, images of captions, and single words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dsg.avatars64.captions import ALONE, CLOTHES, CLOTHES_COLORS, COLORED, HAIR, HAIR_COLORS, SKIN, asked_for, caption
from dsg.avatars64.guidance_card.identity import batched
from dsg.avatars64.guidance_card.people import People
from tasks.clip import CLIPNetwork

GROUP = 100  # captions that an image is looked for among
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


class WordGroup(NamedTuple):
    """Words of which at most one is true of a face.

    Attributes:
        attribute: that they speak of.
        prompts: of each word.
        words: the attribute's values that each word covers.
        takes_part: whether a face does, bool [N].
    """

    name: str
    attribute: str
    prompts: Mapping[str, str]
    words: Mapping[str, set[str]]
    takes_part: np.ndarray


def word_groups(rows: list[dict]) -> list[WordGroup]:
    """All of them, for faces with these attributes."""
    everybody = np.ones(len(rows), bool)
    groups = []
    for group, attribute, words, ask in (
        ("hair colour", "hair_color", HAIR_COLORS, "a person with {} hair"),
        ("kind of hair", "hair", HAIR, "a person with {} hair"),
        ("skin", "skin", SKIN, "a person with {} skin"),
        ("clothes", "clothing", CLOTHES, "a person wearing a {}"),
    ):
        groups.append(WordGroup(group, attribute, {w: ask.format(w) for w in words}, words, everybody))
    for group, attribute in (("facial hair", "facial_hair"), ("glasses", "accessory"), ("mouth", "mouth")):
        words = {w: values for w, (a, values) in ALONE.items() if a == attribute}
        groups.append(WordGroup(group, attribute, {w: ASK[w] for w in words}, words, everybody))
    for garment in COLORED:
        wears = np.array([row["clothing"] in CLOTHES[garment] for row in rows])
        prompts = {w: f"a person wearing a {w} {garment}" for w in CLOTHES_COLORS}
        groups.append(WordGroup("colour of clothes", "clothing_color", prompts, CLOTHES_COLORS, wears))
    return groups


@torch.no_grad()
def clip_metrics(network: CLIPNetwork, people: People, captions: list[str]) -> dict:
    """Retrieval, CLIP scores and zero-shot answers; `captions`: one of each face."""
    images = batched(network.image_features, people.x, "CLIP")
    texts = torch.cat([network.text_features(c) for c in tqdm(captions, desc="captions", leave=False)])
    cosine = F.normalize(images) @ F.normalize(texts).T
    return {
        **retrieval(cosine, captions),
        "right": 100 * cosine.diagonal().clamp_min(0).mean().item(),
        "shuffled": 100 * cosine.roll(-1, 1).diagonal().clamp_min(0).mean().item(),
        "norm_image": images.norm(dim=1),
        "norm_text": texts.norm(dim=1),
        "zero_shot": zero_shot(network, people, images),
    }


def retrieval(cosine: Tensor, captions: list[str]) -> dict:
    """Of images (r) and captions (b): how many find theirs, or an equal one, first or in the first five of a group."""
    said = [str(sorted((name, sorted(values)) for name, values in asked_for(c).items())) for c in captions]
    codes = torch.tensor(pd.factorize(np.array(said))[0])
    found = {"r1": [], "r5": [], "b1": [], "b5": []}
    first = torch.zeros(len(captions), dtype=torch.long)
    for start in range(0, len(captions) - GROUP + 1, GROUP):
        part = slice(start, start + GROUP)
        alike = codes[part, None] == codes[part]
        for key, scores in (("r", cosine[part, part]), ("b", cosine[part, part].T)):
            order = scores.argsort(1, descending=True)
            rank = alike.gather(1, order).float().argmax(1)
            found[f"{key}1"].append((rank < 1).float().mean().item())
            found[f"{key}5"].append((rank < 5).float().mean().item())
            if key == "r":
                first[part] = order[:, 0] + start
    means = {key: float(np.mean(values)) for key, values in found.items()}
    return {**means, "groups": len(found["r1"]), "retrieved": first.tolist()}


def zero_shot(network: CLIPNetwork, people: People, images: Tensor) -> pd.DataFrame:
    """Per group of words: how often the right word is nearest to a face's features [N, F]."""
    answers = pd.concat([_nearest_words(network, people, images, group) for group in word_groups(people.rows)])
    told = [asked_for(caption(row, np.random.default_rng([80, i]))) for i, row in enumerate(people.rows)]
    rows = []
    for group, part in answers.groupby("group", sort=False):
        rows.append(
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
    return pd.DataFrame(rows)


def _nearest_words(network: CLIPNetwork, people: People, images: Tensor, group: WordGroup) -> pd.DataFrame:
    wanted = torch.cat([network.text_features(prompt) for prompt in group.prompts.values()])
    values = people.table[group.attribute].to_numpy()
    has = np.array([next((i for i, w in enumerate(group.words) if v in group.words[w]), -1) for v in values])
    index = np.flatnonzero((has >= 0) & group.takes_part)
    by_cosine = (F.normalize(images[index]) @ F.normalize(wanted).T).argmax(1).numpy()
    by_distance = torch.cdist(images[index], wanted).argmin(1).numpy()
    return pd.DataFrame(
        {
            "group": group.name,
            "attribute": group.attribute,
            "words": len(group.words),
            "truth": has[index],
            "cosine": has[index] == by_cosine,
            "distance": has[index] == by_distance,
        }
    )
