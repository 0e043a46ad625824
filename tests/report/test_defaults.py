"""What is said of the recipe's defaults at the end of a search."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasseg.report.defaults import against_defaults
from nasseg.search.view import StudyView, TrialView


def trial(number: int, origin: str, value: float | None, state: str = "complete", reason: str | None = None) -> TrialView:
    return TrialView(number=number, state=state, origin=origin, values=None if value is None else (value, 1.0), reason=reason)


def said(*trials: TrialView, way: str = "max", name: str = "miou") -> str | None:
    return against_defaults(StudyView(path=Path("x"), trials=trials, objectives={name: way, "macs": "min"}))


DEFAULT = trial(0, "defaults", 14.05)


def test_nothing_beat_them() -> None:
    found = said(DEFAULT, trial(1, "sampler", 9.01), trial(2, "sampler", 7.0))
    assert found == "nothing beat the recipe's defaults: trial 0, mIoU 14.05; next best trial 1, mIoU 9.01"
    assert (
        said(DEFAULT, trial(1, "sampler", 14.05))
        == "nothing beat the recipe's defaults: trial 0, mIoU 14.05; next best trial 1, mIoU 14.05"
    )


def test_what_beat_them() -> None:
    found = said(DEFAULT, trial(1, "defaults:csap", 15.0), trial(2, "sampler", 9.0), trial(3, "neighbour", 16.0))
    assert found == "better than the recipe's defaults (trial 1, mIoU 15): trial 3, mIoU 16"


def test_an_objective_that_is_minimised() -> None:
    assert said(DEFAULT, trial(1, "sampler", 9.01), way="min", name="error") == (
        "better than the recipe's defaults (trial 0, error 14.05): trial 1, error 9.01"
    )


@pytest.mark.parametrize(
    "trials",
    [
        (),
        (trial(0, "preset:csap", 20.0), trial(1, "sampler", 30.0)),
        (DEFAULT,),
        (DEFAULT, trial(1, "sampler", None, "failed")),
        (trial(0, "defaults", None, "running"), trial(1, "sampler", 30.0)),
    ],
)
def test_nothing_to_compare(trials: tuple[TrialView, ...]) -> None:
    assert said(*trials) is None
    assert against_defaults(StudyView(path=Path("x"), trials=trials, objectives={})) is None


def test_defaults_that_failed() -> None:
    failed = trial(0, "defaults", None, "failed", "loss is nan\nat step 3")
    assert said(failed, trial(1, "sampler", 3.0)) == (
        "the recipe's defaults failed (trial 0: loss is nan): nothing says whether the search found better ones"
    )
