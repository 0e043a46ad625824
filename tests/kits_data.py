"""What the data tests share: small trees on disk, and the contract every folder layout keeps."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasseg.data.layouts import open_data
from nasseg.errors import DataError

SIZE = (6, 8)  # height, width
IDS = ("a_1", "a_2", "b_1", "city/c_1")


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Random RGB pixels."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def mask(seed: int = 0, size: tuple[int, int] = SIZE, classes: int = 3) -> np.ndarray:
    """Random labels with every class and some ignored pixels."""
    labels = np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)
    labels.flat[:classes] = range(classes)
    labels.flat[-2:] = 255
    return labels


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    """Write an image file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def write_tree(
    root: Path,
    layout: tuple[str, str] = ("{split}/images", "{split}/masks"),
    splits: Mapping[str, tuple[str, ...]] | None = None,
    suffix: str = ".png",
    labels: Callable[[int], np.ndarray] = mask,
) -> Path:
    """A data set of random pairs; sample k of all has seed k. Gives the root back."""
    count = 0
    for split, ids in (splits or {"train": IDS, "val": ("v_1", "v_2")}).items():
        for id_ in ids:
            save(root / layout[0].format(split=split) / f"{id_}{suffix}", image(count))
            save(root / layout[1].format(split=split) / f"{id_}.png", labels(count))
            count += 1
    return root


class LayoutContract:
    """What ``open_data`` promises for any folder. A layout's test inherits it and names its two folder patterns."""

    patterns: tuple[str, str]
    name: str

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return write_tree(tmp_path / "set", self.patterns)

    def part(self, root: Path, which: int, split: str = "train") -> Path:
        return root / self.patterns[which].format(split=split)

    def test_samples(self, root: Path) -> None:
        data = open_data(str(root))
        assert list(data.splits) == ["train", "val"]
        train = data.splits["train"]
        assert train.ids == IDS
        assert len(train) == 4
        for index in range(4):
            got = train[index]
            np.testing.assert_array_equal(got.image, image(index))
            np.testing.assert_array_equal(got.mask, mask(index))
            assert got.image.dtype == got.mask.dtype == np.uint8
            assert got.image.flags.writeable
        np.testing.assert_array_equal(data.splits["val"][-1].mask, mask(5))
        assert [len(data.split(name)) for name in ("train", "val")] == [4, 2]
        assert data.num_classes == 3
        assert data.classes == ("class_0", "class_1", "class_2")
        assert data.ignore_index == 255
        assert data.classes_from == "largest label in 6 masks, all read"
        assert data.name == "set"

    def test_spec_opens_the_same(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root.parent)
        data = open_data("set?holdout=b_*&classes=3")
        assert data.spec == f"{root.resolve()}?classes=3&holdout=b_*"
        again = open_data(data.spec)
        assert again.spec == data.spec
        assert again.fingerprint == data.fingerprint

    def test_holdout(self, root: Path) -> None:
        data = open_data(f"{root}?holdout=b_1,c_?")
        assert data.splits["train"].ids == ("a_1", "a_2")
        assert data.splits["holdout"].ids == ("b_1", "city/c_1")
        assert data.splits["holdout"].name == "holdout"
        np.testing.assert_array_equal(data.splits["holdout"][1].mask, mask(3))

    def test_fingerprint_follows_the_content_not_the_place(self, root: Path, tmp_path: Path) -> None:
        first = open_data(str(root)).fingerprint
        other = write_tree(tmp_path / "elsewhere", self.patterns)
        assert open_data(str(other)).fingerprint == first
        save(self.part(other, 1) / "a_1.png", np.zeros(SIZE, dtype=np.uint8))
        assert open_data(str(other)).fingerprint != first
        assert open_data(f"{root}?classes=4").fingerprint != first
        assert open_data(f"{root}?holdout=a_1").fingerprint != first

    def test_key_follows_the_files(self, root: Path) -> None:
        key = open_data(str(root)).splits["train"].key
        assert open_data(str(root)).splits["train"].key == key
        assert open_data(f"{root}?classes=4").splits["train"].key != key
        save(self.part(root, 0) / "a_1.png", image(99))
        assert open_data(str(root)).splits["train"].key != key

    def test_splits_cross_processes(self, root: Path) -> None:
        train = pickle.loads(pickle.dumps(open_data(str(root)).splits["train"]))
        np.testing.assert_array_equal(train[2].image, image(2))

    def test_no_file_stays_open(self, root: Path, recwarn: pytest.WarningsRecorder) -> None:
        split = open_data(str(root)).splits["train"]
        samples = list(split)
        gc.collect()
        assert len(samples) == 4
        assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]

    def test_image_without_mask(self, root: Path) -> None:
        (self.part(root, 1) / "a_2.png").unlink()
        with pytest.raises(DataError, match=r"no mask for a_2; a mask has its image's name and ends in \.png"):
            open_data(str(root))

    def test_mask_without_image(self, root: Path) -> None:
        (self.part(root, 0) / "a_2.png").unlink()
        with pytest.raises(DataError, match="no image for a_2; delete the mask or add its image"):
            open_data(str(root))

    def test_no_masks_at_all(self, root: Path) -> None:
        folder = self.part(root, 1, "val")
        folder.rename(root / "away")
        with pytest.raises(DataError, match=f"{folder}: the folder with the masks of .* is missing"):
            open_data(str(root))

    def test_no_val(self, root: Path) -> None:
        self.part(root, 0, "val").rename(root / "away")
        with pytest.raises(DataError, match=f"{self.part(root, 0, 'val')}: the folder is missing; a data set has train and val"):
            open_data(str(root))

    def test_test_split(self, tmp_path: Path) -> None:
        ids = {"train": ("a",), "val": ("b",), "test": ("c", "d")}
        root = write_tree(tmp_path / "set", self.patterns, ids)
        assert open_data(str(root)).splits["test"].ids == ("c", "d")
        for file in self.part(root, 1, "test").iterdir():
            file.unlink()
        assert list(open_data(str(root)).splits) == ["train", "val"]  # images alone can be predicted on, not measured
