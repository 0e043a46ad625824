"""mIoU, mAcc and aAcc against a second, slow definition, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasseg.errors import DataError
from nasseg.metric import MetricName, read_metric
from nasseg.training.metrics import Metrics, SegmentationMetrics


def slow(pairs: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> tuple[float, float, float, dict[str, float]]:
    """Pixel by pixel, in Python integers."""
    both, seen, said = [0] * classes, [0] * classes, [0] * classes
    for prediction, target in pairs:
        for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
            if t == 255:
                continue
            seen[t] += 1
            said[p] += 1
            both[t] += p == t
    unions = [seen[c] + said[c] - both[c] for c in range(classes)]
    ious = {str(c): 100 * both[c] / unions[c] for c in range(classes) if unions[c]}
    accs = [100 * both[c] / seen[c] for c in range(classes) if seen[c]]
    return sum(ious.values()) / len(ious), sum(accs) / len(accs), 100 * sum(both) / sum(seen), ious


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 9), images=st.integers(1, 4))
def test_agrees_with_the_slow_definition(seed: int, classes: int, images: int) -> None:
    random = np.random.default_rng(seed)
    # Some classes never occur in the masks, some never in the predictions, and up to half of the pixels are ignored.
    occurring = random.choice(classes, random.integers(1, classes + 1), replace=False)
    predicted = random.choice(classes, random.integers(1, classes + 1), replace=False)
    metrics = SegmentationMetrics(classes)
    pairs = []
    for _ in range(images):
        shape = tuple(random.integers(1, 12, 2))
        target = random.choice(occurring, shape)
        target[random.random(shape) < random.random() / 2] = 255
        pairs.append((random.choice(predicted, shape), target))
        metrics.update(torch.from_numpy(pairs[-1][0]), torch.from_numpy(pairs[-1][1]))
    if all((target == 255).all() for _, target in pairs):
        with pytest.raises(DataError, match="no pixel could be measured"):
            metrics.compute()
        return
    miou, macc, aacc, ious = slow(pairs, classes)
    found = metrics.compute()
    assert found.miou == pytest.approx(miou, rel=1e-12)
    assert found.macc == pytest.approx(macc, rel=1e-12)
    assert found.aacc == pytest.approx(aacc, rel=1e-12)
    assert dict(found.per_class) == pytest.approx(ious, rel=1e-12)


def test_by_hand() -> None:
    metrics = SegmentationMetrics(4, ["a", "b", "c", "d"])
    target = torch.tensor([[0, 0, 0, 1], [1, 255, 255, 0]])
    prediction = torch.tensor([[0, 0, 1, 1], [2, 3, 0, 0]])
    metrics.update(prediction, target)
    found = metrics.compute()
    # a: 3 right of 4 true, 3 said: 3/4. b: 1 right, 2 true, 2 said: 1/3. c: never true, said once: 0. d: said on ignored pixels only.
    assert dict(found.per_class) == pytest.approx({"a": 75.0, "b": 100 / 3, "c": 0.0})
    assert found.miou == pytest.approx((75 + 100 / 3) / 3)
    assert found.macc == pytest.approx((75 + 50) / 2)
    assert found.aacc == pytest.approx(100 * 4 / 6)


def test_takes_logits_and_whole_batches() -> None:
    target = torch.tensor([[[0, 1], [1, 255]], [[1, 1], [0, 0]]])
    logits = torch.nn.functional.one_hot(target.clamp_max(1), 2).movedim(-1, 1).float()
    metrics = SegmentationMetrics(2)
    metrics.update(logits, target)
    assert metrics.compute().values == {"miou": 100.0, "macc": 100.0, "aacc": 100.0}


def test_an_image_is_not_an_average() -> None:
    """Counts are summed over the split: a small image does not weigh as much as a large one."""
    metrics = SegmentationMetrics(2)
    metrics.update(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64))
    metrics.update(torch.ones(3, 3, dtype=torch.int64), torch.ones(3, 3, dtype=torch.int64))
    assert metrics.compute().per_class == {"0": 0.0, "1": 90.0}


def test_memory_is_one_matrix_of_exact_counts() -> None:
    metrics = SegmentationMetrics(3)
    for _ in range(3):
        metrics.update(torch.zeros(50, 50, dtype=torch.int64), torch.zeros(50, 50, dtype=torch.int64))
    state = metrics.matrix
    assert (state.shape, state.dtype, int(state[0, 0])) == (torch.Size([3, 3]), torch.int64, 7500)


@pytest.mark.parametrize("label", [3, 254, -1])
def test_refuses_labels_outside_the_classes(label: int) -> None:
    metrics = SegmentationMetrics(3)
    with pytest.raises(DataError, match=f"label {label}; labels go from 0 to 2, and 255 is ignored"):
        metrics.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), label))


def test_matrices_add_up() -> None:
    first, second, both = (SegmentationMetrics(3) for _ in range(3))
    random = torch.Generator().manual_seed(0)
    for part in (first, second):
        prediction, target = (torch.randint(0, 3, (9, 9), generator=random) for _ in range(2))
        part.update(prediction, target)
        both.update(prediction, target)
    first.add(second.matrix)
    assert first.compute() == both.compute()
    assert (first.matrix == both.matrix).all()
    found = both.compute().confusion
    assert found is not None
    assert (found.dtype, int(found.sum())) == (np.dtype("int64"), 162)
    second.matrix = both.matrix
    assert second.compute() == both.compute()


def test_further_splits_stand_beside() -> None:
    val = Metrics(values={"miou": 50.0, "macc": 60.0, "aacc": 70.0}, per_class={"a": 50.0}, protocol={"split": "val", "images": 3})
    holdout = Metrics(values={"miou": 40.0, "macc": 50.0, "aacc": 60.0}, protocol={"split": "holdout", "images": 5})
    both = val.beside("holdout", holdout)
    assert both.values == {"miou": 50.0, "macc": 60.0, "aacc": 70.0, "miou_holdout": 40.0, "macc_holdout": 50.0, "aacc_holdout": 60.0}
    assert both.protocol == {"split": "val", "images": 3, "also": {"holdout": 5}}
    assert Metrics.from_dict(both.to_dict()) == both
    assert math.isclose(both.macc, 60.0)


def names(*texts: str) -> list[MetricName]:
    return [read_metric(text) for text in texts]


def test_means_over_chosen_classes_and_the_worst_class() -> None:
    found = Metrics(
        values={"miou": 40.0, "boundary_iou": 15.0}, per_class={"a": 90.0, "b": 30.0, "c": 0.0}, boundary_per_class={"a": 20.0, "b": 10.0}
    )
    wanted = names("miou", "iou[a,b]", "iou[c]", "worst_iou", "boundary_iou", "boundary_iou[b]", "iou[a,unseen]")
    assert found.naming(wanted).values == {
        "miou": 40.0,
        "boundary_iou": 15.0,
        "iou[a,b]": 60.0,
        "iou[c]": 0.0,
        "worst_iou": 0.0,
        "boundary_iou[b]": 10.0,
        # Neither in the masks nor in the predictions: it has no IoU.
        "iou[a,unseen]": 90.0,
    }
    with pytest.raises(DataError, match=r"iou\[unseen,d\] cannot be measured: no mask and no prediction holds a pixel of unseen or d"):
        found.naming(names("iou[unseen,d]"))
