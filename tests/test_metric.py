"""The registry of metrics, and how their names are read."""

from __future__ import annotations

import pytest

from nasseg.errors import ConfigError
from nasseg.metric import METRICS, Metric, MetricName, label_and_split, label_of, read_metric

CLASSES = ("soil", "crop", "weed", "door, open")
OWN = (*METRICS, Metric("f1", "F1"), Metric("miou_small", direction="min", unit=""))


@pytest.mark.parametrize(
    ("text", "name", "classes", "split", "label"),
    [
        ("miou", "miou", (), None, "mIoU"),
        ("miou_holdout", "miou", (), "holdout", "mIoU holdout"),
        ("iou[crop,weed]", "iou", ("crop", "weed"), None, "IoU[crop, weed]"),
        ("iou[weed]_far_away", "iou", ("weed",), "far_away", "IoU[weed] far_away"),
        ("boundary_iou", "boundary_iou", (), None, "boundary IoU"),
        ("boundary_iou_holdout", "boundary_iou", (), "holdout", "boundary IoU holdout"),
        ("boundary_iou[crop]", "boundary_iou", ("crop",), None, "boundary IoU[crop]"),
        ("worst_iou", "worst_iou", (), None, "worst IoU"),
        ('iou["door, open",weed]', "iou", ("door, open", "weed"), None, "IoU[door, open, weed]"),
        # Exactly a declared name, though it could be mIoU of a split.
        ("miou_small", "miou_small", (), None, "miou_small"),
        ("f1_holdout", "f1", (), "holdout", "F1 holdout"),
    ],
)
def test_names_are_taken_apart_and_put_together(text: str, name: str, classes: tuple[str, ...], split: str | None, label: str) -> None:
    found = read_metric(text, OWN, classes=CLASSES, splits=["holdout", "far_away"])
    assert (found.metric.name, found.classes, found.split, found.label) == (name, classes, split, label)
    assert str(found) == text
    assert (found.on_val.split, found.on_val.classes) == (None, classes)


def test_blanks_between_classes_do_not_matter() -> None:
    assert str(read_metric(" iou[ crop , weed ]", classes=CLASSES)) == "iou[crop,weed]"
    quoted = MetricName(METRICS[3], ('a "b"', " c"))
    assert read_metric(str(quoted)).classes == ('a "b"', "c")


REFUSED = [
    ("mious", r"metric: no such metric; there are miou, .*, iou\[CLASS,…\], .* \(given 'mious'\); nearest legal: miou"),
    ("weed", r"no such metric; .* nearest legal: iou\[weed\]"),
    ("mIou[weed]", r"no such metric; .* nearest legal: iou\[weed\]"),
    ("iou", r"names its classes in brackets: iou\[CLASS,…\] \(given 'iou'\); nearest legal: iou\[soil\]"),
    ("iou_holdout", r"names its classes in brackets"),
    ("miou[weed]", r"is of all classes and takes none in brackets \(given 'miou\[weed\]'\); nearest legal: miou"),
    ("iou[]", r"names each class once, by comma \(given 'iou\[\]'\)$"),
    ("iou[crop,,weed]", r"names each class once, by comma .* nearest legal: iou\[crop,weed\]"),
    ("iou[crop,crop]_holdout", r"names each class once, by comma .* nearest legal: iou\[crop\]_holdout"),
    ("iou[crop,wed]", r"no class wed; the data has soil, crop, weed, door, open .* nearest legal: iou\[crop,weed\]"),
    ("iou[zzz]", r"no class zzz; the data has soil, crop, weed, door, open \(given 'iou\[zzz\]'\)$"),
    ("miou_holdot", r"no split holdot is measured; there are val, which is not named, holdout .* nearest legal: miou_holdout"),
    ("iou[weed]_val", r"no split val is measured; there are val, which is not named, holdout"),
    ("_miou", r"no such metric"),
    ("miou_", r"no such metric"),
    ("iou[weed", r"no such metric"),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED)
def test_what_is_no_name_is_refused_with_the_nearest(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_metric(text, classes=CLASSES, splits=["holdout"])


def test_where_it_stands_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^space\.yaml: objectives\.mio: no such metric"):
        read_metric("mio", where="space.yaml", key="objectives.mio")


def test_without_data_any_class_and_split_will_do() -> None:
    assert read_metric("iou[anything]_anywhere").classes == ("anything",)


def test_labels_of_results() -> None:
    assert [label_of(name) for name in ("macc_holdout", "iou[a,b]", "f1_score", "macs")] == [
        "mAcc holdout",
        "IoU[a, b]",
        "f1_score",
        "macs",
    ]
    assert [label_and_split(name) for name in ("miou_test", "f1_test")] == [("mIoU", "test"), ("f1_test", None)]


def test_the_registry_is_complete() -> None:
    names = [metric.name for metric in METRICS]
    assert names == ["miou", "macc", "aacc", "iou", "worst_iou", "boundary_iou"]
    for metric in METRICS:
        assert (metric.direction, metric.unit) == ("max", "%")
        assert metric.label
        assert metric.about
    assert [metric.name for metric in METRICS if metric.on_request] == ["iou", "worst_iou", "boundary_iou"]
    assert [metric.pattern for metric in METRICS[2:4]] == ["aacc", "iou[CLASS,…]"]


def test_a_declaration_that_could_not_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"metric: name: is small letters, digits and underscores \(given 'F-1'\); nearest legal: f_1"):
        Metric("F-1")
    with pytest.raises(ConfigError, match=r"metric f1: direction: must be max or min \(given 'up'\); nearest legal: max"):
        Metric("f1", direction="up")
