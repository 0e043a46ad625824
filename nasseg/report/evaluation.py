"""The folder a measurement leaves behind: numbers, confusion matrix, worst images, and a page that shows them."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasseg.data.dataset import Split
from nasseg.errors import ConfigError, Problem
from nasseg.files import write_atomic
from nasseg.metric import label_of
from nasseg.report.confusion_plot import draw_confusion, png, shares
from nasseg.report.gallery import Colour, draw_gallery
from nasseg.report.worst import Worst
from nasseg.training.metrics import Metrics

PAGE = "index.html"
FILES = ("metrics.json", "classes.csv", "images.csv", "confusion.npy", "confusion.csv", "confusion.png", "worst.png", PAGE)

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1340px;margin:2em auto;padding:0 1em;color:#202020;background:#fafafa}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child,td.name{text-align:left}img{max-width:100%}h1{font-size:1.4em}h2{font-size:1.15em;margin-top:2em}"
    ".swatch{display:inline-block;width:.9em;height:.9em;border:1px solid #888;margin-right:.5em;vertical-align:-.1em}code{font-size:.9em}"
)


def report_folder(path: str) -> Path:
    """The folder, if a report may be written there: new, empty, or an older report's; :class:`ConfigError` otherwise."""
    folder = Path(path)
    try:
        strange = folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / PAGE).is_file()))
        if strange:
            raise ConfigError(Problem("", "--report", "holds something that is no report; give another folder", path, f"{path}/report"))
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(Problem("", "--report", f"cannot be written: {error.strerror}", path)) from error
    return folder


def write_report(
    folder: Path,
    metrics: Metrics,
    split: Split,
    classes: Sequence[str],
    palette: Sequence[Colour],
    worst: Worst,
    *,
    title: str,
    line: str,
) -> list[Path]:
    """Write :data:`FILES`; ``title`` names what was measured, ``line`` is the protocol in words. ``metrics`` have their matrix."""
    assert metrics.confusion is not None  # of every measurement; only those read back from a file lack it
    matrix_KK = metrics.confusion
    rows = class_rows(metrics, classes)
    write_atomic(folder / "metrics.json", json.dumps(metrics.to_dict(), indent=1) + "\n")
    write_atomic(folder / "classes.csv", _csv(list(rows[0]), [list(row.values()) for row in rows]))
    write_atomic(folder / "images.csv", worst.table)
    buffer = io.BytesIO()
    np.save(buffer, matrix_KK)
    write_atomic(folder / "confusion.npy", buffer.getvalue())
    table = [[name, *(int(n) for n in row)] for name, row in zip(classes, matrix_KK, strict=True)]
    write_atomic(folder / "confusion.csv", _csv(["true \\ predicted", *classes], table))
    write_atomic(folder / "confusion.png", png(draw_confusion(matrix_KK, classes, title)))
    picture = io.BytesIO()
    draw_gallery(worst.cases, split, classes, palette).save(picture, "PNG")
    write_atomic(folder / "worst.png", picture.getvalue())
    write_atomic(folder / PAGE, _page(metrics, rows, palette, len(worst.cases), title, line))
    return [folder / name for name in FILES]


def class_rows(metrics: Metrics, classes: Sequence[str]) -> list[dict[str, str]]:
    """One row a class: IoU, accuracy, precision, boundary IoU in percent, its share of the counted pixels, what it is most taken for."""
    assert metrics.confusion is not None
    matrix_KK = metrics.confusion
    total = matrix_KK.sum()
    rows = []
    for c, name in enumerate(classes):
        true, said, right = matrix_KK[c].sum(), matrix_KK[:, c].sum(), matrix_KK[c, c]
        rows.append(
            {
                "class": name,
                "iou": _percent(metrics.per_class.get(name)),
                "acc": _percent(100 * right / true if true else None),
                "precision": _percent(100 * right / said if said else None),
                "boundary_iou": _percent(metrics.boundary_per_class.get(name)),
                "pixels": _percent(100 * true / total),
                "taken_for": _taken_for(matrix_KK, c, classes),
            }
        )
    return rows


def _taken_for(matrix_KK: NDArray[np.int64], c: int, classes: Sequence[str]) -> str:
    """The class that most of the mistaken pixels of ``c`` were given to, with its share of all pixels of ``c``."""
    row = shares(matrix_KK[c : c + 1])[0]
    row[c] = 0
    if not np.isfinite(row).all() or not row.any():
        return ""
    other = int(row.argmax())
    return f"{classes[other]} {row[other]:.1f} %"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


HEADS = {
    "class": "class",
    "iou": "IoU %",
    "acc": "Acc %",
    "precision": "precision %",
    "boundary_iou": "boundary IoU %",
    "pixels": "of the pixels %",
    "taken_for": "most taken for",
}


def _page(metrics: Metrics, rows: Sequence[Mapping[str, str]], palette: Sequence[Colour], cases: int, title: str, line: str) -> str:
    escape = html.escape
    shown = [key for key in HEADS if key == "class" or any(row[key] for row in rows)]
    body = []
    for row, colour in zip(rows, palette, strict=False):
        cells = [f'<td class="name"><span class="swatch" style="background:rgb{tuple(colour)}"></span>{escape(row["class"])}</td>']
        cells += [f'<td class="{"name" if key == "taken_for" else "number"}">{escape(row[key]) or "–"}</td>' for key in shown[1:]]
        body.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(HEADS[key])}</th>" for key in shown)
    protocol = escape(json.dumps(dict(metrics.protocol), indent=1))
    numbers = " · ".join(f"<b>{escape(label_of(name))} {value:.2f}</b>" for name, value in metrics.values.items())
    files = " · ".join(f'<a href="{name}">{name}</a>' for name in FILES if name != PAGE)
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>',
            f"<h1>{escape(title)}</h1><p>{numbers}</p><p>{escape(line)}</p>",
            f"<h2>Classes</h2><table><tr>{heads}</tr>",
            *body,
            "</table>",
            '<h2>Which class is taken for which</h2><p><img src="confusion.png" alt="confusion matrix"></p>',
            f'<h2>The {cases} worst images</h2><p><img src="worst.png" alt="worst images"></p>',
            f"<p>{files}</p><details><summary>protocol</summary><pre>{protocol}</pre></details>",
            "</html>\n",
        )
    )
