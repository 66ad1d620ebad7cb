"""The results folder of a cell: who it belongs to, what is finished, tables that are there whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

OWNER = "config.yaml"
# of a model: where its file lies (its hash counts) and what changes no more than rounding
SPEED = {"checkpoint", "compile", "channels_last", "cpu_batch", "use_checkpoint"}


def identity(config: Mapping, weights_hash: str, guide_hash: str | None = None) -> dict:
    """What changes a cell's pictures: prior and weights, task (and its guide's weights), sampler, data, seed; nothing else.

    Batch size, device, switches of speed, logging and `data.limit` are not in it.
    """
    task = _without_speed(config["task"])
    return {
        "model": {**_without_speed(config["model"]), "weights": weights_hash},
        "task": task if guide_hash is None else {**task, "weights": guide_hash},
        "sampler": config["sampler"],
        "data": {k: v for k, v in config["data"].items() if k != "limit"},
        "seed": config["seed"],
    }


def _without_speed(tree: Mapping) -> dict:
    return {k: _without_speed(v) if isinstance(v, Mapping) else v for k, v in tree.items() if k not in SPEED}


def short_hash(owner: Mapping) -> str:
    return hashlib.sha256(json.dumps(owner, sort_keys=True, default=str).encode()).hexdigest()[:10]


class Results:
    """The folder `out` of the cell `owner` (its `identity`), made with the resolved `config`.

    Raises:
        ValueError: if the folder belongs to another cell, saying what differs.
    """

    def __init__(self, out: Path, owner: Mapping, config: Mapping):
        self.out, self.config = out, config
        self.images, self.condition, self.truth = out / "images", out / "condition", out / "truth"
        self._claim(owner)
        for folder in (self.images, self.condition, self.truth):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(out / OWNER, OmegaConf.to_yaml(OmegaConf.create({**config, "identity": owner})))
        self.table = self._read_table()

    def _claim(self, owner: Mapping) -> None:
        if not (self.out / OWNER).exists():
            if (self.out / "images").is_dir() and any((self.out / "images").iterdir()):
                raise ValueError(f"out={self.out} holds pictures of nobody knows what: choose another folder")
            return
        before = OmegaConf.to_container(OmegaConf.load(self.out / OWNER)).get("identity", {})
        now = OmegaConf.to_container(OmegaConf.create(dict(owner)))
        differing = [k for k in sorted({*_flat(before), *_flat(now)}) if _flat(before).get(k) != _flat(now).get(k)]
        if differing:
            k = differing[0]
            raise ValueError(
                f"out={self.out} holds the results of another cell: {k} was {_flat(before).get(k)}, now {_flat(now).get(k)}"
                + f" (and {len(differing) - 1} more)" * (len(differing) > 1)
                + "; choose another out, or remove it"
            )

    def _read_table(self) -> pd.DataFrame:
        path = self.out / "per_image.csv"
        if not path.exists():
            return pd.DataFrame()
        text = {name: str for name in ("id", "image", "input", "code", "torch", "device", "prompt")}
        # a picture may be called NA.png
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
        return table.set_index("id", drop=False)

    def finished(self, name: str, digest: str) -> bool:
        """Whether the picture `name` is there, made from the same input.

        Raises:
            ValueError: if the input has changed since.
        """
        if name not in self.table.index or not (self.images / f"{name}.png").exists():
            return False
        if self.table.loc[name, "input"] != digest:
            raise ValueError(
                f"the input of {name} has changed since {self.images / name}.png was made: choose another out"
            )
        return True

    def add(self, rows: list[dict]) -> None:
        """Add rows (each with `id`), and write the table."""
        new = pd.DataFrame(rows).set_index("id", drop=False)
        kept = self.table.drop(index=new.index, errors="ignore")
        self.table = (new if kept.empty else pd.concat([kept, new])).sort_index()
        write_text(self.out / "per_image.csv", self.table.to_csv(index=False, float_format="%.6g"))


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    temporary.replace(path)


def _flat(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
