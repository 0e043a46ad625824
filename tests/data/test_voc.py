"""Pascal VOC 2012: lists, palette masks, the further images of SBD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import save
from kits_layouts import labels, voc
from PIL import Image

from nasseg.data.layouts import open_data, original_labels
from nasseg.data.voc import voc_palette
from nasseg.errors import DataError

# As in the development kit's documentation.
NAMES = [
    *["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"],
    *["horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"],
]
COLOURS = [
    *[(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128), (64, 0, 0)],
    *[(192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0)],
    *[(0, 192, 0), (128, 192, 0), (0, 64, 128)],
]


def test_names_colours_lists(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOCdevkit" / "VOC2012", labels(0, 15, 20, 255))
    for spec in (f"voc:{root}", f"voc:{tmp_path}", str(root)):
        data = open_data(spec)
        assert data.classes == tuple(NAMES)
        assert data.palette == tuple(COLOURS)
        assert {name: split.ids for name, split in data.splits.items()} == {
            "train": ("2007_000032", "2007_000039"),
            "val": ("2007_000033",),
        }
        np.testing.assert_array_equal(data.splits["train"][1].mask, labels(0, 15, 20, 255)(39))
    assert voc_palette(256)[255] == (224, 224, 192)  # the border's colour in the kit's PNGs


def test_palette_masks_are_read_by_number(tmp_path: Path) -> None:
    root = voc(tmp_path, labels(0, 3, 255))
    path = root / "SegmentationClass/2007_000032.png"
    with Image.open(path) as opened:
        picture = opened.copy()
    picture.putpalette([number for colour in voc_palette(256) for number in colour])
    picture.save(path)
    with Image.open(path) as opened:
        assert opened.mode == "P"
    np.testing.assert_array_equal(open_data(f"voc:{root}").splits["train"][0].mask, labels(0, 3, 255)(32))


def test_aug(tmp_path: Path) -> None:
    root = voc(tmp_path, labels(0, 1), aug=("2008_000051", "2008_000052"))
    assert len(open_data(f"voc:{root}").splits["train"]) == 2
    for spelling in ("trainaug", "trainaug.txt", "ImageSets/Segmentation/trainaug.txt"):
        data = open_data(f"voc:{root}?aug={spelling}")
        assert data.splits["train"].ids == ("2007_000032", "2007_000039", "2008_000051", "2008_000052")
        np.testing.assert_array_equal(data.splits["train"][3].mask, labels(0, 1)(52))
        assert data.splits["val"].ids == ("2007_000033",)


def test_aug_leaves_vocs_own_train_images_their_masks(tmp_path: Path) -> None:
    """As mmsegmentation joins them: ``train.txt`` with ``SegmentationClass``, the further images with ``SegmentationClassAug``."""
    root = voc(tmp_path, labels(0, 1), aug=("2008_000051",))
    listed = ("2007_000032", "2007_000039", "2008_000051")  # what trainaug.txt names
    (root / "ImageSets/Segmentation/aug.txt").write_text("2008_000051\n")
    # SBD has a mask of its own for an image of train.txt; VOC has one for a further image.
    save(root / "SegmentationClassAug/2007_000032.png", labels(5)(0))
    save(root / "SegmentationClass/2008_000051.png", labels(6)(0))
    for name in ("trainaug", "aug"):
        train = open_data(f"voc:{root}?aug={name}").splits["train"]
        assert train.ids == listed
        np.testing.assert_array_equal(train[0].mask, labels(0, 1)(32))
        np.testing.assert_array_equal(train[2].mask, labels(0, 1)(51))
    (root / "SegmentationClassAug/2008_000051.png").unlink()
    assert set(np.unique(open_data(f"voc:{root}?aug=aug").splits["train"][2].mask)) == {6}


def test_aug_refused(tmp_path: Path) -> None:
    root = voc(tmp_path, labels(0, 1), aug=("2008_000051",))
    with pytest.raises(DataError, match=r"no list nothing\.txt in .*; aug names a list of further train images"):
        open_data(f"voc:{root}?aug=nothing")
    (root / "ImageSets/Segmentation/leak.txt").write_text("2008_000051\n2007_000033\n")
    with pytest.raises(DataError, match=r"leak\.txt: names 2007_000033 of val; take them out of the list"):
        open_data(f"voc:{root}?aug=leak")


def test_lists_and_files_must_agree(tmp_path: Path) -> None:
    root = voc(tmp_path, labels(0, 1))
    (root / "JPEGImages/2007_000032.jpg").unlink()
    with pytest.raises(DataError, match=r"train\.txt: names 2007_000032, but there is no such image in .*JPEGImages"):
        open_data(f"voc:{root}")
    (root / "ImageSets/Segmentation/train.txt").write_text("")
    with pytest.raises(DataError, match=r"train\.txt: names no image of the split train"):
        open_data(f"voc:{root}")
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000039\n2007_000039\n")
    with pytest.raises(DataError, match=r"train\.txt: names 2007_000039 twice; delete the repeated lines"):
        open_data(f"voc:{root}")
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt: the list of a split's names cannot be read \(it is not UTF-8 text\)"):
        open_data(f"voc:{root}")
    (root / "ImageSets/Segmentation/val.txt").unlink()
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000039\n")
    with pytest.raises(DataError, match=r"val\.txt: the file is missing; a data set has train and val"):
        open_data(f"voc:{root}")


def test_labels_are_class_numbers_already() -> None:
    assert original_labels("voc") == tuple(range(21))
