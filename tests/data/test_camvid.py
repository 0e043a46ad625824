"""The real data set this project is developed on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nasseg.data.doctor import examine
from nasseg.data.layouts import open_data

pytestmark = pytest.mark.shared


def test_counts_and_classes(shared: Path) -> None:
    folder = shared / "data" / "camvid"
    data = open_data(f"camvid:{folder}")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 367, "val": 101}
    said = json.loads((folder / "classes.json").read_text())
    assert data.num_classes == 11
    assert data.classes == tuple(entry["name"] for entry in said["classes"])
    assert data.palette == tuple(tuple(entry["colour"]) for entry in said["classes"])
    assert data.name == said["name"]
    assert data.classes_from == "classes.json"


def test_the_drive_held_out(shared: Path) -> None:
    data = open_data(f"camvid:{shared}/data/camvid?holdout=0006R0_*")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 266, "val": 101, "holdout": 101}
    assert all(id_.startswith("0006R0_") for id_ in data.splits["holdout"].ids)
    assert not any(id_.startswith("0006R0_") for id_ in data.splits["train"].ids)
    image, mask = data.splits["holdout"][0]
    assert (image.shape, mask.shape) == ((360, 480, 3), (360, 480))


def test_shares_as_published_with_it(shared: Path) -> None:
    folder = shared / "data" / "camvid"
    said = json.loads((folder / "classes.json").read_text())["splits"]
    found = examine(f"camvid:{folder}")
    assert not found.errors
    for name in ("train", "val"):
        report = found.splits[name]
        assert (report.images, report.masks, report.read) == (said[name]["images"],) * 3
        assert report.sizes == {(360, 480): said[name]["images"]}
        assert report.ignored / 100 == pytest.approx(said[name]["void_fraction"], abs=1e-5)
        for label, class_name in enumerate(found.classes):
            assert report.share(label) / 100 == pytest.approx(said[name]["pixel_freq"][class_name], abs=1e-6)
            assert report.images_with[label] == said[name]["images_with_class"][class_name]
    assert np.isclose(sum(found.splits["val"].share(label) for label in range(11)), 100)
