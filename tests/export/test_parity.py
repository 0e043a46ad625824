"""When do exported files agree with the module?"""

from __future__ import annotations

import pytest
import torch
from kits_export import preprocessing, strongest_colour

from nasseg.data.layouts import open_data
from nasseg.errors import ExportFailed
from nasseg.export.parity import Agreement, Parity, compare, random_pictures, spread
from nasseg.export.preprocessing import Preprocessing


def eleven(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Logits of eleven classes out of colours."""
    return strongest_colour(x_BCHW).repeat(1, 4, 1, 1)[:, :11]


def facts() -> Preprocessing:
    data = open_data("synthetic?train=2&val=5&size=48x64")
    return Preprocessing(
        classes=data.classes, palette=data.palette, size=(32, 48), mean=(0.5,) * 3, std=(0.5,) * 3, stride=4, image_size=None
    )


def test_equal_files_agree_to_the_last_bit():
    parity = compare(strongest_colour, {"a": strongest_colour}, preprocessing(), None, 32)
    assert parity.pictures == "3 random pictures"
    assert (parity.miou, parity.images) == (None, 0)
    (one,) = parity.agreements
    assert (one.name, one.delta, one.relative, one.same, one.miou) == ("a", 0.0, 0.0, 100.0, None)
    assert 0.5 < one.scale <= 1.0
    parity.check()


def test_the_difference_is_the_largest_of_all_batches_and_judged_by_the_largest_logit():
    seen = []

    def off(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        logits = strongest_colour(x)
        if len(x) == 3:
            logits[2, 0, 0, 0] += 0.25
        return logits

    parity = compare(strongest_colour, {"off": off}, preprocessing(), None, 0)
    assert seen == [1, 3]
    (one,) = parity.agreements
    assert one.delta == pytest.approx(0.25, abs=1e-6)
    assert one.relative == pytest.approx(0.25 / one.scale)
    assert one.same >= 100 * (1 - 1 / (4 * 8 * 12))
    with pytest.raises(
        ExportFailed, match=r"nothing was written:\noff: logits differ by 0\.25, .* of the largest \(.*\); allowed 0\.001; "
    ):
        parity.check()


def test_miou_is_measured_on_images_spread_over_the_split():
    split = open_data("synthetic?train=2&val=5&size=48x64").split("val")
    read = []
    original = split.subset

    def subset(indices: list[int], name: str) -> object:
        read.append(list(indices))
        return original(indices, name)

    split.subset = subset  # type: ignore[method-assign]
    parity = compare(eleven, {"same": eleven, "turned": lambda x: eleven(x).flip(1)}, facts(), split, 3)
    assert read == [[0, 2, 4]]
    assert (parity.pictures, parity.images) == ("3 images of val", 3)
    assert parity.agreements[0].miou == parity.miou
    assert parity.agreements[1].miou != parity.miou


def test_miou_alone_can_refuse_a_file():
    parity = Parity("3 images of val", (Agreement("a", 1e-6, 1.0, 99.0, 50.051),), 50.0, 7)
    with pytest.raises(ExportFailed, match=r"a: mIoU 50\.051 instead of 50\.000 over 7 images; allowed ±0\.05"):
        parity.check()
    Parity("3 images of val", (Agreement("a", 1e-6, 1.0, 99.0, 50.049),), 50.0, 7).check()


def test_nan_in_a_file_is_no_agreement():
    parity = compare(strongest_colour, {"nan": lambda x: strongest_colour(x) * float("nan")}, preprocessing(), None, 0)
    with pytest.raises(ExportFailed, match="nan: logits differ by nan"):
        parity.check()


def test_a_network_that_is_not_finite_is_not_compared():
    with pytest.raises(ExportFailed, match="the network's own logits are not finite numbers"):
        compare(lambda x: strongest_colour(x) / 0.0, {}, preprocessing(), None, 0)


def test_a_file_that_takes_one_batch_only_or_gives_another_size_is_named():
    def frozen(x: torch.Tensor) -> torch.Tensor:
        if len(x) != 1:
            raise RuntimeError("expected 1\nmore")
        return strongest_colour(x)

    with pytest.raises(ExportFailed, match=r"frozen does not run on batches of 1 and 3: expected 1$"):
        compare(strongest_colour, {"frozen": frozen}, preprocessing(), None, 0)
    with pytest.raises(ExportFailed, match=r"half gives logits of \(1, 3, 4, 12\), the module of \(1, 3, 8, 12\)"):
        compare(strongest_colour, {"half": lambda x: strongest_colour(x)[:, :, ::2]}, preprocessing(), None, 0)


def test_spread():
    assert spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(101, 3) == [0, 50, 100]
    assert spread(3, 1) == [0]


def test_random_pictures_are_the_same_each_time_and_of_many_colours():
    first = random_pictures(preprocessing(), 2)
    assert first.shape == (2, 3, 32, 48)
    assert torch.equal(first, random_pictures(preprocessing(), 2))
    assert len(strongest_colour(first).argmax(1).unique()) == 3


def test_figures_are_plain_data():
    made = Parity("3 images of val", (Agreement("a", 0.5, 2.0, 99.0, 1.0),), 1.5, 7)
    assert made.to_dict() == {
        "pictures": "3 images of val",
        "miou": 1.5,
        "images": 7,
        "files": {"a": {"max_delta": 0.5, "relative": 0.25, "same_class": 99.0, "miou": 1.0}},
    }
