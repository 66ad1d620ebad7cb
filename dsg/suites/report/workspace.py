"""A W&B report, the same for everybody who logs the runs of a suite: methods by task and steps, quality and compute.

It is made of what `dsg.runs.tracking` logs: a run's name, `<metric>/mean` and `compute` in its summary, the suite as
group.
"""

from collections.abc import Sequence
from itertools import groupby

import wandb_workspaces.reports.v2 as wr

from dsg.runs.summary import run_name
from dsg.suites.report.entries import Entry
from dsg.types import Column

COMPUTE = wr.SummaryMetric("compute")  # forward passes, and two for each backward pass
NAME = "${run:displayName}"
ARROWS = {True: "larger is better", False: "smaller is better"}


def report(entries: Sequence[Entry], title: str, project: str, entity: str = "", group: str | None = None) -> wr.Report:
    """Sections by model and task; in each a plot of quality against compute per metric, then bars per number of steps.

    Args:
        entries: local runs, which say what tasks, steps and metrics there are; the numbers are those on the server.
        project, entity: where the runs were logged.
        group: of the runs (`wandb.group`, a suite's name); None: all of the project.
    """
    blocks: list = [wr.TableOfContents(), wr.MarkdownBlock(text=about(group))]
    runs = sorted((e for e in entries if e.is_run), key=lambda e: (e.model, e.task, e.steps))
    for (model, task), same in groupby(runs, key=lambda e: (e.model, e.task)):
        blocks += section(list(same), model, task, project, entity, group)
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def about(group: str | None) -> str:
    return (
        f"Runs {f'of group `{group}`' if group else 'of the whole project'}. Each bar is a run's mean over images; its "
        "95 % interval is in the run's summary (`<metric>/low`, `<metric>/high`). Compute is forward passes + 2 x "
        "backward passes of one image."
    )


def section(entries: Sequence[Entry], model: str, task: str, project: str, entity: str, group: str | None) -> list:
    columns = {column.name: column for entry in entries for column in entry.columns.values()}
    shown = [column for column in columns.values() if column.larger_is_better is not None]
    place = {"project": project, "entity": entity}
    blocks = [wr.H1(text=f"{task}, {model}"), wr.H2(text="Quality against compute")]
    blocks.append(grid([scatter(c) for c in shown], runset(f"{task}, all steps", entries, group, place)))
    for steps in sorted({entry.steps for entry in entries}):
        same = [entry for entry in entries if entry.steps == steps]
        blocks.append(wr.H2(text=f"{steps} steps"))
        blocks.append(grid([bars(c) for c in shown], runset(f"{task}, {steps} steps", same, group, place)))
    return blocks


def runset(title: str, entries: Sequence[Entry], group: str | None, place: dict[str, str]) -> wr.Runset:
    """The runs of these names, in their order: a base method comes before it with DSG."""
    given = [(e.model, e.task, e.method.name, e.steps, e.summary.get("overrides") or {}) for e in entries]
    names = sorted({run_name(*about) for about in given})
    words = [f"Metric('Name') in {names}"] + ([f"Metric('Group') == {group!r}"] if group else [])
    order = [wr.OrderBy(name=wr.Metric("Name"), ascending=True)]
    return wr.Runset(name=title, filters=" and ".join(words), order=order, **place)


def grid(panels: Sequence, of: wr.Runset) -> wr.PanelGrid:
    """Two panels beside each other."""
    for k, panel in enumerate(panels):
        panel.layout = wr.Layout(x=12 * (k % 2), y=8 * (k // 2), w=12, h=8)
    return wr.PanelGrid(runsets=[of], panels=list(panels))


def scatter(column: Column) -> wr.ScatterPlot:
    mean = wr.SummaryMetric(summary_key(column))
    return wr.ScatterPlot(title=heading(column), x=COMPUTE, y=mean, log_x=True, legend_template=NAME)


def bars(column: Column) -> wr.BarPlot:
    mean = wr.SummaryMetric(summary_key(column))
    return wr.BarPlot(title=heading(column), metrics=[mean], legend_template=NAME, orientation="v", max_bars_to_show=30)


def heading(column: Column) -> str:
    return f"{column.title}, {ARROWS[column.larger_is_better]}"


def summary_key(column: Column) -> str:
    return f"{column.name}/mean"


def outline(made: wr.Report) -> str:
    """What is in the report, a line each, to be read before it is saved."""
    lines = [f"{made.title}: project {made.project}" + f", entity {made.entity}" * bool(made.entity)]
    for block in made.blocks:
        if isinstance(block, (wr.H1, wr.H2)):
            lines.append(("  " if isinstance(block, wr.H1) else "    ") + str(block.text))
        elif isinstance(block, wr.PanelGrid):
            lines += [f"      runs: {one.filters}" for one in block.runsets]
            lines += [f"      {type(panel).__name__}: {panel.title}" for panel in block.panels]
    return "\n".join(lines)
