"""What to do next, as commands a user can paste, each with what it costs.

A line that begins with ``#`` says something of the command above it; a shell passes over it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasseg.search.view import StudyView, TrialView
from nasseg.training.trainer import load_trainer

FULL = "full"
SHARE = 10
"""A shorter run is suggested with this part of the recipe's iterations."""


def after_search(view: StudyView) -> list[str]:
    """Train the best network, export it, look at the study again."""
    show = f"nasseg show {quoted(view.path)}"
    if view.best is None:
        return [show]
    run, bundle = f"runs/{view.path.name}", f"bundles/{view.path.name}"
    return [
        f"nasseg train {quoted(f'{view.path}:best')} --trainer {recipe_for(view, view.best)} --out {quoted(run)}",
        f"# {training_cost(view, view.best)}",
        f"nasseg export {quoted(run)} --out {quoted(bundle)}",
        EXPORT_COST,
        show,
    ]


def after_training(run: str | Path) -> list[str]:
    """Export the run."""
    return [f"nasseg export {quoted(run)} --out {quoted(f'bundles/{Path(run).name}')}", EXPORT_COST]


def after_export(bundle: str | Path, data: str) -> list[str]:
    """Measure the bundle on the run's ``data`` and draw what it sees there."""
    return [
        f"nasseg eval {quoted(bundle)} --data {quoted(data)} --onnx",
        "# one forward pass of the ONNX file for each validation image",
        f"nasseg predict {quoted(bundle)} --data {quoted(data)} --number 4 --out {quoted(f'pictures/{Path(bundle).name}')}",
        "# four of them as pictures",
    ]


EXPORT_COST = "# writes ONNX and torch.export files and compares them with the network on validation images: a minute or so"


def recipe_for(view: StudyView, trial: TrialView) -> str:
    """The recipe that trains ``trial`` to its end: ``full``, or the study's own where ``full`` lacks a setting that was searched."""
    known = load_trainer(FULL).Config.model_fields
    return FULL if known.keys() >= trial.settings.keys() else str(view.config["trainer"])


def training_cost(view: StudyView, trial: TrialView) -> str:
    """What training ``trial`` by :func:`recipe_for` costs: iterations, images, time at the study's pace; and how to shorten it."""
    settings = load_trainer(recipe_for(view, trial)).Config.parse(trial.settings)
    images = settings.batch_size * settings.accumulation
    cost = f"{settings.iterations:,} iterations of {images} images"
    pace = images_per_second(view.config, trial)
    if pace:
        cost += f", about {duration(settings.iterations * images / pace)} at the {pace:.3g} images/s of trial {trial.number}"
    return f"{cost}; for a shorter run add --set trainer.iterations={max(1, settings.iterations // SHARE)}"


def images_per_second(config: Mapping[str, Any], trial: TrialView) -> float | None:
    """Training images a second of a trial, its validations included; None where the study does not say what a trial was."""
    if not trial.seconds or not trial.iterations or "trainer" not in config:
        return None
    used = load_trainer(str(config["trainer"])).Config.parse({**config.get("settings", {}), **trial.settings})
    return trial.iterations * int(used.batch_size) * int(used.accumulation) / trial.seconds


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``: two digits."""
    for unit, size, above in (("days", 86400, 172800), ("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= above:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} s"


def quoted(text: str | Path) -> str:
    """As a shell reads it in one piece."""
    return shlex.quote(str(text))
