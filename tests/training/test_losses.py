"""Losses against torch's own and against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nasseg.training.losses import SegmentationLoss
from nasseg.training.mixture import NAMED, TERMS


def batch(seed: int = 0, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 8, 8, generator=random, requires_grad=True)
    target = torch.randint(0, 4, (2, 8, 8), generator=random)
    return logits, target.masked_fill(torch.rand(2, 8, 8, generator=random) < ignored, 255)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.3]])
def test_cross_entropy_is_torchs_mean(weights: list[float] | None, smoothing: float) -> None:
    logits, target = batch()
    ours = SegmentationLoss(class_weights=weights, label_smoothing=smoothing)(logits, target)
    given = None if weights is None else torch.tensor(weights)
    torchs = F.cross_entropy(logits, target, given, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("kind", [*TERMS, *NAMED, "ohem+0.5*lovasz+2*dice"])
def test_a_batch_in_which_nothing_counts_gives_zero_and_no_nan(kind: str) -> None:
    logits, _ = batch()
    loss = SegmentationLoss(kind, class_weights=[1.0, 1.0, 1.0, 1.0])(logits, torch.full((2, 8, 8), 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_logits_are_resized_to_the_targets() -> None:
    logits, _ = batch()
    target = torch.randint(0, 4, (2, 32, 24), generator=torch.Generator().manual_seed(1))
    resized = F.interpolate(logits, size=(32, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(SegmentationLoss()(logits, target), F.cross_entropy(resized, target))


def test_ohem_takes_the_pixels_below_the_threshold() -> None:
    # Two classes, four pixels: probabilities of the true class .9, .6, .2 and an ignored one.
    p = torch.tensor([0.9, 0.6, 0.2, 0.1])
    logits = torch.stack([p.log(), (1 - p).log()]).reshape(1, 2, 1, 4)
    target = torch.tensor([[[0, 0, 0, 255]]])
    assert SegmentationLoss("ohem")(logits, target).item() == pytest.approx((-np.log(0.6) - np.log(0.2)) / 2, rel=1e-6)


def test_ohem_never_takes_less_than_a_sixteenth() -> None:
    # All easy: the two hardest of 32 pixels count.
    p = torch.linspace(0.80, 0.98, 32)
    logits = torch.stack([p.log(), (1 - p).log()]).reshape(1, 2, 4, 8)
    expected = -(np.log(p[0].item()) + np.log(p[1].item())) / 2
    assert SegmentationLoss("ohem")(logits, torch.zeros(1, 4, 8, dtype=torch.int64)).item() == pytest.approx(expected, rel=1e-5)


def test_dice_by_hand() -> None:
    # One image, two pixels: true 0 with p = (.8, .2), true 0 with p = (.6, .4); class 1 is absent and left out of the mean.
    p = torch.tensor([[0.8, 0.6], [0.2, 0.4]])
    target = torch.tensor([[[0, 0]]])
    dice = (2 * 1.4 + 1) / (0.64 + 0.36 + 2 + 1)
    cross_entropy = -(np.log(0.8) + np.log(0.6)) / 2
    loss = SegmentationLoss("cross_entropy_dice")(p.log().reshape(1, 2, 1, 2), target)
    assert loss.item() == pytest.approx(cross_entropy + 1 - dice, rel=1e-6)


def test_ohem_with_weights_of_classes_by_hand() -> None:
    # Probabilities of the true class .6, .2 (class 0) and .5 (class 1) are hard, .9 is not; weights .5 and 2.
    p = torch.tensor([0.6, 0.2, 0.5, 0.9])
    logits = torch.stack([torch.tensor([0.6, 0.2, 0.5, 0.9]).log(), (1 - p).log()]).reshape(1, 2, 1, 4)
    target = torch.tensor([[[0, 0, 1, 0]]])
    expected = -(0.5 * np.log(0.6) + 0.5 * np.log(0.2) + 2 * np.log(0.5)) / 3
    assert SegmentationLoss("ohem", class_weights=[0.5, 2.0])(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_sums_are_sums() -> None:
    logits, target = batch()
    alone = {name: SegmentationLoss(name)(logits, target).item() for name in TERMS}
    for kind, expected in (
        ("cross_entropy_dice", alone["cross_entropy"] + alone["dice"]),
        ("cross_entropy_lovasz", alone["cross_entropy"] + alone["lovasz"]),
        ("0.5*ohem+2*lovasz+boundary", 0.5 * alone["ohem"] + 2 * alone["lovasz"] + alone["boundary"]),
    ):
        assert SegmentationLoss(kind)(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_boundary_by_hand() -> None:
    # Borders of classes lie between columns 1 and 2: distances 1, 0, 0, 1; the ignored pixel makes none.
    p = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    logits = torch.stack([p.log(), (1 - p).log()]).reshape(1, 2, 1, 5)
    target = torch.tensor([[[0, 0, 1, 1, 255]]])
    near, at = 1 + 10 * np.exp(-1 / 50), 11.0
    errors = [-np.log(0.9), -np.log(0.8), -np.log(0.3), -np.log(0.4)]
    weights = [near, at, at, near]
    expected = np.dot(errors, weights) / sum(weights)
    assert SegmentationLoss("boundary")(logits, target).item() == pytest.approx(expected, rel=1e-5)
    classes = [0.5, 0.5, 2.0, 2.0]
    expected = np.dot(np.multiply(errors, classes), weights) / np.dot(classes, weights)
    assert SegmentationLoss("boundary", class_weights=[0.5, 2.0])(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_boundary_without_a_border_is_cross_entropy() -> None:
    logits, _ = batch()
    target = torch.ones(2, 8, 8, dtype=torch.int64)
    torch.testing.assert_close(SegmentationLoss("boundary")(logits, target), SegmentationLoss()(logits, target))


def test_auxiliary_logits_add_their_share() -> None:
    logits, target = batch()
    beside = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(9))
    weights = [0.5, 1.0, 2.0, 0.3]
    both = SegmentationLoss("dice", class_weights=weights, aux_weight=0.4)((logits, beside), target)
    expected = SegmentationLoss("dice")(logits, target) + 0.4 * SegmentationLoss(class_weights=weights)(beside, target)
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("kind", ["cross_entropy", "boundary"])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.3]])
def test_parts_weighed_by_their_mass_give_the_whole(kind: str, weights: list[float] | None) -> None:
    logits, target = batch()
    target[1, 1:] = 255
    loss = SegmentationLoss(kind, class_weights=weights)
    parts = [loss(logits[i : i + 1], target[i : i + 1]) * loss.mass(target[i : i + 1]) for i in range(2)]
    assert sum(parts).item() / loss.mass(target).item() == pytest.approx(loss(logits, target).item(), rel=1e-6)
    assert loss.mass(torch.full((1, 4, 4), 255)).item() == 0.0


def test_loss_is_computed_in_float32() -> None:
    logits, target = batch()
    assert SegmentationLoss()(logits.to(torch.bfloat16), target).dtype == torch.float32


def test_parts_are_named() -> None:
    plain = SegmentationLoss("ohem", label_smoothing=0.1)
    assert (plain.kind, plain.weights_K, plain.label_smoothing) == ("ohem", None, 0.1)
    weighted = SegmentationLoss("cross_entropy", class_weights=(0.5, 2.0))
    assert weighted.weights_K is not None
    assert weighted.weights_K.tolist() == [0.5, 2.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.3]])
def test_a_mean_over_all_pixels_is_mmsegmentations_default(weights: list[float] | None, smoothing: float) -> None:
    """``CrossEntropyLoss(avg_non_ignore=False)``: a loss of 0 at uncounted pixels, weights of classes on the others, the plain mean."""
    logits, target = batch()
    given = None if weights is None else torch.tensor(weights)
    each = F.cross_entropy(logits, target, given, ignore_index=255, label_smoothing=smoothing, reduction="none")
    loss = SegmentationLoss(class_weights=weights, label_smoothing=smoothing, average="all")
    torch.testing.assert_close(loss(logits, target), each.mean())
    assert loss.mass(target) == target.numel()


def test_a_mean_over_all_pixels_of_the_other_terms() -> None:
    """By hand: of four pixels one does not count and, for OHEM, one is easy."""
    p = torch.tensor([0.9, 0.6, 0.2, 0.1])
    logits = torch.stack([p.log(), (1 - p).log()]).reshape(1, 2, 1, 4)
    target = torch.tensor([[[0, 0, 0, 255]]])
    costs = -p.log()
    found = {kind: SegmentationLoss(kind, average="all")(logits, target).item() for kind in ("cross_entropy", "ohem", "boundary")}
    assert found["cross_entropy"] == pytest.approx(float(costs[:3].sum()) / 4, rel=1e-5)
    assert found["ohem"] == pytest.approx(float(costs[1:3].sum()) / 4, rel=1e-5)
    # No border here: every pixel has the weight 1.
    assert found["boundary"] == pytest.approx(found["cross_entropy"], rel=1e-5)
    assert SegmentationLoss("dice", average="all")(logits, target) == SegmentationLoss("dice")(logits, target)


@pytest.mark.parametrize("average", ["counted", "all"])
def test_the_auxiliary_head_has_the_same_average(average: str) -> None:
    logits, target = batch()
    alone = SegmentationLoss(average=average)(logits, target)
    both = SegmentationLoss(average=average, aux_weight=0.4)((logits, logits), target)
    torch.testing.assert_close(both, 1.4 * alone)


def test_where_every_pixel_counts_the_averages_agree() -> None:
    logits, target = batch(ignored=0.0)
    assert SegmentationLoss(average="all")(logits, target) == SegmentationLoss()(logits, target)
