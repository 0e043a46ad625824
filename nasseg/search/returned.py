"""What a recipe returns and reports, as plain numbers and texts: results cross processes and are kept as JSON."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nasseg.errors import TrainingFailed
from nasseg.search.candidate import unfinite
from nasseg.training.trial import Report, Result


def plain_number(value: Any) -> float | None:
    """A number as a float; None for what is none.

    Args:
        value: a Python number, or a scalar of NumPy, torch and the like (one element, read by its ``item()``). Truth values are no numbers.
    """
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value)


def plain_result(given: Any) -> Result:
    """A recipe's result with plain content.

    Args:
        given: what ``run(trial, report)`` returned.

    Returns:
        The result. One that says it failed keeps its reason and loses metrics that are no numbers.

    Raises:
        TrainingFailed: it is no result, or says it is complete and a metric is no number.
    """
    if not isinstance(given, Result):
        what = "nothing (None)" if given is None else f"a {type(given).__name__}"
        raise TrainingFailed(f"the recipe returned {what}, not a Result")
    if given.status not in (Result.COMPLETE, Result.FAILED):
        raise TrainingFailed(f"the recipe's status is {given.status!r}, neither {Result.COMPLETE!r} nor {Result.FAILED!r}")
    failed = given.status == Result.FAILED
    iterations, seconds = plain_number(given.iterations), plain_number(given.seconds)
    if not failed:
        for name, number in (("iterations", iterations), ("seconds", seconds)):
            if number is None or not math.isfinite(number):
                raise TrainingFailed(f"the recipe's {name} is {getattr(given, name)!r}, not a number")
    return replace(
        given,
        metrics=plain_numbers("metric", given.metrics, strict=not failed),
        per_class=plain_numbers("IoU of class", given.per_class, strict=not failed),
        protocol=plain_mapping(given.protocol),
        environment=plain_mapping(given.environment),
        settings=plain_mapping(given.settings),
        iterations=int(iterations) if iterations is not None and math.isfinite(iterations) else 0,
        seconds=seconds or 0.0,
        reason=None if given.reason is None else str(given.reason),
        checkpoint=None if given.checkpoint is None else str(given.checkpoint),
    )


def plain_report(report: Report) -> Report:
    """A ``report`` that takes what a recipe may give it; one that is told something else raises :class:`TrainingFailed` in the recipe."""

    def checked(iteration: int, metrics: Mapping[str, float]) -> bool:
        number = plain_number(iteration)
        if number is None or not math.isfinite(number):
            raise TrainingFailed(f"the recipe reported iteration {iteration!r}, not a number")
        return report(int(number), plain_numbers("metric", metrics))

    return checked


def plain_numbers(what: str, given: Any, *, strict: bool = True) -> dict[str, float]:
    """A mapping of names to numbers. Raises :class:`TrainingFailed` for anything else; where not ``strict``, leaves it out."""
    if not isinstance(given, Mapping):
        if strict:
            raise TrainingFailed(f"the recipe gave a {type(given).__name__} where {what}s by name are wanted")
        return {}
    out: dict[str, float] = {}
    for name, value in given.items():
        number = plain_number(value)
        if number is not None:
            out[str(name)] = number
        elif strict:
            raise TrainingFailed(f"the recipe's {what} {name} is {shortened(value)}, not a number")
    return out


def plain_mapping(given: Any) -> dict[str, Any]:
    """A mapping that JSON can hold; empty for what is no mapping. Values of other kinds become text: they describe, they decide nothing."""
    return {str(name): plain_value(value) for name, value in given.items()} if isinstance(given, Mapping) else {}


def plain_value(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, Mapping):
        return plain_mapping(value)
    if isinstance(value, (list, tuple)):
        return [plain_value(each) for each in value]
    value = scalar(value)
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def scalar(value: Any) -> Any:
    """What ``item()`` of a NumPy or torch scalar gives; any other value as it is."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return item()
        except (TypeError, ValueError, RuntimeError):
            return value
    return value


def shortened(value: Any) -> str:
    """A value in a message: not more than some words of it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def recorded_result(content: Mapping[str, Any]) -> Result:
    """A result as the journal holds it; a failed one where a version wrote down what none can read."""
    try:
        return Result.from_dict(unfinite(content))
    except (TypeError, ValueError, AttributeError):
        return Result(status=Result.FAILED, reason="its recorded result cannot be read: a metric is no number")


def objective_values(objectives: Iterable[str], cost: Mapping[str, float], result: Result) -> list[float]:
    """What a result reaches in each objective. A cost is counted, never reported: a metric of the same name does not replace it.

    Args:
        objectives: names of costs and metrics.
        cost: of the network, by name.
        result: a complete one.

    Raises:
        TrainingFailed: an objective is missing, or is no finite number.
    """
    values: list[float] = []
    for name in objectives:
        value = cost.get(name, result.metrics.get(name))
        if value is None:
            raise TrainingFailed(f"the trainer reported no {name} (there are {', '.join([*result.metrics, *cost])})")
        if not math.isfinite(value):
            raise TrainingFailed(f"{name} is {value}")
        values.append(float(value))
    return values
