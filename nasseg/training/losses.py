"""Losses of a segmentation run, and the weights of its classes.

All take logits (B, K, h, w) of any size and targets (B, H, W) of class numbers with 255 for pixels that do not count; logits are resized
to the targets' size first (bilinear, corners not aligned), as mmsegmentation trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasseg.data.dataset import Split
from nasseg.errors import DataError
from nasseg.files import cache_dir, canonical_json, digest, read_json_or_none, write_atomic

IGNORE = 255

OHEM_THRESHOLD = 0.7
OHEM_KEPT = 1 / 16
DICE_SMOOTH = 1.0


class SegmentationLoss(nn.Module):
    """One number from logits and targets.

    ``cross_entropy``: sum over counted pixels of w[y]·CE / sum of w[y], in float32. That is :func:`torch.nn.functional.cross_entropy` with
    reduction ``mean``, except that a batch in which no pixel counts gives 0 instead of NaN.

    ``ohem``: the same over the pixels whose probability of the true class is below 0.7, but over no fewer than a sixteenth of the counted
    pixels, the hardest ones (as mmsegmentation's OHEMPixelSampler, whose 100,000 pixels for 8×512² are that share rounded up).

    ``cross_entropy_dice``: cross-entropy plus 1 - mean over classes of (2·Σ p·t + 1) / (Σ p² + Σ t² + 1), sums over the batch's counted
    pixels (Milletari et al., V-Net, 1606.04797, eq. 2; the mean is over classes that occur in the batch).
    """

    weights_K: Tensor | None

    def __init__(self, kind: str = "cross_entropy", *, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.kind = kind
        self.label_smoothing = label_smoothing
        self.register_buffer("weights_K", None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32))

    def forward(self, logits_BKhw: Tensor, target_BHW: Tensor) -> Tensor:
        logits_BKHW = F.interpolate(logits_BKhw.float(), size=target_BHW.shape[-2:], mode="bilinear", align_corners=False)
        if self.kind == "ohem":
            target_BHW = self._hardest(logits_BKHW, target_BHW)
        loss = self._cross_entropy(logits_BKHW, target_BHW)
        if self.kind == "cross_entropy_dice":
            loss = loss + self._dice(logits_BKHW, target_BHW)
        return loss

    def _cross_entropy(self, logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
        total = F.cross_entropy(
            logits_BKHW, target_BHW, self.weights_K, ignore_index=IGNORE, reduction="sum", label_smoothing=self.label_smoothing
        )
        counted = target_BHW != IGNORE
        if self.weights_K is None:
            mass = counted.sum().clamp_min(1)
        else:
            mass = (self.weights_K[target_BHW.masked_fill(~counted, 0)] * counted).sum()
            mass = torch.where(mass > 0, mass, torch.ones_like(mass))
        return total / mass

    def _hardest(self, logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
        """The targets with every easy pixel set to 255."""
        with torch.no_grad():
            counted = target_BHW != IGNORE
            true_BHW = logits_BKHW.softmax(1).gather(1, target_BHW.masked_fill(~counted, 0).unsqueeze(1)).squeeze(1)
            probability_N = true_BHW[counted]
            if probability_N.numel() == 0:
                return target_BHW
            least = max(1, int(probability_N.numel() * OHEM_KEPT))
            bound = probability_N.kthvalue(least).values.clamp_min(OHEM_THRESHOLD)
            return target_BHW.masked_fill(true_BHW > bound, IGNORE)

    def _dice(self, logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
        counted = (target_BHW != IGNORE).unsqueeze(1)
        p_BKHW = logits_BKHW.softmax(1) * counted
        t_BKHW = F.one_hot(target_BHW.masked_fill(~counted.squeeze(1), 0), logits_BKHW.shape[1]).movedim(-1, 1) * counted
        overlap_K = (p_BKHW * t_BKHW).sum((0, 2, 3))
        size_K = t_BKHW.sum((0, 2, 3))
        dice_K = (2 * overlap_K + DICE_SMOOTH) / (p_BKHW.square().sum((0, 2, 3)) + size_K + DICE_SMOOTH)
        present_K = size_K > 0
        return ((1 - dice_K) * present_K).sum() / present_K.sum().clamp_min(1)


def build_loss(
    kind: str,
    *,
    class_weights: str,
    label_smoothing: float,
    split: Split,
    num_classes: int,
) -> SegmentationLoss:
    """The loss a configuration names; class weights come from the training split's masks."""
    weigh: dict[str, Callable[[], Sequence[float] | None]] = {
        "none": lambda: None,
        "sqrt_median_frequency": lambda: sqrt_median_frequency(*class_pixels(split, num_classes)),
    }
    return SegmentationLoss(kind, class_weights=weigh[class_weights](), label_smoothing=label_smoothing)


def sqrt_median_frequency(pixels: Sequence[int], seen_in: Sequence[int]) -> list[float]:
    """w_c = sqrt(clip(median(f) / f_c, 0.3, 5)), f_c = pixels of c / counted pixels of the images that hold c.

    Median frequency balancing of Eigen & Fergus (1411.4734, section 6.3.2), its range cut and its contrast halved on the log scale, so that
    rare classes are learnt in a short run and common ones are not lost. A class that no image holds gets the largest weight; the median is
    over the others.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency = np.asarray(pixels, dtype=np.float64) / np.asarray(seen_in, dtype=np.float64)
    present = np.asarray(pixels) > 0
    ratio = np.full(len(pixels), np.inf)
    ratio[present] = np.median(frequency[present]) / frequency[present]
    return [float(w) for w in np.sqrt(np.clip(ratio, 0.3, 5.0))]


def class_pixels(split: Split, num_classes: int) -> tuple[list[int], list[int]]:
    """(pixels of each class, counted pixels of the images that hold it) over a split; remembered in the cache folder by the split's key.

    Raises :class:`DataError` where no pixel of the split counts.
    """
    name = digest([split.key, num_classes], 24)
    path = cache_dir() / "class_pixels" / f"{name}.json"
    known = read_json_or_none(path)
    if known is not None:
        return list(known["pixels"]), list(known["seen_in"])
    pixels = np.zeros(num_classes, dtype=np.int64)
    seen_in = np.zeros(num_classes, dtype=np.int64)
    for _, mask in split:
        counts = np.bincount(mask.reshape(-1), minlength=256)[:num_classes]
        pixels += counts
        seen_in += np.where(counts > 0, counts.sum(), 0)
    if not pixels.any():
        raise DataError(f"split {split.name}: every pixel of its {len(split)} masks is 255, so there is nothing to learn")
    found = {"pixels": pixels.tolist(), "seen_in": seen_in.tolist()}
    write_atomic(path, canonical_json(found))
    return found["pixels"], found["seen_in"]
