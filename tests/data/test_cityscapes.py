"""Cityscapes: labels of the masks to train ids, by the tool kit's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import save
from kits_layouts import cityscapes, labels

from nasseg.data.doctor import examine
from nasseg.data.layouts import open_data, original_labels
from nasseg.errors import DataError

# id, name, train id (255: void in evaluation), colour: typed from the tool kit's table of labels, apart from the module's.
TABLE = (
    (0, "unlabeled", 255, (0, 0, 0)),
    (1, "ego vehicle", 255, (0, 0, 0)),
    (2, "rectification border", 255, (0, 0, 0)),
    (3, "out of roi", 255, (0, 0, 0)),
    (4, "static", 255, (0, 0, 0)),
    (5, "dynamic", 255, (111, 74, 0)),
    (6, "ground", 255, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", 255, (250, 170, 160)),
    (10, "rail track", 255, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", 255, (180, 165, 180)),
    (15, "bridge", 255, (150, 100, 100)),
    (16, "tunnel", 255, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", 255, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", 255, (0, 0, 90)),
    (30, "trailer", 255, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
)
TRAINED = [row for row in TABLE if row[2] != 255]


def test_names_and_colours(tmp_path: Path) -> None:
    data = open_data(f"cityscapes:{cityscapes(tmp_path, labels(7, 8))}")
    assert data.num_classes == len(TRAINED) == 19
    for _, name, train_id, colour in TRAINED:
        assert (data.classes[train_id], data.palette[train_id]) == (name, colour)


def test_every_label(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, labels(7))
    every = np.arange(256, dtype=np.uint8).reshape(1, 256)
    for split, id_ in (("train", "aachen/aachen_000000_000019"), ("val", "lindau/lindau_0_1")):
        save(root / f"gtFine/{split}/{id_}_gtFine_labelIds.png", every)
        save(root / f"leftImg8bit/{split}/{id_}_leftImg8bit.png", np.zeros((1, 256, 3), dtype=np.uint8))
    data = open_data(f"cityscapes:{root}")
    for split in ("train", "val"):
        got = data.splits[split][0].mask[0]
        assert [int(got[label]) for label, *_ in TABLE] == [train_id for _, _, train_id, _ in TABLE]
        assert (got[34:] == 255).all()


def test_train_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, labels(0, 7, 18, 255), ("labelTrainIds",))
    data = open_data(f"cityscapes:{root}")
    np.testing.assert_array_equal(data.splits["train"][0].mask, labels(0, 7, 18, 255)(0))
    assert data.original_labels == tuple(row[0] for row in TRAINED) == original_labels("cityscapes")


def test_train_ids_go_before_label_ids_where_all_are_there(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, labels(7, 8), ("labelTrainIds", "labelIds"))
    assert set(np.unique(open_data(str(root)).splits["train"][0].mask)) == {7, 8}
    (root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelTrainIds.png").unlink()
    half = open_data(str(root))
    assert set(np.unique(half.splits["train"][0].mask)) == {0, 1}
    assert set(np.unique(half.splits["val"][0].mask)) == {7, 8}


def test_found_by_its_folders(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, labels(7, 33))
    data = open_data(str(root))
    assert data.spec == f"cityscapes:{root}"
    assert data.splits["train"].ids == ("aachen/aachen_000000_000019", "ulm/ulm_000001_000019")
    assert list(data.splits) == ["train", "val"]  # test has no labels to measure by
    assert examine(str(root)).layout == "Cityscapes, known by its folders"
    assert open_data(f"{root}?holdout=ulm_*").splits["holdout"].ids == ("ulm/ulm_000001_000019",)


def test_missing_mask(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, labels(7))
    (root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    rule = r"ending in _gtFine_labelIds\.png instead of _leftImg8bit\.png"
    with pytest.raises(DataError, match=rf"no mask for ulm/ulm_000001_000019; a mask has its image's name, {rule}"):
        open_data(f"cityscapes:{root}")
