"""Many cells in one process: the grid of `make reproduce`, under one progress bar.

Cells are ordinary ones (`run.py` would give the same pictures) in `<out>/cells/<task>/<method>-<steps>`; each is resumed or
left alone as it needs. Curves over steps and step sizes are further cells.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dsg.results import write_text
from dsg.samplers import StepState


class ManifoldDeviation:
    """A callback that records |x_prev - mean| / (sqrt(n) sigma) per image and step, mean being the unguided kernel's.

    1 + O(1/sqrt n) for the plain step, exactly 1 for DSG, not for additive guidance. Steps with sigma = 0 have none.
    """

    def __init__(self):
        self.rows: list[dict] = []

    def __call__(self, state: StepState, names: list[str]) -> None:
        if not isinstance(state.sigma, Tensor) and state.sigma == 0:
            return
        sigma = torch.as_tensor(state.sigma, dtype=state.mean.dtype, device=state.mean.device).expand_as(state.mean)
        deviation = (state.x_prev - state.mean).flatten(1).norm(dim=1) / sigma.flatten(1).norm(dim=1)
        self.rows += [
            {"id": n, "index": state.index, "t": state.t, "repeat": state.repeat, "deviation": d}
            for n, d in zip(names, deviation.tolist())
        ]

    def save(self, path: Path) -> None:
        """Append to the CSV at `path` what has been recorded."""
        if not self.rows:
            return
        new = pd.DataFrame(self.rows)
        if path.exists():
            new = pd.concat([pd.read_csv(path, dtype={"id": str}), new])
        new = new.drop_duplicates(["id", "index", "repeat"], keep="last")
        write_text(path, new.to_csv(index=False, float_format="%.5g"))


def summarise(tables: dict[tuple, pd.DataFrame], measures: Iterable[str]) -> pd.DataFrame:
    """One row per cell (task, method, steps): mean and 95 % interval of each measure, seconds, evaluations."""
    from dsg.metrics import bootstrap

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
    from dsg.metrics import bootstrap

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
