"""The command line of scripts/report.py."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from dsg.arguments import Parser, exit_code, not_negative, positive_number
from dsg.files import resolve, write_text
from dsg.suites import suite, tables
from dsg.suites.frame import COLUMNS
from dsg.suites.report.entries import Entry, frame_of, read_entries
from dsg.suites.report.page import page
from dsg.suites.report.pictures import Pictures

SUFFIXES = (".md", ".csv", ".tex")


def main(arguments: Sequence[str], description: str | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    args = _parser(description).parse_args(arguments)
    return exit_code(partial(report, args), stopped="the same command begins anew")


def report(args: Namespace) -> None:
    """Write the page, and the tables if asked."""
    folders = [folder for word in args.folders for folder in folders_of(word)]
    entries, skipped = read_entries(folders)
    if unknown := set(args.metrics or ()) - {name for entry in entries for name in entry.columns}:
        raise ValueError(f"--metrics {sorted(unknown)[0]}: no run has it")
    out = args.out or place_of(args.folders) / "report.html"
    if args.tables and out.suffix in SUFFIXES:  # those of the tables
        out = out.with_suffix(".html")
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(args.images, args.megabytes)
    write_text(out, page(args.title or title_of(folders), entries, skipped, pictures))
    made = [out]
    if args.tables:
        made += write_tables(out, folders, entries, args.metrics)
    for line in skipped:
        print(f"not shown: {line}", file=sys.stderr)
    print(f"{len(entries)} rows: {', '.join(map(str, made))} ({out.stat().st_size / 1e6:.1f} MB)")


def _parser(description: str | None) -> Parser:
    parser = Parser(description)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of runs, or above them; or the name of a suite")
    parser.add_argument("--out", type=Path, help="the page; by default report.html in the folder")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--images", type=not_negative, default=24, help="of each run, at most (24); 0: none")
    parser.add_argument(
        "--megabytes", type=positive_number, default=12, help="of images in the page; fewer images fit it (12)"
    )
    parser.add_argument("--tables", action="store_true", help="also as Markdown, CSV and LaTeX, beside the page")
    parser.add_argument("--metrics", nargs="+", help="in these tables; by default all that have a direction")
    return parser


def folders_of(word: str) -> list[Path]:
    """The folder, or those of the suite, or of the group of suites, of this name: of those that have runs."""
    if Path(word).is_dir():
        return [Path(word)]
    if word not in suite.names():
        raise ValueError(f"{word}: no such folder, and no suite ({', '.join(suite.names())})")
    found = [resolve(suite.read(name)["out"]) for name in suite.members(word)]
    begun = [out for out in found if (out / "runs").is_dir()]
    if not begun:
        raise ValueError(f"suite {word} has no runs yet: python scripts/reproduce.py --suite {word}")
    return begun


def place_of(words: Sequence[str]) -> Path:
    """The place of the page: the folder, or that of the suite or group; of several, here."""
    if len(words) > 1:
        return Path()
    return Path(words[0]) if Path(words[0]).is_dir() else resolve(suite.place(words[0]))


def title_of(folders: Sequence[Path]) -> str:
    return ", ".join(folder.resolve().name for folder in folders[:3]) + " ..." * (len(folders) > 3)


def write_tables(
    out: Path, folders: Sequence[Path], entries: Sequence[Entry], metrics: Sequence[str] | None
) -> list[Path]:
    """The tables of a paper, from the frames of the suites (table.csv), or from the runs where there is none."""
    frames = [pd.read_csv(folder / "table.csv") for folder in folders if (folder / "table.csv").is_file()]
    complete = len(frames) == len(folders) and all(set(COLUMNS) <= set(frame) for frame in frames)
    frame = pd.concat(frames) if complete else frame_of(entries)
    columns = {name: column for entry in entries for name, column in entry.columns.items()}
    methods = {entry.method.name: entry.method for entry in entries}
    found = tables.papers(frame, columns, methods, metrics)
    write_text(out.with_suffix(".md"), tables.paper_markdown(found))
    write_text(out.with_suffix(".tex"), tables.latex(found))
    tables.write_csv(out.with_suffix(".csv"), frame)
    return [out.with_suffix(suffix) for suffix in SUFFIXES]
