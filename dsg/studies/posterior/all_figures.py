"""The figures of docs/theory.md, from the tables of the suite."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

from dsg.studies.posterior import plane, posterior_figures, premise_figures
from dsg.studies.posterior.figure_parts import TITLES, Guided, Tables
from dsg.studies.posterior.ground_truth import GroundTruth

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def draw(tables: Tables, out: Path, known: GroundTruth | None, guided: Guided, controls: Guided) -> list[str]:
    """Every figure that the tables have the numbers of, as PNG and PDF.

    Args:
        tables: as `dsg.studies.posterior.posterior_tables.collect` makes them.
        known: of the setting "plane", for its trajectories.
        guided: the samplers compared.
        controls: theirs, for the distance against steps and against values.

    Returns:
        Names of the files.
    """
    figures, names = plan(tables, guided, controls), []
    if known is not None:
        runs = tables["runs"]
        paths = plane.trajectories(known, runs[runs["setting"] == "plane"])
        figures["plane"] = lambda: plane.picture(known, paths)
        plane.film(known, paths, out / "plane.gif")
        names.append("plane.gif")
    for name, figure in figures.items():
        fig = figure()
        fig.savefig(out / f"{name}.png", dpi=130)
        fig.savefig(out / f"{name}.pdf", dpi=130, metadata={"CreationDate": None})
        plt.close(fig)
        names.append(f"{name}.png")
    return names


def plan(tables: Tables, guided: Guided, controls: Guided) -> dict[str, Callable]:
    """name -> a function that makes the figure."""
    runs = tables["runs"]
    settings = [s for s in TITLES if s in set(runs["setting"])] or list(runs["setting"].unique()[:3])
    figures = {
        "steps": lambda: posterior_figures.against_steps(runs, settings, {**guided, **controls}),
        "values": lambda: posterior_figures.against_value(tables["trials"], runs, settings, {**guided, **controls}),
        "calibration": lambda: posterior_figures.calibration(runs, guided),
        "deviation": lambda: premise_figures.deviation(tables, settings, guided),
        "ablations": lambda: posterior_figures.ablations(runs),
        "concentration": lambda: premise_figures.concentration(tables["concentration"]),
    }
    if "diagnosis" in tables:
        diagnosis = tables["diagnosis"]
        finest = diagnosis[diagnosis["steps"] == diagnosis["steps"].max()]
        figures["jensen"] = lambda: premise_figures.jensen(finest)
        figures["manifold"] = lambda: premise_figures.manifold(finest)
    if "points" in tables:
        figures["faces"] = lambda: posterior_figures.faces(tables["points"], guided)
    return figures
