"""The faces that scripts/guides_card.py measures on: people whom no training saw, their second pictures, and changed ones."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from make_avatars import CHOICES, IDENTITY, VARIATIONS, draw_attributes, render, render_parts, split_of, variation
from torch import Tensor

FAINT = 8  # levels of 255: a pixel that differs by no more counts as the same


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


def is_other_person(people: People) -> np.ndarray:
    """Whether face i and face i + 1 are two people: pairs (i, second picture of i + 1)."""
    key = people.table[list(IDENTITY)].agg("/".join, axis=1).to_numpy()
    return key != np.roll(key, -1)


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


def flat(pair: tuple) -> list:
    table, arrays = pair
    return [table, *arrays]
