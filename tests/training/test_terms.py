"""Terms of losses: by hand, against slow definitions, and their gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from nasseg.training import terms


def batch(seed: int = 0, classes: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 4, generator=random, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, classes, (2, 3, 4), generator=random)
    return logits, target.masked_fill(torch.rand(2, 3, 4, generator=random) < 0.25, 255)


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "boundary", "dice", "lovasz"])
def test_gradients_are_those_of_differences(name: str) -> None:
    logits, target = batch()

    def of(x_BKHW: Tensor) -> Tensor:
        if name in ("dice", "lovasz"):
            return getattr(terms, name)(x_BKHW, target)
        chosen = terms.hardest(x_BKHW, target) if name == "ohem" else target
        near = terms.boundary_weights(target).double() if name == "boundary" else None
        weights = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
        return terms.cross_entropy(x_BKHW, chosen, class_weights_K=weights, pixel_weights_BHW=near)

    assert torch.autograd.gradcheck(of, (logits,))
    of(logits).backward()
    assert logits.grad is not None
    assert not logits.grad.movedim(1, -1)[target == 255].any()


def test_lovasz_by_hand() -> None:
    # True 0 with p = (.8, .2), true 1 with p = (.6, .4), and one that does not count.
    # Class 0: errors .6 (not of the class) and .2 (of it); IoU lost .5, then .5 more: .4.
    # Class 1: errors .6 (of it) and .2 (not); IoU lost 1, then nothing more: .6.
    p = torch.tensor([[0.8, 0.6, 0.5], [0.2, 0.4, 0.5]])
    loss = terms.lovasz(p.log().reshape(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]]))
    assert loss.item() == pytest.approx((0.4 + 0.6) / 2, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_lovasz_of_certain_answers_is_one_minus_iou(seed: int) -> None:
    random = np.random.default_rng(seed)
    said, true = random.integers(0, 4, (2, 6, 5)), random.integers(0, 3, (2, 6, 5))
    true[random.random(true.shape) < 0.2] = 255
    logits = 1e4 * torch.nn.functional.one_hot(torch.from_numpy(said), 4).movedim(-1, 1).float()
    lost = []
    for c in range(3):
        hit = ((said == c) & (true == c)).sum()
        lost.append(1 - hit / (((said == c) & (true != 255)) | (true == c)).sum())
    assert terms.lovasz(logits, torch.from_numpy(true)).item() == pytest.approx(np.mean(lost), rel=1e-5)


def test_dice_by_hand_over_two_classes() -> None:
    p = torch.tensor([[0.8, 0.6, 0.5], [0.2, 0.4, 0.5]])
    loss = terms.dice(p.log().reshape(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]]))
    zero = (2 * 0.8 + 1) / (0.64 + 0.36 + 1 + 1)
    one = (2 * 0.4 + 1) / (0.04 + 0.16 + 1 + 1)
    assert loss.item() == pytest.approx(1 - (zero + one) / 2, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_borders_follow_the_euclidean_distance(seed: int) -> None:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 3, (2, 3, 4))
    target = np.kron(coarse, np.ones((1, 11, 9), dtype=np.int64)).astype(np.int64)
    target[random.random(target.shape) < 0.02] = 255
    found = terms.boundary_weights(torch.from_numpy(target)).numpy()
    for mask, weights in zip(target, found, strict=True):
        border = np.zeros(mask.shape, dtype=bool)
        for y, x in np.ndindex(*mask.shape):
            for down, right in ((1, 0), (0, 1)):
                if y + down < mask.shape[0] and x + right < mask.shape[1]:
                    a, b = mask[y, x], mask[y + down, x + right]
                    if a != b and 255 not in (a, b):
                        border[y, x] = border[y + down, x + right] = True
        distance = ndimage.distance_transform_edt(~border)
        near = distance <= 16
        np.testing.assert_allclose(weights[near], 1 + 10 * np.exp(-(distance[near] ** 2) / 50), rtol=1e-5)
        assert (weights[~near] < 1.07).all()


def test_weights_of_thin_maps() -> None:
    assert terms.boundary_weights(torch.zeros(1, 1, 1, dtype=torch.int64)).tolist() == [[[1.0]]]
    assert terms.boundary_weights(torch.tensor([[[0], [1]]])).flatten().tolist() == [11.0, 11.0]
