"""The card of the embedded guidance networks, evaluator and selector: each part returns what the template asks for."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from dsg import image_files as images
from dsg.avatars64.attributes import IDENTITY
from dsg.avatars64.captions import asked_for, caption
from dsg.avatars64.faces import DATA, drawn, face
from dsg.avatars64.guidance_card.attributes import (
    agreement,
    alike,
    attribute_metrics,
    metrics_on_faces,
    named,
    word_accuracy,
)
from dsg.avatars64.guidance_card.clip import GROUP, clip_metrics
from dsg.avatars64.guidance_card.figure import figure
from dsg.avatars64.guidance_card.frechet import REFERENCE, blurred, features_of, frechet_distances, write_statistics
from dsg.avatars64.guidance_card.identity import identity_metrics
from dsg.avatars64.guidance_card.labels import label_metrics
from dsg.avatars64.guidance_card.networks import FILES, Networks, sizes
from dsg.avatars64.guidance_card.people import FAINT, People, changes, neighbour, person, some_pairs
from dsg.avatars64.guidance_card.text import (
    agreement_reason,
    formatted,
    hard_reason,
    labels_reason,
    percent,
    reasons,
    spread,
    table_of,
    words_reason,
    zero_shot_reason,
)
from dsg.checkpoints import record_shipped
from dsg.files import write_text
from dsg.types import to_tensor
from tasks.networks.evaluator import IDENTITY as COMPARED
from tasks.networks.evaluator import AvatarEvaluator

FIRST = 1000  # index of the first person
OTHERS = range(6096, 6608)  # test faces whose Frechet distance is the floor
BESIDE = {
    "pairs_same": "`same_identity`, one person",
    "pairs_different": "`same_identity`, two people",
    "with_nose": "the same with the nose, one person",
    "share_same": "`identity_attributes`, one person",
    "share_different": "`identity_attributes`, two people",
    "words_right": "`attribute_accuracy`, own caption",
    "words_shuffled": "`attribute_accuracy`, another's",
    "all_words": "`all_attributes`, own caption",
    "all_words_shuffled": "`all_attributes`, another's",
}  # rows of the table of evaluator and selector


@dataclass
class Faces:
    """All that is drawn for the card; images are uint8.

    Attributes:
        people: who the numbers are of.
        hard: attribute -> (indices of the people, second images with it changed).
        seen: of each face and attribute, the pixels that another value moves.
        trained_on, known: attributes and images of training faces.
        reference, others: images for the Frechet distance.
    """

    people: People
    hard: dict[str, tuple[np.ndarray, np.ndarray]]
    seen: pd.DataFrame
    trained_on: pd.DataFrame
    known: np.ndarray
    reference: np.ndarray
    others: np.ndarray

    @cached_property
    def hard_tensors(self) -> dict[str, tuple[np.ndarray, Tensor]]:
        return {name: (index, to_tensor(pixels)) for name, (index, pixels) in self.hard.items()}


def draw_faces(seed: int, count: int, pool: ProcessPoolExecutor) -> Faces:
    """Of `count` people."""
    indices, hard = range(FIRST, FIRST + count), {}
    table, arrays = drawn(partial(person, seed), indices, "people", pool)
    for name in IDENTITY:
        others, (pixels,) = drawn(partial(neighbour, seed, name), indices, f"another {name}", pool)
        there = np.flatnonzero(others["value"] != "")
        hard[name] = (there, pixels[there])
    seen, _ = drawn(partial(changes, seed), indices, "what can be seen", pool)
    trained_on, (known,) = drawn(partial(face, seed, "train"), range(count), "training faces", pool)
    _, (reference,) = drawn(partial(face, seed, "test"), REFERENCE, "reference", pool)
    _, (others,) = drawn(partial(face, seed, "test"), OTHERS, "others", pool)
    return Faces(People(table, *arrays), hard, seen.reset_index(drop=True), trained_on, known, reference, others)


def write_card(
    folder: Path, out: Path, template: str, faces: Faces, trained: Mapping, seed: int, pool: ProcessPoolExecutor
) -> list[str]:
    """GUIDANCE.md, its figure, and the statistics for Frechet distances; returns their names.

    Args:
        folder: of the weights.
        out: of what is written.
        trained: network -> (minutes, steps) of its training.
    """
    networks, people = Networks(folder), faces.people
    out.mkdir(parents=True, exist_ok=True)
    captions = [caption(row, np.random.default_rng([seed, i]), keep=1.0) for i, row in enumerate(people.rows)]
    identity = identity_metrics(networks.identity, people, faces.hard_tensors)
    clip = clip_metrics(networks.clip, people, captions)
    labels = {who: label_metrics(network, people, who) for who, network in networks.labelling.items()}
    answers = {who: named(own, people.x, f"attributes, {who}") for who, own in networks.guide_nothing.items()}
    shares = {
        who: metrics_on_faces(own, people, answers[who], identity["other"], captions)
        for who, own in networks.guide_nothing.items()
    }
    retrieved, maps = [captions[i] for i in clip["retrieved"]], {who: found for who, (_, found) in labels.items()}
    pairs = some_pairs(people, faces.hard, identity)
    figure(out / "guidance.png", people, retrieved, answers["evaluator"], maps, pairs)
    statistics = out / "evaluator/statistics.safetensors"
    card = {
        **about_people(people),
        **about_identity(identity, faces.seen),
        **about_clip(clip),
        **about_labels({who: row for who, (row, _) in labels.items()}),
        **about_attributes(networks.evaluator, faces, answers["evaluator"], pool),
        **about_hard_pairs(networks.evaluator, faces, answers["evaluator"]),
        **about_words(people, captions, answers["evaluator"], clip["zero_shot"]),
        **{key: percent(share) for key, share in shares["evaluator"].items()},
        **about_selector(people, answers, shares),
        **about_frechet(statistics, networks, faces, seed),
        **about_files(networks, statistics, trained),
    }
    write_text(out / "GUIDANCE.md", template.format(**card))
    return ["GUIDANCE.md", "guidance.png", str(statistics.relative_to(out))]


# --- its parts


def about_files(networks: Networks, statistics: Path, trained: Mapping) -> dict:
    folder = networks.folder
    beside = {
        str(f.relative_to(folder)): f
        for f in sorted((folder / "clip").iterdir())
        if f.name != "model.safetensors" and f.is_file()
    }
    beside["evaluator/statistics.safetensors"] = statistics
    return {
        "total": sum((folder / f.path).stat().st_size for f in FILES.values()) / 1e6,
        "sizes": table_of(sizes(networks, trained)),
        "others": ",\n".join(f"`{name}` ({f.stat().st_size / 1000:.1f} kB)" for name, f in beside.items()),
    }


def about_people(people: People) -> dict:
    count = len(people.table)
    near, middle = 196 * (0.05 * 0.95 / count) ** 0.5, 196 * 0.5 / count**0.5
    return {
        "people": f"{count:,}",
        "first": FIRST,
        "last": FIRST + count - 1,
        "error_near": f"{near:.1f}",
        "error_middle": f"{middle:.0f}",
    }


def about_identity(found: dict, seen: pd.DataFrame) -> dict:
    different = found["different"][found["other"]]
    return {
        "same": spread(found["same"]),
        "different": spread(different),
        "pairs": f"{len(found['same']) + len(different):,}",
        "threshold": found["threshold"],
        "accuracy": percent(found["accuracy"]),
        "auc": found["auc"],
        "eer": percent(found["eer"]),
        "hard": formatted(found["hard"], {"distance": "{:.2f}"}),
        "hard_reason": hard_reason(found["hard"], seen),
    }


def about_clip(found: dict) -> dict:
    return {
        "group": GROUP,
        **{key: percent(found[key]) for key in ("r1", "r5", "b1", "b5")},
        "c1": percent(1 / GROUP, 0),
        "c5": percent(5 / GROUP, 0),
        **{key: found[key] for key in ("groups", "right", "shuffled")},
        **{key: spread(found[key]) for key in ("norm_image", "norm_text")},
        "zero_shot": formatted(found["zero_shot"]),
        "zero_shot_reason": zero_shot_reason(found["zero_shot"]),
    }


def about_labels(rows: dict[str, dict]) -> dict:
    table = pd.DataFrame([{"network": who, **row} for who, row in rows.items()])
    shown = table.drop(columns=["errors at a border", "pixels at a border"])
    return {"labels": formatted(shown, digits=2), "labels_reason": labels_reason(rows)}


def about_attributes(evaluator: AvatarEvaluator, faces: Faces, answers: pd.DataFrame, pool) -> dict:
    on_training = named(evaluator, to_tensor(faces.known), "attributes, training")
    on_training = pd.DataFrame({k: on_training[k] == faces.trained_on[k].to_numpy() for k in on_training})
    found = attribute_metrics(answers, faces.people.table, faces.seen, on_training, pool)
    told_below = ["faces", "errors", "unseen errors", "mistake", "mistakes", "hidden by", "weakest", "commonest"]
    counts = {name: f"{name} [pixels]" for name in ("another value moves", "a wrong answer moves")}
    table = found.drop(columns=told_below).rename(columns=counts)
    return {
        "faint": FAINT,
        "attributes": formatted(table, dict.fromkeys(counts.values(), "{:.0f}")),
        "all_right": percent((alike(answers, faces.people.table.reset_index(drop=True)) == 1).mean()),
        "all_right_train": percent(on_training[list(COMPARED)].all(axis=1).mean()),
        "reasons": reasons(found),
    }


def about_hard_pairs(evaluator: AvatarEvaluator, faces: Faces, answers: pd.DataFrame) -> dict:
    hard = {}
    for name, (index, pixels) in faces.hard_tensors.items():
        found = named(evaluator, pixels, f"another {name}")
        hard[name] = (alike(answers.iloc[index].reset_index(drop=True), found) == 1).mean()
    return {"pairs_hard": ", ".join(f"another {name} {percent(share)}" for name, share in hard.items())}


def about_words(people: People, captions: list[str], answers: pd.DataFrame, zero_shot: pd.DataFrame) -> dict:
    found = word_accuracy(answers, people.rows)
    return {
        "words": formatted(found),
        "words_reason": words_reason(found, zero_shot),
        "asked": float(np.mean([len(asked_for(c)) for c in captions])),
    }


def about_selector(people: People, answers: Mapping[str, pd.DataFrame], shares: Mapping[str, Mapping]) -> dict:
    """`shares`: of evaluator and selector, those of BESIDE among them."""
    found = agreement(answers["evaluator"], answers["selector"], people.table)
    rows = [{"share": title, **{who: own[key] for who, own in shares.items()}} for key, title in BESIDE.items()]
    return {
        "agreement": formatted(found),
        "agreement_reason": agreement_reason(found),
        "beside": formatted(pd.DataFrame(rows)),
    }


def about_frechet(path: Path, networks: Networks, faces: Faces, seed: int) -> dict:
    """Writes the statistics to `path`."""
    evaluator = networks.evaluator
    weights = networks.folder / FILES["attributes"].path
    write_statistics(path, features_of(evaluator, faces.reference), seed, weights)
    record_shipped(path)
    floor = features_of(evaluator, faces.others)
    shipped = np.stack(list(images.load(DATA / "test", 64).values()))
    indices = f"indices {OTHERS.start} to {OTHERS.stop - 1}"
    sets = {
        f"held out, {indices}": floor,
        f"of these the first {len(shipped)}": floor[: len(shipped)],
        "the repository's test faces, data/avatars64/test": features_of(evaluator, shipped),
        f"training faces, indices 0 to {len(OTHERS) - 1}": features_of(evaluator, faces.known[: len(OTHERS)]),
        f"{indices}, averaged over 2x2 pixels": features_of(evaluator, blurred(faces.others)),
    }
    return {
        "width": evaluator.attributes.width,
        "reference": f"{len(faces.reference):,}",
        "reference_first": REFERENCE.start,
        "reference_last": REFERENCE.stop - 1,
        "frechet": table_of(frechet_distances(path, sets)),
        "trace": load_file(path)["covariance"].trace().item(),
    }
