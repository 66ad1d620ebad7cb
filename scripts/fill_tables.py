"""Fill the tables of the docs from the committed results, so that no number is copied by hand.

  python scripts/fill_tables.py            writes every table anew
  python scripts/fill_tables.py --check    exits 1 if a table is not what the results say

A table stands between two comments, of which the first says where it comes from, in YAML:

  <!-- table: {csv: results/headline/table.csv, where: "metric == 'psnr'", rows: method, columns: task} -->
  <!-- end -->

Keys: `csv`; `where`, a pandas query; `rows`, a column of method names, or [method, base] of a difference; `columns`, a
column whose values become the heads, each cell being `cell`; or `values`, a mapping of heads to cells. A cell is the
name of a number, or of a number and the ends of its interval, [mean, low, high]. `digits` (2), `sign`, `best: high|low`
in bold, `names` of rows and heads.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial

import pandas as pd
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dsg.arguments import Parser, exit_code
from dsg.files import REPOSITORY, write_text
from dsg.suites.tables import bold, markdown, with_interval

PAGES = ("README.md", "docs/*.md", "checkpoints/*/*.md")
TABLE = re.compile(r"(<!-- table: (\{.*?\}) -->\n).*?(<!-- end -->)", re.S)


def main(arguments: list[str]) -> int:
    """The exit code."""
    parser = Parser(__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not up to date")
    args = parser.parse_args(arguments)
    return exit_code(partial(fill, args.check))


def fill(check: bool = False) -> None:
    """Raises ValueError: with `check`, a page that is not up to date; a table that cannot be made."""
    for page in sorted(page for pattern in PAGES for page in REPOSITORY.glob(pattern)):
        old = page.read_text()
        new = TABLE.sub(lambda found: found[1] + table(yaml.safe_load(found[2])) + found[3], old)
        if new != old and check:
            raise ValueError(f"{page.relative_to(REPOSITORY)} is not what the results say: run scripts/fill_tables.py")
        if new != old:
            write_text(page, new)
            print(page.relative_to(REPOSITORY))


def table(about: Mapping) -> str:
    """The Markdown of one table, see above.

    Raises:
        ValueError: two numbers would stand in one cell.
    """
    data = pd.read_csv(REPOSITORY / about["csv"]).query(about.get("where", "index >= 0"))
    rows, names = about["rows"] if isinstance(about["rows"], list) else [about["rows"]], about.get("names", {})
    data = data.set_index(rows)
    if "columns" in about:
        cells = {head: (part, about["cell"]) for head, part in data.groupby(about["columns"], sort=False)}
    else:
        cells = {head: (data, cell) for head, cell in about["values"].items()}
    texts = {
        names.get(head, str(head).replace("_", " ")): column(part, [cell] if isinstance(cell, str) else cell, about)
        for head, (part, cell) in cells.items()
    }
    found = pd.DataFrame(texts).reindex(data.index.unique())
    named = {name: names.get(name) or label(name) for name in data.reset_index()[rows].to_numpy().ravel()}
    heads = [" - ".join(named[name] for name in (key if isinstance(key, tuple) else [key])) for key in found.index]
    found.insert(0, "" if len(rows) > 1 else rows[0], heads)
    # without the padding: the pages are read as text, too
    return re.sub("--+", "--", re.sub(" +", " ", markdown(found, list(found.columns[1:]))))


def column(part: pd.DataFrame, cell: Sequence[str], about: Mapping) -> pd.Series:
    """A column's texts."""
    if part.index.has_duplicates:
        raise ValueError(f"{about}: more than one number in a cell")
    digits, numbers = about.get("digits", 2), part[cell[0]].round(about.get("digits", 2))
    ends = [part[name] for name in cell[1:]] or [[None] * len(part)] * 2
    texts = [with_interval(*numbers, digits, about.get("sign", "")) for numbers in zip(numbers, *ends)]
    best = numbers.max() if about.get("best") == "high" else numbers.min() if about.get("best") == "low" else None
    return pd.Series([bold(text) if one == best else text for text, one in zip(texts, numbers)], part.index)


@cache
def label(name: str) -> str:
    """The label of a sampler; of what is none, the name."""
    path = REPOSITORY / f"configs/sampler/{name}.yaml"
    return instantiate(OmegaConf.load(path)).label if path.exists() else str(name).replace("_", " ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
