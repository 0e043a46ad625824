"""The Pareto front as a picture: mIoU against MACs, published designs marked, the budget as a line."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nasseg.files import write_atomic
from nasseg.metric import METRICS, label_of
from nasseg.search.view import COMPLETE, StudyView, TrialView

FRONT, PRESET, OTHER = "#c0392b", "#1f4e79", "#9aa5b1"

SCALES = {"macs": 1e9, "macs_fvcore": 1e9, "decoder_macs": 1e9, "params": 1e6, "decoder_params": 1e6}
LABELS = {
    "macs": "MACs (G)",
    "macs_fvcore": "MACs, fvcore's count (G)",
    "decoder_macs": "decoder MACs (G)",
    "params": "parameters (M)",
    "decoder_params": "decoder parameters (M)",
}


def axes_of(objectives: Mapping[str, str]) -> tuple[str, str]:
    """Names for x and y: y is the first objective that is no cost, x the first that is one; mIoU and MACs where there is none."""
    y = next((name for name in objectives if name not in SCALES), "miou")
    return next((name for name in objectives if name in SCALES), "macs"), y


def draw_front(view: StudyView) -> Figure:
    """All complete trials as points, the front as a line through its own, presets with their names."""
    x_name, y_name = axes_of(view.objectives)

    def place(trial: TrialView) -> tuple[float, float] | None:
        x, y = trial.number_of(x_name), trial.number_of(y_name)
        return None if x is None or y is None else (x / SCALES.get(x_name, 1.0), y)

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    placed = [(trial, at) for trial in view.trials if trial.state == COMPLETE and (at := place(trial)) is not None]
    plain = [at for trial, at in placed if not trial.on_front and not trial.origin.startswith("preset:")]
    if plain:
        axes.scatter([x for x, _ in plain], [y for _, y in plain], s=28, color=OTHER, label="trial")
    presets = [(trial, at) for trial, at in placed if trial.origin.startswith("preset:")]
    if presets:
        axes.scatter([at[0] for _, at in presets], [at[1] for _, at in presets], s=60, marker="D", color=PRESET, label="published design")
    front = sorted(at for trial, at in placed if trial.on_front)
    if front:
        axes.plot([x for x, _ in front], [y for _, y in front], color=FRONT, linewidth=1.4, zorder=1)
        axes.scatter([x for x, _ in front], [y for _, y in front], s=90, facecolors="none", edgecolors=FRONT, linewidths=1.6, label="front")
    for trial, at in presets:
        axes.annotate(trial.origin.removeprefix("preset:"), at, textcoords="offset points", xytext=(6, -11), fontsize=8, color=PRESET)
    for trial, at in placed:
        if trial.on_front:
            axes.annotate(str(trial.number), at, textcoords="offset points", xytext=(6, 5), fontsize=8, color=FRONT)
    bound = budget_of(view.config, x_name)
    if bound is not None:
        axes.axvline(bound / SCALES.get(x_name, 1.0), color="black", linestyle=":", linewidth=1, label="budget")
    axes.set_xlabel(LABELS.get(x_name, label_of(x_name)))
    axes.set_ylabel(label_of(y_name) + (" (%)" if y_name.startswith(tuple(metric.name for metric in METRICS)) else ""))
    axes.set_title(title_of(view), fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    if placed or bound is not None:
        axes.legend(fontsize=8, loc="lower right")
    return figure


def budget_of(config: Mapping[str, Any], name: str) -> float | None:
    """The bound on a cost, None where it has none."""
    value = (config.get("budget") or {}).get(name)
    return None if value is None else float(value)


def title_of(view: StudyView) -> str:
    """Space, data, size and backbone, as far as the configuration says."""
    config = view.config
    words = [str(view.path)]
    if config:
        size = "x".join(map(str, config.get("size", ())))
        words += [str((config.get("space") or {}).get("name", "")), f"{(config.get('data') or {}).get('name', '')} {size}".strip()]
        words.append(", ".join(config.get("backbones", ())))
    return " · ".join(word for word in words if word)


def save_front(view: StudyView, path: str | Path) -> Path:
    """Write the picture as PNG, atomically."""
    buffer = io.BytesIO()
    draw_front(view).savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
    return Path(path)
