"""All of a run at a glance: condition, restored image and truth, the worst and the best first."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dsg.files import short_hash
from dsg.image_files import colours, save
from dsg.runs.lettering import LINE, text_width, write
from dsg.runs.runner import Run

MOST = 16  # images on a sheet
SIDE, LEAST, GAP = 384, 192, 6  # of an image on the sheet at most and at least, and between two, in px
SHOWS = "shows"  # a text in the file: digest of the rows that it was made of
DIGITS = "%.3g"
ORDER = ("psnr", "haarpsi")  # what ranks them, if it was computed


def write_contact_sheet(run: Run) -> None:
    """Write `grid.png`, unless it is there and shows what it should: headings, then a row per image with its id and
    numbers; half of them the worst, half the best, where there are more than fit."""
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
    """Headings, and a row of condition, restored image and truth for each row of the table."""
    rows = [_row(run, row, heading=k == 0) for k, (_, row) in enumerate(table.iterrows())]
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


def _row(run: Run, row: pd.Series, heading: bool) -> np.ndarray:
    """Condition, restored, truth side by side, those that there are, under a line of text."""
    restored = Image.fromarray(run.results.image(row["id"]))
    shown = {"condition": None, "restored": restored, "truth": None}
    for name, folder in (("condition", run.results.condition), ("truth", run.results.truth)):
        file = folder / f"{row['image']}.png"
        if file.exists():
            with Image.open(file) as image:
                shown[name] = colours(image)
    cells = {name: _sized(image, restored.size) for name, image in shown.items() if image is not None}
    width, height = next(iter(cells.values())).size
    numbers = [f"{DIGITS % row[name]} {name}" for name in ORDER if name in row and pd.notna(row[name])]
    words = ", ".join([str(row["id"]), *numbers])
    headings = LINE if heading else 0
    size = max(len(cells) * (width + GAP), text_width(words)), headings + LINE + height + GAP
    line = Image.new("RGB", size, "white")
    for k, (name, image) in enumerate(cells.items()):
        if heading:
            write(line, (k * (width + GAP), 0), name)
        line.paste(image, (k * (width + GAP), headings + LINE))
    write(line, (0, headings), words)
    return np.asarray(line)


def _sized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """At the size that a restored image of `size` has on the sheet; small ones are enlarged by a whole number."""
    longest = max(size)
    scale = min(1, SIDE / longest) if longest > LEAST else -(-LEAST // longest)
    target = tuple(max(1, round(scale * side)) for side in size)
    reduced = target[0] < image.width
    return image.resize(target, Image.Resampling.BOX if reduced else Image.Resampling.NEAREST)
