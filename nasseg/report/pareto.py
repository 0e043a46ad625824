"""The trials of a study as tables: the Pareto front, and all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from nasseg.genes.budget import quantity
from nasseg.metric import label_of
from nasseg.search.view import COMPLETE, DUPLICATE, FAILED, REJECTED, RUNNING, WAITING, StudyView, TrialView
from nasseg.training.collapse import worst_class

STYLES = {COMPLETE: "green", FAILED: "red", REJECTED: "dim", DUPLICATE: "dim", RUNNING: "cyan", WAITING: "yellow"}

UNBROKEN = ("origin", "state")
"""Columns of words that are never broken over lines."""
ROOM, GAP = 20, 2
"""Columns of the terminal that a column of words needs at least, and those between two columns."""


WORST_WIDTH = 18
"""Columns of the worst class with its IoU; a longer name is cut."""


def percent(value: float | None) -> str:
    """Two digits, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def count(value: float | None) -> str:
    """``1.23G``, or a dash."""
    return "–" if value is None else quantity(value)


def shown_settings(settings: Mapping[str, object]) -> str:
    """``lr 0.0012 drop_path 0.1``."""
    return " ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items())


def extra_metrics(view: StudyView) -> list[str]:
    """Measures other than the usual three, such as ``miou_holdout``, and objectives that are neither shown nor costs."""
    seen = {name: None for trial in view.trials for name in trial.metrics if name.startswith("miou_") or name in view.objectives}
    return [name for name in seen if name != "miou"]


def trial_table(
    view: StudyView, trials: Iterable[TrialView], *, title: str | None = None, states: bool = True, width: int | None = None
) -> Table:
    """Trials as rows: number, mIoU and other measures, cost, origin, genes, settings where any are searched, state and reason.

    On a terminal of ``width`` columns too few for columns of words beside each other, these stand in one column below each other.
    """
    listed = list(trials)
    numbers: dict[str, list[str] | list[Text]] = {"#": [f"{'*' if trial.on_front and states else ''}{trial.number}" for trial in listed]}
    numbers["mIoU"] = [percent(trial.metrics.get("miou")) for trial in listed]
    for name in extra_metrics(view):
        numbers[label_of(name)] = [percent(trial.metrics.get(name)) for trial in listed]
    if any(trial.per_class for trial in listed):
        numbers["worst class"] = [worst_cell(trial) for trial in listed]
    for name, cost in (("MACs", "macs"), ("params", "params")):
        numbers[name] = [count(trial.cost.get(cost)) for trial in listed]
    words = {"origin": [trial.origin for trial in listed], "genes": [trial.short for trial in listed]}
    if any(trial.settings for trial in listed):
        words["settings"] = [shown_settings(trial.settings) for trial in listed]
    if states:
        words["state"] = [trial.state for trial in listed]
        words["reason"] = [reason_of(trial) for trial in listed]
    fixed = [*numbers.items(), *((name, cells) for name, cells in words.items() if name in UNBROKEN)]
    taken = sum(GAP + max(map(len, (name, *cells))) for name, cells in fixed)
    if width is not None and width - taken < ROOM * sum(name not in UNBROKEN for name in words):
        words = {"trial": ["\n".join(filter(None, cells)) for cells in zip(*words.values(), strict=True)]}

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in words:
        table.add_column(name, no_wrap=name in UNBROKEN, overflow="fold")
    for trial, *cells in zip(listed, *numbers.values(), *words.values(), strict=True):
        table.add_row(*cells, style="bold" if trial.on_front and states else STYLES[trial.state] if states else None)
    return table


def worst_cell(trial: TrialView) -> Text:
    """Name and IoU of the worst class, red where the network did not learn it."""
    found = worst_class(trial.per_class)
    if found is None:
        return Text("–")
    name, value = found
    room = WORST_WIDTH - len(f" {value:.2f}")
    shown = name if len(name) <= room else f"{name[: room - 1]}…"
    return Text(f"{shown} {value:.2f}", style="red" if name in trial.collapse.classes else "")


def warning_lines(sentences: Iterable[str]) -> list[Text]:
    """Sentences of :func:`nasseg.search.view.collapsed_classes` as lines to print."""
    return [Text(f"warning: {text}", style="yellow") for text in sentences]


def reason_of(trial: TrialView) -> str:
    """Why a trial is what it is, shortly."""
    if trial.state == DUPLICATE:
        return f"as trial {trial.duplicate_of}"
    return (trial.reason or "").splitlines()[0] if trial.reason else ""


def front_table(view: StudyView, *, width: int | None = None) -> Table:
    """The Pareto front, best first by the first objective; ``width`` as in :func:`trial_table`."""
    directions = ", ".join(f"{label_of(name)} {way}" for name, way in view.objectives.items())
    return trial_table(view, view.front, title=f"Pareto front ({directions})", states=False, width=width)


def summary(view: StudyView) -> str:
    """``24 trained (1 failed), 31 rejected over budget, 2 duplicates, 4 on the front``."""
    failed = view.count(FAILED)
    parts = [f"{view.count(COMPLETE, FAILED)} trained" + (f" ({failed} failed)" if failed else "")]
    parts.append(f"{view.count(REJECTED)} rejected over budget")
    parts.append(f"{(n := view.count(DUPLICATE))} duplicate{'' if n == 1 else 's'} answered")
    parts += [f"{n} {state}" for state in (RUNNING, WAITING) if (n := view.count(state))]
    return ", ".join([*parts, f"{len(view.front)} on the front"])
