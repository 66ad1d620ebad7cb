"""What a suite of cells shows: summaries, paired differences, tables, and how far each step leaves the sphere."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from dsg.metrics import bootstrap
from dsg.results import write_text
from dsg.samplers import StepState
from dsg.theory import manifold_deviation


class ManifoldDeviation:
    """A callback that records `dsg.theory.manifold_deviation` in the CSV `path`, per image and step."""

    def __init__(self, path: Path):
        self.path, self.rows = path, []

    def __call__(self, state: StepState, names: list[str]) -> None:
        deviation = manifold_deviation(state)
        if deviation is not None:
            where = {"index": state.index, "t": state.t, "repeat": state.repeat}
            self.rows += [{"id": n, **where, "deviation": d} for n, d in zip(names, deviation.tolist())]
        if state.index == 0:
            self.save()

    def save(self) -> None:
        """Add what has been recorded to the CSV: after every batch, so that a killed run keeps it."""
        new = pd.DataFrame(self.rows)
        if self.path.exists():
            new = pd.concat([pd.read_csv(self.path, dtype={"id": str}), new])
        new = new.drop_duplicates(["id", "index", "repeat"], keep="last")
        write_text(self.path, new.to_csv(index=False, float_format="%.5g"))
        self.rows = []


def summarise(tables: dict[tuple, pd.DataFrame], measures: Iterable[str]) -> pd.DataFrame:
    """One row per cell (task, method, steps): mean and 95 % interval of each measure, seconds, evaluations."""
    rows = []
    for (task, method, steps), table in tables.items():
        row = {"task": task, "method": method, "steps": steps, "images": len(table)}
        for name in measures:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = (
                bootstrap(table[name].to_numpy()) if name in table else (np.nan,) * 3
            )
        row["seconds"] = table["seconds"].mean() if "seconds" in table else 0.0
        row["network_evaluations"] = table["network_evaluations"].mean() if "network_evaluations" in table else 0
        rows.append(row)
    return pd.DataFrame(rows)


def paired(tables: dict[tuple, pd.DataFrame], measures: Iterable[str]) -> pd.DataFrame:
    """DSG minus its host, image by image: mean difference with its 95 % interval, and how many images improved."""
    rows = []
    for (task, method, steps), guided in tables.items():
        host = tables.get((task, method.removesuffix("_dsg"), steps))
        if not method.endswith("_dsg") or host is None:
            continue
        for name in measures:
            if name not in guided or name not in host:
                continue
            difference = (guided[name] - host[name]).dropna()
            if difference.empty:
                continue
            mean, low, high = bootstrap(difference.to_numpy())
            rows.append(
                {
                    "task": task,
                    "host": method.removesuffix("_dsg"),
                    "steps": steps,
                    "measure": name,
                    "difference": mean,
                    "low": low,
                    "high": high,
                    "dsg_higher": int((difference > 0).sum()),
                    "images": len(difference),
                }
            )
    return pd.DataFrame(rows)


COLUMNS = {  # measure: title, digits, whether a larger number is better
    "psnr": ("PSNR [dB]", 2, True),
    "ssim": ("SSIM", 3, True),
    "haarpsi": ("HaarPSI", 3, True),
    "lpips": ("LPIPS", 3, False),
    "residual": ("residual", 4, None),
}


def markdown_table(summary: pd.DataFrame) -> str:
    """The summary as Markdown, one section per task; the best of each task and step count in bold."""
    shown = {k: v for k, v in COLUMNS.items() if k in summary and summary[k].notna().any()}
    sections = []
    for task, part in summary.groupby("task", sort=False):
        table = part[["method"]].assign(steps=part["steps"].replace(0, "-"))
        for name, (title, digits, upwards) in shown.items():
            best = None if upwards is None else part.groupby("steps")[name].transform("max" if upwards else "min")
            table[title] = [
                _cell(row, name, digits, best is not None and row[name] == best[i]) for i, row in part.iterrows()
            ]
        table["evaluations"] = part["network_evaluations"].map("{:.0f}".format)
        table["s/image"] = part["seconds"].map("{:.2f}".format)
        sections.append(f"### {task}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(sections)


def _cell(row: pd.Series, name: str, digits: int, bold: bool) -> str:
    if not np.isfinite(row[name]):
        return ""
    mean = f"{row[name]:.{digits}f}"
    return f"{f'**{mean}**' if bold else mean} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"
