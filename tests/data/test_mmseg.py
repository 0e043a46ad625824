"""mmsegmentation's generic folders with lists and suffixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import image, mask, save

from nasseg.data.layouts import open_data
from nasseg.errors import DataError


def tree(root: Path) -> Path:
    for number, id_ in enumerate(("a_1", "city/b_1", "c_1")):
        save(root / f"img_dir/{id_}_img.png", image(number))
        save(root / f"ann_dir/{id_}_gt.png", mask(number))
        save(root / f"ann_dir/{id_}_other.png", mask(9))
    (root / "train.txt").write_text("a_1\ncity/b_1\n\n")
    (root / "val.txt").write_text("c_1\n")
    return root


SETTINGS = "img_suffix=_img.png&seg_map_suffix=_gt.png"


def test_lists(tmp_path: Path) -> None:
    data = open_data(f"mmseg:{tree(tmp_path)}?train=train.txt&val=val.txt&{SETTINGS}")
    assert {name: split.ids for name, split in data.splits.items()} == {"train": ("a_1", "city/b_1"), "val": ("c_1",)}
    np.testing.assert_array_equal(data.splits["train"][1].mask, mask(1))
    np.testing.assert_array_equal(data.splits["train"][1].image, image(1))
    assert data.num_classes == 3
    assert open_data(data.spec).fingerprint == data.fingerprint


def test_lists_of_folders_and_other_names(tmp_path: Path) -> None:
    for number, (split, id_) in enumerate((("train", "a"), ("train", "b"), ("val", "c"))):
        save(tmp_path / f"pictures/{split}/{id_}.jpg", image(number))
        save(tmp_path / f"truth/{split}/{id_}.png", mask(number))
    (tmp_path / "few.txt").write_text("b\n")
    place = f"mmseg:{tmp_path}?img_dir=pictures&ann_dir=truth"
    assert open_data(place).splits["train"].ids == ("a", "b")
    data = open_data(f"{place}&train=few.txt&relabel=reduce_zero&classes=2")
    assert {name: split.ids for name, split in data.splits.items()} == {"train": ("b",), "val": ("c",)}
    assert data.original_labels == (1, 2)


def test_suffixes_with_folders(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        save(tmp_path / f"img_dir/{split}/a_leftImg8bit.png", image(number))
        save(tmp_path / f"ann_dir/{split}/a_gtFine_labelTrainIds.png", mask(number))
        save(tmp_path / f"ann_dir/{split}/a_gtFine_labelIds.png", mask(9))
    data = open_data(f"mmseg:{tmp_path}?img_suffix=_leftImg8bit.png&seg_map_suffix=_gtFine_labelTrainIds.png")
    np.testing.assert_array_equal(data.splits["val"][0].mask, mask(1))


def test_refused(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with pytest.raises(DataError, match=r"img_dirs: no such folder; \?img_dir= names the one in"):
        open_data(f"mmseg:{root}?img_dir=img_dirs")
    with pytest.raises(DataError, match=r"img_dir/val: the folder is missing; a data set has train and val"):
        open_data(f"mmseg:{root}?train=train.txt&{SETTINGS}")
    (root / "ann_dir/c_1_gt.png").unlink()
    with pytest.raises(DataError, match=r"no mask for c_1; a mask is named as in the list, ending in _gt\.png"):
        open_data(f"mmseg:{root}?train=train.txt&val=val.txt&{SETTINGS}")
    (root / "val.txt").write_text("c_1\nd_1\n")
    with pytest.raises(DataError, match=r"val\.txt: names d_1, but there is no such image in .*img_dir"):
        open_data(f"mmseg:{root}?train=train.txt&val=val.txt&{SETTINGS}")
