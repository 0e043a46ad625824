"""What a reader sees of a study: trials and the Pareto front, made from the journal. Imports no torch and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasseg.training.collapse import LOW, Collapse, advice, worst_entry

COMPLETE = "complete"
FAILED = "failed"
REJECTED = "rejected"
DUPLICATE = "duplicate"
RUNNING = "running"
WAITING = "waiting"
STATES = (COMPLETE, FAILED, REJECTED, DUPLICATE, RUNNING, WAITING)

CANDIDATE = "candidate"
PLANNED = "planned"
RESULT = "result"
REASON = "reason"
DUPLICATE_OF = "duplicate_of"
ATTEMPT = "attempt"
LOST = "lost"
RETRIED = "retried"
"""User attributes of the Optuna trials. ``candidate`` is set once a candidate is whole: genotype, settings, cost, key and origin."""

STUDY_NAME = "nasseg"

MOST_NAMED = 5
"""Classes, and trials, that warnings name."""


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """One trial as a reader sees it. ``state`` is one of :data:`STATES`; ``cost`` maps budget names to numbers; ``metrics`` are percent.

    ``per_class``, ``unpredicted`` and ``class_weights`` are those of :class:`nasseg.training.trial.Result`; ``settings`` are those that
    were searched, ``resolved`` all of the trainer's.

    ``rejected`` broke the budget and was never trained; ``duplicate`` was answered by trial ``duplicate_of`` and never trained;
    ``waiting`` is queued, or was interrupted and goes on when the search is started again.
    """

    number: int
    state: str
    origin: str
    id: str | None = None
    short: str = ""
    genotype: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, float] = field(default_factory=dict)
    unpredicted: tuple[str, ...] | None = None
    class_weights: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    key: str | None = None
    reason: str | None = None
    duplicate_of: int | None = None
    attempt: int = 0
    iterations: int = 0
    seconds: float | None = None
    started: str | None = None
    finished: str | None = None
    checkpoint: str | None = None
    on_front: bool = False
    retried: bool = False

    @property
    def trained(self) -> bool:
        """Whether the trial counts as one of the N asked for: it was trained, to its end or to its failure."""
        return self.state in (COMPLETE, FAILED) and not self.retried

    @cached_property
    def collapse(self) -> Collapse:
        """Classes that the network did not learn."""
        return Collapse.of(self.per_class, self.unpredicted)

    def number_of(self, name: str) -> float | None:
        """A cost or a metric by name, None where the trial has none."""
        found = self.cost.get(name, self.metrics.get(name))
        return None if found is None else float(found)

    def to_dict(self, fidelity: float) -> dict[str, Any]:
        """Plain data for ``nasseg show --json``."""
        return {
            "number": self.number,
            "id": self.id,
            "state": self.state,
            "origin": self.origin,
            "miou": self.metrics.get("miou"),
            "macs": self.cost.get("macs"),
            "params": self.cost.get("params"),
            "fidelity": fidelity,
            "on_front": self.on_front,
            "reason": self.reason,
            "duplicate_of": self.duplicate_of,
            "short": self.short,
            "genotype": dict(self.genotype),
            "settings": dict(self.settings),
            "metrics": dict(self.metrics),
            "per_class": dict(self.per_class),
            "worst_class": worst_entry(self.per_class),
            "collapsed": self.collapse.to_dict(),
            "class_weights": dict(self.class_weights),
            "cost": dict(self.cost),
            "attempt": self.attempt,
            "iterations": self.iterations,
            "seconds": self.seconds,
            "started": self.started,
            "finished": self.finished,
        }


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """A study at one moment: its trials in the order they were proposed, its front, its resolved configuration (``study.yaml``)."""

    path: Path
    trials: tuple[TrialView, ...]
    objectives: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    driver: str | None = None

    @property
    def front(self) -> tuple[TrialView, ...]:
        """The trials that no other beats in every objective, best first by the first objective."""
        found = [trial for trial in self.trials if trial.on_front]
        if not self.objectives:
            return tuple(found)
        sign = 1 if next(iter(self.objectives.values())) == "min" else -1
        return tuple(sorted(found, key=lambda t: (sign * (t.values or (0.0,))[0], t.number)))

    @property
    def best(self) -> TrialView | None:
        """The trial of the front that is best in the first objective."""
        return self.front[0] if self.front else None

    def trial(self, number: int) -> TrialView | None:
        """A trial by its number."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def count(self, *states: str) -> int:
        """How many trials are in one of the states."""
        return sum(trial.state in states for trial in self.trials)

    @property
    def warnings(self) -> list[str]:
        """Sentences on classes that the trials did not learn (:func:`collapsed_classes`)."""
        return collapsed_classes([trial for trial in self.trials if trial.state == COMPLETE], self.front)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``nasseg show --json``: ``trials``, the numbers of the ``front``, ``warnings``."""
        fidelity = float(self.config.get("fidelity", 1.0))
        return {
            "path": str(self.path),
            "objectives": dict(self.objectives),
            "trials": [trial.to_dict(fidelity) for trial in self.trials],
            "front": [trial.number for trial in self.front],
            "warnings": self.warnings,
        }


def pareto_front(points: Sequence[tuple[float, ...]], directions: Sequence[str]) -> list[int]:
    """Indices of the points that no other point dominates (at least as good in every objective, better in one), in the order given.

    ``directions`` holds ``max`` or ``min`` an objective. Equal points do not dominate each other.
    """
    signed = [tuple(-v if d == "max" else v for v, d in zip(point, directions, strict=True)) for point in points]
    order = sorted(range(len(signed)), key=lambda i: signed[i])
    kept: list[int] = []
    for i in order:
        # Sorted by the first objective: only an earlier point can dominate a later one.
        if not any(signed[j] != signed[i] and all(a <= b for a, b in zip(signed[j], signed[i], strict=True)) for j in kept):
            kept.append(i)
    return sorted(kept)


def view_trial(trial: FrozenTrial, *, driven: bool = True) -> TrialView | None:
    """One Optuna trial as a reader sees it; None for one that was interrupted before it became a candidate.

    ``driven``: a search is running.
    """
    attributes = trial.user_attrs
    candidate = attributes.get(CANDIDATE) or attributes.get(PLANNED)
    duplicate_of = attributes.get(DUPLICATE_OF)
    match trial.state:
        case TrialState.WAITING:
            state = WAITING
        case TrialState.PRUNED:
            state = REJECTED
        case TrialState.RUNNING:
            state = RUNNING if driven and ATTEMPT in attributes else WAITING
        case TrialState.FAIL:
            state = FAILED
        case _:
            state = COMPLETE
    if CANDIDATE not in attributes and trial.state != TrialState.WAITING:
        return None
    if duplicate_of is not None:
        state = DUPLICATE
    candidate = candidate or {}
    result = attributes.get(RESULT) or {}
    started, finished = trial.datetime_start, trial.datetime_complete
    return TrialView(
        number=trial.number,
        state=state,
        origin=str(candidate.get("origin", "sampler")),
        id=candidate.get("id"),
        short=candidate.get("short", ""),
        genotype=candidate.get("genotype", {}),
        settings=candidate.get("settings", {}),
        cost=candidate.get("cost", {}),
        metrics={k: v for k, v in result.get("metrics", {}).items() if isinstance(v, (int, float))},
        per_class=result.get("per_class", {}),
        unpredicted=None if result.get("unpredicted") is None else tuple(result["unpredicted"]),
        class_weights=result.get("class_weights", {}),
        resolved=result.get("settings", {}),
        protocol=result.get("protocol", {}),
        environment=result.get("environment", {}),
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE and trial.values is not None else None,
        key=candidate.get("key"),
        reason=attributes.get(REASON),
        duplicate_of=duplicate_of,
        attempt=int(attributes.get(ATTEMPT, 0)),
        iterations=int(result.get("iterations", 0)),
        seconds=result.get("seconds"),
        started=started.astimezone().isoformat(timespec="seconds") if started else None,
        finished=finished.astimezone().isoformat(timespec="seconds") if finished else None,
        checkpoint=result.get("checkpoint"),
    )


def answered(duplicate: TrialView, original: TrialView | None) -> TrialView:
    """A duplicate with what its original reached."""
    if original is None:
        return duplicate
    return replace(
        duplicate,
        metrics=original.metrics,
        per_class=original.per_class,
        unpredicted=original.unpredicted,
        class_weights=original.class_weights,
        protocol=original.protocol,
    )


def view_trials(
    trials: Sequence[FrozenTrial], directions: Sequence[str], *, driven: bool = True, retried: Collection[int] = ()
) -> tuple[TrialView, ...]:
    """All trials of a study, those on the front marked, duplicates with the metrics of the trial that answered them.

    ``retried``: failed trials whose place another trial has taken.
    """
    views = [view for trial in trials if (view := view_trial(trial, driven=driven)) is not None]
    by_number = {view.number: view for view in views}
    for i, view in enumerate(views):
        if view.number in retried:
            views[i] = replace(view, retried=True)
        if view.duplicate_of is not None:
            views[i] = answered(view, by_number.get(view.duplicate_of))
    able = [i for i, view in enumerate(views) if view.state == COMPLETE and view.values is not None]
    for index in pareto_front([views[i].values or () for i in able], directions):
        views[able[index]] = replace(views[able[index]], on_front=True)
    return tuple(views)


def collapsed_classes(complete: Sequence[TrialView], front: Sequence[TrialView]) -> list[str]:
    """Sentences on what the numbers by class give away and an mIoU hides; empty where there is nothing to say.

    Args:
        complete: the trials that were measured.
        front: those of them on the Pareto front.

    Returns:
        A sentence for each class with an IoU below :data:`nasseg.training.collapse.LOW` in half of the trials or in one of the front, one
        on the trials that predict a single class, and one on what to set.
    """
    low: dict[str, list[TrialView]] = {}
    for trial in complete:
        for name in trial.collapse.classes:
            low.setdefault(name, []).append(trial)
    on_front = {trial.number for trial in front}
    sentences = []
    for name, trials in sorted(low.items(), key=lambda item: -len(item[1])):
        there = sum(trial.number in on_front for trial in trials)
        if there or 2 * len(trials) >= len(complete):
            never = sum(name in trial.collapse.never for trial in trials)
            said = "" if not never else ", never predicted" if never == len(trials) else f", never predicted in {never} of them"
            whole = f", {there} of {len(on_front)} on the front" if on_front else ""
            sentences.append(f"{name}: IoU below {LOW:g} % in {len(trials)} of {len(complete)} trials{whole}{said}")
    if len(sentences) > MOST_NAMED:
        sentences[MOST_NAMED:] = [f"and {len(sentences) - MOST_NAMED} more classes"]
    single = [f"trial {trial.number} ({trial.collapse.single})" for trial in complete if trial.collapse.single is not None]
    if single:
        more = f" and {len(single) - MOST_NAMED} more" if len(single) > MOST_NAMED else ""
        sentences.append(f"every pixel is given to one class by {', '.join(single[:MOST_NAMED])}{more}")
    if not sentences:
        return []
    first = next(trial for trial in (*front, *complete) if trial.collapse)
    todo = advice(first.resolved, first.class_weights)
    return [*sentences, *([f"to learn them: {todo} (a study with other settings needs another --out)"] if todo else [])]


def load_optuna(storage: optuna.storages.BaseStorage) -> optuna.Study | None:
    """The study of this name in a storage, None where it has not been created yet."""
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=storage)
    except KeyError:
        return None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a search, for whoever watches: a log, a table, plain lines.

    ``kind`` is a state of :data:`STATES`, ``resumed``, ``progress`` (``iteration`` and ``metrics`` of a running trial), ``lost`` (its
    worker went away; it is tried again), ``note`` (``text`` only) or ``status`` (``text`` holds until the next event).
    """

    kind: str
    trial: TrialView | None = None
    text: str = ""
    iteration: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[Event], None]
