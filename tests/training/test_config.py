"""Settings: every wrong one named at once, with its rule and the nearest legal value."""

from __future__ import annotations

import pytest

from nasseg.errors import ConfigError
from nasseg.training.config import TrainingConfig

THERE = "miou, macc, aacc, iou[CLASS,…], worst_iou, boundary_iou[CLASS,…], each with _SPLIT behind for another split"
CASES = [
    ({"iterations": 0}, "iterations: must be a whole number from 1 (given 0); nearest legal: 1"),
    ({"batch_size": 1.5}, "batch_size: must be a whole number from 1 (given 1.5); nearest legal: 2"),
    ({"iterations": "60"}, "iterations: must be a whole number from 1 (given '60'); nearest legal: 60"),
    ({"iterations": True}, "iterations: must be a whole number from 1 (given True); nearest legal: 1000"),
    ({"lr": 0}, "lr: must be a number above 0 (given 0); nearest legal: 0.001"),
    ({"lr": "fast"}, "lr: must be a number above 0 (given 'fast'); nearest legal: 0.001"),
    ({"lr": float("nan")}, "lr: must be a number above 0 (given nan); nearest legal: 0.001"),
    ({"ema": 1.0}, "ema: must be a number from 0 and below 1 (given 1.0); nearest legal: 0.0"),
    ({"crop": 1.5}, "crop: must be a number above 0 to 1 (given 1.5); nearest legal: 1.0"),
    ({"flip": -1}, "flip: must be a number from 0 to 1 (given -1); nearest legal: 0.0"),
    ({"amp": "bf"}, "amp: must be one of none, bf16, fp16 (given 'bf'); nearest legal: bf16"),
    ({"cache": 1}, "cache: must be true or false (given 1)"),
    ({"device": "gpu"}, "device: must be auto, cpu, cuda or cuda:N (given 'gpu')"),
    ({"learning_rate": 1}, "learning_rate: no such setting; nearest legal: lr"),
    ({"iteration": 3}, "iteration: no such setting; nearest legal: iterations"),
    ({"metrics": ["iuo[a]"]}, f"metrics: no such metric; there are {THERE} (given 'iuo[a]'); nearest legal: iou[a]"),
    ({"metrics": 5}, "metrics: must be a list of iou[CLASS,…], worst_iou, boundary_iou[CLASS,…] (given 5)"),
    (
        {"metrics": "iou[a]_holdout"},
        "metrics: are measured on every split that is measured; leave the split out (given 'iou[a]_holdout'); nearest legal: iou[a]",
    ),
    ({"scale_low": 3.0}, "scale_low: must not be above scale_high (given 3.0); nearest legal: 2.0"),
]


@pytest.mark.parametrize(("settings", "sentence"), CASES)
def test_one_sentence_says_what_is_wrong(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.parse(settings, where="trainer x")
    assert str(caught.value) == f"trainer x: {sentence}"


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError, match="no such setting") as caught:
        TrainingConfig.parse({"iterations": 0, "lr": -1, "nonsense": 1})
    assert [problem.key for problem in caught.value.problems] == ["iterations", "lr", "nonsense"]


def test_other_defaults_keep_bounds_and_descriptions() -> None:
    other = TrainingConfig.with_defaults("Other", iterations=7, device="cpu")
    assert (other.parse({}).iterations, other.parse({}).device, TrainingConfig.parse({}).iterations) == (7, "cpu", 1000)
    assert list(other.model_fields) == list(TrainingConfig.model_fields)
    assert [(row.legal, row.meaning) for row in other.rows()] == [(row.legal, row.meaning) for row in TrainingConfig.rows()]
    with pytest.raises(ConfigError, match=r"from 1 .given 0."):
        other.parse({"iterations": 0})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        TrainingConfig.with_defaults("Wrong", iterations=0)


def test_every_field_is_described() -> None:
    for row in TrainingConfig.rows():
        assert len(row.meaning) > 10, row.name
        assert row.legal
    rows = {row.name: row for row in TrainingConfig.rows()}
    assert rows["device"].legal == "auto, cpu, cuda or cuda:N"
    assert rows["amp"].legal == "one of none, bf16, fp16"
    assert rows["masks"].default == "original"
    assert TrainingConfig.model_fields.keys() >= TrainingConfig.OPERATIONAL


def test_whole_numbers_are_numbers() -> None:
    assert TrainingConfig.parse({"lr": 1, "weight_decay": 0}).lr == 1.0


def test_a_backbone_from_scratch_learns_at_the_full_rate_unless_told_otherwise() -> None:
    config = TrainingConfig.with_defaults("C", backbone_lr_scale=0.2)
    assert config.parse({}).on_backbone(from_scratch=True).backbone_lr_scale == 1.0
    assert config.parse({}).on_backbone(from_scratch=False).backbone_lr_scale == 0.2
    assert config.parse({"backbone_lr_scale": 0.5}).on_backbone(from_scratch=True).backbone_lr_scale == 0.5


def test_metrics_are_spelled_one_way() -> None:
    assert TrainingConfig.parse({"metrics": "iou[ a, b ]"}).metrics == ["iou[a,b]"]
    assert TrainingConfig.parse({"metrics": ["worst_iou", "worst_iou", "boundary_iou"]}).metrics == ["worst_iou", "boundary_iou"]
