"""What the figures of the theory share."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import ticker

from dsg.suites.methods import Method

Guided = Mapping[str, Method]  # the samplers compared, by name
Tables = Mapping[str, pd.DataFrame]

TITLES = {  # the settings of the figures with a panel for each, and their titles
    "plane": "plane: 2-D",
    "linear64": "linear64: 16 measurements",
    "ambiguous64": "ambiguous64: 2 noisy measurements",
}
DISTANCE, BIAS = "sliced $W_2$ / std", "bias of the mean / std"


def readable(*axes) -> None:
    """Log axes with plain numbers at 1, 2, 5, and between these where the axis is short."""
    for axis in axes:
        low, high = axis.get_view_interval()
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high > 5 * low else range(1, 10)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def legend_below(fig, ax, room: float = 0.06) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, fontsize=8, ncol=min(len(labels), 8), loc="lower center")
    fig.tight_layout(rect=(0, room, 1, 1))


def two_counts(table: pd.DataFrame) -> list[int]:
    """20 and 100 steps, or what there is."""
    return [n for n in (20, 100) if n in set(table["steps"])] or sorted(table["steps"].unique())[:2]
