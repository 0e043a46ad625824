"""Whether what is asked for can be measured on the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import save

from nasseg.data.dataset import DataSet
from nasseg.data.layouts import open_data
from nasseg.errors import ConfigError
from nasseg.metric import METRICS, Metric
from nasseg.training.objectives import check_metrics, requested

OWN = Metric("f1")


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Classes soil, crop, weed; val never shows weed, holdout never crop."""
    labels = {"train/a": [0, 1, 2], "train/far_b": [0, 2, 2], "val/c": [0, 1, 255]}
    for name, row in labels.items():
        split, _, id_ = name.partition("/")
        save(tmp_path / split / "images" / f"{id_}.png", np.zeros((1, 3, 3), dtype=np.uint8))
        save(tmp_path / split / "masks" / f"{id_}.png", np.array([row], dtype=np.uint8))
    (tmp_path / "classes.json").write_text('["soil", "crop", "weed"]')
    return open_data(f"{tmp_path}?holdout=far_*")


def test_names_of_the_data_are_taken_apart(data: DataSet) -> None:
    names = ["miou", "miou_holdout", "iou[soil]", "iou[soil,weed]_holdout", "f1", "boundary_iou", "iou[soil]_holdout"]
    found = check_metrics(names, (*METRICS, OWN), data)
    assert [str(name) for name in found] == names
    # What is asked of the trainer: nothing that it measures anyway, nothing of its own, no split.
    assert requested(found) == ["iou[soil]", "iou[soil,weed]", "boundary_iou"]


def test_everything_wrong_is_said_at_once(data: DataSet) -> None:
    names = ["f1", "iou[wed]", "miou_test", "iou[weed]", "iou[crop]_holdout", "iou[crop,weed]"]
    with pytest.raises(ConfigError) as caught:
        check_metrics(names, METRICS, data, where="space.yaml", key="objectives")
    assert [problem.given for problem in caught.value.problems] == names[:5]
    said = [str(problem).partition(" (given")[0] for problem in caught.value.problems]
    assert said[0].startswith("space.yaml: objectives: no such metric; there are miou, macc")
    assert said[1:] == [
        "space.yaml: objectives: no class wed; the data has soil, crop, weed",
        "space.yaml: objectives: no split test is measured; there are val, which is not named, holdout",
        "space.yaml: objectives: no mask of val holds a pixel of weed, so there is nothing to measure",
        "space.yaml: objectives: no mask of holdout holds a pixel of crop, so there is nothing to measure",
    ]
