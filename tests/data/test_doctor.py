"""Broken data sets are looked through to the end, and every trouble is named with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from kits_data import SIZE, image, mask, save, write_tree
from PIL import Image

from nasseg.data.diagnosis import Diagnosis, Finding, SplitReport
from nasseg.data.doctor import examine
from nasseg.errors import DataError


def found(diagnosis: Diagnosis, kind: str, split: str | None = None) -> Finding:
    """The one finding of a kind."""
    (finding,) = [f for f in diagnosis.findings if f.kind == kind and split in (None, f.split)]
    return finding


def test_sound_data(tmp_path: Path) -> None:
    diagnosis = examine(str(write_tree(tmp_path)))
    assert diagnosis.findings == ()
    assert diagnosis.errors == ()
    assert diagnosis.layout == "split folders"
    assert diagnosis.classes == ("class_0", "class_1", "class_2")
    assert diagnosis.classes_from == "largest label in 6 masks, all read"
    train = diagnosis.splits["train"]
    assert (train.images, train.masks, train.read) == (4, 4, 4)
    labels = np.stack([mask(k) for k in range(4)])
    assert train.pixels[:3].tolist() == [(labels == k).sum() for k in range(3)]
    assert train.images_with[:3].tolist() == [4, 4, 4]
    assert train.ignored == pytest.approx(100 * 8 / labels.size)
    assert train.share(1) == pytest.approx(100 * (labels == 1).sum() / (labels != 255).sum())
    assert train.sizes == {SIZE: 4}


def test_json(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    (root / "train/masks/a_1.png").unlink()
    plain = json.loads(json.dumps(examine(str(root)).to_dict()))
    assert plain["errors"] == 1
    assert plain["findings"][0] == {
        "level": "error",
        "kind": "image without mask",
        "split": "train",
        "text": f"no mask in {root.resolve()}/train/masks for a_1; a mask has its image's name and ends in .png",
        "count": 1,
        "files": ["a_1"],
        "settings": [],
    }
    assert plain["splits"]["train"]["images"] == 4
    assert plain["splits"]["train"]["masks"] == 3
    assert plain["splits"]["val"]["sizes"] == {"distinct": 1, "min": [6, 8], "median": [6, 8], "max": [6, 8]}
    assert plain["splits"]["val"]["absent"] == []
    assert set(plain["splits"]["val"]["classes"]["class_1"]) == {"percent", "images"}


def test_everything_wrong_at_once(tmp_path: Path) -> None:
    ids = tuple(f"i{k}" for k in range(9))
    root = write_tree(tmp_path, splits={"train": ids, "val": ("v1", "v2")})
    (root / "classes.json").write_text(json.dumps(["a", "b", "c"]))
    images, masks = root / "train/images", root / "train/masks"
    (masks / "i0.png").unlink()  # image without mask
    (images / "i1.png").unlink()  # mask without image
    (images / "i2.png").write_bytes((images / "i2.png").read_bytes()[:60])
    (masks / "i3.png").write_bytes(b"no picture")
    save(masks / "i4.png", image())
    save(masks / "i5.png", mask(0, (4, 4)))
    save(masks / "i6.png", mask(0, classes=9))
    save(masks / "i7.png", np.full(SIZE, 900, dtype=np.uint16))
    shutil.copy(images / "i8.png", root / "val/images/v1.png")
    save(images / "i8.jpg", image(50))
    (masks / "notes.txt").write_text("x")
    diagnosis = examine(str(root))
    kinds = {
        "image without mask": "i0",
        "mask without image": "i1",
        "unreadable image": "i2",
        "unreadable mask": "i3",
        "mask with several channels": "i4",
        "image and mask differ in size": "i5",
        "labels outside the classes": "i6",
        "label beyond 255": "i7",
        "same name twice": "i8",
    }
    for kind, file in kinds.items():
        finding = found(diagnosis, kind)
        assert (finding.level, finding.split, finding.files) == ("error", "train", (file,)), kind
    assert (
        found(diagnosis, "labels outside the classes").text
        == f"labels 3, 4, 5, 6, 7, 8 are out of range 0…2 (255 is ignored); used by 1 image, first {masks.resolve()}/i6.png"
    )
    assert "convert its colours to class numbers" in found(diagnosis, "mask with several channels").text
    assert found(diagnosis, "mask is no PNG").level == "note"
    assert [finding.level for finding in diagnosis.findings] == sorted(finding.level for finding in diagnosis.findings)
    assert "(train/i8 = val/v1)" in found(diagnosis, "leakage between splits").text
    assert len(diagnosis.errors) == len(kinds) + 1


def test_leakage_by_bytes_and_by_pixels(tmp_path: Path) -> None:
    root = write_tree(tmp_path, splits={"train": ("a", "b", "c", "d", "e"), "val": ("v", "w")})
    shutil.copy(root / "train/images/a.png", root / "val/images/v.png")
    with Image.open(root / "train/images/b.png") as opened:
        opened.save(root / "val/images/w.bmp.png", compress_level=0)
    (root / "val/images/w.bmp.png").replace(root / "val/images/w.png")
    shutil.copy(root / "train/images/d.png", root / "train/images/e.png")
    diagnosis = examine(str(root))
    same, alike = (f for f in diagnosis.findings if f.kind == "leakage between splits")
    assert same.level == alike.level == "error"
    assert (
        same.text
        == "1 images of train and val are the same file (train/a = val/v): scores on them mean nothing; take them out of one split"
    )
    assert alike.text.startswith("1 images of train and val have the same pixels (train/b = val/w)")
    twice = found(diagnosis, "duplicates")
    assert (twice.level, twice.split, twice.count) == ("note", "train", 1)
    assert twice.text == "1 images are the same file as another of this split (train/d = train/e)"
    assert len(diagnosis.findings) == 3


def test_holdout_is_a_split_of_its_own(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    diagnosis = examine(f"{root}?holdout=b_*")
    assert {name: report.read for name, report in diagnosis.splits.items()} == {"train": 3, "holdout": 1, "val": 2}
    shutil.copy(root / "train/images/a_1.png", root / "train/images/b_1.png")
    assert "of holdout and train are the same file" in found(examine(f"{root}?holdout=b_*"), "leakage between splits").text
    assert "fits none of the 4 train images" in found(examine(f"{root}?holdout=zzz"), "holdout").text


def test_black_and_white_masks(tmp_path: Path) -> None:
    root = write_tree(tmp_path, labels=lambda k: np.where(mask(k) == 1, 255, 0).astype(np.uint8))
    assert found(examine(str(root)), "masks of 0 and 255").text.endswith("set ?relabel=255:1")
    cured = examine(f"{root}?relabel=255:1")
    assert cured.findings == ()
    assert cured.classes == ("class_0", "class_1")


def test_labels_from_one(tmp_path: Path) -> None:
    root = write_tree(tmp_path, labels=lambda k: np.where(mask(k) == 255, 255, mask(k) + 1).astype(np.uint8))
    diagnosis = examine(str(root))
    assert found(diagnosis, "labels look one too high").level == "note"
    assert [f.text for f in diagnosis.findings if f.kind == "absent classes"] == [
        "no pixel of class_0: they cannot be learnt",
        "no pixel of class_0: they drop out of the mean IoU unless they are predicted",
    ]
    cured = examine(f"{root}?relabel=reduce_zero")
    assert cured.findings == ()
    assert cured.classes == ("class_0", "class_1", "class_2")
    (root / "classes.json").write_text(json.dumps(["a", "b", "c"]))
    assert found(examine(str(root)), "labels look one too high").level == "error"
    assert examine(f"{root}?relabel=reduce_zero").findings == ()


WRONG = {
    # 1 written as 3 in every mask: 0, 2, 3 are used.
    "a mistake": (
        ["a", "b", "c"],
        lambda k: np.where(mask(k) == 1, 3, mask(k)),
        "label 3 is out of range 0…2 (255 is ignored); used by 4 images, first {}/train/masks/a_1.png; "
        "no mask holds 1 (b): if 3 was written for it, set ?relabel=3:1",
        "?relabel=3:1",
    ),
    # 1 written as 3 in one mask of six: all of 0…3 are used.
    "a mistake in one mask": (
        ["a", "b", "c"],
        lambda k: np.where(mask(k) == 1, 3, mask(k)) if k == 2 else mask(k),
        "label 3 is out of range 0…2 (255 is ignored); used by 1 image, first {}/train/masks/b_1.png",
        "?relabel=3:1",
    ),
    "a far mistake": (
        ["a", "b", "c"],
        lambda k: np.where(mask(k) == 2, 7, mask(k)),
        "label 7 is out of range 0…2 (255 is ignored); used by 4 images, first {}/train/masks/a_1.png; "
        "no mask holds 2 (c): if 7 was written for it, set ?relabel=7:2",
        "?relabel=7:2",
    ),
    "a class too many behind a background": (
        ["background", "b", "c"],
        lambda k: mask(k, classes=4),
        "label 3 is out of range 0…2 (255 is ignored); used by 4 images, first {}/train/masks/a_1.png",
        "?relabel=3:255",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_label_out_of_range_is_named_with_its_images_and_not_called_a_shift(tmp_path: Path, case: str) -> None:
    classes, labels, text, cure = WRONG[case]
    root = write_tree(tmp_path, labels=lambda k: labels(k).astype(np.uint8))
    (root / "classes.json").write_text(json.dumps(classes))
    diagnosis = examine(str(root))
    assert {finding.kind for finding in diagnosis.errors} == {"labels outside the classes"}
    assert found(diagnosis, "labels outside the classes", "train").text == text.format(root.resolve())
    assert examine(f"{root}{cure}").errors == ()


def test_labels_of_a_background_that_is_no_class(tmp_path: Path) -> None:
    root = write_tree(tmp_path, labels=lambda k: mask(k, classes=4))
    (root / "classes.json").write_text(json.dumps(["a", "b", "c"]))
    text = found(examine(str(root)), "labels look one too high").text
    assert text.startswith("labels run from 0 to 3 for 3 classes (0…2): if 0 is background or void, set ?relabel=reduce_zero")
    assert examine(f"{root}?relabel=reduce_zero").findings == ()


def test_missing_splits_and_masks(tmp_path: Path) -> None:
    root = write_tree(tmp_path, splits={"train": ("a",), "test": ("t",)})
    shutil.rmtree(root / "test/masks")
    diagnosis = examine(str(root))
    assert found(diagnosis, "missing split").text == f"{root.resolve()}/val/images: the folder is missing; a data set has train and val"
    assert found(diagnosis, "no test masks").text == "1 test images have no masks: they can be predicted on, not measured"
    shutil.rmtree(root / "train/masks")
    assert "the folder with the masks" in found(examine(str(root)), "missing files").text


def test_masks_that_are_no_png(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    for file in (root / "val/masks").iterdir():
        file.rename(file.with_suffix(".jpg"))
    diagnosis = examine(str(root))
    assert found(diagnosis, "mask is no PNG").level == "error"
    assert found(diagnosis, "image without mask").count == 2


def test_turned_images(tmp_path: Path) -> None:
    root = write_tree(tmp_path, suffix=".jpg")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(image(0, (8, 6))).save(root / "train/images/a_1.jpg", exif=exif)
    assert found(examine(str(root)), "image and mask differ in size").text.endswith(
        "image is 8x6 (height x width), its mask 6x8; the file's EXIF data turns the image, save it turned"
    )


def test_many_of_a_kind_are_one_finding(tmp_path: Path) -> None:
    root = write_tree(tmp_path, splits={"train": tuple(f"i{k:02}" for k in range(80)), "val": ("v",)})
    for k in range(7, 70):
        save(root / f"train/masks/i{k:02}.png", image())
    finding = found(examine(str(root)), "mask with several channels")
    assert finding.count == 63
    assert finding.files == ("i07", "i08", "i09", "i10", "i11")
    assert finding.text.endswith("(and 62 more like it)")


def test_mostly_ignored(tmp_path: Path) -> None:
    def labels(k: int) -> np.ndarray:
        out = mask(k)
        out[1:] = 255
        return out

    finding = found(examine(str(write_tree(tmp_path, labels=labels))), "mostly ignored", "train")
    assert finding.text == "83.3 % of the pixels are ignored (255): neither learnt from nor measured"


def test_broken_class_file_and_settings(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    assert "classes is a whole number" in found(examine(f"{root}?classes=x"), "classes").text
    assert examine(f"{root}?classes=7").classes_from == "?classes=7"
    (root / "classes.json").write_text("{")
    assert "not readable as JSON" in found(examine(str(root)), "classes").text
    (root / "classes.json").write_text('["a", "b", "c"]')
    assert found(examine(f"{root}?classes=5"), "classes").text.endswith("classes.json names 3")


def test_nothing_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such folder"):
        examine(str(tmp_path / "none"))
    with pytest.raises(DataError, match="no known layout"):
        examine(str(tmp_path))
    root = write_tree(tmp_path)
    with pytest.raises(DataError, match="relabel is reduce_zero, or"):
        examine(f"{root}?relabel=x")

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        examine(str(root))


def test_all_masks_broken(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    for file in root.glob("*/masks/**/*.png"):
        file.write_bytes(b"")
    diagnosis = examine(str(root))
    assert found(diagnosis, "unreadable mask", "train").count == 4
    assert [report.read for report in diagnosis.splits.values()] == [0, 0]


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    examine(str(write_tree(tmp_path)), lambda done, total: seen.append((done, total)))
    assert seen == [(k, 6) for k in range(1, 7)]


def test_built_in_scenes() -> None:
    seen: list[tuple[int, int]] = []
    diagnosis = examine("synthetic:streets?train=3&val=2&size=32x48", lambda done, total: seen.append((done, total)))
    assert diagnosis.layout == "built in"
    assert diagnosis.errors == ()
    assert {name: report.read for name, report in diagnosis.splits.items()} == {"train": 3, "val": 2}
    assert seen[-1] == (5, 5)


def test_sizes_by_area() -> None:
    report = SplitReport("x")
    assert report.size_range() is None
    report.sizes.update({(10, 10): 1, (2, 90): 3, (5, 5): 1})
    assert report.size_range() == ((5, 5), (2, 90), (2, 90))
