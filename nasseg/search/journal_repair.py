"""Repairs a damaged journal before a search goes on with it.

A line whose check fails is dropped. What it said is taken from ``results.parquet``, where the trial's row stands; what no row holds is
undone as far as needed: a trial without its result is queued again (and answered from ``result.json`` of its attempt where that is left),
a trial without its candidate is given up and named. The damaged journal is kept beside the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState

from nasseg.errors import StudyError
from nasseg.files import write_atomic
from nasseg.search import view
from nasseg.search.journal import CREATE_TRIAL, FINISHED_STATES, NO_OPERATION, SET_STATE, read_lines, read_operations, repair, seal
from nasseg.search.store import COSTS, REAL, WHOLE, Row

CREATE_STUDY = 0
SET_USER_ATTRIBUTE = 8
"""Optuna's operation codes, beside those of :mod:`nasseg.search.journal`."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done to a journal.

    Attributes:
        lines: numbers of the damaged lines.
        restored: trials that were completed from ``results.parquet``.
        requeued: trials that lost their result and run again.
        lost: trials that are given up: what they were cannot be told any more.
        kept: the damaged journal.
    """

    lines: tuple[int, ...]
    restored: tuple[int, ...]
    requeued: tuple[int, ...]
    lost: tuple[int, ...]
    kept: Path

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.lines[:8])) + (" …" if len(self.lines) > 8 else "")
        text = f"journal.log was damaged in line{'s' * (len(self.lines) > 1)} {lines} and was repaired; it is kept as {self.kept.name}"
        for numbers, meaning in (
            (self.restored, "restored from results.parquet"),
            (self.requeued, "queued again, its result is lost"),
            (self.lost, "given up, its network is lost"),
        ):
            if numbers:
                text += f"; trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {meaning}"
        return text


@dataclass
class _Trial:
    """Where the operations of one trial stand in the list of all."""

    attributes: set[str] = field(default_factory=set)
    finished: int | None = None
    state: int = TrialState.RUNNING.value
    values: Any = None


def repair_journal(path: str | os.PathLike[str], rows: Callable[[], Mapping[int, Row]], objectives: Mapping[str, str]) -> Repair | None:
    """Cut a journal's torn tail and repair its damaged lines.

    Args:
        path: the journal.
        rows: reads the rows of ``results.parquet`` by number; asked only where there is damage.
        objectives: ``max`` or ``min`` by name, in the study's order.

    Returns:
        What was done; None for an undamaged journal, which is not written.

    Raises:
        StudyError: the damaged file cannot be replaced.
    """
    file = Path(path)
    repair(file)
    damaged = [line.number for line in read_lines(file) if not line.whole]
    if not damaged:
        return None
    operations = [operation for operation, _ in read_operations(file) if operation["op_code"] != NO_OPERATION]
    if not any(operation["op_code"] == CREATE_STUDY for operation in operations):
        directions = [(StudyDirection.MAXIMIZE if way == "max" else StudyDirection.MINIMIZE).value for way in objectives.values()]
        operations.insert(0, _operation(CREATE_STUDY, study_name=view.STUDY_NAME, directions=directions))
    restored, requeued, lost = _complete(operations, rows(), list(objectives))
    content, created = b"", 0
    for operation in operations:
        plain = {name: value for name, value in operation.items() if name != "check"}
        content += seal(plain, created)
        created += operation["op_code"] == CREATE_TRIAL
    try:
        kept = _free_name(file)
        os.link(file, kept)
        write_atomic(file, content)
    except OSError as error:
        raise StudyError(f"{file} is damaged in line {damaged[0]} and cannot be replaced: {error.strerror}") from error
    return Repair(lines=tuple(damaged), restored=tuple(restored), requeued=tuple(requeued), lost=tuple(lost), kept=kept)


def _free_name(file: Path) -> Path:
    number = 1
    while (found := file.with_name(f"{file.stem}.damaged-{number}{file.suffix}")).exists():
        number += 1
    return found


def _complete(
    operations: list[dict[str, Any]], rows: Mapping[int, Row], objectives: Sequence[str]
) -> tuple[list[int], list[int], list[int]]:
    """Fill in what is missing of each trial, in place; numbers of the trials restored, queued again, given up."""
    trials = _trials(operations)
    before: dict[int, list[dict[str, Any]]] = {}
    dropped: set[int] = set()
    restored, requeued, lost = [], [], []
    for number, trial in enumerate(trials):
        row = rows.get(number)
        added = [] if row is None else _attributes(number, row, trial)
        has = trial.attributes | {name for operation in added for name in operation["user_attr"]}
        if trial.finished is None and row is not None and view.CANDIDATE in has:
            added.append(_state(number, row, objectives))
        if added:
            restored.append(number)
            before.setdefault(len(operations) if trial.finished is None else trial.finished, []).extend(added)
        if view.CANDIDATE not in has:
            if trial.finished is not None and trial.state == TrialState.COMPLETE.value:
                dropped.add(trial.finished)
                lost.append(number)
        elif trial.finished is not None and trial.state == TrialState.COMPLETE.value and not {view.RESULT, view.DUPLICATE_OF} & has:
            dropped.add(trial.finished)
            requeued.append(number)
    whole = [*enumerate(operations), (len(operations), None)]
    operations[:] = [
        each
        for index, operation in whole
        for each in (*before.get(index, ()), *(() if operation is None or index in dropped else (operation,)))
    ]
    return restored, requeued, lost


def _trials(operations: Sequence[Mapping[str, Any]]) -> list[_Trial]:
    trials: list[_Trial] = []
    for index, operation in enumerate(operations):
        match operation["op_code"]:
            case code if code == CREATE_TRIAL:
                attributes = set(operation.get("user_attrs") or {})
                trials.append(_Trial(attributes, state=operation.get("state", TrialState.RUNNING.value)))
            case code if code == SET_STATE and operation["trial_id"] < len(trials):
                trial = trials[operation["trial_id"]]
                trial.state = operation["state"]
                if operation["state"] in FINISHED_STATES and trial.finished is None:
                    trial.finished = index
            case code if code == SET_USER_ATTRIBUTE and operation["trial_id"] < len(trials):
                trials[operation["trial_id"]].attributes |= set(operation["user_attr"])
    return trials


def _attributes(number: int, row: Row, trial: _Trial) -> list[dict[str, Any]]:
    """The attributes that a row has and the journal lacks."""
    found: dict[str, Any] = {
        view.CANDIDATE: {
            "genotype": json.loads(row["genotype"]),
            "settings": json.loads(row["settings"]),
            "cost": {name: float(row[name]) for name in COSTS if row.get(name) is not None},
            **{name: row.get(name) for name in ("key", "origin", "id", "short")},
        }
    }
    if row.get("duplicate_of") is not None:
        found[view.DUPLICATE_OF] = row["duplicate_of"]
    if row.get("reason") is not None:
        found[view.REASON] = row["reason"]
    if row["state"] in (view.COMPLETE, view.FAILED):
        found[view.ATTEMPT] = row.get("attempt") or 1
        found[view.RESULT] = {
            "status": row["state"],
            "metrics": _metrics(row),
            **{name: json.loads(row[name]) for name in ("per_class", "protocol", "environment", "settings")},
            **{name: json.loads(row[name]) for name in ("unpredicted", "class_weights") if row.get(name) is not None},
            "iterations": row.get("iterations") or 0,
            "seconds": row.get("seconds") or 0.0,
            "reason": row.get("reason"),
        }
    return [
        _operation(SET_USER_ATTRIBUTE, trial_id=number, user_attr={name: value})
        for name, value in found.items()
        if name not in trial.attributes
    ]


def _metrics(row: Row) -> dict[str, float]:
    """The numbers of a row that are neither costs nor bookkeeping."""
    other = {*COSTS, *WHOLE, *REAL}
    return {name: float(value) for name, value in row.items() if isinstance(value, (int, float)) and name not in other}


def _state(number: int, row: Row, objectives: Sequence[str]) -> dict[str, Any]:
    """The end of a trial as its row has it."""
    values = [row.get(name) for name in objectives]
    reached = row["state"] in (view.COMPLETE, view.DUPLICATE) and None not in values
    state = TrialState.PRUNED if row["state"] == view.REJECTED else TrialState.COMPLETE if reached else TrialState.FAIL
    finished = row.get("finished") or datetime.now(UTC).isoformat(timespec="microseconds")
    return _operation(
        SET_STATE,
        trial_id=number,
        state=state.value,
        values=[float(value) for value in values if value is not None] if reached else None,
        datetime_complete=finished,
    )


def _operation(code: int, **content: Any) -> dict[str, Any]:
    return {"op_code": code, "worker_id": "repair", **content}
