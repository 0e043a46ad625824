"""What a study optimises: costs, and metrics that its recipe declares. One rule for space files, the command line and Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasseg.data.dataset import DataSet
from nasseg.errors import ConfigError, Problem, nearest
from nasseg.genes.budget import Budget
from nasseg.metric import MetricName
from nasseg.training.objectives import check_metrics, requested
from nasseg.training.trainer import metrics_of

Given = Mapping[str, str | None] | Sequence[str]
"""Names with directions (None: the metric's own), or names alone."""


@dataclass(frozen=True)
class Objectives:
    """Checked objectives.

    Attributes:
        directions: ``max`` or ``min`` by name, in the order given.
        metrics: what the recipe's setting ``metrics`` must name so that all of them are measured.
    """

    directions: Mapping[str, str]
    metrics: tuple[str, ...] = ()


def parse_objectives(texts: Sequence[str]) -> dict[str, str | None]:
    """``["miou", "macs=min"]``, as ``--objective`` takes them. Raises :class:`ConfigError` for a name that is given twice."""
    out: dict[str, str | None] = {}
    for text in texts:
        # A class's name may hold an equals sign; a direction never does.
        name, equals, direction = text.rpartition("=") if text.rpartition("=")[2] in ("max", "min") else (text, "", "")
        if name in out:
            raise ConfigError(Problem("", "--objective", "is given twice", name))
        out[name] = direction if equals else None
    return out


def check_objectives(given: Given, trainer: Any, trainer_name: str, data: DataSet, *, test: bool, where: str) -> Objectives:
    """The objectives of a study, looked at before anything is trained.

    Args:
        given: names of costs (:data:`nasseg.genes.budget.Budget.NAMES`) and of metrics, such as ``iou[crop,weed]_holdout``.
        trainer: the recipe's class, which declares its metrics.
        trainer_name: as the user named it, for messages.
        data: what it is measured on.
        test: whether the recipe measures the split ``test``.
        where: where the names come from, for messages.

    Raises:
        ConfigError: with every name that is neither a cost nor a metric the recipe declares and these data can show, every wrong direction.
    """
    pairs = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
    if not pairs or not all(isinstance(name, str) for name in pairs):
        raise ConfigError(Problem(where, "", "names one objective or several, such as miou and macs", list(pairs)))
    declared = metrics_of(trainer)
    problems: list[Problem] = []
    directions: dict[str, str] = {}
    measured: list[MetricName] = []
    for name, direction in pairs.items():
        spelled, right = name, "min"
        if name not in Budget.NAMES:
            try:
                read = check_metrics([name], declared, data, test=test, where=where)[0]
            except ConfigError as error:
                problems += [_told(problem, name, trainer_name, [metric.name for metric in declared]) for problem in error.problems]
                continue
            spelled, right = str(read), read.metric.direction
            measured.append(read)
        if direction not in (None, right):
            rule = "must be min: it is a cost" if name in Budget.NAMES else f"must be {right}, as {trainer_name} declares it"
            problems.append(Problem(where, name, rule, direction, right))
        elif spelled in directions:
            problems.append(Problem(where, name, "is given twice"))
        directions[spelled] = right
    if problems:
        raise ConfigError(problems)
    return Objectives(directions, tuple(requested(measured)))


def _told(problem: Problem, name: str, trainer: str, declared: Sequence[str]) -> Problem:
    """A metric's problem as an objective's: no metric may still have been meant as a cost."""
    if not problem.rule.startswith("no such metric"):
        return replace(problem, key=name, given=None)
    rule = f"{trainer} declares no such metric ({', '.join(declared)}), and it is no cost ({', '.join(Budget.NAMES)})"
    return replace(problem, key=name, rule=rule, given=None, nearest=problem.nearest or nearest(name, Budget.NAMES))
