"""What a recipe may return and report."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from nasseg.errors import TrainingFailed
from nasseg.search.returned import plain_number, plain_report, plain_result, plain_value, shortened
from nasseg.training.trial import Result

GOOD = Result(status=Result.COMPLETE, metrics={"miou": 50.0}, iterations=3, seconds=1.5)


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (3, 3.0),
        (3.5, 3.5),
        (Fraction(1, 2), 0.5),
        (np.float32(0.25), 0.25),
        (np.int8(7), 7.0),
        (np.array(2.0), 2.0),
        (np.array([[2.0]]), 2.0),
        (torch.tensor(1.5, requires_grad=True), 1.5),
        (torch.tensor([4]), 4.0),
        (True, None),
        (np.bool_(True), None),
        (torch.tensor(True), None),
        (np.array([1.0, 2.0]), None),
        (torch.tensor([]), None),
        ("1.0", None),
        (None, None),
        (1 + 0j, None),
        ({"item": 1}, None),
    ],
)
def test_numbers(given: Any, number: float | None) -> None:
    found = plain_number(given)
    assert found == number
    assert number is None or type(found) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"miou": "good"}}, "metric miou is 'good', not a number"),
        ({"metrics": {"miou": 1.0, "lists": [1.0]}}, r"metric lists is \[1\.0\], not a number"),
        ({"metrics": None}, "gave a NoneType where metrics by name are wanted"),
        ({"per_class": {"road": None}}, "IoU of class road is None, not a number"),
        ({"iterations": "many"}, "iterations is 'many', not a number"),
        ({"seconds": float("inf")}, "seconds is inf, not a number"),
        ({"status": "ok"}, "status is 'ok', neither 'complete' nor 'failed'"),
    ],
)
def test_a_complete_result_that_is_none(change: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingFailed, match=said):
        plain_result(replace(GOOD, **change))


@pytest.mark.parametrize(("given", "what"), [(None, r"nothing \(None\)"), (50.0, "a float"), ({"miou": 1.0}, "a dict")])
def test_what_is_no_result(given: Any, what: str) -> None:
    with pytest.raises(TrainingFailed, match=f"the recipe returned {what}, not a Result"):
        plain_result(given)


def test_a_plain_result_stays_as_it_is() -> None:
    assert plain_result(GOOD) == GOOD
    nan = plain_result(replace(GOOD, metrics={"miou": float("nan")})).metrics["miou"]
    assert nan != nan


def test_a_failed_result_keeps_its_reason() -> None:
    failed = Result(status=Result.FAILED, reason="out of memory", metrics={"miou": "none", "loss": np.float32(2)}, iterations="?")  # type: ignore[dict-item, arg-type]
    assert plain_result(failed) == Result(status=Result.FAILED, reason="out of memory", metrics={"loss": 2.0})
    assert plain_result(replace(failed, per_class=None, reason=ValueError("odd"))).reason == "odd"  # type: ignore[arg-type]


def test_descriptions_become_json() -> None:
    assert plain_value({"a": (np.int64(1), None), 2: {"x": torch.tensor(0.5)}, "t": torch.zeros(2)}) == {
        "a": [1, None],
        "2": {"x": 0.5},
        "t": "tensor([0., 0.])",
    }
    assert plain_result(replace(GOOD, protocol=["no", "mapping"])).protocol == {}  # type: ignore[arg-type]


def test_reports() -> None:
    told: list[tuple[int, dict[str, float]]] = []
    report = plain_report(lambda iteration, metrics: bool(told.append((iteration, dict(metrics)))) or iteration == 2)
    assert report(np.int64(1), {"loss": torch.tensor(0.5)}) is False  # type: ignore[arg-type, dict-item]
    assert report(2, {}) is True
    assert told == [(1, {"loss": 0.5}), (2, {})]
    with pytest.raises(TrainingFailed, match="the recipe reported iteration 'two', not a number"):
        report("two", {})  # type: ignore[arg-type]
    with pytest.raises(TrainingFailed, match="metric phase is 'warm-up', not a number"):
        report(3, {"phase": "warm-up"})  # type: ignore[dict-item]


def test_messages_stay_short() -> None:
    assert shortened("x" * 100) == "'" + "x" * 56 + "..."
    assert shortened(torch.zeros(2, 2)) == "tensor([[0., 0.], [0., 0.]])"
