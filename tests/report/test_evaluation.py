"""What a measurement leaves behind: the numbers in the files are the measured ones, the pictures show what they say."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasseg.data.dataset import Sample, Split
from nasseg.errors import ConfigError
from nasseg.report.confusion_plot import draw_confusion, shares
from nasseg.report.evaluation import FILES, class_rows, report_folder, write_report
from nasseg.report.gallery import WRONG, draw_gallery, errors, painted
from nasseg.report.worst import Worst
from nasseg.training.metrics import Metrics

CLASSES = ("road", "a<b", "sky")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
MATRIX = np.array([[90, 8, 2], [5, 5, 0], [0, 0, 0]], dtype=np.int64)
METRICS = Metrics(
    values={"miou": 50.0, "macc": 70.0, "aacc": 86.4, "boundary_iou": 30.0},
    per_class={"road": 85.71, "a<b": 27.78, "sky": 0.0},
    protocol={"split": "val"},
    boundary_per_class={"road": 60.0, "a<b": 0.0},
    confusion=MATRIX,
)


class Plain(Split):
    """Grey images of 4×6 pixels."""

    def __init__(self, count: int) -> None:
        self.name, self.ids = "val", tuple(f"image_{i}" for i in range(count))

    @property
    def key(self) -> str:
        return f"plain{len(self.ids)}"

    def read(self, index: int) -> Sample:
        return Sample(np.full((4, 6, 3), 100, dtype=np.uint8), truth(index))

    def subset(self, indices: Sequence[int], name: str) -> Split:
        raise NotImplementedError("a report reads its split whole")


def truth(index: int) -> np.ndarray:
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[:, 3:] = 1
    mask[0, 0] = 255
    return mask


def heard(wrong: Sequence[int], count: int = 2) -> Worst:
    """A collector that heard of images with so many wrong pixels, in the lower left."""
    worst = Worst(3, count)
    for index, number in enumerate(wrong):
        said = truth(index)
        said[said == 255] = 0
        said[3].flat[:number] = 2
        worst(f"image_{index}", said, truth(index))
    return worst


def test_the_worst_are_kept_and_all_are_listed() -> None:
    worst = heard([1, 3, 0, 2, 3])
    assert [(case.index, case.id) for case in worst.cases] == [(1, "image_1"), (4, "image_4")]
    # 11 counted pixels of class 0, 3 of them taken for 2: 8/11, class 1 all right, class 2 predicted but absent.
    assert worst.cases[0].miou == pytest.approx(100 * (8 / 11 + 1 + 0) / 3)
    assert worst.cases[0].aacc == pytest.approx(100 * 20 / 23)
    rows = list(csv.DictReader(io.StringIO(worst.table)))
    assert [row["id"] for row in rows] == [f"image_{i}" for i in range(5)]
    assert rows[2] == {"id": "image_2", "miou": "100.000", "aacc": "100.000", "pixels": "23"}


def test_an_image_without_a_counted_pixel_is_left_out() -> None:
    worst = Worst(3)
    worst("empty", np.zeros((2, 2), dtype=np.uint8), np.full((2, 2), 255, dtype=np.uint8))
    worst("other", np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8))
    assert [(case.index, case.id) for case in worst.cases] == [(1, "other")]


def test_errors_are_red_and_nothing_else_is() -> None:
    case = heard([2]).cases[0]
    shown = errors(np.full((4, 6, 3), 100, dtype=np.uint8), case.prediction_HW, case.truth_HW)
    red = shown[..., 0].astype(int) - shown[..., 1]
    assert (red > 50).sum() == 2
    assert (red[3, :2] > 50).all()
    np.testing.assert_allclose(shown[3, 0], 0.2 * 160 + 0.8 * np.array(WRONG), atol=1)
    assert (shown[0, 0] < shown[0, 1]).all()


def test_painted() -> None:
    shown = painted(np.full((1, 3, 3), 100, dtype=np.uint8), np.array([[0, 2, 255]], dtype=np.uint8), PALETTE, 0.5)
    assert shown.tolist() == [[[150, 50, 50], [50, 50, 150], [0, 0, 0]]]


def test_the_gallery_has_a_row_of_four_panels_for_each_case() -> None:
    page = np.asarray(draw_gallery(heard([1, 2]).cases, Plain(2), CLASSES, PALETTE, width=60, opacity=1.0))
    assert page.shape[1] == 4 * 60 + 5 * 8
    top = 22 + 8  # the heads
    for row in range(2):
        image, true, said, wrong = (page[top : top + 40, 8 + k * 68 : 68 + k * 68] for k in range(4))
        assert (image == 100).all()
        assert set(map(tuple, true.reshape(-1, 3).tolist())) == {PALETTE[0], PALETTE[1], (0, 0, 0)}
        assert PALETTE[2] in set(map(tuple, said.reshape(-1, 3).tolist()))
        assert (wrong[35, 5].astype(int) - wrong[35, 55])[0] > 0
        top += 40 + 22 + 8
        assert row < 2


def test_shares_and_the_heat_map() -> None:
    found = shares(MATRIX)
    np.testing.assert_allclose(found[:2], [[90, 8, 2], [50, 50, 0]])
    assert np.isnan(found[2]).all()
    axes = draw_confusion(MATRIX, CLASSES, "a title").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(CLASSES)
    assert [text.get_text() for text in axes.texts] == ["90", "8", "2", "50", "50"]
    assert axes.get_title(loc="left") == "a title"
    many = np.eye(100, dtype=np.int64)
    assert len(draw_confusion(many, [str(i) for i in range(100)]).axes[0].texts) == 0


def test_class_rows() -> None:
    assert class_rows(METRICS, CLASSES)[0] == {
        "class": "road",
        "iou": "85.71",
        "acc": "90.00",
        "precision": "94.74",
        "boundary_iou": "60.00",
        "pixels": "90.91",
        "taken_for": "a<b 8.0 %",
    }
    sky = class_rows(METRICS, CLASSES)[2]
    assert (sky["iou"], sky["acc"], sky["precision"], sky["boundary_iou"], sky["taken_for"]) == ("0.00", "", "0.00", "", "")


def test_the_whole_folder(tmp_path: Path) -> None:
    folder = report_folder(str(tmp_path / "report"))
    written = write_report(folder, METRICS, Plain(2), CLASSES, PALETTE, heard([1, 2]), title="run on data", line="val, as it was")
    assert [path.name for path in written] == list(FILES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    np.testing.assert_array_equal(np.load(folder / "confusion.npy"), MATRIX)
    table = list(csv.reader(io.StringIO((folder / "confusion.csv").read_text())))
    assert table[0] == ["true \\ predicted", *CLASSES]
    assert table[1] == ["road", "90", "8", "2"]
    assert Metrics.from_dict(json.loads((folder / "metrics.json").read_text())) == METRICS
    for name in ("confusion.png", "worst.png"):
        assert Image.open(folder / name).convert("L").getextrema()[0] < 100
    page = (folder / "index.html").read_text()
    for words in (
        "<h1>run on data</h1>",
        "val, as it was",
        "mIoU 50.00",
        "boundary IoU 30.00",
        "a&lt;b",
        "The 2 worst images",
        "rgb(200, 0, 0)",
    ):
        assert words in page
    assert report_folder(str(folder)) == folder


def test_a_folder_that_is_no_report_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--report: holds something that is no report"):
        report_folder(str(tmp_path))
    with pytest.raises(ConfigError, match="--report: holds something that is no report"):
        report_folder(str(tmp_path / "mine.txt"))
    with pytest.raises(ConfigError, match="--report: cannot be written"):
        report_folder(str(tmp_path / "mine.txt" / "below"))
