"""Classes that were not learnt, from numbers by class."""

from __future__ import annotations

import pytest

from nasseg.cli.options import parse_sets, split_sets
from nasseg.training.collapse import Collapse, advice, worst_class
from nasseg.training.config import TrainingConfig

SOUND = {"soil": 80.0, "crop": 40.0, "weed": 1.0}


def test_nothing_to_say() -> None:
    assert not Collapse.of(SOUND, ())
    assert not Collapse.of(SOUND, None)
    assert not Collapse.of({}, None)
    # One class in masks and predictions alike: there is nothing to tell apart.
    assert not Collapse.of({"soil": 100.0}, ())
    assert Collapse.of(SOUND, ()).sentences() == []


@pytest.mark.parametrize(
    ("per_class", "unpredicted", "collapse", "sentences"),
    [
        (
            {"soil": 80.0, "crop": 0.0, "weed": 0.99},
            ["crop"],
            Collapse(None, ("crop",), (("weed", 0.99),)),
            ["never predicted: crop", "IoU below 1 %: weed 0.99"],
        ),
        (
            {"soil": 70.0, "crop": 0.0, "weed": 0.0},
            ["crop", "weed"],
            Collapse("soil", ("crop", "weed"), ()),
            ["every pixel is given to soil: the network tells no classes apart", "never predicted: crop, weed"],
        ),
        # Predicted, but nowhere right; and a result of an older nasseg, which does not say what was predicted.
        ({"soil": 80.0, "crop": 0.0}, [], Collapse(None, (), (("crop", 0.0),)), ["IoU below 1 %: crop 0.00"]),
        ({"soil": 80.0, "crop": 0.0}, None, Collapse(None, (), (("crop", 0.0),)), ["IoU below 1 %: crop 0.00"]),
    ],
)
def test_what_is_wrong_is_said_by_name(
    per_class: dict[str, float], unpredicted: list[str] | None, collapse: Collapse, sentences: list[str]
) -> None:
    found = Collapse.of(per_class, unpredicted)
    assert found == collapse
    assert found.sentences() == sentences
    assert set(found.classes) == {name for name, value in per_class.items() if value < 1}
    assert found.to_dict() == {"single": collapse.single, "never": list(collapse.never), "low": dict(collapse.low)}


def test_the_worst_class() -> None:
    assert worst_class({"a": 3.0, "b": 1.5, "c": 1.5}) == ("b", 1.5)
    assert worst_class({}) is None


WEIGHED = {"rule": "sqrt_median_frequency", "weights": {"a": 2.0}}


@pytest.mark.parametrize(
    ("settings", "class_weights", "said"),
    [
        ({"class_weights": "none", "iterations": 10}, {"rule": "none", "weights": {}}, {"class_weights": "sqrt_median_frequency"}),
        # auto found no rare class.
        ({"class_weights": "auto", "iterations": 10}, {"rule": "none", "weights": {}}, {"class_weights": "sqrt_median_frequency"}),
        ({}, {}, {"class_weights": "sqrt_median_frequency"}),
        ({"class_weights": "auto", "iterations": 10}, WEIGHED, {"balance": 0.5, "iterations": 20}),
        ({"class_weights": "sqrt_median_frequency"}, {}, {"balance": 0.5}),
        ({"class_weights": "sqrt_median_frequency", "balance": 0.2, "iterations": 7}, WEIGHED, {"iterations": 14}),
        ({"class_weights": "sqrt_median_frequency", "balance": 0.2}, WEIGHED, {}),
    ],
)
def test_what_to_set_next_is_legal(settings: dict[str, object], class_weights: dict[str, object], said: dict[str, object]) -> None:
    words = advice(settings, class_weights).split()
    assert words[::2] == ["--set"] * len(said)
    _, found = split_sets(parse_sets(words[1::2]))
    assert found == said
    assert TrainingConfig.parse(found).model_fields_set == said.keys()
