"""A segmentation network: a backbone and the decoder of a genotype."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.errors import ConfigError, Problem
from nasseg.genes.genotype import Genotype
from nasseg.models.auxiliary import MAP, AuxiliaryHead
from nasseg.models.backbones.registry import create_backbone, describe_backbone
from nasseg.models.decoder import Decoder
from nasseg.models.ops import PAD_MULTIPLE, channels_last


class SegModel(nn.Module):
    """Images to logits. Made by :func:`build`.

    Input is (B, in_chans, H, W), already normalised with ``backbone.mean`` and ``backbone.std``, of any size from 1×1: it is padded with
    zeros at the right and bottom to a multiple of 32, and what comes out is cropped.
    """

    def __init__(self, genotype: Genotype, backbone: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.genotype = genotype
        self.num_classes = decoder.num_classes
        self.stride = genotype.fusion_stride
        self.backbone = backbone
        self.decoder = decoder
        # A head for training alone (:meth:`add_auxiliary`).
        self.auxiliary: AuxiliaryHead | None = None
        # What a bundle says of pixels and classes; set by nasseg.export.bundle.load_bundle.
        self.preprocessing: dict[str, Any] | None = None

    def add_auxiliary(self) -> None:
        """Put a second head beside the decoder, for training: see :meth:`forward`. In eval mode the network stays what it is."""
        channels = self.decoder.channels[MAP]
        self.auxiliary = AuxiliaryHead(channels, self.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, K, ceil(H/s), ceil(W/s)) with s = ``stride``.

        In training mode, with an auxiliary head, a pair: those, and the head's logits at stride 16, of the image padded to multiples of 32.
        """
        height, width = x_BCHW.shape[2], x_BCHW.shape[3]
        features = self._features(x_BCHW)
        aux_BKhw = self.auxiliary(features[MAP]) if self.training and self.auxiliary is not None else None
        logits_BKhw: Tensor = self.decoder(features)[:, :, : -(-height // self.stride), : -(-width // self.stride)]
        return logits_BKhw if aux_BKhw is None else (logits_BKhw, aux_BKhw)

    def predict(self, x_BCHW: Tensor) -> Tensor:
        """Logits at the size of the input: (B, K, H, W), bilinear with ``align_corners=False`` over the padded image, then cropped."""
        height, width = x_BCHW.shape[2], x_BCHW.shape[3]
        logits_BKhw: Tensor = self.decoder(self._features(x_BCHW))
        size = (logits_BKhw.shape[2] * self.stride, logits_BKhw.shape[3] * self.stride)
        return F.interpolate(logits_BKhw, size=size, mode="bilinear", align_corners=False)[:, :, :height, :width]

    def _features(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The backbone's maps of the padded image."""
        below, right = -x_BCHW.shape[2] % PAD_MULTIPLE, -x_BCHW.shape[3] % PAD_MULTIPLE
        if below or right:
            x_BCHW = F.pad(x_BCHW, (0, right, 0, below))
        # The image is the smallest map there is; with its channels last, so come all that follow, and no layout changes on the way.
        features: tuple[Tensor, Tensor, Tensor, Tensor] = self.backbone(channels_last(x_BCHW))
        return features


def build(
    genotype: Genotype,
    num_classes: int,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    in_chans: int = 3,
    drop_path: float = 0.0,
    dropout: float = 0.0,
) -> SegModel:
    """The network of a genotype.

    ``pretrained`` fetches the backbone's published weights, ``weights`` reads them from a local file. ``drop_path`` is the stochastic depth
    of every decoder residual, and of the backbone where that has residuals to drop (``BackboneSpec.supports_drop_path``; VGG, say, has
    none). ``dropout`` is the channel dropout before the classifier. Initialisation of the decoder:
    :func:`nasseg.models.ops.init_block` for the stages, :func:`nasseg.models.ops.init_head` for the fusion.

    Raises :class:`ConfigError` for a genotype without a backbone and for numbers out of range, :class:`BackboneError` for a backbone that
    is unknown or breaks the four-stage contract, :class:`WeightsError` for a file that does not belong to it.
    """
    problems = []
    if genotype.backbone is None:
        problems.append(
            Problem("build", "backbone", "the genotype names no backbone: give one with genotype.on('mit_b0') or --backbone mit_b0")
        )
    if num_classes < 1:
        problems.append(Problem("build", "num_classes", "must be a whole number from 1", num_classes, 1))
    if in_chans < 1:
        problems.append(Problem("build", "in_chans", "must be a whole number from 1", in_chans, 1))
    for name, rate in (("drop_path", drop_path), ("dropout", dropout)):
        if not 0 <= rate < 1:
            problems.append(Problem("build", name, "must be at least 0 and below 1", rate, min(max(rate, 0.0), 0.9)))
    if problems or genotype.backbone is None:
        raise ConfigError(problems)
    backbone = create_backbone(
        genotype.backbone,
        pretrained=pretrained,
        weights=weights,
        in_chans=in_chans,
        drop_path=drop_path if describe_backbone(genotype.backbone, in_chans).supports_drop_path else 0.0,
    )
    decoder = Decoder(genotype, backbone.channels, num_classes, drop_path=drop_path, dropout=dropout)
    return SegModel(genotype, backbone, decoder)
