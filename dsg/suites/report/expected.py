"""Published figures, and how near a run by their protocol should come (docs/expected.md)."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

import pandas as pd
import yaml

from dsg.config import load
from dsg.metrics.distribution import FID
from dsg.metrics.image import COLUMNS
from dsg.options import leaves
from dsg.runs.prepare import build
from dsg.suites.methods import Method
from dsg.types import Column

ASSETS = Path(__file__).parent / "assets"
TITLES = {
    "psnr": COLUMNS["psnr"],
    "fid": FID.column,
    "lpips_vgg": COLUMNS["lpips_vgg"],
    "lpips_piq": Column("lpips_piq", "LPIPS (piq)", 3, False),
}


@dataclass(frozen=True)
class Published:
    """A figure of somebody's, a row of assets/expected.csv.

    Attributes:
        model, task, sampler: names as here.
        options: of the task, `task.sigma=0.1`, that its protocol has; text.
        evaluations: of the network, per image; None where it is not stated.
        metric: name.
        within: how near a run should come; None: for information.
        why_not: why no run here is compared with it; "" if one is.
        source: where it was read.
    """

    model: str
    task: str
    options: str
    sampler: str
    evaluations: int | None
    metric: str
    value: float
    within: float | None
    why_not: str
    source: str

    def fits(self, config: Mapping, evaluations: float | None) -> bool:
        """Whether a run with this config follows its protocol.

        Args:
            evaluations: of the network, per image. One more or less is the same: a last step may need none.
        """
        chosen = {"model": self.model, "task": self.task, "sampler": self.sampler}
        if self.why_not or evaluations is None or any(config[part]["name"] != name for part, name in chosen.items()):
            return False
        values = dict(leaves({"task": config["task"]}, ""))
        asked = (option.split("=") for option in self.options.split())
        same = abs(evaluations - self.evaluations) <= 1
        return same and all(values.get(k) == yaml.safe_load(v) for k, v in asked)

    def compared(self, mean: float) -> str:
        """A run's mean with the figure, in words."""
        digits = TITLES[self.metric].digits
        if self.within is None:
            return f"{mean - self.value:+.{digits}f}, for information"
        near = abs(round(mean - self.value, digits)) <= self.within
        return f"{mean - self.value:+.{digits}f}, {'within' if near else 'not within'} {self.within:g}"


@cache
def table() -> tuple[Published, ...]:
    with open(ASSETS / "expected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Published(
            **{
                **row,
                "evaluations": number(row["evaluations"], int),
                "value": float(row["value"]),
                "within": number(row["within"], float),
            }
        )  # fmt: skip
        for row in rows
    )


def number(text: str, kind: type):
    return kind(text) if text else None


def published(config: Mapping, evaluations: float | None) -> dict[str, Published]:
    """The figures that a run should come near, by metric."""
    return {one.metric: one for one in table() if one.fits(config, evaluations)}


def page() -> str:
    """docs/expected.md."""
    text = Template((ASSETS / "expected.md").read_text(encoding="utf-8"))
    compared = [one for one in table() if not one.why_not]
    others = [one for one in table() if one.why_not]
    return text.substitute(compared=_markdown(compared), others=_markdown(others))


@cache
def method(sampler: str) -> Method:
    return Method.of(build(load([f"sampler={sampler}"]).sampler))


def _markdown(figures: list[Published]) -> str:
    """A row per run: its metrics side by side."""
    rows: dict[str, dict] = {}
    metrics = [name for name in TITLES if any(one.metric == name for one in figures)]
    for one in figures:
        key = (one.model, one.task, one.options, one.sampler, one.evaluations, one.source)
        row = {
            "prior": one.model, "task": one.task, "protocol": f"`{one.options}`" if one.options else "",
            "method": method(one.sampler).label,
            "evaluations": one.evaluations or "",
        }  # fmt: skip
        row |= {TITLES[name].title: "" for name in metrics} | {"source": one.source}
        if one.why_not:
            row["not compared since"] = ""
        found = rows.setdefault(json.dumps(key), row)
        found[TITLES[one.metric].title] = f"{one.value:.{TITLES[one.metric].digits}f}"
        if one.why_not and one.why_not not in found["not compared since"]:
            found["not compared since"] += f"{'; ' * bool(found['not compared since'])}{one.why_not}"
    right = {"evaluations", *(TITLES[name].title for name in metrics)}
    frame = pd.DataFrame(list(rows.values()))
    align = ["right" if name in right else "left" for name in frame.columns]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align)
