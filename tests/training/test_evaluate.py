"""Measuring under a protocol: against a slow path, and what the protocol says."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nasseg.data.dataset import DataSet, Sample, Split
from nasseg.data.transforms import EvalTransform
from nasseg.errors import ConfigError, DataError
from nasseg.training.boundary import BoundaryIoU
from nasseg.training.evaluate import covering, evaluate, evaluate_splits
from nasseg.training.metrics import Metrics, SegmentationMetrics

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
OPTIONS = {"num_classes": 3, "classes": ("a", "b", "c"), "size": (16, 24), "mean": MEAN, "std": STD}


class Random(Split):
    """Random images and masks of several sizes."""

    def __init__(self, name: str, sizes: Sequence[tuple[int, int]], labels: int = 3, seeds: Sequence[int] | None = None) -> None:
        self.name = name
        self.seeds = range(len(sizes)) if seeds is None else seeds
        self.ids = tuple(str(seed) for seed in self.seeds)
        self.sizes = sizes
        self.labels = labels

    @property
    def key(self) -> str:
        return f"{self.name}{self.sizes}{self.labels}{list(self.seeds)}"

    def read(self, index: int) -> Sample:
        random = np.random.default_rng(self.seeds[index])
        H, W = self.sizes[index]
        mask = random.integers(0, self.labels, (H, W), dtype=np.uint8)
        mask[random.random((H, W)) < 0.1] = 255
        return Sample(random.integers(0, 256, (H, W, 3), dtype=np.uint8), mask)

    def subset(self, indices: Sequence[int], name: str) -> Split:
        return Random(name, [self.sizes[i] for i in indices], self.labels, [self.seeds[i] for i in indices])


SIZES = [(16, 24), (30, 20), (16, 24), (7, 50), (33, 33)]


def stride_four(x_BCHW: Tensor) -> Tensor:
    """Logits at a quarter of the size, by a fixed rule."""
    return F.avg_pool2d(x_BCHW, 4) * torch.tensor([1.0, 1.3, 0.8]).view(3, 1, 1)


def test_original_masks_are_mmsegmentations_way() -> None:
    """Logits go straight to each mask's own size; the split's counts are summed."""
    split = Random("val", SIZES)
    expected = SegmentationMetrics(3)
    for image, mask in split:
        x = F.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None].float(), size=(16, 24), mode="bilinear", antialias=True, align_corners=False
        )
        # torchvision resizes bytes and rounds them.
        x = (x.round().clamp(0, 255) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        logits = F.interpolate(stride_four(x), size=mask.shape, mode="bilinear", align_corners=False)
        expected.update(logits, torch.from_numpy(mask)[None])
    found = evaluate(stride_four, split, **OPTIONS, batch_size=2)
    wanted = expected.compute()
    assert found.values == pytest.approx(wanted.values, abs=0.2)
    assert found.values == evaluate(stride_four, split, **OPTIONS, batch_size=5).values


def test_resized_masks_by_hand() -> None:
    """A perfect oracle at the evaluation size scores 100 on masks resized to it, whatever their own size."""
    split = Random("val", [(32, 48)] * 2)
    masks = iter([torch.from_numpy(mask)[1::2, 1::2].long().clamp_max(2) for _, mask in split])

    def oracle(x_BCHW: Tensor) -> Tensor:
        return torch.stack([F.one_hot(next(masks), 3).movedim(-1, 0).float() for _ in range(len(x_BCHW))])

    assert evaluate(oracle, split, **OPTIONS, masks="resized").miou == 100.0


def test_protocol() -> None:
    found = evaluate(stride_four, Random("val", SIZES), **OPTIONS, weights="ema")
    assert found.protocol == {
        "split": "val",
        "images": 5,
        "size": [16, 24],
        "resize": "stretch",
        "size_divisor": 1,
        "pad_multiple": 32,
        "window": "whole",
        "crop": None,
        "stride": None,
        "flip": False,
        "scale": "single",
        "scales": [1.0],
        "masks": "original",
        "interpolation": "bilinear, antialiased",
        "classes": 3,
        "ignore": 255,
        "unit": "percent",
        "weights": "ema",
        "precision": "float32",
    }
    assert set(found.per_class) == {"a", "b", "c"}


def test_another_class_count_is_refused() -> None:
    with pytest.raises(DataError, match="the network gives 3 classes, the data set has 4"):
        evaluate(stride_four, Random("val", SIZES), **{**OPTIONS, "num_classes": 4, "classes": ("a", "b", "c", "d")})


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match="labels go from 0 to 2"):
        evaluate(stride_four, Random("val", SIZES, labels=9), **OPTIONS)


def test_nothing_keeps_gradients() -> None:
    weight = torch.ones((), requires_grad=True)
    seen: list[bool] = []

    def predict(x_BCHW: Tensor) -> Tensor:
        out = stride_four(x_BCHW) * weight
        seen.append(out.requires_grad)
        return out

    evaluate(predict, Random("val", SIZES), **OPTIONS)
    assert seen == [False]


def data(splits: Mapping[str, Split]) -> DataSet:
    return DataSet(
        name="random",
        spec="random",
        classes=("a", "b", "c"),
        palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        splits=splits,
        fingerprint="0" * 12,
        classes_from="test",
    )


SHAPE = {"size": (16, 24), "mean": MEAN, "std": STD}


def test_every_split_but_train_and_test() -> None:
    splits = {name: Random(name, SIZES[: count + 1]) for count, name in enumerate(("train", "val", "holdout", "test"))}
    found = evaluate_splits(stride_four, data(splits), **SHAPE)
    assert list(found.values) == ["miou", "macc", "aacc", "miou_holdout", "macc_holdout", "aacc_holdout"]
    assert found.values["miou_holdout"] == evaluate(stride_four, splits["holdout"], **OPTIONS).miou
    assert (found.protocol["split"], found.protocol["also"]) == ("val", {"holdout": 3})
    asked = evaluate_splits(stride_four, data(splits), test=True, **SHAPE)
    assert asked.values["miou_test"] == evaluate(stride_four, splits["test"], **OPTIONS).miou
    assert asked.protocol["also"] == {"holdout": 3, "test": 4}


def test_a_data_set_without_val_is_refused() -> None:
    with pytest.raises(DataError, match="no split 'val'; there are train"):
        evaluate_splits(stride_four, data({"train": Random("train", SIZES)}), **SHAPE)


def normalised(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W): as an image of one size enters; what is tested here comes after it."""
    return EvalTransform(size, MEAN, STD)(image)[None]


def curious(x_BCHW: Tensor) -> Tensor:
    """Logits at a quarter of the size that depend on the surroundings, on the side, and on where an image is cut."""
    weight = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(3)) / 5
    return F.avg_pool2d(F.conv2d(x_BCHW, weight, padding=4), 4, ceil_mode=True) * 4


def slow_slide(x_1CHW: Tensor, crop: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """mmsegmentation's rule in plain loops: a grid of windows, the last shifted back; sums, and how many windows saw a pixel."""
    H, W = x_1CHW.shape[-2:]
    total, count = torch.zeros(1, 3, H, W), torch.zeros(1, 1, H, W)
    rows = max(H - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(W - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride[0] + crop[0], H), min(column * stride[1] + crop[1], W)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            window = x_1CHW[:, :, top:bottom, left:right]
            total[:, :, top:bottom, left:right] += F.interpolate(
                curious(window), size=window.shape[-2:], mode="bilinear", align_corners=False
            )
            count[:, :, top:bottom, left:right] += 1
    return total / count


def measured(labels: Sequence[Tensor], split: Split) -> Metrics:
    """The numbers of label maps that were made another way."""
    metrics = SegmentationMetrics(3, ("a", "b", "c"))
    for said, (_, mask) in zip(labels, split, strict=True):
        metrics.update(said, torch.from_numpy(mask))
    return metrics.compute()


def same(found: Metrics, expected: Metrics) -> None:
    """Equal but for a pixel where two classes tie to within rounding."""
    assert found.confusion is not None
    assert expected.confusion is not None
    assert np.abs(found.confusion - expected.confusion).sum() <= 2
    assert found.values == pytest.approx(expected.values, abs=0.1)


@pytest.mark.parametrize(("crop", "stride"), [((16, 16), (10, 11)), ((8, 24), (8, 5)), ((64, 64), (20, 20)), ((16, 24), (16, 24))])
def test_windows_are_mmsegmentations(crop: tuple[int, int], stride: tuple[int, int]) -> None:
    split, size = Random("val", SIZES), (36, 44)
    labels = [
        F.interpolate(slow_slide(normalised(image, size), crop, stride), size=mask.shape, mode="bilinear", align_corners=False)[0].argmax(0)
        for image, mask in split
    ]
    for batch_size in (1, 3):
        found = evaluate(curious, split, **{**OPTIONS, "size": size}, mode="slide", crop=crop, stride=stride, batch_size=batch_size)
        same(found, measured(labels, split))
    assert (found.protocol["window"], found.protocol["crop"], found.protocol["stride"]) == ("slide", list(crop), list(stride))


def test_windows_of_one_image_by_hand() -> None:
    """A row of 6 pixels in windows of 4, 2 apart: each window's logits say how many pixels it has left of a pixel."""

    class Row(Random):
        def read(self, index: int) -> Sample:
            return Sample(np.zeros((1, 6, 3), dtype=np.uint8), np.array([[0, 0, 0, 1, 1, 1]], dtype=np.uint8))

    def predict(x_BCHW: Tensor) -> Tensor:
        place = torch.arange(4.0).expand(len(x_BCHW), 1, 1, 4)
        return torch.cat([torch.full_like(place, 1.25), place], dim=1)

    # Pixel's own class 1: 0, 1, (2 + 0) / 2, (3 + 1) / 2, 2, 3; class 0: 1.25. So class 1 from the fourth pixel on.
    options = {**OPTIONS, "num_classes": 2, "classes": ("a", "b"), "size": (1, 6)}
    assert evaluate(predict, Row("val", [(1, 6)]), **options, mode="slide", crop=(1, 4), stride=(1, 2)).miou == 100.0


@pytest.mark.parametrize(
    "options", [{"scales": (0.5, 1.0, 1.5)}, {"flip": True}, {"scales": (0.75, 1.25), "flip": True, "keep_ratio": True}]
)
def test_several_looks_average_probabilities(options: dict[str, Any]) -> None:
    split = Random("val", SIZES)
    labels = []
    for image, mask in split:
        total = torch.zeros(1, 3, *mask.shape)
        for scale in options.get("scales", (1.0,)):
            size = (int(16 * scale), int(24 * scale))
            if options.get("keep_ratio"):
                long, short = max(mask.shape), min(mask.shape)
                factor = min(size[1] / long, size[0] / short)
                size = (int(mask.shape[0] * factor + 0.5), int(mask.shape[1] * factor + 0.5))
            x = normalised(image, size)
            for turned in (False, True) if options.get("flip") else (False,):
                logits = curious(x.flip(-1)).flip(-1) if turned else curious(x)
                total += F.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False).softmax(1)
        labels.append(total[0].argmax(0))
    found = evaluate(curious, split, **OPTIONS, **options)
    same(found, measured(labels, split))
    assert found.protocol["scales"] == list(options.get("scales", (1.0,)))
    assert found.protocol["flip"] is options.get("flip", False)


def test_kept_ratio_and_divisor() -> None:
    seen: list[tuple[int, ...]] = []

    def predict(x_BCHW: Tensor) -> Tensor:
        seen.append(tuple(x_BCHW.shape))
        return stride_four(x_BCHW)

    found = evaluate(predict, Random("val", SIZES), **OPTIONS, keep_ratio=True, size_divisor=8)
    # Bounds 24 and 16: (16, 24) stays; (30, 20) takes 0.8; (7, 50) takes 0.48: 3×24; (33, 33) takes 16/33. Then up to multiples of 8.
    assert seen == [(1, 3, 16, 24), (1, 3, 24, 16), (1, 3, 16, 24), (1, 3, 8, 24), (1, 3, 16, 16)]
    assert (found.protocol["resize"], found.protocol["size_divisor"]) == ("keep_ratio", 8)


def test_a_flip_of_a_symmetric_network_changes_nothing() -> None:
    split = Random("val", SIZES)
    same(evaluate(stride_four, split, **OPTIONS, flip=True), evaluate(stride_four, split, **OPTIONS))


def test_ranks_add_up() -> None:
    """Two processes' matrices, summed, are the whole split's; more processes than images are no trouble."""
    split = Random("val", SIZES)
    whole = evaluate(stride_four, split, **OPTIONS, boundary=True)
    for ranks in (2, 7):
        parts: list[list[Tensor]] = []
        for rank in range(ranks):
            mine: list[Tensor] = []
            parts.append(mine)

            def keep(counts: Tensor, mine: list[Tensor] = mine) -> Tensor:
                mine.append(counts.clone())
                return counts + 1  # whatever the others have

            evaluate(stride_four, split, **OPTIONS, boundary=True, rank=rank, ranks=ranks, reduce=keep)
        summed = iter([sum(part[0] for part in parts), sum(part[1] for part in parts)])
        found = evaluate(
            stride_four, split, **OPTIONS, boundary=True, rank=0, ranks=ranks, reduce=lambda counts, summed=summed: next(summed)
        )
        assert found.values == whole.values
        assert found.per_class == whole.per_class
        assert found.protocol == whole.protocol
        assert found.boundary_per_class == whole.boundary_per_class


@pytest.mark.parametrize("options", [{}, {"mode": "slide", "crop": (16, 16), "stride": (12, 12)}])
def test_large_masks_are_labelled_in_strips(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    split = Random("val", SIZES)
    at_once = evaluate(curious, split, **OPTIONS, **options)
    monkeypatch.setattr("nasseg.training.evaluate.WHOLE_BYTES", 1)
    monkeypatch.setattr("nasseg.training.windows.STRIP_BYTES", 1000)
    same(evaluate(curious, split, **OPTIONS, **options), at_once)


def test_a_rank_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank: a whole number from 0 to 1"):
        evaluate(stride_four, Random("val", SIZES), **OPTIONS, rank=2, ranks=2)


def test_boundary_iou_and_each_image() -> None:
    split = Random("val", SIZES)
    heard: list[str] = []
    outlines = BoundaryIoU(3)

    def each(id_: str, said: np.ndarray, true: np.ndarray) -> None:
        heard.append(id_)
        assert (said.dtype, true.dtype, said.shape) == (np.uint8, np.uint8, true.shape)
        np.testing.assert_array_equal(true, split[int(id_)].mask)
        outlines.update(said, true)

    found = evaluate(stride_four, split, **OPTIONS, boundary=True, each=each)
    assert heard == ["0", "1", "2", "3", "4"]
    assert dict(found.boundary_per_class) == {name: outlines.compute()[c] for c, name in enumerate("abc")}
    assert found.boundary_iou == pytest.approx(sum(found.boundary_per_class.values()) / 3)
    assert found.protocol["boundary"] == "0.02 of the diagonal"
    assert evaluate(stride_four, split, **OPTIONS).boundary_iou is None
    assert Metrics.from_dict(found.to_dict()) == found


def test_bf16() -> None:
    seen: list[torch.dtype] = []

    def predict(x_BCHW: Tensor) -> Tensor:
        out = curious(x_BCHW)
        seen.append(out.dtype)
        return out

    found = evaluate(predict, Random("val", SIZES), **OPTIONS, amp="bf16")
    assert set(seen) == {torch.bfloat16}
    assert found.protocol["precision"] == "bf16"
    assert found.miou == pytest.approx(evaluate(curious, Random("val", SIZES), **OPTIONS).miou, abs=2)


@pytest.mark.parametrize("options", [{}, {"flip": True, "scales": (0.5, 1.0)}, {"mode": "slide", "crop": (8, 8), "stride": (8, 8)}])
def test_memory_does_not_grow_with_the_split(options: dict[str, Any]) -> None:
    """While the fortieth image is measured, no more images, masks and logits are alive than while the fourth is."""
    seen: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Watched(Random):
        def read(self, index: int) -> Sample:
            sample = super().read(index)
            seen.extend(weakref.ref(thing) for thing in sample)
            return sample

    def predict(x_BCHW: Tensor) -> Tensor:
        logits = stride_four(x_BCHW)
        seen.extend((weakref.ref(x_BCHW), weakref.ref(logits)))
        return logits

    def each(id_: str, said: np.ndarray, true: np.ndarray) -> None:
        alive.append(sum(ref() is not None for ref in seen))

    evaluate(predict, Watched("val", [(16, 24)] * 40), **OPTIONS, **options, boundary=True, each=each, batch_size=1)
    assert len(seen) >= 160
    assert max(alive[4:]) <= max(alive[:4]) <= 8


def test_logits_of_whole_cells_are_made_to_cover_the_image() -> None:
    """A network of stride 4 on 30×22 gives 8×6 cells, which reach beyond it: they are cut where the image ends."""
    ramp = torch.arange(22.0).expand(1, 3, 30, 22)
    exact = covering(lambda x: F.avg_pool2d(x, 4), 4)(ramp)
    assert exact.shape == (1, 3, 30, 22)
    torch.testing.assert_close(exact[0, 0, 8, 2:18], ramp[0, 0, 8, 2:18])
    plain = torch.rand(1, 3, 8, 12)
    torch.testing.assert_close(covering(lambda x: F.avg_pool2d(x, 4), 4)(plain), F.avg_pool2d(plain, 4))


def test_a_network_that_does_not_pad_covers_the_image_as_it_is() -> None:
    logits = torch.rand(1, 3, 8, 6)
    assert torch.equal(covering(lambda x: logits, 4, 1)(torch.zeros(1, 3, 30, 22)), logits)


def test_a_file_of_one_size_gets_its_image_unpadded() -> None:
    """It pads inside, so its 8x6 cells of stride 4 stand for 32x24 pixels of which the image has 30x22."""
    seen = []

    def predict(x_BCHW: Tensor) -> Tensor:
        seen.append(tuple(x_BCHW.shape[2:]))
        return F.avg_pool2d(F.pad(x_BCHW, (0, 2, 0, 2)), 4)

    ramp = torch.arange(22.0).expand(1, 3, 30, 22)
    exact = covering(predict, 4, only=(30, 22))(ramp)
    assert seen == [(30, 22)]
    assert exact.shape == (1, 3, 30, 22)
    torch.testing.assert_close(exact[0, 0, 8, 2:18], ramp[0, 0, 8, 2:18])
    covering(predict, 4, only=(16, 16))(ramp)
    assert seen == [(30, 22), (32, 32)]
