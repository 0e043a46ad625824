"""Public layouts broken on purpose, each in one way: ``nasseg data check`` names what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kits_data import SIZE, image, save
from kits_layouts import ade20k, arrow_split, cityscapes, coco_stuff, labels, painted, voc

from nasseg.cli.main import run
from nasseg.data.doctor import examine


def missing_mask(root: Path) -> str:
    cityscapes(root, labels(7, 8, 26))
    (root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    return f"cityscapes:{root}"


def wrong_range(root: Path) -> str:
    ade20k(root, labels(*range(151)))
    save(root / "annotations/validation/ADE_val_00000002.png", labels(1, 180)(0))
    return f"ade20k:{root}"


def sizes_differ(root: Path) -> str:
    voc(root, labels(0, 1, 255))
    save(root / "SegmentationClass/2007_000039.png", np.zeros((SIZE[0] + 1, SIZE[1]), dtype=np.uint8))
    return f"voc:{root}"


def truncated(root: Path) -> str:
    coco_stuff(root, labels(0, 91))
    file = root / "images/train2017/000000000025.jpg"
    file.write_bytes(file.read_bytes()[:-60])
    return f"coco-stuff:{root}"


def wrong_colours(root: Path) -> str:
    for split, frame in (("train", "a"), ("train", "b"), ("val", "c")):
        save(root / f"{split}/{frame}.png", image(ord(frame)))
        colour = (250, 10, 10) if frame == "b" else (128, 0, 0)
        save(root / f"{split}_labels/{frame}_L.png", painted(np.zeros(SIZE, dtype=np.uint8), [colour]))
    return f"camvid:{root}"


def empty_split(root: Path) -> str:
    voc(root, labels(0, 1))
    (root / "ImageSets/Segmentation/val.txt").write_text("\n")
    return f"voc:{root}"


def listed_and_gone(root: Path) -> str:
    voc(root, labels(0, 1))
    (root / "JPEGImages/2007_000032.jpg").unlink()
    return f"voc:{root}"


def one_split_only(root: Path) -> str:
    coco_stuff(root, labels(0, 1))
    (root / "images/val2017").rename(root / "elsewhere")
    return f"coco-stuff:{root}"


def leaked(root: Path) -> str:
    rows = [{"image": {"bytes": png, "path": f"{n}.png"}, "mask": {"bytes": png_mask, "path": ""}} for n, (png, png_mask) in _encoded(root)]
    arrow_split(root / "train", rows)
    arrow_split(root / "test", [{**rows[0], "mask": None}])
    arrow_split(root / "validation", rows[:1])
    return f"hf:{root}?classes=2"


def _encoded(root: Path) -> list[tuple[int, tuple[bytes, bytes]]]:
    files = [(save(root.parent / f"{n}.png", image(n)), save(root.parent / f"m{n}.png", labels(0, 1)(n))) for n in range(2)]
    return [(n, (first.read_bytes(), second.read_bytes())) for n, (first, second) in enumerate(files)]


def reduced_before(root: Path) -> str:
    ade20k(root, labels(*range(40), 255))
    for number in (1, 2, 3):
        save(root / f"annotations/training/ADE_train_{number:08}.png", labels(*range(151))(number))
    return f"ade20k:{root}"


def train_ids_called_label_ids(root: Path) -> str:
    cityscapes(root, labels(7, 8))
    save(root / "gtFine/val/lindau/lindau_0_1_gtFine_labelIds.png", labels(0, 1, 18, 255)(0))
    return f"cityscapes:{root}"


BROKEN: tuple[tuple[Callable[[Path], str], str, str, tuple[str, ...], str], ...] = (
    (
        missing_mask,
        "image without mask",
        "train",
        ("ulm/ulm_000001_000019",),
        "its image's name, ending in _gtFine_labelIds.png instead of",
    ),
    (
        wrong_range,
        "labels outside the classes",
        "val",
        ("ADE_val_00000002",),
        "label 179 is out of range 0…149 (255 is ignored); used by 1 image",
    ),
    (sizes_differ, "image and mask differ in size", "train", ("2007_000039",), "image is 6x8 (height x width), its mask 7x8"),
    (truncated, "unreadable image", "train", ("000000000025",), "000000000025.jpg: file is truncated; replace the file"),
    (wrong_colours, "unknown colours", "train", ("b",), "b_L.png: 48 pixels of colour (250, 10, 10), which stands for no class"),
    (empty_split, "empty split", "val", (), "val.txt: names no image of the split val"),
    (listed_and_gone, "listed image is missing", "train", ("2007_000032",), "train.txt names 2007_000032, but there is no such image in"),
    (one_split_only, "missing split", "val", (), "images/val2017: the folder is missing; a data set has train and val"),
    (reduced_before, "labels mapped before", "val", (), "masks hold 255, which no mask of ADE20K does: these look mapped already and"),
    (train_ids_called_label_ids, "labels mapped before", "val", (), "masks hold 255, which no mask of Cityscapes does"),
    (leaked, "leakage between splits", "", ("train/0", "val/0"), "take them out of one split"),
)


@pytest.mark.parametrize(("make", "kind", "split", "files", "text"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_one_thing_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], str],
    kind: str,
    split: str,
    files: tuple[str, ...],
    text: str,
) -> None:
    spec = make(tmp_path / "set")
    (finding,) = examine(spec).errors
    assert (finding.kind, finding.split, finding.files) == (kind, split, files)
    assert text in finding.text
    with pytest.raises(SystemExit) as stopped:
        run(["data", "check", spec])
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert text in out
    assert "1 kind of errors found; put them right or set what is said above" in err


def test_unbroken(tmp_path: Path) -> None:
    sets = (
        f"ade20k:{ade20k(tmp_path / 'a', labels(*range(40)))}",
        f"cityscapes:{cityscapes(tmp_path / 'c', labels(*range(34)))}",
        f"coco-stuff:{coco_stuff(tmp_path / 's', labels(0, 181, 255))}",
        f"voc:{voc(tmp_path / 'v', labels(*range(21), 255))}",
    )
    for spec in sets:
        diagnosis = examine(spec)
        assert diagnosis.errors == ()
        assert all(report.read == report.images for report in diagnosis.splits.values())
    ade = examine(sets[0])
    assert (ade.classes[0], ade.classes_from, ade.layout) == ("wall", "the ADE20K tool kit", "ADE20K")
    assert ade.splits["train"].pixels[255] > 0  # label 0
    assert ade.splits["train"].pixels[:39].all()


def test_no_advice_that_cannot_be_followed(tmp_path: Path) -> None:
    """Label 151 is 150 after mapping, one more than the last class: reducing zero a second time is no cure."""
    root = ade20k(tmp_path / "a", lambda seed: np.resize(np.arange(152, dtype=np.uint8), (10, 16)))
    for file in root.glob("images/*/*.jpg"):
        save(file, image(int(file.stem[-1]) + 5 * ("val" in file.stem), (10, 16)))
    kinds = {finding.kind for finding in examine(f"ade20k:{root}").errors}
    assert kinds == {"labels outside the classes"}
    voc(tmp_path / "v", labels(0, 255))
    (finding,) = examine(f"voc:{tmp_path / 'v'}").errors
    assert finding.kind == "one class"
    assert "relabel" not in finding.text
