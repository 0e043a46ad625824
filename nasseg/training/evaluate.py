"""Measure a network on a split under a stated protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nasseg.data.dataset import DataSet, Split
from nasseg.data.images import UInt8
from nasseg.data.loader import eval_batches
from nasseg.data.transforms import EvalTransform
from nasseg.errors import ConfigError, DataError, Problem
from nasseg.metric import read_metric
from nasseg.models.ops import PAD_MULTIPLE
from nasseg.training.boundary import BoundaryIoU
from nasseg.training.device import autocast
from nasseg.training.metrics import IGNORE, Metrics, SegmentationMetrics
from nasseg.training.protocol import Protocol, Size
from nasseg.training.windows import flat, label_rows, slide

Predict = Callable[[Tensor], Tensor]
"""A normalised batch (B, 3, H, W) to logits (B, K, h, w) of any size that covers the same field of view."""
Each = Callable[[str, NDArray[np.uint8], UInt8], None]
"""Hears of each image: its id, the predicted classes (H, W), the mask it was compared with (H, W)."""
WHOLE_BYTES = 2**30
"""An image's logits at its mask's size are held at once up to so many bytes; 150 classes fill them with 1.8 megapixels."""


def evaluate(
    predict: Predict,
    split: Split,
    *,
    num_classes: int,
    classes: Sequence[str],
    size: Size,
    mean: Sequence[float],
    std: Sequence[float],
    masks: str = "original",
    mode: str = "whole",
    crop: Size | None = None,
    stride: Size | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    keep_ratio: bool = False,
    size_divisor: int = 1,
    pad_multiple: int = PAD_MULTIPLE,
    batch_size: int = 8,
    workers: int = 0,
    cache: bool = False,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    weights: str = "raw",
    amp: str = "none",
    boundary: bool = False,
    metrics: Sequence[str] = (),
    rank: int = 0,
    ranks: int = 1,
    reduce: Callable[[Tensor], Tensor] | None = None,
    each: Each | None = None,
) -> Metrics:
    """mIoU, mAcc, aAcc in percent over ``split``, with their protocol.

    ``size``, ``mode``, ``crop``, ``stride``, ``scales``, ``flip``, ``keep_ratio``, ``size_divisor``, ``masks``: how images reach the
    network, see :class:`~nasseg.training.protocol.Protocol`; ``pad_multiple`` is what ``predict`` pads them to. By default each image is
    resized to ``size`` (height, width), whole and at one scale, and normalised. With ``masks`` ``original`` its logits are resized
    (bilinear, corners not aligned) to its mask's own size and compared there: mmsegmentation's way, for images of any size. With
    ``resized`` the mask is brought to ``size`` instead (nearest), which is cheaper and flatters thin classes less: for comparing candidates
    with each other, not with published numbers.

    ``amp`` is the precision of the forward pass (``none``, ``bf16``, ``fp16``); ``weights`` (``raw`` or ``ema``) only goes into the
    protocol. ``boundary`` adds the boundary IoU, ``metrics`` further numbers by name, such as ``iou[crop,weed]``
    (:data:`nasseg.metric.METRICS`). ``each`` is called for every image. Memory does not grow with the split.

    Of ``ranks`` processes this one measures images ``rank``, ``rank`` + ``ranks``, …; ``reduce`` gives the sum over all of them of an int64
    tensor on ``device``, and then every process has the whole split's numbers.

    Raises :class:`DataError` for labels outside the classes, for a network of another class count, and where nothing can be measured;
    :class:`ConfigError` for a protocol that does not make sense.
    """
    device = torch.device(device)
    protocol = Protocol(
        size=size,
        masks=masks,
        mode=mode,
        crop=crop,
        stride=stride,
        scales=tuple(scales),
        flip=flip,
        keep_ratio=keep_ratio,
        size_divisor=size_divisor,
        pad_multiple=pad_multiple,
    )
    names = [read_metric(name, classes=classes, splits=(), where="evaluation") for name in metrics]
    boundary = boundary or any(name.metric.name == "boundary_iou" for name in names)
    if not 0 <= rank < ranks:
        raise ConfigError(Problem("evaluation", "rank", f"a whole number from 0 to {ranks - 1}", rank, 0))
    looker = Looker(predict, protocol, num_classes, tuple(mean), tuple(std), device, channels_last, amp, batch_size)
    counts = SegmentationMetrics(num_classes, classes, device)
    outlines = BoundaryIoU(num_classes) if boundary else None
    mine = split if ranks == 1 else split.subset(range(rank, len(split), ranks), split.name)
    # Not inference_mode: a tensor that a layer keeps from it (a resized position table) could not be trained through afterwards.
    with torch.no_grad():
        for id_, labels_HW, target_HW in looker.label(mine, workers, cache):
            counts.update(labels_HW, target_HW.to(device))
            if outlines is not None or each is not None:
                said_HW, true_HW = labels_HW.cpu().numpy().astype(np.uint8), target_HW.numpy()
                if outlines is not None:
                    outlines.update(said_HW, true_HW)
                if each is not None:
                    each(id_, said_HW, true_HW)
    if reduce is not None:
        counts.matrix = reduce(counts.matrix)
        if outlines is not None:
            outlines.counts = reduce(torch.from_numpy(outlines.counts).to(device)).cpu().numpy()
    found = replace(
        counts.compute(),
        protocol={
            "split": split.name,
            "images": len(split),
            **protocol.to_dict(),
            "interpolation": "bilinear, antialiased",
            "classes": num_classes,
            "ignore": IGNORE,
            "unit": "percent",
            "weights": weights,
            "precision": "float32" if amp == "none" else amp,
        },
    )
    return (found if outlines is None else _with_outlines(found, outlines, classes)).naming(names)


def evaluate_splits(predict: Predict, data: DataSet, *, test: bool = False, **options: Any) -> Metrics:
    """:func:`evaluate` on ``val`` and, named ``miou_SPLIT``, on every further split but ``train``; on ``test`` only if asked for.

    ``options`` are :func:`evaluate`'s. Raises :class:`DataError` where the data set has no ``val``.
    """
    options |= {"num_classes": data.num_classes, "classes": data.classes}
    found = evaluate(predict, data.split("val"), **options)
    for name in data.beside_val(test):
        found = found.beside(name, evaluate(predict, data.split(name), **options))
    return found


def covering(predict: Predict, stride: int, pad_multiple: int = PAD_MULTIPLE, *, only: Size | None = None) -> Predict:
    """``predict`` of a network with ``stride`` whose logits stand for whole cells, made to cover exactly the image it is given.

    Where the stride does not divide an image's sides, the last cells of a network that pads reach beyond it: the image is then padded with
    the mean colour to ``pad_multiple``, as the network itself does, its logits are resized to that and cut to the image. One that does not
    pad (``pad_multiple`` 1) covers the image as it is. A file that takes images of one size, ``only``, is given those as they are, and
    the cells of its logits, ``stride`` pixels each, are resized and cut likewise.
    """

    def exact(x_BCHW: Tensor) -> Tensor:
        H, W = x_BCHW.shape[-2:]
        if pad_multiple == 1 or (H % stride == 0 and W % stride == 0):
            return predict(x_BCHW)
        if only == (H, W):
            logits_BKhw = predict(x_BCHW).float()
            whole = (logits_BKhw.shape[2] * stride, logits_BKhw.shape[3] * stride)
            return F.interpolate(logits_BKhw, size=whole, mode="bilinear", align_corners=False)[:, :, :H, :W]
        x_BCHW = F.pad(x_BCHW, (0, -W % pad_multiple, 0, -H % pad_multiple))
        return F.interpolate(predict(x_BCHW).float(), size=x_BCHW.shape[-2:], mode="bilinear", align_corners=False)[:, :, :H, :W]

    return exact


@dataclass(frozen=True, slots=True)
class Looker:
    """Images of a split to class numbers, under a protocol."""

    predict: Predict
    protocol: Protocol
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    channels_last: bool
    amp: str
    batch_size: int
    whole_bytes: int = WHOLE_BYTES

    def label_image(self, image_HW3: UInt8) -> Tensor:
        """The classes (H, W) of one image, at its own size."""
        many = len(self.protocol.scales) > 1
        enter = Whole() if many else Enter(self.protocol, self.mean, self.std)
        return self._one(enter(image_HW3)[None], image_HW3.shape[:2], many)

    def label(self, split: Split, workers: int, cache: bool) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(id, classes (H, W) on the device, mask (H, W) uint8 on the CPU) of each image, in the split's order."""
        if not len(split):
            return
        plain, many = self.protocol.plain, len(self.protocol.scales) > 1
        enter = Whole() if many else Enter(self.protocol, self.mean, self.std)
        for x_BCHW, masks_B, ids in eval_batches(split, enter, self.batch_size if plain else 1, workers=workers, cache=cache):
            targets = [self._target(mask_HW) for mask_HW in masks_B]
            if plain:
                logits_BKhw = self._forward(x_BCHW.to(self.device))
                labels = [self._labels(logits_Khw, y.shape) for logits_Khw, y in zip(logits_BKhw, targets, strict=True)]
            else:
                labels = [self._one(x_BCHW, targets[0].shape, many)]
            yield from zip(ids, labels, targets, strict=True)

    def _one(self, x_1CHW: Tensor, shape: Sequence[int], many: bool) -> Tensor:
        """The classes of one image: of its logits after one look, of its mean probabilities after several."""
        total_KHW: Tensor | None = None
        for logits_Khw in self._looks(x_1CHW, many):
            if not many and not self.protocol.flip:
                return self._labels(logits_Khw, shape)
            seen_KHW = _resized(logits_Khw, shape).softmax(0)
            total_KHW = seen_KHW if total_KHW is None else total_KHW.add_(seen_KHW)
        assert total_KHW is not None  # a protocol has a scale
        return total_KHW.argmax(0)

    def _looks(self, x_1CHW: Tensor, many: bool) -> Iterator[Tensor]:
        """Logits (K, h, w) of the image at each scale, and of its mirror image turned back."""
        for scale in self.protocol.scales:
            seen = x_1CHW
            if many:
                image_HW3 = x_1CHW[0].permute(1, 2, 0).numpy()
                seen = Enter(self.protocol, self.mean, self.std, scale)(image_HW3)[None]
            seen = seen.to(self.device)
            yield self._logits(seen)
            if self.protocol.flip:
                yield self._logits(seen.flip(-1)).flip(-1)

    def _logits(self, x_1CHW: Tensor) -> Tensor:
        """Logits (K, h, w) of one image, whole or through windows; through windows they are as large as the image."""
        protocol = self.protocol
        if protocol.mode == "whole":
            return self._forward(x_1CHW)[0]
        assert protocol.crop is not None  # checked by the protocol
        assert protocol.stride is not None
        grid = (x_1CHW.shape[-2], x_1CHW.shape[-1])
        height, width = min(protocol.crop[0], grid[0]), min(protocol.crop[1], grid[1])

        def cut(top: int, left: int) -> Tensor:
            return x_1CHW[0, :, top : top + height, left : left + width]

        def whole_window(x_BChw: Tensor) -> Tensor:
            return F.interpolate(self._forward(x_BChw), size=(height, width), mode="bilinear", align_corners=False)

        rows = slide(whole_window, cut, grid, protocol.crop, protocol.stride, weigh=flat, at_once=self.batch_size)
        return torch.cat(list(rows), dim=1)

    def _forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
        with autocast(self.amp, self.device):
            logits_BKhw = self.predict(x_BCHW)
        if logits_BKhw.shape[1] != self.num_classes:
            raise DataError(f"the network gives {logits_BKhw.shape[1]} classes, the data set has {self.num_classes}")
        return logits_BKhw.to(self.device).float()

    def _labels(self, logits_Khw: Tensor, size: Sequence[int]) -> Tensor:
        """The most likely class of each pixel at ``size``; logits that would fill the memory are resized some rows at a time."""
        height, width = size
        if 4 * len(logits_Khw) * height * width <= self.whole_bytes:
            return _resized(logits_Khw, size).argmax(0)
        grid = (logits_Khw.shape[1], logits_Khw.shape[2])
        return torch.from_numpy(label_rows([logits_Khw.cpu()], grid, (height, width))).to(logits_Khw.device)

    def _target(self, mask_HW: UInt8) -> Tensor:
        target_HW = torch.from_numpy(np.ascontiguousarray(mask_HW))
        if self.protocol.masks == "original":
            return target_HW
        size = self.protocol.fitted(mask_HW.shape)
        return F.interpolate(target_HW[None, None], size=size, mode="nearest-exact")[0, 0]


@dataclass(frozen=True, slots=True)
class Enter:
    """``enter(image) -> x_CHW``: resized as the protocol says, normalised."""

    protocol: Protocol
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float | None = None

    def __call__(self, image: UInt8) -> Tensor:
        scale = self.protocol.scales[0] if self.scale is None else self.scale
        return EvalTransform(self.protocol.fitted(image.shape, scale), self.mean, self.std)(image)


class Whole:
    """``enter(image) -> x_CHW``: bytes as they are; what is seen at several scales is resized from the image each time."""

    def __call__(self, image: UInt8) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)


def _resized(logits_Khw: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits_Khw[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def _with_outlines(found: Metrics, outlines: BoundaryIoU, classes: Sequence[str]) -> Metrics:
    per_class = {classes[c]: value for c, value in outlines.compute().items()}
    return replace(
        found,
        values={**found.values, "boundary_iou": sum(per_class.values()) / len(per_class)},
        boundary_per_class=per_class,
        protocol={**found.protocol, "boundary": f"{outlines.ratio:g} of the diagonal"},
    )
