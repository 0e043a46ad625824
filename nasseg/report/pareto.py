"""The trials of a study as tables: the Pareto front, and all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from nasseg.genes.budget import quantity
from nasseg.metric import label_of
from nasseg.search.view import COMPLETE, DUPLICATE, FAILED, REJECTED, RUNNING, WAITING, StudyView, TrialView

STYLES = {COMPLETE: "green", FAILED: "red", REJECTED: "dim", DUPLICATE: "dim", RUNNING: "cyan", WAITING: "yellow"}


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


def trial_table(view: StudyView, trials: Iterable[TrialView], *, title: str | None = None, states: bool = True) -> Table:
    """Trials as rows: number, origin, genes, settings where any are searched, cost, mIoU, state and reason."""
    listed = list(trials)
    extras = extra_metrics(view)
    settings = any(trial.settings for trial in listed)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("mIoU", justify="right", no_wrap=True)
    for name in extras:
        table.add_column(label_of(name), justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("origin", no_wrap=True)
    table.add_column("genes", overflow="fold")
    if settings:
        table.add_column("settings", overflow="fold")
    if states:
        table.add_column("state", no_wrap=True)
        table.add_column("reason", overflow="fold")
    for trial in listed:
        cells = [f"{'*' if trial.on_front and states else ''}{trial.number}", percent(trial.metrics.get("miou"))]
        cells += [percent(trial.metrics.get(name)) for name in extras]
        cells += [count(trial.cost.get("macs")), count(trial.cost.get("params")), trial.origin, trial.short]
        if settings:
            cells.append(shown_settings(trial.settings))
        if states:
            cells += [trial.state, reason_of(trial)]
        table.add_row(*cells, style="bold" if trial.on_front and states else STYLES[trial.state] if states else None)
    return table


def reason_of(trial: TrialView) -> str:
    """Why a trial is what it is, shortly."""
    if trial.state == DUPLICATE:
        return f"as trial {trial.duplicate_of}"
    return (trial.reason or "").splitlines()[0] if trial.reason else ""


def front_table(view: StudyView) -> Table:
    """The Pareto front, best first by the first objective."""
    directions = ", ".join(f"{label_of(name)} {way}" for name, way in view.objectives.items())
    return trial_table(view, view.front, title=f"Pareto front ({directions})", states=False)


def summary(view: StudyView) -> str:
    """``24 trained (1 failed), 31 rejected over budget, 2 duplicates, 4 on the front``."""
    failed = view.count(FAILED)
    parts = [f"{view.count(COMPLETE, FAILED)} trained" + (f" ({failed} failed)" if failed else "")]
    parts.append(f"{view.count(REJECTED)} rejected over budget")
    parts.append(f"{(n := view.count(DUPLICATE))} duplicate{'' if n == 1 else 's'} answered")
    parts += [f"{n} {state}" for state in (RUNNING, WAITING) if (n := view.count(state))]
    return ", ".join([*parts, f"{len(view.front)} on the front"])


def next_commands(view: StudyView) -> list[str]:
    """What to do with a finished study."""
    if view.best is None:
        return [f"nasseg show {view.path}"]
    name = view.path.name
    return [
        f"nasseg train {view.path}:best --trainer full --out runs/{name}",
        f"nasseg export runs/{name} --out bundles/{name}",
        f"nasseg show {view.path}",
    ]
