"""A segmentation network: a backbone and the decoder of a genotype."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.errors import ConfigError, Problem
from nasseg.genes.genotype import Genotype
from nasseg.models.auxiliary import MAP, AuxiliaryHead
from nasseg.models.backbones.contract import Backbone
from nasseg.models.backbones.registry import check_unpadded, create_backbone, describe_backbone
from nasseg.models.decoder import Decoder
from nasseg.models.ops import PAD_MULTIPLE, channels_last


class SegModel(nn.Module):
    """Images to logits. Made by :func:`build`.

    Input is (B, in_chans, H, W), already normalised with ``backbone.mean`` and ``backbone.std``. ``pad_multiple`` says what becomes of
    sides that are no multiples of 32, and may be set at any time:

    * 32, or a multiple of it: the image, of any size from 1×1, is padded with zeros (the mean colour) at the right and bottom to a multiple
      of ``pad_multiple``, and what comes out is cropped: mmsegmentation's ``SegDataPreProcessor(test_cfg=dict(size_divisor=32))``.
    * 1: the network runs on the image as it is, from 32×32, and its maps have ceil(H/s) × ceil(W/s) positions: what the published SegFormer
      does in Hugging Face's and mmsegmentation's code. The logits then cover the image exactly, with cells of H/ceil(H/s) pixels.

    At multiples of 32 all are the same function. Costs are counted at the size rounded up to a multiple of 32, whatever this says.
    """

    def __init__(self, genotype: Genotype, backbone: nn.Module, decoder: Decoder, *, pad_multiple: int = PAD_MULTIPLE) -> None:
        super().__init__()
        self.genotype = genotype
        self.num_classes = decoder.num_classes
        self.stride = genotype.fusion_stride
        self.backbone = backbone
        self.decoder = decoder
        self.pad_multiple = pad_multiple
        # A head for training alone (:meth:`add_auxiliary`).
        self.auxiliary: AuxiliaryHead | None = None
        # What a bundle says of pixels and classes; set by nasseg.export.bundle.load_bundle.
        self.preprocessing: dict[str, Any] | None = None

    @property
    def pad_multiple(self) -> int:
        """See the class."""
        return self._pad_multiple

    @pad_multiple.setter
    def pad_multiple(self, multiple: int) -> None:
        if multiple != 1 and (multiple < 1 or multiple % PAD_MULTIPLE):
            legal = max(1, round(multiple / PAD_MULTIPLE)) * PAD_MULTIPLE
            rule = f"must be 1 (images as they are) or a multiple of {PAD_MULTIPLE}"
            raise ConfigError(Problem("build", "pad_multiple", rule, multiple, legal))
        if multiple == 1 and isinstance(self.backbone, Backbone):
            check_unpadded(self.backbone.name, self.backbone.in_chans)
        self._pad_multiple = multiple

    def add_auxiliary(self) -> None:
        """Put a second head beside the decoder, for training: see :meth:`forward`. In eval mode the network stays what it is."""
        channels = self.decoder.channels[MAP]
        self.auxiliary = AuxiliaryHead(channels, self.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, K, ceil(H/s), ceil(W/s)) with s = ``stride``.

        In training mode, with an auxiliary head, a pair: those, and the head's logits at stride 16, of the padded image.
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
        size = (height + -height % self.pad_multiple, width + -width % self.pad_multiple)
        return F.interpolate(logits_BKhw, size=size, mode="bilinear", align_corners=False)[:, :, :height, :width]

    def _features(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The backbone's maps of the padded image."""
        below, right = -x_BCHW.shape[2] % self.pad_multiple, -x_BCHW.shape[3] % self.pad_multiple
        if below or right:
            x_BCHW = F.pad(x_BCHW, (0, right, 0, below))
        # The image is the smallest map there is; with its channels last, so come all that follow, and no layout changes on the way.
        features: tuple[Tensor, Tensor, Tensor, Tensor] = self.backbone(channels_last(x_BCHW))
        return features


def covers(module: nn.Module, height: int, width: int) -> bool:
    """Whether the cells of ``module``'s logits cover an image of this size exactly, so that resizing them to it puts each in its place.

    They do where its stride divides the sides and where nothing is padded; elsewhere they reach beyond the image, and
    :meth:`SegModel.predict` resizes and crops them.
    """
    stride = int(getattr(module, "stride", 1))
    return int(getattr(module, "pad_multiple", PAD_MULTIPLE)) == 1 or (height % stride == 0 and width % stride == 0)


def build(
    genotype: Genotype,
    num_classes: int,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    in_chans: int = 3,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    pad_multiple: int = PAD_MULTIPLE,
) -> SegModel:
    """The network of a genotype.

    ``pretrained`` fetches the backbone's published weights, ``weights`` reads them from a local file. ``drop_path`` is the stochastic depth
    of every decoder residual, and of the backbone where that has residuals to drop (``BackboneSpec.supports_drop_path``; VGG, say, has
    none). ``dropout`` is the channel dropout before the classifier. ``pad_multiple`` is what inputs are padded to, 1 for not at all
    (:class:`SegModel`). Initialisation of the decoder:
    :func:`nasseg.models.ops.init_block` for the stages, :func:`nasseg.models.ops.init_head` for the fusion.

    Raises :class:`ConfigError` for a genotype without a backbone and for numbers out of range, :class:`BackboneError` for a backbone that
    is unknown, breaks the four-stage contract, or does not run unpadded where it is to, :class:`WeightsError` for a file that does not
    belong to it.
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
    return SegModel(genotype, backbone, decoder, pad_multiple=pad_multiple)
