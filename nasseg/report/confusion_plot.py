"""The confusion matrix as a heat map: which class is taken for which."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

MOST_NUMBERED = 25
"""Classes up to which every cell has its number."""
MOST_NAMED = 80
"""Classes up to which rows and columns have names."""


def shares(matrix_KK: NDArray[np.int64]) -> NDArray[np.float64]:
    """Percent of each true class's pixels, by predicted class; a class without pixels has NaN."""
    totals = matrix_KK.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = 100 * matrix_KK / totals
    return found


def draw_confusion(matrix_KK: NDArray[np.int64], classes: Sequence[str], title: str = "") -> Figure:
    """Rows are true classes, columns predicted ones, colours the share of the row."""
    count = len(classes)
    percent_KK = shares(matrix_KK)
    side = min(24.0, max(5.0, 2.5 + 0.42 * count if count <= MOST_NUMBERED else 4 + 0.14 * count))
    figure = Figure(figsize=(side + 1, side), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["Blues"].with_extremes(bad="#ececec")
    # A square root, or the mistakes, which are the point, would all be white.
    drawn = axes.imshow(np.ma.masked_invalid(np.sqrt(percent_KK / 100)), cmap=colours, vmin=0, vmax=1)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=np.sqrt([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]))
    bar.ax.set_yticklabels(["0", "1", "5", "10", "25", "50", "75", "100"])
    bar.set_label("% of the true class's pixels")
    if count <= MOST_NAMED:
        size = 9 if count <= MOST_NUMBERED else 6
        axes.set_xticks(range(count), classes, rotation=90, fontsize=size)
        axes.set_yticks(range(count), classes, fontsize=size)
    if count <= MOST_NUMBERED:
        for row, column in np.ndindex(count, count):
            value = percent_KK[row, column]
            if value >= 0.5:
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if value > 35 else "#222222")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
