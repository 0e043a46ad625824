"""``log.csv`` of a run and the picture of it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nasseg.files import write_atomic

SPEED = "images_per_second"
"""Images of an iteration over the time since the row before, validations included."""

FIRST = ("iteration", "seconds", "lr", "loss")


class LogFile:
    """One row an iteration, appended and flushed at once; a validation's columns are empty in the other rows.

    Numbers are written in full (``repr``), so equal runs give equal files but for ``seconds``.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.columns = (*FIRST, *names)
        self._before: float | None = None

    def write(self, iteration: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Append a row; ``seconds`` count from this object's first.

        The first call drops rows from ``iteration`` on, torn ones included: a resumed run writes them again.
        """
        if self._before is None:
            self._before = self._keep_before(iteration)
        row: dict[str, object] = {name: repr(metrics[name]) for name in self.columns if name in metrics}
        row |= {"iteration": iteration, "seconds": f"{self._before + seconds:.2f}"}
        with self.path.open("a", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="", extrasaction="ignore", lineterminator="\n").writerow(row)

    def _keep_before(self, iteration: int) -> float:
        """Write the file anew with the rows before ``iteration``; the seconds they took."""
        kept = [row for row in read_log(self.path) if row["iteration"] < iteration]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in kept:
            writer.writerow(
                {**{k: repr(v) for k, v in row.items()}, "iteration": int(row["iteration"]), "seconds": f"{row['seconds']:.2f}"}
            )
        write_atomic(self.path, text.getvalue())
        return kept[-1]["seconds"] if kept else 0.0


def read_log(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The rows, numbers only, empty cells left out; torn and strange lines are passed over; none where there is no file."""
    rows: list[dict[str, float]] = []
    if not Path(path).is_file():
        return rows
    with Path(path).open(encoding="utf-8", errors="replace", newline="") as file:
        lines = file.readlines()
    whole = [line for line in lines if line.endswith("\n")]
    for raw in csv.DictReader(whole):
        if None in raw:
            continue
        try:
            row = {key: float(value) for key, value in raw.items() if value}
        except ValueError:
            continue
        if set(FIRST) <= row.keys():
            rows.append(row)
    return rows


def draw_curves(log: str | os.PathLike[str], path: str | os.PathLike[str], title: str) -> None:
    """Loss (each iteration, and its running mean) and learning rate above, measured percentages below, as PNG."""
    # Half a second to import, for one picture at the end of a run.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = read_log(log)
    steps = np.array([row["iteration"] for row in rows])
    loss = np.array([row["loss"] for row in rows])
    names = sorted({name for row in rows for name in row} - {*FIRST, SPEED}, key=lambda name: (not name.startswith("miou"), name))
    figure = Figure(figsize=(8, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, loss, color="#9db7d5", linewidth=0.8, label="loss")
    window = max(1, len(loss) // 50)
    if window > 1:
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        above.plot(steps[window - 1 :], smooth, color="#1f4e86", linewidth=1.4, label=f"mean of {window}")
    rate = above.twinx()
    rate.plot(steps, [row["lr"] for row in rows], color="#b5651d", linewidth=1.0, linestyle="--", label="learning rate")
    rate.set_ylabel("learning rate")
    above.set_ylabel("loss")
    above.legend(loc="best")
    for name in names:
        points = [(row["iteration"], row[name]) for row in rows if name in row]
        below.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.2, label=name)
    if names:
        below.legend(loc="best")
    below.set_ylabel("percent")
    below.set_xlabel("iteration")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
