"""The evaluator of the embedded prior: what it knows, and its score for tuning."""

import numpy as np
import pandas as pd
from conftest import ROOT
from PIL import Image

from dsg.avatars64.captions import caption
from dsg.metrics.semantic import AllAttributes, AttributeAccuracy, IdentityAttributes, Miou, SameIdentity
from dsg.types import Input
from tasks.networks.evaluator import load_evaluator, load_selector

TEST = ROOT / "data/avatars64"
EVALUATOR = "checkpoints/avatars64/evaluator"
SELECTOR = "checkpoints/avatars64/selector"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def faces(folder, names):
    return np.stack([pixels(TEST / folder / f"{n}.png") for n in names]).astype(np.uint8)


def mean_of(metric, images, inputs):
    found = metric(EVALUATOR)
    assert found.missing() is None and found.applies(inputs) and set(found.settings()) == {"evaluator"}
    return np.mean(found(images, inputs))


def test_the_evaluator_knows_real_people_words_and_parts():
    names = [f"{i:05d}" for i in range(48)]
    again, first, parts = faces("test_again", names), faces("test", names), faces("test_parts", names)
    people = [Input(n, reference=face) for n, face in zip(names, first)]
    assert mean_of(IdentityAttributes, again, people) > 0.93
    assert mean_of(IdentityAttributes, np.roll(again, 1, axis=0), people) < 0.5
    assert mean_of(SameIdentity, again, people) > 0.75
    assert mean_of(SameIdentity, np.roll(again, 1, axis=0), people) < 0.05
    table = pd.read_csv(TEST / "test_attributes.csv", keep_default_na=False, dtype={"id": str}).set_index("id")
    rng = np.random.default_rng(0)
    prompts = [Input(n, prompt=caption(table.loc[n], rng, keep=1.0)) for n in names]
    assert mean_of(AttributeAccuracy, first, prompts) > 0.9
    assert mean_of(AttributeAccuracy, np.roll(first, 1, axis=0), prompts) < 0.5
    assert mean_of(AllAttributes, np.roll(first, 1, axis=0), prompts) < mean_of(AllAttributes, first, prompts)
    assert mean_of(Miou, first, [Input(n, labels=labels) for n, labels in zip(names, parts)]) > 0.93


def test_a_score_for_tuning_is_the_mean_over_what_is_evaluated():
    names = [f"{i:05d}" for i in range(4)]
    images, parts = faces("test_again", names), faces("test_parts", names)
    inputs = [
        Input(n, reference=face, labels=labels, prompt="a person with red hair")
        for n, face, labels in zip(names, faces("test", names), parts)
    ]
    score = load_evaluator(EVALUATOR).score
    each = [("identity_attributes", "same_identity"), ("attribute_accuracy", "all_attributes"), ("evaluated_style",)]
    each += [("miou",)]
    alone = np.array([score(images, inputs, names) for names in each])
    assert ((0 <= alone) & (alone <= 1)).all() and alone.std() > 0.1
    np.testing.assert_allclose(score(images, inputs, [n for names in each for n in names]), alone.mean(0), rtol=1e-5)
    np.testing.assert_allclose(alone[3], Miou(EVALUATOR)(images, inputs), rtol=1e-6)


def test_a_prior_without_an_evaluator_says_so():
    assert Miou().missing() == "this prior has no evaluator"
    assert "no checkpoint at nowhere" in Miou("nowhere").missing()
    assert not Miou(EVALUATOR).applies([Input("a", prompt="a face")])


def test_the_selector_knows_the_same_by_networks_of_another_kind():
    names = [f"{i:05d}" for i in range(48)]
    again, first, parts = faces("test_again", names), faces("test", names), faces("test_parts", names)
    people = [Input(n, reference=face, labels=labels) for n, face, labels in zip(names, first, parts)]
    selector, evaluator = load_selector(SELECTOR), load_evaluator(EVALUATOR)
    assert selector.alike(again, people).mean() > 0.93 > 0.5 > selector.alike(np.roll(again, 1, axis=0), people).mean()
    assert selector.label_iou(first, people).mean() > 0.75
    for own, other in ((selector.attributes, evaluator.attributes), (selector.labels, evaluator.labels)):
        assert not {type(m) for m in own.modules()} >= {type(m) for m in other.modules()}
