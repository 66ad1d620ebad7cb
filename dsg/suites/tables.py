"""Tables as Markdown, CSV and LaTeX: those of a suite, which its YAML names under `tables`, and those of a paper."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dsg.files import write_text
from dsg.suites.frame import COSTS, Collected, Metrics, choices, collect, differences, per_image, pooled
from dsg.suites.methods import Method
from dsg.suites.protocol import ReportJob, outcome_of
from dsg.suites.suite import Outcome
from dsg.types import Column

VIEWS = {
    "steps": ("Equal steps", "Every sampler takes as many steps."),
    "compute": (
        "Equal compute",
        "Every sampler takes as many steps as fit into the budget of forward passes + 2 x backward passes per image. "
        "compute is what was counted: a sampler may stop early.",
    ),
    "own": ("Own number of steps", "The number of steps of each sampler's YAML."),
}
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
ARROWS = {True: "↑", False: "↓", None: ""}
TEX_ARROWS = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}


# --- writers


def markdown(table: pd.DataFrame, numbers: Sequence[str] = ()) -> str:
    """Args: table: of texts. numbers: the columns that are aligned to the right."""
    shown = table.fillna("").astype(str).map(lambda text: text.replace("|", "\\|"))
    align = ["right" if name in numbers else "left" for name in shown.columns]
    return shown.to_markdown(index=False, disable_numparse=True, colalign=align if len(shown) else None) + "\n"


def write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False, float_format="%.6g"))


def tex(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(TEX.get(character, character) for character in text)


def number(value: float | None, digits: int, sign: str = "") -> str:
    return "" if value is None or pd.isna(value) else f"{value:{sign}.{digits}f}"


def with_interval(mean: float, low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    """`26.00 [25.00, 27.00]`, as far as there are numbers."""
    bounds = [number(bound, digits, sign) for bound in (low, high)]
    return number(mean, digits, sign) + (f" [{', '.join(bounds)}]" if all(bounds) else "")


# --- a suite


def write(
    outcome: Outcome,
    parts: Sequence[str],
    metrics: Metrics = (),
    differences_in: Sequence[str] | None = None,
    margins: Mapping[str, float] | None = None,
    pooled_metric: str | None = None,
    pooled_floor: str | None = None,
    about: str = "",
) -> list[str]:
    """table.md and table.tex; table.csv, the frame; paired.csv, the differences; of tuned suites choices.csv and
    images.csv, a row per test image, from which intervals can be had again.

    Args:
        parts: entries of the suite's `jobs`.
        metrics: names that come first, in this order; after them come all others that have a direction.
        differences_in: metrics of table.md's differences; None: all of single images that have a direction.
        margins: of equivalence, by metric, in its unit.
        pooled_metric, pooled_floor: see `dsg.suites.frame.pooled`.
        about: a sentence for table.md.
    """
    found, margins = collect(outcome, parts, metrics), margins or {}
    frame = found.frame()
    if pooled_metric is not None:
        more = pooled(outcome, found, pooled_metric, pooled_floor)
        frame = frame if more.empty else pd.concat([frame, more], ignore_index=True)
    tuned = [job for job in outcome.of(*parts) if isinstance(job, ReportJob)]
    names = list(dict.fromkeys(column.name for columns in found.columns.values() for column in columns))
    compared = differences(found, None, margins)
    tables = {
        "table": frame, "paired": compared, "choices": choices(tuned), "images": per_image(tuned, names),
    }  # fmt: skip
    written = [name for name, table in tables.items() if len(table)]
    for name in written:
        write_csv(outcome.out / f"{name}.csv", tables[name])
    shown = compared if differences_in is None or compared.empty else compared[compared["metric"].isin(differences_in)]
    text = suite_markdown(found, frame, shown, margins, about)
    write_text(outcome.out / "table.md", text)
    known = {column.name: column for columns in found.columns.values() for column in columns}
    write_text(outcome.out / "table.tex", latex(papers(frame, known, found.methods)))
    print(text)
    return ["table.md", "table.tex", *(f"{name}.csv" for name in written)]


def suite_markdown(
    found: Collected, frame: pd.DataFrame, compared: pd.DataFrame, margins: Mapping[str, float], about: str = ""
) -> str:
    """Sections by view and task, then the differences, what was refused, and how metrics of sets were computed."""
    text = head(found, margins, about)
    views = list(dict.fromkeys(frame["view"]))
    for view in views:
        if found.suite.yaml.get("views"):
            text += f"\n## {VIEWS[view][0]}\n\n{VIEWS[view][1]}\n"
        for task, part in frame[frame["view"] == view].groupby("task", sort=False):
            table = section(part, found.columns[task], found.methods)
            text += f"\n### {task.replace('_', ' ')}\n\n{markdown(table)}"
    if len(compared):
        columns = {column.name: column for columns in found.columns.values() for column in columns}
        text += f"\n## Differences, image by image\n\n{markdown(difference_table(compared, columns, found.methods))}"
    refused = [
        {"task": cell.task, "method": cell.method.label, "why there is nothing": cell.refused}
        for cell in found.cells
        if cell.refused
    ]
    if refused:
        text += f"\n## Left blank\n\n{markdown(pd.DataFrame(refused).drop_duplicates())}"
    lines = settings(found)
    return text + ("\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else "")


def head(found: Collected, margins: Mapping[str, float], about: str) -> str:
    suite, columns = found.suite, {c.name: c for some in found.columns.values() for c in some}
    samples = f", {suite.samples} samples each" if suite.samples > 1 else ""
    sentences = [about] if about else []
    if suite.options:
        sentences.append(f"With {', '.join(suite.options)}.")
    if "tuning" in suite.yaml:
        sentences.append(outcome_of(suite.yaml["tuning"]))
    sentences.append(
        "Means with 95 % intervals (Student's t) over images, and the best of the guided methods in bold. "
        "evaluations: forward passes per image; compute: forward passes + 2 x backward passes, as counted."
    )
    for name, margin in margins.items():
        title = columns[name].title if name in columns else name
        sentences.append(
            f'The margin of equivalence in {title} is {margin:g}: "no difference" is said where the interval lies '
            'within it, "open" where it says neither that nor which is better.'
        )
    count = f"{suite.images} inputs per task{samples}, {', '.join(suite.models)}"
    return f"# Suite {suite.name}: {count}\n\n{' '.join(sentences)}\n"


def section(part: pd.DataFrame, columns: Sequence[Column], methods: Mapping[str, Method]) -> pd.DataFrame:
    """A task's rows of the frame as texts, a row per level, method and value; the best of each level in bold."""
    keys = ["level", "method", "steps", "value"]
    rows = {key: rows.set_index("metric") for key, rows in part.fillna({"value": ""}).groupby(keys, sort=False)}
    best = {(key[0], c.name): best_of(part[part["level"] == key[0]], c, methods) for key in rows for c in columns}
    table = []
    for (level, method, steps, value), numbers in rows.items():
        row = {"budget": level} if part["view"].iloc[0] == "compute" else {}
        row |= {"method": methods[method].label, "steps": f"{steps:.0f}" if steps else "-", "value": value}
        for column in (*columns, *COSTS):
            cell = numbers.loc[column.name] if column.name in numbers.index else None
            text = "" if cell is None else with_interval(cell["mean"], cell["low"], cell["high"], column.digits)
            is_best = (
                cell is not None
                and competes(methods[method])
                and same(cell["mean"], column, best.get((level, column.name)))
            )
            row[column.title] = bold(text) if is_best else text
        table.append(row)
    found = pd.DataFrame(table)
    return found.loc[:, [name for name in found if name in ("method", "steps") or (found[name] != "").any()]]


def competes(method: Method | None) -> bool:
    return method is not None and method.guided


def best_of(part: pd.DataFrame, column: Column, methods: Mapping[str, Method]) -> float | None:
    """The best of these rows, as it is printed; None where nothing can be called best: the metric has no direction, or
    only one method competes."""
    rows = part[(part["metric"] == column.name) & part["method"].map(lambda name: competes(methods.get(name)))]
    values = rows["mean"].dropna().round(column.digits)
    if column.larger_is_better is None or len(values) < 2:
        return None
    return values.max() if column.larger_is_better else values.min()


def same(mean: float, column: Column, best: float | None) -> bool:
    return best is not None and np.isclose(round(mean, column.digits), best)


def bold(text: str) -> str:
    """Its first number in bold."""
    mean, space, interval = text.partition(" ")
    return f"**{mean}**{space}{interval}"


def difference_table(
    compared: pd.DataFrame, columns: Mapping[str, Column], methods: Mapping[str, Method]
) -> pd.DataFrame:
    rows = []
    for one in compared.to_dict("records"):
        column = columns[one["metric"]]
        better = one["lower" if column.larger_is_better is False else "higher"]
        row = {"task": one["task"], "steps or budget": one["level"], "method": methods[one["method"]].label}
        row |= {"compared with": methods[one["base"]].label, "metric": column.title}
        row["difference"] = with_interval(one["difference"], one["low"], one["high"], column.digits, "+")
        row |= {"better on": f"{better} of {one['images']}", "verdict": one["verdict"]}
        if pd.notna(one.get("nested_low")):
            bounds = (number(one[f"nested_{end}"], column.digits, "+") for end in ("low", "high"))
            row |= {"with the choice": f"[{', '.join(bounds)}]", "verdict with the choice": one["nested_verdict"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(view=compared["view"].to_list()) if compared["view"].nunique() > 1 else table


def settings(found: Collected) -> list[str]:
    """How the metrics of whole sets were computed, a line each."""
    lines = {}
    for cell in found.finished:
        for name, record in cell.run.set_metrics().items():
            column = next((c for c in found.columns[cell.task] if c.name == name), Column(name, name))
            lines[set_settings(column, record)] = None
    return list(lines)


def set_settings(column: Column, record: Mapping) -> str:
    """`FID: of 1000 images; reference ...; resize ...`."""
    words = [f"{key} {value}" for key, value in record.items() if key not in ("value", "images", "low", "high")]
    of = [f"of {record['images']} images"] if "images" in record else []
    return f"{column.title}: {'; '.join([*of, *words])}"


# --- a paper


@dataclass
class Paper:
    """A table with methods as rows and tasks as groups of columns.

    Attributes:
        rows: by the method's label, the cells (mean, low, high), by task and metric.
        columns: (task, metric).
        best: by task and metric, as it is printed.
    """

    caption: str
    rows: dict[str, dict[tuple[str, str], tuple]]
    columns: list[tuple[str, Column]]
    best: dict[tuple[str, str], float | None]
    values: pd.DataFrame

    def texts(self, label: str, bold: Callable[[str], str], intervals: bool) -> list[str]:
        cells = []
        for task, column in self.columns:
            mean, *bounds = self.rows[label].get((task, column.name), (None, None, None))
            text = number(mean, column.digits)
            is_best = text and same(mean, column, self.best[task, column.name])
            interval = with_interval(0, *bounds, column.digits).partition(" ")[2] if text and intervals else ""
            cells.append((bold(text) if is_best else text) + (f" {interval}" if interval else ""))
        return cells


def papers(
    frame: pd.DataFrame,
    columns: Mapping[str, Column],
    methods: Mapping[str, Method],
    metrics: Sequence[str] | None = None,
) -> list[Paper]:
    """A table per level: equal steps and equal compute apart. What has no steps is in each of them.

    Args:
        metrics: names; None: all that have a direction.
    """
    wanted = [
        c.name for c in columns.values() if (c.larger_is_better is not None if metrics is None else c.name in metrics)
    ]
    frame = frame[frame["metric"].isin(wanted)].fillna({"value": ""})
    references, runs = frame[frame["steps"] == 0], frame[frame["steps"] != 0]
    titles = {"steps": "{} steps", "compute": "budget of {} passes", "own": "own number of steps"}
    found = []
    for (view, level), part in runs.groupby(["view", "level"], sort=False):
        part = pd.concat([references[references["task"].isin(part["task"])], part])
        found.append(paper(part, columns, methods, f"{part['suite'].iloc[-1]}, {titles[view].format(level)}"))
    return found


def paper(part: pd.DataFrame, columns: Mapping[str, Column], methods: Mapping[str, Method], caption: str) -> Paper:
    shown = [(task, columns[name]) for task in dict.fromkeys(part["task"]) for name in columns
             if ((part["task"] == task) & (part["metric"] == name)).any()]  # fmt: skip
    repeated = part.groupby(["task", "method", "metric"])["mean"].transform("size") > 1  # values that were varied
    labels = part["method"].map(lambda name: methods[name].label if name in methods else name)
    labels = labels.where(~repeated, labels + ", " + part["value"])
    rows: dict[str, dict] = {}
    for label, one in zip(labels, part.itertuples()):
        rows.setdefault(label, {})[one.task, one.metric] = (one.mean, one.low, one.high)
    best = {(t, c.name): best_of(part[part["task"] == t], c, methods) for t, c in shown}
    tuned = part.assign(label=labels)[(part["value"] != "") & ~repeated].drop_duplicates(["label", "task"])
    values = tuned.pivot(index="label", columns="task", values="value").reindex(
        columns=list(dict.fromkeys(tuned["task"]))
    )
    return Paper(caption, rows, shown, best, values.reindex([r for r in rows if r in values.index]))


def paper_markdown(tables: Iterable[Paper]) -> str:
    """Each table with intervals, and the tuned values in a second one."""
    parts = []
    for table in tables:
        heads = [f"{task}: {column.title} {ARROWS[column.larger_is_better]}".strip() for task, column in table.columns]
        rows = [[label, *table.texts(label, "**{}**".format, True)] for label in table.rows]
        parts.append(f"### {table.caption}\n\n{markdown(pd.DataFrame(rows, columns=['method', *heads]), heads)}")
        if len(table.values):
            parts.append(f"Tuned values:\n\n{markdown(table.values.rename_axis('method').reset_index())}")
    return "\n".join(parts)


def latex(tables: Iterable[Paper]) -> str:
    r"""For `\usepackage{booktabs}`; means only, the best in bold; the tuned values in tables of their own."""
    text = "% \\usepackage{booktabs}\n"
    for table in tables:
        heads = [tex(column.title) + TEX_ARROWS[column.larger_is_better] for _, column in table.columns]
        rows = [[tex(label), *table.texts(label, r"\textbf{{{}}}".format, False)] for label in table.rows]
        text += latex_table(table.caption, [task for task, _ in table.columns], heads, rows)
        if len(table.values):
            values = table.values.fillna("")
            rows = [[tex(label), *(tex(value) for value in row)] for label, row in zip(values.index, values.to_numpy())]
            text += latex_table(f"{table.caption}: tuned values", list(values), None, rows)
    return text


def latex_table(caption: str, tasks: Sequence[str], heads: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    """Args: tasks: of every column. heads: below the tasks; None: the tasks are the heads."""
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(tasks)}}}", r"\toprule"]
    if heads is None:
        lines.append(" & ".join(["method", *map(tex, tasks)]) + r" \\")
    else:
        groups = [(task, tasks.index(task) + 2, tasks.count(task)) for task in dict.fromkeys(tasks)]
        lines.append(" & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{tex(task)}}}" for task, _, n in groups)]) + r" \\")
        lines.append(" ".join(rf"\cmidrule(lr){{{start}-{start + n - 1}}}" for _, start, n in groups))
        lines.append(" & ".join(["method", *heads]) + r" \\")
    lines += [r"\midrule", *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}", "", ""])
