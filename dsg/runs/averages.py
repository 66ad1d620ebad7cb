"""The mean of an image's samples, and how far they scatter: the answer, and where it is a guess (average=true).

A sample of a posterior has up to 3 dB less PSNR than the posterior's mean, so that both are reported.
"""

import numpy as np
import pandas as pd

from dsg import image_files as images
from dsg.files import write_text
from dsg.metrics.base import ImageMetric
from dsg.runs.runner import Run

AVERAGES = "averages.csv"
BRIGHTER = 4  # the map shows a standard deviation of 64 of 255 as white


def write_averages(run: Run) -> pd.DataFrame:
    """Write `mean/<id>.png`, `deviation/<id>.png` (greyscale, `BRIGHTER` times the standard deviation of the samples)
    and `averages.csv` of every input whose samples are all there.

    Returns:
        a row per input: id, samples, deviation (mean over pixels, of 255), and the run's image metrics of the mean.
    """
    done, rows = run.results.rows(), []
    for one in run.inputs:
        names = [item.name for item in run.items if item.input is one]
        if not all(name in done for name in names):
            continue
        samples = np.stack([run.results.image(name) for name in names]).astype(np.float32)
        mean, deviation = samples.mean(0), samples.std(0, ddof=1).mean(-1)
        pixels = mean.round().astype(np.uint8)
        for folder, image in (("mean", pixels), ("deviation", grey(BRIGHTER * deviation))):
            path = run.results.out / folder / f"{one.id}.png"
            path.parent.mkdir(exist_ok=True)
            images.save(path, image, one.form if folder == "mean" else None)
        usable = [m for m in run.metrics if isinstance(m, ImageMetric) and m.missing() is None and m.applies([one])]
        values = {metric.name: metric(pixels[None], [one])[0] for metric in usable}
        rows.append({"id": one.id, "samples": len(names), "deviation": deviation.mean(), **values})
    table = pd.DataFrame(rows)
    if rows:
        write_text(run.results.out / AVERAGES, table.to_csv(index=False, float_format="%.6g"))
    return table


def grey(values: np.ndarray) -> np.ndarray:
    """[H, W] in 0..255 as uint8 [H, W, 1], clipped."""
    return values.clip(0, 255).round().astype(np.uint8)[..., None]
