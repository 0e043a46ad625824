"""How well a segmentation fits: mIoU, mAcc and aAcc as mmsegmentation counts them, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasseg.errors import DataError
from nasseg.metric import MetricName

IGNORE = 255


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Measured numbers and how they were measured.

    ``values`` by name (:mod:`nasseg.metric`) in percent: ``miou``, ``macc``, ``aacc``, what else was asked for; with ``_split`` behind for
    further splits. ``per_class`` and ``boundary_per_class`` map class name to IoU in percent; a class whose union is empty is absent.
    ``unpredicted`` names the classes that the masks hold and no pixel was given to (None: not known). ``confusion`` are the pixels behind
    them, int64, row: true class, column: predicted class; it does not go into :meth:`to_dict`.
    """

    values: Mapping[str, float]
    per_class: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    boundary_per_class: Mapping[str, float] = field(default_factory=dict)
    unpredicted: tuple[str, ...] | None = None
    confusion: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)

    @property
    def miou(self) -> float:
        """Mean over classes of intersection / union, in percent."""
        return self.values["miou"]

    @property
    def macc(self) -> float:
        """Mean over classes of correct pixels / pixels of the class, in percent."""
        return self.values["macc"]

    @property
    def aacc(self) -> float:
        """Correct pixels / counted pixels, in percent."""
        return self.values["aacc"]

    @property
    def boundary_iou(self) -> float | None:
        """Mean over classes of the boundary IoU, in percent; None where it was not measured."""
        return self.values.get("boundary_iou")

    def naming(self, names: Sequence[MetricName]) -> Self:
        """These metrics with the values of ``names`` added, each under its name: means over chosen classes, the worst class.

        A named class that is neither in the masks nor in the predictions has no IoU and is left out of the mean.

        Args:
            names: without a split; those of ``boundary_iou`` need ``boundary_per_class``. Names of no classes and of none here are passed
                over: they are in ``values`` as they were measured.

        Raises:
            DataError: none of a name's classes was seen.
        """
        values = dict(self.values)
        for name in names:
            if name.metric.name == "worst_iou":
                values[str(name)] = min(self.per_class.values())
            elif name.classes:
                there = self.boundary_per_class if name.metric.name == "boundary_iou" else self.per_class
                seen = [there[each] for each in name.classes if each in there]
                if not seen:
                    raise DataError(f"{name} cannot be measured: no mask and no prediction holds a pixel of {' or '.join(name.classes)}")
                values[str(name)] = sum(seen) / len(seen)
        return replace(self, values=values)

    def beside(self, split: str, other: Metrics) -> Metrics:
        """These metrics with another split's numbers added under ``name_split``; the protocol lists it under ``also``."""
        also = {**self.protocol.get("also", {}), split: other.protocol.get("images")}
        values = {**self.values, **{f"{name}_{split}": value for name, value in other.values.items()}}
        return replace(self, values=values, protocol={**self.protocol, "also": also})

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` gives it back."""
        plain: dict[str, Any] = {"values": dict(self.values), "per_class": dict(self.per_class), "protocol": dict(self.protocol)}
        plain |= {"boundary_per_class": dict(self.boundary_per_class)} if self.boundary_per_class else {}
        return plain if self.unpredicted is None else {**plain, "unpredicted": list(self.unpredicted)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        unpredicted = raw.get("unpredicted")
        return cls(**{**raw, "unpredicted": None if unpredicted is None else tuple(unpredicted)})


class SegmentationMetrics:
    """One confusion matrix over a whole split: K×K int64, whatever the split's size.

    With I_c, P_c, T_c the pixels of class c that are right, predicted, true (over the split, 255 left out), U_c = P_c + T_c - I_c:
    IoU_c = I_c / U_c, mIoU its mean over classes with U_c > 0 (a class predicted but absent counts as 0), mAcc the mean of I_c / T_c over
    T_c > 0, aAcc = Σ I_c / Σ T_c: mmsegmentation's IoUMetric.

    ``matrix`` is that matrix, row: true class, column: predicted class, on the device; several processes' sum is the whole split's.

    Counted here and not by torchmetrics, whose import takes longer than torch's: each training process, worker and verb would wait for it.
    """

    def __init__(self, num_classes: int, classes: Sequence[str] | None = None, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.classes = tuple(classes) if classes is not None else tuple(str(c) for c in range(num_classes))
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def add(self, matrix_KK: Tensor) -> None:
        """Add another matrix's pixels."""
        self.matrix += matrix_KK.to(self.matrix)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add pixels: targets (…, H, W) of class numbers or 255; predictions of the same shape, or logits (B, K, H, W).

        Raises :class:`DataError` for a target that is neither a class nor 255.
        """
        if prediction.ndim == target.ndim + 1:
            prediction = prediction.argmax(1)
        counted = target != IGNORE
        wrong = counted & ((target >= self.num_classes) | (target < 0))
        if bool(wrong.any()):
            raise DataError(f"a mask holds label {int(target[wrong][0])}; labels go from 0 to {self.num_classes - 1}, and 255 is ignored")
        cells = target[counted].long() * self.num_classes + prediction[counted]
        self.matrix += torch.bincount(cells, minlength=self.num_classes**2).reshape_as(self.matrix)

    def compute(self) -> Metrics:
        """The numbers so far; raises :class:`DataError` where no pixel was counted."""
        matrix = self.matrix.double().cpu()
        right, true, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
        if not float(true.sum()):
            raise DataError("no pixel could be measured: every mask is 255 throughout")
        union = true + predicted - right
        iou = 100 * right / union
        accuracy = 100 * right / true
        return Metrics(
            values={
                "miou": float(iou[union > 0].mean()),
                "macc": float(accuracy[true > 0].mean()),
                "aacc": float(100 * right.sum() / true.sum()),
            },
            per_class={name: float(iou[c]) for c, name in enumerate(self.classes) if union[c] > 0},
            unpredicted=tuple(name for c, name in enumerate(self.classes) if true[c] > 0 and predicted[c] == 0),
            confusion=self.matrix.cpu().numpy().copy(),
        )
