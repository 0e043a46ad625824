"""Folders as people have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from kits_data import IDS, SIZE, LayoutContract, image, mask, save, write_tree
from PIL import Image

from nasseg.data.layouts import LAYOUTS, find_tree, open_data
from nasseg.errors import DataError


class TestSplitFolders(LayoutContract):
    patterns = ("{split}/images", "{split}/masks")
    name = "split folders"


class TestMmsegmentation(LayoutContract):
    patterns = ("img_dir/{split}", "ann_dir/{split}")
    name = "mmsegmentation"


class TestImagesAndMasks(LayoutContract):
    patterns = ("images/{split}", "masks/{split}")
    name = "images and masks"


def test_every_layout_keeps_the_contract() -> None:
    tested = {kit.name: kit.patterns for kit in LayoutContract.__subclasses__()}
    assert tested == {layout.name: (layout.images, layout.masks) for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_layout_is_found(tmp_path: Path, layout) -> None:
    write_tree(tmp_path, (layout.images, layout.masks))
    assert find_tree(tmp_path).layout == layout


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".tif"])
def test_image_suffixes(tmp_path: Path, suffix: str) -> None:
    root = write_tree(tmp_path, suffix=suffix)
    train = open_data(str(root)).splits["train"]
    assert train.ids == IDS
    assert train[0].image.shape == (*SIZE, 3)


def test_other_names_of_splits(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ("img_dir/{split}", "ann_dir/{split}"), {"training": ("a",), "validation": ("b",)})
    assert {name: split.ids for name, split in open_data(str(root)).splits.items()} == {"train": ("a",), "val": ("b",)}


def test_two_names_of_one_split(tmp_path: Path) -> None:
    root = write_tree(tmp_path, splits={"train": ("a",), "val": ("b",), "valid": ("c",)})
    with pytest.raises(DataError, match=r"val and valid both stand for the split val; keep one of them"):
        open_data(str(root))


def test_hidden_files_are_none(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    (root / "train/images/.DS_Store").write_bytes(b"x")
    (root / "train/images/._a_1.png").write_bytes(b"x")
    assert open_data(str(root)).splits["train"].ids == IDS


def test_one_name_twice(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    save(root / "train/images/a_1.jpg", image())
    with pytest.raises(DataError, match=r"a_1 stands for more than one image; names must differ in more than the suffix"):
        open_data(str(root))


def test_jpeg_masks(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    for file in (root / "val/masks").iterdir():
        file.rename(file.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"v_1\.jpg, v_2\.jpg is no PNG; masks are PNG files, a lossy format spoils class numbers"):
        open_data(str(root))


def test_many_missing_are_counted(tmp_path: Path) -> None:
    root = write_tree(tmp_path, splits={"train": tuple("abcdef"), "val": ("v",)})
    for id_ in "abcde":
        (root / f"train/masks/{id_}.png").unlink()
    with pytest.raises(DataError, match=r"no mask for a, b, c and 2 more;"):
        open_data(str(root))


def test_empty_images(tmp_path: Path) -> None:
    root = write_tree(tmp_path, splits={"train": ("a",), "val": ("b",)})
    (root / "val/images/b.png").unlink()
    with pytest.raises(DataError, match=r"val/images: no images; put files ending in \.jpg, \.jpeg, \.png"):
        open_data(str(root))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere: no such folder; give a data set's root, camvid:PATH or synthetic"):
        open_data(f"{tmp_path}/nowhere")


def test_file_for_a_folder(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", image())
    with pytest.raises(DataError, match=r"is a file; give the folder that holds the data set"):
        open_data(str(file))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no known layout .it is empty.; looked for train/images with train/masks; img_dir/train with"):
        open_data(str(tmp_path))


def test_unknown_layout_names_what_is_there(tmp_path: Path) -> None:
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"no known layout .it holds JPEGImages, SegmentationClass.; looked for"):
        open_data(str(tmp_path))


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path)

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        open_data(str(root))


def test_unreadable_subfolder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path)
    listing = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("city"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/images/city: cannot be read \(Permission denied\)"):
        open_data(str(root))


def test_sizes_that_differ(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    save(root / "train/masks/a_2.png", mask(0, (5, 8)))
    train = open_data(str(root)).splits["train"]
    assert train[0].mask.shape == SIZE
    with pytest.raises(DataError, match=r"a_2\.png: image is 6x8 .height x width., its mask .*a_2\.png 5x8; the two must be of one size"):
        train[1]


def test_file_that_went_away(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    train = open_data(str(root)).splits["train"]
    (root / "train/images/a_1.png").unlink()
    with pytest.raises(DataError, match=r"a_1\.png: the file is gone; replace the file or take it out of the data set"):
        train[0]


def test_index_outside(tmp_path: Path) -> None:
    train = open_data(str(write_tree(tmp_path))).splits["train"]
    with pytest.raises(IndexError, match=r"split train has 4 samples, index 4 given"):
        train[4]


def test_unknown_split(tmp_path: Path) -> None:
    data = open_data(str(write_tree(tmp_path)))
    with pytest.raises(DataError, match=r"no split 'test'; there are train, val"):
        data.split("test")


def test_holdout_that_fits_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holdout 'x_[*]' fits none of the 4 train images, which are named like a_1, a_2, b_1 and 1 more"):
        open_data(f"{write_tree(tmp_path)}?holdout=a_1,x_*")


def test_holdout_of_everything(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holdout takes all 4 train images; leave some to train on"):
        open_data(f"{write_tree(tmp_path)}?holdout=*")


def test_relabel(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    reduced = open_data(f"{root}?relabel=reduce_zero")
    assert reduced.num_classes == 2
    before = mask(0).astype(int)
    np.testing.assert_array_equal(reduced.splits["train"][0].mask, np.where((before == 0) | (before == 255), 255, before - 1))
    swapped = open_data(f"{root}?relabel=1:2,2:1,255:0")
    np.testing.assert_array_equal(swapped.splits["train"][0].mask, np.select([before == 1, before == 2, before == 255], [2, 1, 0], before))
    assert reduced.fingerprint != swapped.fingerprint
    assert reduced.splits["train"].key != swapped.splits["train"].key


def test_camvid_needs_its_classes(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    with pytest.raises(DataError, match=r"camvid needs classes.json with its classes. names and colours; without one"):
        open_data(f"camvid:{root}")
    classes = [{"id": i, "name": name, "colour": [i, i, i]} for i, name in enumerate(("sky", "road", "car"))]
    (root / "classes.json").write_text(json.dumps({"name": "CamVid", "classes": classes}))
    data = open_data(f"camvid:{root}")
    assert data.spec == f"camvid:{root.resolve()}"
    assert (data.name, data.classes, data.palette, data.classes_from) == (
        "CamVid",
        ("sky", "road", "car"),
        ((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        "classes.json",
    )


def test_a_palette_is_not_applied(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    for file in (root / "train/masks").rglob("*.png"):
        with Image.open(file) as opened:
            picture = opened.copy()
        picture.putpalette([200, 10, 30] * 256)
        picture.save(file)
        with Image.open(file) as opened:
            assert opened.mode == "P"
    np.testing.assert_array_equal(open_data(str(root)).splits["train"][1].mask, mask(1))


def test_probe_finds_what_the_layout_does_not_show(tmp_path: Path):
    root = write_tree(tmp_path / "set")
    open_data(f"{root}?classes=3").probe()
    broken = root / "val" / "images" / "v_2.png"
    broken.write_bytes(broken.read_bytes()[:100])
    data = open_data(f"{root}?classes=3")
    with pytest.raises(DataError, match=r"v_2\.png: file is truncated"):
        data.probe()
    # One image of two of each split: the second of val is passed over.
    data.probe(most=1)
