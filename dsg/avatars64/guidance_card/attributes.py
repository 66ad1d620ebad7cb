"""How well evaluator and selector recognise attributes, people and words, and why not better."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dsg.avatars64.attributes import IDENTITY, VALUES
from dsg.avatars64.guidance_card.clip import word_groups
from dsg.avatars64.guidance_card.people import People, moved_by
from dsg.types import Input
from tasks.networks.evaluator import IDENTITY as COMPARED
from tasks.networks.evaluator import AvatarEvaluator

FEW = 20  # faces: shares of fewer are not told


def named(evaluator: AvatarEvaluator, x: Tensor, description: str) -> pd.DataFrame:
    """The answers of evaluator or selector on images [N, 3, 64, 64] in [-1, 1], as values."""
    parts = [evaluator.recognised(part) for part in tqdm(x.split(128), desc=description, unit="batch", leave=False)]
    found = {name: torch.cat([part[name] for part in parts]).tolist() for name in evaluator.values}
    return pd.DataFrame({name: [evaluator.values[name][i] for i in index] for name, index in found.items()})


def attribute_metrics(
    answers: pd.DataFrame, truth: pd.DataFrame, seen: pd.DataFrame, training: pd.DataFrame, pool: ProcessPoolExecutor
) -> pd.DataFrame:
    """A row per attribute.

    Args:
        seen: pixels that another value moves.
        training: whether the answers on training faces are right.
    """
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
                "values": len(VALUES[name]),
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
                "weakest": weakest(truth, right),
                "commonest": truth[name].value_counts(normalize=True).max(),
            }
        )
    return pd.DataFrame(rows)


def hidden_by(truth: pd.DataFrame, hidden: pd.Series, name: str) -> str:
    """The values of other attributes on most of whose faces `name` is not seen."""
    found = []
    for other in VALUES:
        shares = hidden.groupby(truth[other]).agg(["mean", "size"])
        if other != name:
            found += list(shares[(shares["mean"] > 0.5) & (shares["size"] >= FEW)].index)
    return ", ".join(found)


def weakest(truth: pd.DataFrame, right: pd.Series) -> tuple[str, float, int]:
    """The value of any attribute on whose faces the fewest answers are right: (words, accuracy, faces)."""
    shares = {}
    for other in VALUES:
        for value, part in right.groupby(truth[other]):
            if len(part) >= FEW:
                shares[f"{other} {value}"] = (part.mean(), len(part))
    words = min(shares, key=lambda key: shares[key][0])
    return words, *shares[words]


def word_accuracy(answers: pd.DataFrame, rows: list[dict]) -> pd.DataFrame:
    """Per group of words: how often the answer is among the values that the true word covers."""
    found = []
    for group in word_groups(rows):
        for i in np.flatnonzero(group.takes_part):
            values = next((v for v in group.words.values() if rows[i][group.attribute] in v), None)
            if values is not None:
                found.append({"word of": group.name, "right": answers[group.attribute][i] in values})
    shares = pd.DataFrame(found).groupby("word of", sort=False)["right"].agg(["size", "mean"]).reset_index()
    return shares.rename(columns={"size": "faces", "mean": "accuracy"})


def agreement(answers: pd.DataFrame, others: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """How often evaluator (`answers`) and selector (`others`) are right, agree, and err on the same faces.

    A row per attribute, and one for all of `COMPARED` together.
    """
    rows, truth = [], truth.reset_index(drop=True)
    for title, names in {**{name: [name] for name in answers}, "the four of a person": list(COMPARED)}.items():
        a, b = ((found[names] != truth[names]).any(axis=1) for found in (answers, others))
        same = (answers[names] == others[names]).all(axis=1)
        rows.append(
            {
                "attribute": title,
                "evaluator right": 1 - a.mean(),
                "selector right": 1 - b.mean(),
                "agree": same.mean(),
                "both wrong": (a & b).mean(),
                "if independent": a.mean() * b.mean(),
                "wrong alike": (a & b & same).mean(),
            }
        )
    return pd.DataFrame(rows)


def metrics_on_faces(
    evaluator: AvatarEvaluator, people: People, answers: pd.DataFrame, other: np.ndarray, captions: list[str]
) -> dict[str, float]:
    """What metrics say of perfect samples (the same person, the own caption), and of others.

    Args:
        answers: on the first images.
        other: whether face i and face i + 1 are two people.
    """
    again = named(evaluator, people.again, "attributes, again")
    same, different = alike(answers, again), alike(answers, again.apply(np.roll, shift=-1))[other]
    right = caption_accuracy(evaluator, people.first, captions)
    shuffled = caption_accuracy(evaluator, people.first, captions[1:] + captions[:1])
    return {
        "pairs_same": (same == 1).mean(),
        "pairs_different": (different == 1).mean(),
        "share_same": same.mean(),
        "share_different": different.mean(),
        "with_nose": (alike(answers, again, IDENTITY) == 1).mean(),
        "words_right": right[0],
        "all_words": right[1],
        "words_shuffled": shuffled[0],
        "all_words_shuffled": shuffled[1],
    }


def caption_accuracy(evaluator: AvatarEvaluator, images: np.ndarray, captions: list[str]) -> tuple[float, float]:
    """Means of attribute_accuracy and all_attributes, as a run reports them."""
    right = evaluator.right(images, [Input(str(i), prompt=c) for i, c in enumerate(captions)]).double()
    return right.mean().item(), (right == 1).double().mean().item()


def alike(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, ...] = COMPARED) -> np.ndarray:
    """Share of these attributes, by default those that `identity_attributes` compares, found alike, per pair."""
    return (a[list(names)].to_numpy() == b[list(names)].to_numpy()).mean(1)
