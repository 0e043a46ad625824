"""COCO-Stuff 164k: pixel maps of 182 ids less 1, of which 171 are in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import save
from kits_layouts import coco_stuff, labels

from nasseg.data.layouts import open_data
from nasseg.errors import DataError

# Ids that no mask holds, as the tool kit's list of removed things has them.
REMOVED = {
    **{12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk", 71: "door"},
    **{83: "blender", 91: "hair brush"},
}
# Some ids and their names from the tool kit's list of labels.
NAMES = {
    **{1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 46: "wine glass", 67: "dining table"},
    **{70: "toilet", 72: "tv", 90: "toothbrush", 92: "banner", 96: "building-other", 110: "desk-stuff", 149: "road", 157: "sky-other"},
    **{169: "tree", 171: "wall-brick", 178: "water-other", 180: "window-blind", 182: "wood"},
}


def test_every_number_of_a_pixel_map(tmp_path: Path) -> None:
    root = coco_stuff(tmp_path, labels(0))
    used = [id_ for id_ in range(1, 183) if id_ not in REMOVED]
    every = np.array([[id_ - 1 for id_ in used] + [255]], dtype=np.uint8)
    save(root / "annotations/train2017/000000000009.png", every)
    save(root / "images/train2017/000000000009.jpg", np.zeros((1, 172, 3), dtype=np.uint8))
    data = open_data(f"coco-stuff:{root}")
    got = data.splits["train"][0].mask[0]
    assert data.num_classes == len(used) == 171
    assert got.tolist() == [*range(171), 255]
    assert {id_: data.classes[used.index(id_)] for id_ in NAMES} == NAMES
    assert not {"street sign", "hair brush", "eye glasses"} & set(data.classes)
    assert data.original_labels == tuple(id_ - 1 for id_ in used)
    assert len(set(data.palette)) == 171


def test_removed_ids_are_ignored_and_strange_ones_an_error(tmp_path: Path) -> None:
    root = coco_stuff(tmp_path, labels(0, *(id_ - 1 for id_ in REMOVED)))
    assert set(np.unique(open_data(f"coco-stuff:{root}").splits["train"][0].mask)) == {0, 255}
    save(root / "annotations/train2017/000000000009.png", labels(0, 190)(0))
    with pytest.raises(DataError, match=r"000000000009\.png: label 190 .* has 171 classes"):
        open_data(f"coco-stuff:{root}").splits["train"][0]


def test_train_ids(tmp_path: Path) -> None:
    root = coco_stuff(tmp_path, labels(11, 170, 255), "_labelTrainIds.png")
    assert set(np.unique(open_data(str(root)).splits["val"][0].mask)) == {11, 170, 255}
    coco_stuff(root, labels(12), ".png")  # both kinds side by side: train ids go first, each image counts once
    data = open_data(str(root))
    assert set(np.unique(data.splits["val"][0].mask)) == {11, 170, 255}
    assert data.splits["train"].ids == ("000000000009", "000000000025")
    (root / "annotations/train2017/000000000009_labelTrainIds.png").unlink()
    assert set(np.unique(open_data(str(root)).splits["train"][0].mask)) == {11}


def test_as_the_archives_unpack(tmp_path: Path) -> None:
    root = coco_stuff(tmp_path, labels(0, 181), images=".", maps="stuffthingmaps")
    data = open_data(str(root))
    assert data.spec == f"coco-stuff:{root}"
    assert set(np.unique(data.splits["train"][1].mask)) == {0, 170}
