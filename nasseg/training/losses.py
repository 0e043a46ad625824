"""The loss of a segmentation run.

It takes logits (B, K, h, w) of any size and targets (B, H, W) of class numbers with 255 for pixels that do not count; logits are resized
to the targets' size first (bilinear, corners not aligned), as mmsegmentation trains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from nasseg.training import terms
from nasseg.training.mixture import parse_mixture

IGNORE = terms.IGNORE


class SegmentationLoss(nn.Module):
    """One number from logits and targets: the weighted sum that ``kind`` spells, in float32.

    ``cross_entropy``: Σ w·CE / Σ w over the counted pixels, w the weight of the pixel's class; with label smoothing where asked for.
    ``ohem``: the same over the hard pixels (:func:`nasseg.training.terms.hardest`).
    ``boundary``: the same with pixels weighted by their distance to a border (:func:`nasseg.training.terms.boundary_weights`).
    ``dice``, ``lovasz``: :func:`nasseg.training.terms.dice`, :func:`nasseg.training.terms.lovasz`, without weights of classes: there every
    class counts alike as it is.
    ``cross_entropy_dice``, ``cross_entropy_lovasz``: the plain sums. ``cross_entropy+0.5*dice``: any weighted sum of different terms.

    ``average``: what the three means over pixels are divided by, ``counted`` (Σ w, as above) or ``all`` (all pixels of the batch, those
    labelled 255 too): see :func:`nasseg.training.terms.cross_entropy`.

    A network with an auxiliary head gives a pair of logits; ``aux_weight`` times the cross-entropy of the second (weights of classes,
    label smoothing and average as above) is added.
    """

    weights_K: Tensor | None

    def __init__(
        self,
        kind: str = "cross_entropy",
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        aux_weight: float = 0.0,
        average: str = "counted",
    ) -> None:
        super().__init__()
        self.kind = kind
        self.mixture = parse_mixture(kind)
        self.label_smoothing = label_smoothing
        self.aux_weight = aux_weight
        self.average = average
        self.register_buffer("weights_K", None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32))

    @override
    def forward(self, logits_BKhw: Tensor | tuple[Tensor, Tensor], target_BHW: Tensor) -> Tensor:
        if isinstance(logits_BKhw, tuple):
            main_BKhw, aux_BKhw = logits_BKhw
            return self.forward(main_BKhw, target_BHW) + self.aux_weight * self._cross_entropy(resized(aux_BKhw, target_BHW), target_BHW)
        logits_BKHW = resized(logits_BKhw, target_BHW)
        parts = [weight * self._term(name, logits_BKHW, target_BHW) for name, weight in self.mixture.items()]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def mass(self, target_BHW: Tensor) -> Tensor:
        """What a part of a batch weighs in the mean over the batch: the sum of its pixels' weights, or all its pixels; float64.

        With it the losses of parts add up to the loss of the whole, exactly for a mean over pixels; Dice, Lovász and the choice of hard
        pixels look at each part by itself. A sum with several such means goes by the weights of classes alone.
        """
        counted = target_BHW != IGNORE
        if self.average == "all":
            return torch.ones_like(counted, dtype=torch.float64).sum()
        weights_BHW = counted.double()
        if self.weights_K is not None:
            weights_BHW = weights_BHW * self.weights_K.to(target_BHW.device)[target_BHW.masked_fill(~counted, 0)]
        if "boundary" in self.mixture and not {"cross_entropy", "ohem"} & set(self.mixture):
            weights_BHW = weights_BHW * terms.boundary_weights(target_BHW)
        return weights_BHW.sum()

    def _term(self, name: str, logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
        if name == "dice":
            return terms.dice(logits_BKHW, target_BHW)
        if name == "lovasz":
            return terms.lovasz(logits_BKHW, target_BHW)
        if name == "ohem":
            target_BHW = terms.hardest(logits_BKHW, target_BHW)
        return self._cross_entropy(logits_BKHW, target_BHW, terms.boundary_weights(target_BHW) if name == "boundary" else None)

    def _cross_entropy(self, logits_BKHW: Tensor, target_BHW: Tensor, pixel_weights_BHW: Tensor | None = None) -> Tensor:
        return terms.cross_entropy(
            logits_BKHW,
            target_BHW,
            class_weights_K=self.weights_K,
            pixel_weights_BHW=pixel_weights_BHW,
            label_smoothing=self.label_smoothing,
            average=self.average,
        )


def resized(logits_BKhw: Tensor, target_BHW: Tensor) -> Tensor:
    """Logits in float32 at the targets' size."""
    return F.interpolate(logits_BKhw.float(), size=target_BHW.shape[-2:], mode="bilinear", align_corners=False)
