"""The terms of a loss: functions of logits (B, K, H, W) and targets (B, H, W) of class numbers, 255 where a pixel does not count.

A batch in which no pixel counts gives 0 and a gradient of zeros. Own code, because none of PyTorch, torchvision, timm and TorchMetrics
has these as differentiable losses with an ignored label, and a library for their thirty lines would bring models and encoders along.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255

OHEM_THRESHOLD = 0.7
OHEM_KEPT = 1 / 16
DICE_SMOOTH = 1.0
BOUNDARY_WEIGHT = 10.0
BOUNDARY_SIGMA = 5.0
BOUNDARY_REACH = 16


def cross_entropy(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    class_weights_K: Tensor | None = None,
    pixel_weights_BHW: Tensor | None = None,
    label_smoothing: float = 0.0,
    average: str = "counted",
) -> Tensor:
    """Σ w·CE / D over the counted pixels, w the product of the weight of the pixel's class and its own.

    ``average`` says what D is. ``counted``: Σ w. Without weights of pixels that is :func:`torch.nn.functional.cross_entropy` with reduction
    ``mean``, but for batches without a counted pixel, where that is NaN. ``all``: B·H·W, all pixels whether they count or not, as
    mmsegmentation's ``CrossEntropyLoss`` with ``avg_non_ignore=False``, its default: crops with many uncounted pixels weigh less.
    """
    counted = target_BHW != IGNORE
    reduction = "sum" if pixel_weights_BHW is None else "none"
    total = F.cross_entropy(
        logits_BKHW, target_BHW, class_weights_K, ignore_index=IGNORE, reduction=reduction, label_smoothing=label_smoothing
    )
    if average == "all":
        return (total if pixel_weights_BHW is None else (total * pixel_weights_BHW).sum()) / target_BHW.numel()
    if class_weights_K is None and pixel_weights_BHW is None:
        return total / counted.sum().clamp_min(1)
    if class_weights_K is None:
        weights_BHW = counted.to(logits_BKHW.dtype)
    else:
        weights_BHW = class_weights_K[target_BHW.masked_fill(~counted, 0)] * counted
    if pixel_weights_BHW is not None:
        weights_BHW = weights_BHW * pixel_weights_BHW
        total = (total * pixel_weights_BHW).sum()
    mass = weights_BHW.sum()
    return total / torch.where(mass > 0, mass, torch.ones_like(mass))


def hardest(logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """The targets with every easy pixel set to 255.

    Hard is a probability of the true class of at most 0.7, or being among the hardest sixteenth of the counted pixels (mmsegmentation's
    OHEMPixelSampler, whose 100,000 pixels for 8×512² are that share rounded up).
    """
    with torch.no_grad():
        counted = target_BHW != IGNORE
        true_BHW = logits_BKHW.softmax(1).gather(1, target_BHW.masked_fill(~counted, 0).unsqueeze(1)).squeeze(1)
        probability_N = true_BHW[counted]
        if probability_N.numel() == 0:
            return target_BHW
        least = max(1, int(probability_N.numel() * OHEM_KEPT))
        bound = probability_N.kthvalue(least).values.clamp_min(OHEM_THRESHOLD)
        return target_BHW.masked_fill(true_BHW > bound, IGNORE)


def dice(logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """1 - mean over classes of (2·Σ p·t + 1) / (Σ p² + Σ t² + 1), sums over the batch's counted pixels.

    Milletari et al., V-Net, 1606.04797, section 3; the mean is over classes that occur in the batch, and 1 is added above and below.
    """
    counted = (target_BHW != IGNORE).unsqueeze(1)
    p_BKHW = logits_BKHW.softmax(1) * counted
    t_BKHW = F.one_hot(target_BHW.masked_fill(~counted.squeeze(1), 0), logits_BKHW.shape[1]).movedim(-1, 1) * counted
    overlap_K = (p_BKHW * t_BKHW).sum((0, 2, 3))
    size_K = t_BKHW.sum((0, 2, 3))
    dice_K = (2 * overlap_K + DICE_SMOOTH) / (p_BKHW.square().sum((0, 2, 3)) + size_K + DICE_SMOOTH)
    present_K = size_K > 0
    return ((1 - dice_K) * present_K).sum() / present_K.sum().clamp_min(1)


def lovasz(logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Lovász-softmax (Berman et al., 1705.08790): the convex extension of 1 - IoU, mean over the classes of the batch.

    For class c with errors m = |[y = c] - p_c| in falling order, Σ m_i·(J_i - J_{i-1}), where J_i is the IoU lost when the first i pixels
    are wrong. Over the pixels of the whole batch, as the authors train.
    """
    counted_BHW = target_BHW != IGNORE
    p_NK = logits_BKHW.softmax(1).movedim(1, -1)[counted_BHW]
    y_N = target_BHW[counted_BHW]
    total = logits_BKHW.sum() * 0.0
    present = torch.bincount(y_N, minlength=1).nonzero().flatten().tolist()
    for c in present:
        true_N = (y_N == c).to(p_NK.dtype)
        errors_N, order_N = (true_N - p_NK[:, c]).abs().sort(descending=True)
        total = total + torch.dot(errors_N, lost_iou(true_N[order_N]))
    return total / max(1, len(present))


def lost_iou(true_N: Tensor) -> Tensor:
    """J_i - J_{i-1} for pixels in falling order of their errors; ``true_N`` is 1 for those of the class."""
    seen_N = true_N.cumsum(0)
    missed = true_N.sum()
    # In the order of errors, i wrong pixels are seen_i of the class and the rest of others.
    others_N = torch.arange(1, len(true_N) + 1, device=true_N.device, dtype=true_N.dtype) - seen_N
    lost_N = 1 - (missed - seen_N) / (missed + others_N)
    return torch.diff(lost_N, prepend=lost_N.new_zeros(1))


def boundary_weights(target_BHW: Tensor) -> Tensor:
    """1 + 10·exp(-d² / (2·5²)) with d the distance in pixels to the nearest pixel that touches another class.

    U-Net's map of weights (Ronneberger et al., 1505.04597, eq. 2, its w0 and σ), with the one distance to the border of a class in place
    of those to the two nearest cells. Pixels labelled 255 make no border. The distance is Euclidean and exact within 16 pixels along
    rows and columns; further away the weight is 1 (there the formula has less than 1.06).
    """
    counted = target_BHW != IGNORE
    border = torch.zeros_like(counted)
    for axis in (1, 2):
        near, far = (target_BHW.narrow(axis, start, target_BHW.shape[axis] - 1) for start in (0, 1))
        differs = (near != far) & (near != IGNORE) & (far != IGNORE)
        border.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
        border.narrow(axis, 1, differs.shape[axis]).logical_or_(differs)
    # Squared distance is a sum over axes, so one axis after the other finds its least value.
    square_BHW = torch.full(target_BHW.shape, float("inf"), device=target_BHW.device).masked_fill(border, 0.0)
    for axis in (1, 2):
        length = square_BHW.shape[axis]
        least_BHW = square_BHW.clone()
        for k in range(1, min(BOUNDARY_REACH, length - 1) + 1):
            head, tail = (square_BHW.narrow(axis, start, length - k) + k * k for start in (0, k))
            for start, moved in ((k, head), (0, tail)):
                part = least_BHW.narrow(axis, start, length - k)
                torch.minimum(part, moved, out=part)
        square_BHW = least_BHW
    return 1 + BOUNDARY_WEIGHT * torch.exp(-square_BHW / (2 * BOUNDARY_SIGMA**2))
