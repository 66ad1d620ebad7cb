"""All of a run at a glance: condition, restored image and truth, the worst and the best first."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from dsg.files import short_hash
from dsg.image_files import save
from dsg.runs.runner import Run

MOST = 16  # images on a sheet
SIDE = 384  # of an image on the sheet at most, in px
SHOWS = "shows"  # a text in the file: digest of the rows that it was made of
DIGITS = "%.3g"
ORDER = ("psnr", "haarpsi")  # what ranks them, if it was computed


def write_contact_sheet(run: Run) -> None:
    """Write `grid.png`, unless it is there and shows what it should: a row per image with its id and rank; half of them
    the worst, half the best, where there are more than fit."""
    table = run.results.table()
    table = table.loc[table.index.intersection([item.name for item in run.items])]
    if not len(table):
        return
    table, done, sheet = chosen(table), run.results.rows(), run.results.out / "grid.png"
    numbers = table[[name for name in ORDER if name in table]].to_csv(float_format=DIGITS)
    shows = short_hash({"numbers": numbers, "files": [done[name]["files"] for name in table.index]})
    if shown_by(sheet) != shows:
        save(sheet, np.asarray(panel(run, table)), **{SHOWS: shows})


def panel(run: Run, table: pd.DataFrame) -> Image.Image:
    """A row of condition, restored image and truth for each row of the table."""
    rows = [_row(run, row) for _, row in table.iterrows()]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return Image.fromarray(np.concatenate(rows))


def shown_by(sheet: Path) -> str | None:
    """The digest of what a contact sheet shows; None if there is none, or it is damaged."""
    try:
        with Image.open(sheet) as image:
            image.load()  # raises where a byte is wrong
            return image.info.get(SHOWS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST` rows, from the worst to the best."""
    by = next((name for name in ORDER if name in table and table[name].notna().all()), None)
    ranked = table if by is None else table.sort_values(by, kind="stable")
    if len(ranked) <= MOST:
        return ranked
    return ranked.iloc[:MOST] if by is None else pd.concat([ranked.iloc[: MOST // 2], ranked.iloc[-MOST // 2 :]])


def _row(run: Run, row: pd.Series) -> np.ndarray:
    """Condition, restored, truth side by side, under a line of text; white where there is none."""
    restored = run.results.image(row["id"])
    scale = min(1, SIDE / max(restored.shape[:2]))
    height, width = (max(1, round(scale * side)) for side in restored.shape[:2])
    if scale < 1:
        restored = np.asarray(Image.fromarray(restored).resize((width, height), Image.Resampling.BOX))
    cells = [restored]
    for position, folder in ((0, run.results.condition), (2, run.results.truth)):
        file = folder / f"{row['image']}.png"
        if file.exists():
            with Image.open(file) as image:
                shown = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST))
            cells.insert(min(position, len(cells)), shown)
    gap = np.full((height, 2, 3), 255, np.uint8)
    line = np.concatenate([part for cell in cells for part in (cell, gap)], axis=1)
    caption = Image.new("RGB", (line.shape[1], 14), "white")
    words = " ".join(
        [str(row["id"])] + [f"{DIGITS % row[name]} {name}" for name in ORDER if name in row and pd.notna(row[name])]
    )
    ImageDraw.Draw(caption).text((1, 1), words, fill="black")
    return np.concatenate([np.asarray(caption), line])
