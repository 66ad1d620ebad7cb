"""Write the card of the embedded guides and evaluators: checkpoints/avatars64/GUIDES.md and guides.png, and the evaluator's
statistics for Frechet distances, evaluator/statistics.safetensors.

    python scripts/guides_card.py          # about four minutes on two cores

Everything in the card is measured here, on faces of held-out identities that are rendered for it: `scripts/make_avatars.py`,
split `test`, from index 1000 on (the repository's 256 test faces are 0 to 255). Only the time and the steps of the trainings are told:
`--trained`. The faces: `guides_people.py`; the measures, their words, the picture: `guides_measures.py`, `guides_text.py`, `guides_figure.py`.
"""

import argparse
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from guides_figure import figure
from guides_measures import (
    GROUP,
    REFERENCE,
    alike,
    blurred,
    features_of,
    judged_words,
    measure_attributes,
    measure_clip,
    measure_frechet,
    measure_identity,
    measure_labels,
    named,
    word_accuracy,
    write_statistics,
)
from guides_people import FAINT, People, changes, flat, neighbour, person, some_pairs, tensor
from guides_text import (
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
from make_avatars import IDENTITY, drawn, face
from safetensors.torch import load_file
from train_guides import IDENTITY_LAYOUT

from dsg import images
from dsg.checkpoints import REPOSITORY
from dsg.results import write_text
from tasks.captions import asked_for, caption
from tasks.clip import load_clip
from tasks.evaluator import IDENTITY as JUDGED
from tasks.evaluator import AvatarEvaluator
from tasks.irse import load_irse
from tasks.parts import load_parts

FIRST = 1000  # of the people measured on
OTHERS = range(6096, 6608)  # faces whose Frechet distance is the floor
TRAINED = "identity=86:6519 clip=33:1811 parts=8:950 attributes=37:3137 labels=8:2729"
FILES = {  # of each network: its file, what it is, what it was trained on
    "identity": ("identity.safetensors", "guide of `faceid`: IR-SE, ArcFace's loss", "identities"),
    "clip": ("clip/model.safetensors", "guide of `clip_text`, `style`: CLIP, ViT and text transformer", "train"),
    "parts": ("parts.safetensors", "guide of `segmentation`: U-Net", "identities"),
    "attributes": ("evaluator/attributes.safetensors", "evaluator of identity, words, style: DenseNet", "train"),
    "labels": ("evaluator/labels.safetensors", "evaluator of label maps: dilated convolutions", "identities"),
}
SEEDS = {"attributes": 1000, "labels": 1000}  # the others: 0
DATA = {"identities": "32,768 of 2,048 people", "train": "40,960"}


def networks_of(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(
        identity=load_irse(str(folder / "identity.safetensors"), "avatars64", **IDENTITY_LAYOUT),
        clip=load_clip(str(folder / "clip")),
        parts=load_parts(str(folder / "parts.safetensors")),
        judge=AvatarEvaluator(str(folder / "evaluator")),
    )


def draw_faces(seed: int, count: int, pool: ProcessPoolExecutor) -> SimpleNamespace:
    """All pictures that are measured on.

    people: `count` of them; hard: attribute -> (their indices, second pictures with it changed); seen: pixels that another value moves;
    trained_on, known: attributes and pictures of training faces; reference, others: pictures for the Frechet distance.
    """
    indices = range(FIRST, FIRST + count)
    faces = SimpleNamespace(people=People(*flat(drawn(partial(person, seed), indices, "people", pool))), hard={})
    for name in IDENTITY:
        table, (pictures,) = drawn(partial(neighbour, seed, name), indices, f"another {name}", pool)
        there = np.flatnonzero(table["value"] != "")
        faces.hard[name] = (there, pictures[there])
    seen, _ = drawn(partial(changes, seed), indices, "what can be seen", pool)
    faces.seen = seen.reset_index(drop=True)
    faces.trained_on, (faces.known,) = drawn(partial(face, seed, "train"), range(count), "training faces", pool)
    _, (faces.reference,) = drawn(partial(face, seed, "test"), REFERENCE, "reference", pool)
    _, (faces.others,) = drawn(partial(face, seed, "test"), OTHERS, "others", pool)
    return faces


# -- the parts of the card: each measures, and returns what the template asks for ----------------------------------------


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


def about_files(folder: Path, nets: SimpleNamespace, trained: dict) -> dict:
    modules = {
        "identity": nets.identity, "clip": nets.clip.clip, "parts": nets.parts,
        "attributes": nets.judge.attributes, "labels": nets.judge.labels,
    }  # fmt: skip
    beside = [f for f in sorted((folder / "clip").iterdir()) if f.name != "model.safetensors" and f.is_file()]
    beside.append(folder / "evaluator/statistics.safetensors")
    return {
        "total": sum((folder / file).stat().st_size for file, *_ in FILES.values()) / 1e6,
        "sizes": table_of(sizes(folder, modules, trained)),
        "others": ", ".join(f"`{f.relative_to(folder)}` ({f.stat().st_size / 1000:.1f} kB)" for f in beside),
    }


def about_people(people: People) -> dict:
    count = len(people.table)
    near, middle = 196 * (0.05 * 0.95 / count) ** 0.5, 196 * 0.5 / count**0.5
    return {
        "people": f"{count:,}",
        "first": FIRST,
        "last": FIRST + count - 1,
        "error_bar": f"A share of {count:,} faces is known to about {near:.1f} points near 95 %, {middle:.0f} near 50 % (95 % interval).",
    }


def about_identity(measured: dict, seen: pd.DataFrame) -> dict:
    different = measured["different"][measured["other"]]
    return {
        "same": spread(measured["same"]),
        "different": spread(different),
        "pairs": f"{len(measured['same']) + len(different):,}",
        "threshold": measured["threshold"],
        "accuracy": percent(measured["accuracy"]),
        "auc": measured["auc"],
        "eer": percent(measured["eer"]),
        "hard": formatted(measured["hard"], {"distance": "{:.2f}"}),
        "hard_reason": hard_reason(measured["hard"], seen),
    }


def about_clip(measured: dict) -> dict:
    return {
        "group": GROUP,
        **{key: percent(measured[key]) for key in ("r1", "r5", "b1", "b5")},
        "c1": percent(1 / GROUP, 0),
        "c5": percent(5 / GROUP, 0),
        **{key: measured[key] for key in ("groups", "right", "shuffled")},
        **{key: spread(measured[key]) for key in ("norm_image", "norm_text")},
        "zero_shot": formatted(measured["zero_shot"]),
        "zero_shot_reason": zero_shot_reason(measured["zero_shot"]),
    }


def about_labels(rows: dict[str, dict]) -> dict:
    table = pd.DataFrame([{"": who, **row} for who, row in rows.items()])
    shown = table.drop(columns=["errors at a border", "pixels at a border"])
    return {"labels": formatted(shown, digits=2), "labels_reason": labels_reason(rows)}


def about_attributes(judge: AvatarEvaluator, faces: SimpleNamespace, answers: pd.DataFrame, pool) -> dict:
    on_training = named(judge, tensor(faces.known), "attributes, training")
    on_training = pd.DataFrame({k: on_training[k] == faces.trained_on[k].to_numpy() for k in on_training})
    measured = measure_attributes(answers, faces.people.table, faces.seen, on_training, pool)
    hidden = ["faces", "errors", "unseen errors", "mistake", "mistakes", "hidden by", "weakest", "commonest"]
    counts = {"another value moves": "{:.0f}", "a wrong answer moves": "{:.0f}"}
    return {
        "faint": FAINT,
        "attributes": formatted(measured.drop(columns=hidden), counts),
        "all_right": percent((alike(answers, faces.people.table.reset_index(drop=True)) == 1).mean()),
        "all_right_train": percent(on_training[list(JUDGED)].all(axis=1).mean()),
        "reasons": reasons(measured),
    }


def about_verdicts(
    judge: AvatarEvaluator, people: People, hard: dict, answers: pd.DataFrame, other: np.ndarray
) -> dict:
    """`same_identity` and `identity_attributes` of pairs; `other`: whether face i and i + 1 are two people."""
    again = named(judge, people.again, "attributes, again")
    same, different = alike(answers, again), alike(answers, again.apply(np.roll, shift=-1))[other]
    verdicts = {}
    for name, (index, pictures) in hard.items():
        found = named(judge, tensor(pictures), f"another {name}")
        verdicts[name] = (alike(answers.iloc[index].reset_index(drop=True), found) == 1).mean()
    return {
        "verdict_same": percent((same == 1).mean()),
        "verdict_different": percent((different == 1).mean()),
        "verdict_hard": ", ".join(f"another {name} {percent(share)}" for name, share in verdicts.items()),
        "share_same": percent(same.mean()),
        "share_different": percent(different.mean()),
        "with_nose": percent((alike(answers, again, IDENTITY) == 1).mean()),
    }


def about_words(
    judge: AvatarEvaluator, people: People, captions: list[str], answers: pd.DataFrame, zero_shot: pd.DataFrame
) -> dict:
    judged = word_accuracy(answers, people.rows)
    right = judged_words(judge, people.first, captions)
    shuffled = judged_words(judge, people.first, captions[1:] + captions[:1])
    return {
        "words": formatted(judged),
        "words_reason": words_reason(judged, zero_shot),
        "asked": float(np.mean([len(asked_for(c)) for c in captions])),
        "words_right": percent(right[0]),
        "words_shuffled": percent(shuffled[0]),
        "all_words": percent(right[1]),
        "all_words_shuffled": percent(shuffled[1]),
    }


def about_frechet(path: Path, judge: AvatarEvaluator, faces: SimpleNamespace, seed: int) -> dict:
    """Writes the statistics to `path`."""
    write_statistics(path, features_of(judge, faces.reference), seed)
    floor = features_of(judge, faces.others)
    committed = np.stack([p.pixels for p in images.load(REPOSITORY / "data/avatars64/test", 64)])
    indices = f"indices {OTHERS.start} to {OTHERS.stop - 1}"
    sets = {
        f"held out, {indices}": floor,
        f"of these the first {len(committed)}": floor[: len(committed)],
        "the repository's test faces, data/avatars64/test": features_of(judge, committed),
        f"training faces, indices 0 to {len(OTHERS) - 1}": features_of(judge, faces.known[: len(OTHERS)]),
        f"{indices}, averaged over 2x2 pixels": features_of(judge, blurred(faces.others)),
    }
    return {
        "width": judge.attributes.width,
        "reference": f"{len(faces.reference):,}",
        "reference_first": REFERENCE.start,
        "reference_last": REFERENCE.stop - 1,
        "frechet": table_of(measure_frechet(path, sets)),
        "trace": load_file(path)["covariance"].trace().item(),
    }


def measure(folder: Path, faces: SimpleNamespace, trained: dict, seed: int, pool: ProcessPoolExecutor) -> dict:
    """All that the card says; writes the picture and the statistics."""
    nets, people = networks_of(folder), faces.people
    hard = {name: (index, tensor(pictures)) for name, (index, pictures) in faces.hard.items()}
    identity = measure_identity(nets.identity, people, hard)
    captions = [caption(row, np.random.default_rng([seed, i]), keep=1.0) for i, row in enumerate(people.rows)]
    words = measure_clip(nets.clip, people, captions)
    labels = {
        who: measure_labels(net, people, who) for who, net in (("guide", nets.parts), ("evaluator", nets.judge.labels))
    }
    answers = named(nets.judge, people.x, "attributes")
    retrieved, maps = [captions[i] for i in words["retrieved"]], {who: found for who, (_, found) in labels.items()}
    figure(folder / "guides.png", people, retrieved, answers, maps, some_pairs(people, faces.hard, identity))
    return {
        **about_people(people),
        **about_identity(identity, faces.seen),
        **about_clip(words),
        **about_labels({who: row for who, (row, _) in labels.items()}),
        **about_attributes(nets.judge, faces, answers, pool),
        **about_verdicts(nets.judge, people, faces.hard, answers, identity["other"]),
        **about_words(nets.judge, people, captions, answers, words["zero_shot"]),
        **about_frechet(folder / "evaluator/statistics.safetensors", nets.judge, faces, seed),
        **about_files(folder, nets, trained),
    }


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
    default = REPOSITORY / "checkpoints/avatars64"
    parser.add_argument("--folder", type=Path, default=default, help="weights, and the card")
    parser.add_argument("--trained", nargs="+", default=TRAINED.split(), metavar="name=minutes:steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes that render (default: all cores)")
    args = parser.parse_args()
    if args.people < GROUP:
        parser.error(f"--people: at least {GROUP}")
    trained = read_trained(args.trained)
    warnings.filterwarnings("ignore", category=UserWarning)
    with ProcessPoolExecutor(args.workers) as pool:
        faces = draw_faces(args.seed, args.people, pool)
        card = measure(args.folder, faces, trained, args.seed, pool)
    template = Path(__file__).with_name("guides_card.template.md").read_text()
    write_text(args.folder / "GUIDES.md", template.format(**card))
    print(f"{args.folder}: GUIDES.md, guides.png, evaluator/statistics.safetensors")


if __name__ == "__main__":
    main()
