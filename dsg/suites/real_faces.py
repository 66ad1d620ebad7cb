"""Rows of the semantic tables that no sampler makes: real faces, which show what a perfect sampler would reach."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dsg import image_files as images
from dsg.avatars64.captions import asked_for
from dsg.files import REPOSITORY
from dsg.runs.runner import Run
from dsg.suites.references import ReferenceJob, of_every_task, own_metrics
from dsg.suites.suite import Suite
from dsg.types import Input

DATA = REPOSITORY / "data/avatars64"
MOST = 4  # faces per prompt

Pairs = list[tuple[Input, np.ndarray]]


def another_of_the_person(inputs: Sequence[Input]) -> Pairs:
    return [(one, images.read(DATA / "test_again" / f"{one.id}.png", 64)) for one in inputs]


def faces_that_fit_the_prompt(inputs: Sequence[Input]) -> Pairs:
    rows = pd.read_csv(DATA / "test_attributes.csv", dtype={"id": str}, keep_default_na=False).to_dict("records")
    pairs = []
    for one in inputs:
        asked = asked_for(one.prompt)
        fitting = [r["id"] for r in rows if all(r[name] in values for name, values in asked.items())]
        pairs += [(one, images.read(DATA / "test" / f"{name}.png", 64)) for name in fitting[:MOST]]
    return pairs


def reference_mirrored(inputs: Sequence[Input]) -> Pairs:
    """The reference's style, with other content."""
    return [(one, one.reference[:, ::-1].copy()) for one in inputs]


def face_of_the_label_map(inputs: Sequence[Input]) -> Pairs:
    return [(one, images.read(DATA / "test" / f"{one.id}.png", 64)) for one in inputs]


REAL: dict[str, Callable[[Sequence[Input]], Pairs]] = {
    "faceid": another_of_the_person,
    "clip_text": faces_that_fit_the_prompt,
    "style": reference_mirrored,
    "segmentation": face_of_the_label_map,
}


class RealImages(ReferenceJob):
    """The metrics of real images, as the task itself and the evaluator see them."""

    folder = "real"
    title = "real images"

    def make(self, run: Run) -> tuple[Sequence[Input], np.ndarray, dict]:
        pairs = REAL[self.like.task](run.inputs)
        inputs, pixels = [one for one, _ in pairs], np.stack([image for _, image in pairs])
        return inputs, pixels, own_metrics(run, pixels, inputs)


def real_images(suite: Suite) -> list[RealImages]:
    """A job for every task that has real images."""
    return [job for job in of_every_task(suite, RealImages) if job.like.task in REAL]
