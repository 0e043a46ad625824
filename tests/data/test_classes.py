"""Where the classes come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kits_data import SIZE, mask, save, write_tree

from nasseg.data import classes as module
from nasseg.data.classes import read_classes
from nasseg.data.layouts import open_data
from nasseg.data.palette import default_palette
from nasseg.errors import DataError


def test_counted_classes_are_checked_later(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    data = open_data(str(root))
    save(root / "val/masks/v_1.png", mask(0, classes=5))
    with pytest.raises(DataError, match=r"v_1\.png: label 4 in the mask, but the data set has 3 classes"):
        data.splits["val"][0]
    assert open_data(str(root)).num_classes == 5


def test_count_is_remembered_until_a_mask_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path)
    assert open_data(str(root)).num_classes == 3
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_mask", lambda *_, **__: pytest.fail("a mask was read again"))
        assert open_data(str(root)).num_classes == 3
    save(root / "train/masks/a_1.png", mask(7, classes=6))
    assert open_data(str(root)).num_classes == 6


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASSEG_CACHE", str(tmp_path / "file"))
    assert open_data(str(write_tree(tmp_path / "set"))).num_classes == 3


def test_given_number(tmp_path: Path) -> None:
    data = open_data(f"{write_tree(tmp_path)}?classes=19")
    assert data.num_classes == 19
    assert data.classes_from == "?classes=19"
    assert data.palette == default_palette(19)


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    root = write_tree(tmp_path, labels=lambda k: np.where(mask(k) == 1, 255, 0).astype(np.uint8))
    with pytest.raises(
        DataError, match=r"6 masks hold label 0 and ignored pixels .255. only; if 255 means the object, set \?relabel=255:1"
    ):
        open_data(str(root))
    data = open_data(f"{root}?relabel=255:1")
    assert data.num_classes == 2
    assert set(np.unique(data.splits["train"][0].mask)) == {0, 1}


def test_masks_of_nothing(tmp_path: Path) -> None:
    root = write_tree(tmp_path, labels=lambda _: np.full(SIZE, 255, dtype=np.uint8))
    with pytest.raises(DataError, match=r"hold nothing but ignored pixels .255.; write class numbers from 0, or give \?classes=…"):
        open_data(str(root))


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_short_forms(tmp_path: Path) -> None:
    found = read_classes(write(tmp_path / "c.json", ["road", {"name": "sky", "color": [1, 2, 3]}, {"name": "car", "id": 2}]))
    assert found.names == ("road", "sky", "car")
    assert found.palette == (default_palette(3)[0], (1, 2, 3), default_palette(3)[2])
    assert found.title is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": "road"}, r'"classes" is a list of 2 to 255 classes, for example \["road", "sky"\]'),
        (["road"], "is a list of 2 to 255 classes"),
        ({"names": []}, "is a list of 2 to 255 classes"),
        (["road", 3], "class 1 needs a name of its own, None given"),
        (["road", "road"], "class 1 needs a name of its own, 'road' given"),
        (["road", ""], "class 1 needs a name of its own, '' given"),
        ([{"name": "a", "id": 1}, "b"], "class 'a' has id 1 at place 0; ids run 0, 1, 2, … in the order of the list"),
        (["a", {"name": "b", "colour": [0, 0]}], r"the colour of 'b' is three numbers from 0 to 255, \[0, 0\] given"),
        (["a", {"name": "b", "colour": "red"}], "three numbers from 0 to 255, 'red' given"),
        (["a", {"name": "b", "colour": [0, 0, 256]}], r"three numbers from 0 to 255, \[0, 0, 256\] given"),
    ],
)
def test_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(write(tmp_path / "c.json", content))


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(DataError, match=r"c\.json: not readable as JSON .*it lists the classes, for example"):
        read_classes(tmp_path / "c.json")


def test_setting_and_file_disagree(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    write(root / "classes.json", ["a", "b", "c"])
    assert open_data(f"{root}?classes=3").classes == ("a", "b", "c")
    with pytest.raises(DataError, match=r"classes=4, but .*classes\.json names 3; leave the setting out or correct the file"):
        open_data(f"{root}?classes=4")
