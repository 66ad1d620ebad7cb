"""The faces of the card: people whom no training saw, second images of them, and images with one attribute changed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from dsg.avatars64.attributes import IDENTITY, VALUES, VARIATIONS, draw_attributes, split_of, variation
from dsg.avatars64.drawing import SIZE, render, render_parts
from dsg.types import to_tensor

FAINT = 8  # levels of 255: a pixel that differs by no more counts as the same


@dataclass
class People:
    """Held-out faces: attributes, and uint8 images, label maps, second images of the same people.

    Attributes:
        rows: the attributes, a mapping per face.
        x, again: the images and the second images, [N, 3, 64, 64] in [-1, 1].
    """

    table: pd.DataFrame
    first: np.ndarray
    parts: np.ndarray
    second: np.ndarray

    def __post_init__(self):
        self.rows: list[dict[str, str]] = self.table.to_dict("records")
        self.x: Tensor = to_tensor(self.first)
        self.again: Tensor = to_tensor(self.second)


def person(seed: int, index: int) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    """Attributes, image, label map and second image of face `index` of the test split."""
    row = draw_attributes(seed, "test", index)
    return row, render(row), render_parts(row), render(second(row, seed, index))


def second(row: dict, seed: int, index: int) -> dict:
    """The same person, drawn with another number than the training identities, whose draws would come again."""
    return variation(row, seed, index, VARIATIONS)


def neighbour(seed: int, name: str, index: int) -> tuple[dict, np.ndarray]:
    """The second image with another value of `name`; value "" and a black image where nobody like that is held out."""
    row = second(draw_attributes(seed, "test", index), seed, index)
    others = [{**row, name: value} for value in VALUES[name] if value != row[name]]
    others = [other for other in others if split_of(other) != "train"]
    if not others:
        return {"value": ""}, np.zeros((SIZE, SIZE, 3), np.uint8)
    other = others[np.random.default_rng([seed, 78, index]).integers(len(others))]
    return {"value": other[name]}, render(other)


def moved(row: dict, other: dict) -> int:
    """How many pixels tell the two drawings apart."""
    return int((np.abs(render(row).astype(int) - render(other)).max(-1) > FAINT).sum())


def changes(seed: int, index: int) -> tuple[dict]:
    """Of each attribute how many pixels another value moves, drawn at random."""
    row, rng = draw_attributes(seed, "test", index), np.random.default_rng([seed, 79, index])
    others = {name: str(rng.choice([v for v in values if v != row[name]])) for name, values in VALUES.items()}
    return ({name: moved(row, {**row, name: value}) for name, value in others.items()},)


def moved_by(job: tuple[dict, str, str]) -> int:
    """(attributes, name, value) -> how many pixels this value of the attribute moves."""
    row, name, value = job
    return moved(row, {**row, name: value})


def is_other_person(people: People) -> np.ndarray:
    """Whether face i and face i + 1 are two people, [N]."""
    key = people.table[list(IDENTITY)].agg("/".join, axis=1).to_numpy()
    return key != np.roll(key, -1)


def some_pairs(people: People, hard: dict, found: dict) -> list[tuple[str, float, bool, np.ndarray, np.ndarray]]:
    """Pairs of images for the figure, the first ones, not selected: (title, distance, told right, image, image).

    Three of the same person, three of two people, six with one attribute changed.

    Args:
        hard: attribute -> (indices of the people, second images with it changed).
        found: of `identity_metrics`.
    """
    pairs, threshold = [], found["threshold"]
    for i in range(6, 9):
        distance = found["same"][i]
        pairs.append(("same person", distance, distance <= threshold, people.first[i], people.second[i]))
    for i in np.flatnonzero(found["other"][:-1])[6:9]:
        distance = found["different"][i]
        pairs.append(("two people", distance, distance > threshold, people.first[i], people.second[i + 1]))
    for k, name in enumerate(("hair", "hair_color", "facial_hair", "skin", "nose", "nose")):
        (index, images), distance = hard[name], found["hard distances"][name][k]
        title = f"another {name.replace('_', ' ')}"
        pairs.append((title, distance, distance > threshold, people.first[index[k]], images[k]))
    return pairs
