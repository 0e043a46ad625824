"""Ultralytics' data set files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kits_data import image, mask, save
from kits_layouts import labels

from nasseg.data.layouts import open_data
from nasseg.errors import DataError

NAMES = "names:\n  0: road\n  1: sky\n  2: car\n"


def tree(root: Path, text: str = "", masks: str = "masks") -> Path:
    for number, id_ in enumerate(("train/a", "train/sub/b", "val/c")):
        save(root / f"set/images/{id_}.jpg", image(number))
        save(root / f"set/{masks}/{id_}.png", mask(number))
    (root / "set.yaml").write_text(f"path: set\ntrain: images/train\nval: images/val\n{NAMES}{text}")
    return root / "set.yaml"


def test_folders(tmp_path: Path) -> None:
    file = tree(tmp_path)
    data = open_data(str(file))
    assert data.spec == f"ultralytics:{file}"
    assert data.classes == ("road", "sky", "car")
    assert {name: split.ids for name, split in data.splits.items()} == {"train": ("a", "sub/b"), "val": ("c",)}
    np.testing.assert_array_equal(data.splits["train"][1].mask, mask(1))
    assert (data.name, data.classes_from, data.original_labels) == ("set", "names in set.yaml", None)


def test_label_mapping(tmp_path: Path) -> None:
    file = tree(
        tmp_path, "masks_dir: annotations\nlabel_mapping:\n  -1: ignore_label\n  0: ignore_label\n  7: 0\n  8: 1\n  11: 2\n", "annotations"
    )
    for id_ in ("train/a", "train/sub/b", "val/c"):
        save(tmp_path / f"set/annotations/{id_}.png", labels(0, 7, 8, 11, 255)(0))
    data = open_data(f"ultralytics:{file}")
    before = labels(0, 7, 8, 11, 255)(0)
    expected = np.select([before == 7, before == 8, before == 11], [0, 1, 2], 255)
    np.testing.assert_array_equal(data.splits["val"][0].mask, expected)
    assert data.original_labels == (7, 8, 11)


def test_lists_and_several(tmp_path: Path) -> None:
    file = tree(tmp_path)
    (tmp_path / "set/some.txt").write_text("./images/train/a.jpg\nimages/train/sub/b.jpg\n")
    text = file.read_text()
    file.write_text(text.replace("train: images/train", "train: some.txt"))
    assert open_data(str(file)).splits["train"].ids == ("images/train/a", "images/train/sub/b")
    file.write_text(text.replace("train: images/train", "train: [images/train/sub, images/val]"))
    assert open_data(str(file)).splits["train"].ids == ("images/train/sub/b", "images/val/c")
    (tmp_path / "set/some.txt").write_text("images/train/gone.jpg\n")
    file.write_text(text.replace("train: images/train", "train: some.txt"))
    with pytest.raises(DataError, match=r"set\.yaml \(train\): names images/train/gone, but there is no such image"):
        open_data(str(file))


def test_path_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tree(tmp_path)
    other = tmp_path / "elsewhere" / "set.yaml"
    other.parent.mkdir()
    file.rename(other)
    monkeypatch.chdir(tmp_path)
    assert len(open_data(str(other)).splits["train"]) == 2
    monkeypatch.chdir("/")
    with pytest.raises(DataError, match=r"path 'set' is no folder; looked for .*elsewhere/set and /set"):
        open_data(str(other))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NAMES, "", r"names train, val and names"),
        (NAMES, "names: [a]\n", r"names are 2 to 255 different class names"),
        (NAMES, "names: [a, a]\n", r"names are 2 to 255 different class names"),
        (NAMES, "names:\n  0: a\n  2: b\n", r"names are 2 to 255 different class names"),
        (NAMES, NAMES + "masks_dir: [a]\n", r"masks_dir is a folder's name, \['a'\] given"),
        (NAMES, NAMES + "label_mapping: [1]\n", r"label_mapping is LABEL: CLASS pairs, \[1\] given"),
        (NAMES, NAMES + "label_mapping: {7: 3}\n", r"label_mapping 7: 3 is no label 0…255 with a class 0…2 or ignore_label"),
        (NAMES, NAMES + "label_mapping: {256: 1}\n", r"label_mapping 256: 1 is no label 0…255"),
        ("images/val", "images/vol", r"val 'images/vol' is neither a folder nor a \.txt list"),
        ("images/train", "../raw", r"has no folder images in its path, which masks_dir would take the place of"),
        ("path: set", "path: [", r"not readable as YAML"),
    ],
)
def test_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tree(tmp_path)
    save(tmp_path / "raw/x.jpg", image())
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        open_data(str(file))


def test_polygons_and_missing_files(tmp_path: Path) -> None:
    file = tree(tmp_path, "masks_dir: labels\n")
    with pytest.raises(DataError, match=r"set/labels: the folder with the masks of .* is missing"):
        open_data(str(file))
    (tmp_path / "set/labels").mkdir()
    with pytest.raises(
        DataError, match=r"no mask for a, sub/b; the mask of images/…/NAME\.jpg is labels/…/NAME\.png \(polygon labels are not"
    ):
        open_data(str(file))
    with pytest.raises(DataError, match=r"nothing\.yaml: no such file; give an Ultralytics data set's \.yaml"):
        open_data(f"{tmp_path}/nothing.yaml")
