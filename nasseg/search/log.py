"""Events of a search in words: one line each, for ``search.log`` and for a terminal that is none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from nasseg.genes.budget import quantity
from nasseg.metric import label_of
from nasseg.search.view import COMPLETE, DUPLICATE, FAILED, REJECTED, RUNNING, Event, TrialView
from nasseg.training.collapse import worst_class


def describe(event: Event) -> str:
    """An event as one line without a time."""
    trial = event.trial
    if trial is None:
        return event.text
    name = f"trial {trial.number}"
    match event.kind:
        case "running":
            return f"{name} started ({trial.origin}): {cost_text(trial)}; {trial.short}{settings_text(trial.settings)}"
        case "resumed":
            return f"{name} goes on, attempt {trial.attempt}: {trial.short}"
        case "progress":
            return f"{name} at iteration {event.iteration}: {metrics_text(event.metrics)}"
        case "complete":
            front = ", on the front" if trial.on_front else ""
            return f"{name} complete: {metrics_text(trial.metrics)}{worst_of(trial)} at {cost_text(trial)}{front}"
        case "duplicate":
            return f"{name} is trial {trial.duplicate_of} again: answered, not trained"
        case "lost":
            return f"{name} lost its worker: {event.text}; it is tried again"
        case _:
            return f"{name} {event.kind}: {trial.reason}"


def worst_of(trial: TrialView) -> str:
    """``; worst class weed 0.00 (never predicted)``, empty where nothing was measured by class."""
    worst = worst_class(trial.per_class)
    if worst is None:
        return ""
    single = trial.collapse.single
    why = f"every pixel is given to {single}" if single else "never predicted" if worst[0] in trial.collapse.never else ""
    return f", worst class {worst[0]} {worst[1]:.2f}{f' ({why})' if why else ''}"


def cost_text(trial: TrialView) -> str:
    """``1.23G MACs, 4.56M params``."""
    return f"{quantity(trial.cost.get('macs', 0))} MACs, {quantity(trial.cost.get('params', 0))} params"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """``mIoU 54.32`` and whatever else there is, shortly."""
    return ", ".join(f"{label_of(name)} {value:.4g}" for name, value in list(metrics.items())[:4])


def settings_text(settings: Mapping[str, object]) -> str:
    """``; lr=0.00123 drop_path=0.1``, empty for no searched settings."""
    words = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()]
    return f"; {' '.join(words)}" if words else ""


class SearchLog:
    """``search.log``: every event but progress, with its time. Never read back."""

    KINDS = (RUNNING, "resumed", COMPLETE, FAILED, REJECTED, DUPLICATE, "lost", "note")

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / "search.log", "a", encoding="utf-8", buffering=1)  # noqa: SIM115  # closed by close()

    def __call__(self, event: Event) -> None:
        """Write one event, if it is of a kind that is logged."""
        if event.kind in self.KINDS:
            self.write(describe(event))

    def write(self, text: str) -> None:
        """One line with the time before it."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._file.write(f"{now} {text}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
