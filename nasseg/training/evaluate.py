"""Measure a network on a split under a stated protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nasseg.data.dataset import DataSet, Split
from nasseg.data.loader import eval_batches
from nasseg.data.transforms import EvalTransform
from nasseg.errors import DataError
from nasseg.training.metrics import IGNORE, Metrics, SegmentationMetrics

Predict = Callable[[Tensor], Tensor]
"""A normalised batch (B, 3, H, W) to logits (B, K, h, w) of any size that covers the same field of view."""

MASKS = ("original", "resized")


def evaluate(
    predict: Predict,
    split: Split,
    *,
    num_classes: int,
    classes: Sequence[str],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    masks: str = "original",
    batch_size: int = 8,
    workers: int = 0,
    cache: bool = False,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    weights: str = "raw",
) -> Metrics:
    """mIoU, mAcc, aAcc in percent over ``split``, with their protocol.

    Each image is resized to ``size`` (height, width), whole and at one scale, and normalised. With ``masks`` ``original`` its logits are
    resized (bilinear, corners not aligned) to its mask's own size and compared there: mmsegmentation's protocol, for images of any
    size. With ``resized`` the mask is brought to ``size`` instead (nearest), which is cheaper and flatters thin classes less: for comparing
    candidates with each other, not with published numbers. ``weights`` (``raw`` or ``ema``) only goes into the protocol.
    Memory does not grow with the split.

    Raises :class:`DataError` for labels outside the classes, for a network of another class count, and where nothing can be measured.
    """
    device = torch.device(device)
    metrics = SegmentationMetrics(num_classes, classes, device)
    transform = EvalTransform(size, mean, std)
    # Not inference_mode: a tensor that a layer keeps from it (a resized position table) could not be trained through afterwards.
    with torch.no_grad():
        for x_BCHW, masks_B, _ in eval_batches(split, transform, batch_size, workers=workers, cache=cache):
            x_BCHW = x_BCHW.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            logits_BKhw = predict(x_BCHW).float()
            if logits_BKhw.shape[1] != num_classes:
                raise DataError(f"the network gives {logits_BKhw.shape[1]} classes, the data set has {num_classes}")
            for logits_Khw, mask_HW in zip(logits_BKhw, masks_B, strict=True):
                target_HW = torch.from_numpy(np.ascontiguousarray(mask_HW))
                if masks == "resized":
                    target_HW = F.interpolate(target_HW[None, None], size=size, mode="nearest-exact")[0, 0]
                metrics.update(_labels(logits_Khw, target_HW.shape), target_HW.to(device))
    protocol: dict[str, Any] = {
        "split": split.name,
        "images": len(split),
        "size": list(size),
        "resize": "stretch",
        "window": "whole",
        "flip": False,
        "scale": "single",
        "masks": masks,
        "classes": num_classes,
        "ignore": IGNORE,
        "unit": "percent",
        "weights": weights,
    }
    found = metrics.compute()
    return Metrics(values=found.values, per_class=found.per_class, protocol=protocol)


def evaluate_splits(predict: Predict, data: DataSet, *, test: bool = False, **options: Any) -> Metrics:
    """:func:`evaluate` on ``val`` and, named ``miou_SPLIT``, on every further split but ``train``; on ``test`` only if asked for.

    ``options`` are :func:`evaluate`'s. Raises :class:`DataError` where the data set has no ``val``.
    """
    options |= {"num_classes": data.num_classes, "classes": data.classes}
    found = evaluate(predict, data.split("val"), **options)
    for name, split in data.splits.items():
        if name not in ("train", "val", "test") or (name == "test" and test):
            found = found.beside(name, evaluate(predict, split, **options))
    return found


def _labels(logits_Khw: Tensor, size: Sequence[int]) -> Tensor:
    """The most likely class of each pixel at ``size``."""
    resized = F.interpolate(logits_Khw[None], size=tuple(size), mode="bilinear", align_corners=False)
    return resized[0].argmax(0)
