"""Measuring under a protocol: against a slow path, and what the protocol says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nasseg.data.dataset import DataSet, Sample, Split
from nasseg.errors import DataError
from nasseg.training.evaluate import evaluate, evaluate_splits
from nasseg.training.metrics import SegmentationMetrics

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
OPTIONS = {"num_classes": 3, "classes": ("a", "b", "c"), "size": (16, 24), "mean": MEAN, "std": STD}


class Random(Split):
    """Random images and masks of several sizes."""

    def __init__(self, name: str, sizes: Sequence[tuple[int, int]], labels: int = 3) -> None:
        self.name = name
        self.ids = tuple(str(i) for i in range(len(sizes)))
        self.sizes = sizes
        self.labels = labels

    @property
    def key(self) -> str:
        return f"{self.name}{self.sizes}{self.labels}"

    def read(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        H, W = self.sizes[index]
        mask = random.integers(0, self.labels, (H, W), dtype=np.uint8)
        mask[random.random((H, W)) < 0.1] = 255
        return Sample(random.integers(0, 256, (H, W, 3), dtype=np.uint8), mask)

    def subset(self, indices: Sequence[int], name: str) -> Split:
        return Random(name, [self.sizes[i] for i in indices], self.labels)


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
