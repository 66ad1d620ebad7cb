"""The tables of the paper: methods as rows, tasks as groups of columns, one table per model and number of steps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from dsg.suites.report.collect import Entry
from dsg.types import Column

TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
ARROWS = {True: "↑", False: "↓", None: ""}
TEX_ARROWS = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}


@dataclass
class Table:
    """One number of steps of one model.

    Attributes:
        rows: labels of the methods, below them those of published figures by the same protocol.
        columns: (task, metric).
        cells: by (row, task, metric's name).
        published: the rows that are no runs: they are never the best.
    """

    model: str
    steps: int
    rows: list[str]
    columns: list[tuple[str, Column]]
    cells: dict[tuple[str, str, str], dict]
    published: set[str] = field(default_factory=set)

    def number(self, row: str, task: str, column: Column) -> dict | None:
        return self.cells.get((row, task, column.name))

    def best(self, task: str, column: Column) -> float | None:
        """As it is printed, so that equals are all the best."""
        found = [self.number(row, task, column) for row in self.rows if row not in self.published]
        values = [round(cell["mean"], column.digits) for cell in found if cell]
        if column.larger_is_better is None or len(values) < 2:
            return None
        return max(values) if column.larger_is_better else min(values)


def tables(entries: Sequence[Entry], metrics: Sequence[str] | None = None) -> list[Table]:
    """In the order of the runs. Baselines without a prior are in every table of their tasks.

    Args:
        metrics: names; None: all that have a direction.
    """
    found = []
    runs = [entry for entry in entries if entry.sampler]
    for model, steps in sorted({(entry.model, entry.steps) for entry in runs}, key=lambda pair: (pair[0], pair[1])):
        tasks = {entry.task for entry in runs if (entry.model, entry.steps) == (model, steps)}
        same = [entry for entry in entries if entry.model == model and entry.task in tasks]
        same = own_values([entry for entry in same if not entry.sampler or entry.steps == steps])
        columns = _columns(same, metrics)
        cells = {(e.label, e.task, name): m for e in same for name, m in e.metrics.items() if m["mean"] is not None}
        others = _published(same)
        rows = list(dict.fromkeys(row for entry in same for row in (entry.label, others_of(entry.label))))
        cells |= others
        rows = [row for row in rows if any((row, task, column.name) in cells for task, column in columns)]
        found.append(Table(model, steps, rows, columns, cells, {row for row, _, _ in others}))
    return [table for table in found if table.rows]


def others_of(label: str) -> str:
    """The row of published figures of the method."""
    return f"{label}, published"


def _published(entries: Sequence[Entry]) -> dict[tuple[str, str, str], dict]:
    """Cells of figures by the runs' protocols."""
    return {
        (others_of(entry.label), entry.task, name): {"mean": figure.value, "low": None, "high": None}
        for entry in entries
        for name, figure in entry.published.items()
    }


def own_values(entries: Sequence[Entry]) -> list[Entry]:
    """Of each method and task, the run with the method's values in configs/, if there is one; else all."""
    usual = {(entry.task, entry.method) for entry in entries if not entry.options}
    return [entry for entry in entries if not entry.options or (entry.task, entry.method) not in usual]


def _columns(entries: Sequence[Entry], metrics: Sequence[str] | None) -> list[tuple[str, Column]]:
    found: dict[tuple[str, str], Column] = {}
    for entry in entries:
        for column in entry.columns.values():
            if column.larger_is_better is not None if metrics is None else column.name in metrics:
                found.setdefault((entry.task, column.name), column)
    tasks = list(dict.fromkeys(entry.task for entry in entries if entry.sampler))
    ordered = sorted(found.items(), key=lambda item: tasks.index(item[0][0]))
    return [(task, column) for (task, _), column in ordered]


def caption(table: Table) -> str:
    return f"{table.model}, {table.steps} steps"


def markdown(all_tables: Iterable[Table]) -> str:
    """A table each, with intervals; the best in bold."""
    parts = []
    for table in all_tables:
        rows = [[row, *_cells(table, row, "**{}**".format, _interval)] for row in table.rows]
        heads = [f"{task}: {column.title} {ARROWS[column.larger_is_better]}".strip() for task, column in table.columns]
        frame = pd.DataFrame(rows, columns=["method", *heads]).map(lambda text: text.replace("|", "\\|"))
        align = ["left", *["right"] * len(heads)]
        body = frame.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append(f"### {caption(table)}\n\n{body}\n")
    return "\n".join(parts)


def csv(all_tables: Iterable[Table]) -> str:
    """All of them below each other; of every metric of a task its mean and the bounds of its interval."""
    rows = []
    for table in all_tables:
        for row in table.rows:
            numbers: dict[str, object] = {"model": table.model, "steps": table.steps, "method": row}
            for task, column in table.columns:
                cell = table.number(row, task, column) or {}
                name = f"{task}/{column.name}"
                numbers |= {name: cell.get("mean"), f"{name}_low": cell.get("low"), f"{name}_high": cell.get("high")}
            rows.append(numbers)
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")


def latex(all_tables: Iterable[Table]) -> str:
    r"""For `\usepackage{booktabs}`; means only, as in the paper; the best in bold."""
    return "% \\usepackage{booktabs}\n" + "\n".join(map(_latex_table, all_tables))


def _latex_table(table: Table) -> str:
    tasks = list(dict.fromkeys(task for task, _ in table.columns))
    widths = [sum(task == other for other, _ in table.columns) for task in tasks]
    groups = " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{tex(task)}}}" for task, n in zip(tasks, widths))
    starts = [2 + sum(widths[:k]) for k in range(len(widths))]
    rules = " ".join(rf"\cmidrule(lr){{{a}-{a + n - 1}}}" for a, n in zip(starts, widths))
    heads = " & ".join(tex(column.title) + TEX_ARROWS[column.larger_is_better] for _, column in table.columns)
    rows = [
        " & ".join([tex(row), *_cells(table, row, r"\textbf{{{}}}".format, lambda cell, digits: "")]) + r" \\"
        for row in table.rows
    ]
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{tex(caption(table))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule", rf" & {groups} \\", rules,
        rf"method & {heads} \\", r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _cells(table: Table, row: str, bold: Callable[[str], str], interval: Callable[[dict, int], str]) -> list[str]:
    texts = []
    for task, column in table.columns:
        cell = table.number(row, task, column)
        mean = "" if cell is None else f"{cell['mean']:.{column.digits}f}"
        is_best = (
            cell is not None
            and row not in table.published
            and round(cell["mean"], column.digits) == table.best(task, column)
        )
        texts.append((bold(mean) if is_best else mean) + ("" if cell is None else interval(cell, column.digits)))
    return texts


def _interval(cell: dict, digits: int) -> str:
    return "" if cell["low"] is None else f" [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"


def tex(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(TEX.get(character, character) for character in text)
