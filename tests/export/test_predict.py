"""Masks and overlays of pictures, with a network whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kits_export import PALETTE, blocks, preprocessing, strongest_colour
from PIL import Image

from nasseg.data.dataset import Sample, Split
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, ConfigError, DataError
from nasseg.export.predict import Predictor, fit, module_forward, predict_images, predict_split
from nasseg.export.preprocessing import Preprocessing
from nasseg.training.evaluate import evaluate
from nasseg.training.protocol import Protocol


def wrong(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask != truth).mean())


def test_a_picture_is_taken_whole_and_comes_back_at_its_size():
    image, truth = blocks(60, 90, 15)
    prediction = Predictor(strongest_colour, preprocessing())(image)
    assert prediction.how == "whole"
    assert prediction.mask_HW.shape == (60, 90)
    assert prediction.mask_HW.dtype == np.uint8
    assert wrong(prediction.mask_HW, truth) < 0.15  # borders between blocks fall inside cells


@pytest.mark.parametrize("shape", [(65, 97), (130, 300)])
def test_a_large_picture_is_seen_through_windows_at_the_scale_of_training(shape: tuple[int, int]):
    image, truth = blocks(*shape, 8)
    seen = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return strongest_colour(x)

    prediction = Predictor(forward, preprocessing())(image)
    assert prediction.how.endswith("windows of 32x48")
    assert set(seen) == {(32, 48)}
    # 8-pixel blocks are two cells: nearly everything is right; taken whole they are one cell, or less.
    whole = Predictor(forward, preprocessing(), whole=True)(image)
    assert whole.how == "whole"
    assert wrong(prediction.mask_HW, truth) < 0.05
    assert wrong(whole.mask_HW, truth) > 0.1


def test_a_picture_of_twice_the_size_or_long_on_one_side_alone_is_not_large():
    for shape in ((64, 96), (65, 96), (32, 480)):
        assert Predictor(strongest_colour, preprocessing())(blocks(*shape, 8)[0]).how == "whole"
    assert Predictor(strongest_colour, preprocessing(image_size=None))(blocks(320, 480, 8)[0]).how == "whole"


def test_windows_on_demand_of_a_size_and_stride():
    image, truth = blocks(64, 64, 8)
    prediction = Predictor(strongest_colour, preprocessing(), window=(32, 32), size=(32, 32), stride=(32, 16))(image)
    assert prediction.how == "6 windows of 32x32"
    assert wrong(prediction.mask_HW, truth) < 0.03


def test_a_window_larger_than_the_picture_is_filled_with_the_mean():
    seen = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return strongest_colour(x)

    facts = Preprocessing(**{**preprocessing().__dict__, "mean": (0.5,) * 3})
    prediction = Predictor(forward, facts, window=(32, 48), size=(32, 48))(np.full((16, 100, 3), 255, dtype=np.uint8))
    assert prediction.mask_HW.shape == (16, 100)
    assert all(tuple(x.shape[1:]) == (3, 32, 48) for x in seen)
    assert seen[0][:, :, :16].unique().tolist() == [0.5]
    assert seen[0][:, :, 16:].unique().tolist() == [0.0]


def test_sizes_that_are_no_multiple_of_the_stride_keep_the_networks_input_fixed():
    # Size 30x46 at stride 4: a window counts 7x11 whole cells, the network still gets 30x46.
    image, truth = blocks(70, 120, 10)
    seen = set()

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(x.shape[2:]))
        return strongest_colour(x)

    prediction = Predictor(forward, preprocessing((30, 46), (30, 46)))(image)
    assert seen == {(30, 46)}
    assert wrong(prediction.mask_HW, truth) < 0.25


def test_grey_networks_get_the_luminance():
    facts = Preprocessing(**{**preprocessing().__dict__, "in_chans": 1, "mean": (0.0,), "std": (1.0,)})
    seen = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return strongest_colour(x.repeat(1, 3, 1, 1))

    Predictor(forward, facts)(np.full((32, 48, 3), (255, 0, 0), dtype=np.uint8))
    assert seen[0].shape == (1, 1, 32, 48)
    assert seen[0].unique().tolist() == pytest.approx([76 / 255])


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match=r"--whole: takes the picture in one piece"):
        Predictor(strongest_colour, preprocessing(), whole=True, window=(8, 8))
    with pytest.raises(ConfigError, match=r"--stride: must not be larger than the window.*\(given '9x8'\); nearest legal: 8x8"):
        Predictor(strongest_colour, preprocessing(), window=(8, 8), stride=(9, 8))
    facts = Preprocessing(**{**preprocessing().__dict__, "in_chans": 4, "mean": (0.0,) * 4, "std": (1.0,) * 4})
    with pytest.raises(BundleError, match="the network takes 4 channels, pictures have 3"):
        Predictor(strongest_colour, facts)


def test_fit_leaves_the_right_size_alone():
    image, _ = blocks(10, 12, 2)
    assert fit(image, (10, 12)) is image
    assert fit(image, (5, 7)).shape == (5, 7, 3)


def test_module_forward_needs_no_gradient_and_sets_eval():
    module = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Conv2d(3, 3, 1))
    module.train()
    forward = module_forward(module)
    x = torch.ones(1, 3, 4, 4)
    assert torch.equal(forward(x), module[1](x).detach())
    assert not forward(x).requires_grad


def test_pictures_are_written_as_overlay_and_mask(tmp_path: Path):
    image, _ = blocks(60, 90, 30)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    Image.fromarray(image).convert("L").save(tmp_path / "in" / "b.jpg")
    calls = []
    drawn = predict_images(
        Predictor(strongest_colour, preprocessing()),
        [tmp_path / "in"],
        tmp_path / "out",
        done=lambda one, number, total: calls.append((one.image.name, number, total)),
    )
    assert calls == [("a.png", 1, 2), ("b.jpg", 2, 2)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_mask.png", "a_overlay.png", "b_mask.png", "b_overlay.png"]
    with Image.open(drawn[0].mask) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), Predictor(strongest_colour, preprocessing())(image).mask_HW)
        assert tuple(np.asarray(mask.convert("RGB"))[0, 0].tolist()) in PALETTE
    assert sum(share.percent for share in drawn[0].shares) == pytest.approx(100)
    assert drawn[0].size == (60, 90)
    with Image.open(drawn[0].overlay) as overlay:
        assert overlay.width == 720


def test_masks_in_the_labels_of_the_data_set(tmp_path: Path):
    image, _ = blocks(60, 90, 30)
    Image.fromarray(image).save(tmp_path / "a.png")
    plain = predict_images(Predictor(strongest_colour, preprocessing()), [tmp_path / "a.png"], tmp_path / "plain")[0]
    mapped = predict_images(
        Predictor(strongest_colour, preprocessing(), original_labels=(7, 0, 33)), [tmp_path / "a.png"], tmp_path / "mapped"
    )[0]
    with Image.open(plain.mask) as before, Image.open(mapped.mask) as after:
        assert np.array_equal(np.asarray(after), np.array([7, 0, 33])[np.asarray(before)])
        assert np.array_equal(np.asarray(after.convert("RGB")), np.asarray(before.convert("RGB")))
    assert plain.overlay.read_bytes() == mapped.overlay.read_bytes()
    with pytest.raises(ConfigError, match=r"--original-labels: must be of a data set of the network's 3 classes \(given '150 labels'\)"):
        Predictor(strongest_colour, preprocessing(), original_labels=range(150))


def test_unreadable_pictures_are_named_after_the_others_are_drawn(tmp_path: Path):
    Image.fromarray(blocks(60, 90, 30)[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"1 of 2 images could not be read, the others are drawn:\n.*bad\.png: not an image"):
        predict_images(Predictor(strongest_colour, preprocessing()), [tmp_path / "bad.png", tmp_path / "good.png"], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good_mask.png", "good_overlay.png"]


def test_bad_requests_write_nothing(tmp_path: Path):
    predictor = Predictor(strongest_colour, preprocessing())
    image = tmp_path / "in" / "a.png"
    image.parent.mkdir()
    Image.fromarray(blocks(60, 90, 30)[0]).save(image)
    with pytest.raises(DataError, match=r"gone\.png: no such file or folder"):
        predict_images(predictor, [image, tmp_path / "gone.png"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--alpha: how strongly colours cover the image, from 0 to 1 \(given 1.5\); nearest legal: 1.0"):
        predict_images(predictor, [image], tmp_path / "out", alpha=1.5)
    with pytest.raises(ConfigError, match="--out: must not be the folder the images are in"):
        predict_images(predictor, [tmp_path / "in"], tmp_path / "in")
    with pytest.raises(ConfigError, match="--out: cannot be written: "):
        predict_images(predictor, [image], image / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in image.parent.iterdir()] == ["a.png"]


STREETS = "synthetic?size=32x48&train=4&val=5"


def street_network(classes: int) -> Predictor:
    names = tuple(f"c{i}" for i in range(classes))
    facts = replace(preprocessing(), classes=names, palette=tuple((i, i, i) for i in range(classes)))
    return Predictor(lambda x: torch.zeros(len(x), classes, 8, 12), facts)


def test_images_of_a_split_are_spread_over_it_with_their_truth_beside(tmp_path: Path):
    data = open_data(STREETS)
    told: list[tuple[int, int]] = []
    drawn = predict_split(street_network(11), data, tmp_path, count=3, done=lambda one, number, total: told.append((number, total)))
    assert [str(one.image) for one in drawn] == [data.splits["val"].ids[i] for i in (0, 2, 4)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    kinds = ("mask", "overlay", "truth")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{one.image}_{kind}.png" for one in drawn for kind in kinds)
    assert len(predict_split(street_network(11), data, tmp_path / "all", split="train", count=9)) == 4


def test_a_split_is_refused_where_it_does_not_fit_the_network(tmp_path: Path):
    data = open_data(STREETS)
    with pytest.raises(DataError, match="has 11 classes, the network tells 3 apart"):
        predict_split(street_network(3), data, tmp_path / "a")
    with pytest.raises(DataError, match="no split 'vall'; there are train, val"):
        predict_split(street_network(11), data, tmp_path / "a", split="vall")
    with pytest.raises(ConfigError, match="--number: must be 1 or more"):
        predict_split(street_network(11), data, tmp_path / "a", count=0)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("protocol", "how", "seen"),
    [
        (Protocol(size=(48, 80), keep_ratio=True, size_divisor=32), "whole", {(64, 96)}),
        (Protocol(size=(48, 80), keep_ratio=True, flip=True), "whole", {(48, 80)}),
        (Protocol(size=(32, 48), mode="slide", crop=(16, 16), stride=(12, 12)), "windows, as measured", {(16, 16)}),
    ],
)
def test_a_picture_is_treated_as_the_network_was_measured(protocol: Protocol, how: str, seen: set[tuple[int, int]]):
    """The classes of every pixel are those that evaluation compares with the mask."""
    image, truth = blocks(60, 100, 15)
    sizes = set()

    def forward(x: torch.Tensor) -> torch.Tensor:
        sizes.add(tuple(x.shape[2:]))
        return strongest_colour(x)

    predictor = Predictor(forward, replace(preprocessing(image_size=None), evaluation=protocol))
    prediction = predictor(image)
    assert (prediction.how, sizes) == (how, seen)
    compared = []
    evaluate(
        strongest_colour,
        One(image, truth),
        num_classes=3,
        classes=("red", "green", "blue"),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        each=lambda id_, said, true: compared.append(said),
        **protocol.options(),
    )
    assert np.array_equal(prediction.mask_HW, compared[0])
    # Stretched on demand, and in one piece.
    assert Predictor(forward, replace(preprocessing(image_size=None), evaluation=protocol), whole=True)(image).how == "whole"
    sizes.clear()
    assert Predictor(forward, predictor.preprocessing, size=(20, 24))(image).how == "whole"
    assert sizes == {(20, 24)}


def test_a_file_of_one_size_gets_that_size():
    image, _ = blocks(60, 100, 15)
    sizes = set()

    def forward(x: torch.Tensor) -> torch.Tensor:
        sizes.add(tuple(x.shape[2:]))
        return strongest_colour(x)

    facts = replace(preprocessing((30, 50), None), evaluation=Protocol(size=(40, 80), keep_ratio=True))
    assert Predictor(forward, facts, only=(30, 50))(image).mask_HW.shape == (60, 100)
    assert sizes == {(30, 50)}


class One(Split):
    """One image and its mask."""

    name = "val"
    ids = ("one",)

    def __init__(self, image: np.ndarray, mask: np.ndarray) -> None:
        self.sample = Sample(image, mask)

    @property
    def key(self) -> str:
        return "one"

    def read(self, index: int) -> Sample:
        return self.sample

    def subset(self, indices: Sequence[int], name: str) -> Split:
        return self
