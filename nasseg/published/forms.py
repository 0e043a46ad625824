"""The forms in which published decoders are written down: names, what their shapes say, and what of them is never used.

One :class:`Form` is one class of one code base. :data:`FORMS` is the whole list of what is recognised; docs/published.md describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nasseg.models.backbones.checkpoint_names import Rule

FUSION, INPUTS = "fusion", "inputs"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one code base writes one design.

    ``preset`` is the design, but for the genes in ``fixed`` and for those that shapes say: ``sizes`` maps a gene to a key and the axis of
    its tensor. ``encoder`` begins the names of the encoder's weights, ``classifier`` is the weight of the last layer, whose first axis
    counts the classes. ``rules`` turn the decoder's names into ours. ``turned`` lists patterns of our names whose input channels run from
    the deepest map to the shallowest, ours the other way round: the maps that the fusion concatenates, or the inputs of a stage. ``dead``:
    patterns of names that are registered and never used by the network in eval mode, with the reason.
    """

    name: str
    preset: str
    encoder: str
    sizes: Mapping[str, tuple[str, int]]
    classifier: str
    rules: tuple[Rule, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    turned: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, str] = field(default_factory=dict)
    pad_multiple: int = 1

    @property
    def signs(self) -> frozenset[str]:
        """The keys without which a file is not of this form."""
        return frozenset((self.classifier, *(key for key, _ in self.sizes.values())))


MIX, PROJECT, CLASSIFIER = "decoder.fusion.mix.", "decoder.fusion.project.stage", "decoder.fusion.classifier."
DEEP_FIRST = {r"decoder\.fusion\.mix\.conv\.weight": FUSION}
UNUSED_CLASSIFIER = {r"decode_head\.conv_seg\.\w+": "the classifier of mmsegmentation's base class, beside the head's own"}
AUXILIARY = {r"auxiliary_head\..+": "a second head, for training alone"}

FORMS: tuple[Form, ...] = (
    Form(
        name="SegFormer as Hugging Face's transformers writes it",
        preset="segformer",
        encoder="segformer.",
        sizes={"project": ("decode_head.linear_fuse.weight", 0), "fusion_width": ("decode_head.linear_fuse.weight", 0)},
        classifier="decode_head.classifier.weight",
        rules=(
            # linear_projections since transformers 5.
            Rule(r"decode_head\.linear_(?:c|projections)\.(?P<stage0>\d)\.proj\.(?P<leaf>\w+)", PROJECT + "{stage}.{leaf}"),
            Rule(r"decode_head\.linear_fuse\.(?P<leaf>\w+)", MIX + "conv.{leaf}"),
            Rule(r"decode_head\.batch_norm\.(?P<leaf>\w+)", MIX + "norm.{leaf}"),
            Rule(r"decode_head\.classifier\.(?P<leaf>\w+)", CLASSIFIER + "{leaf}"),
        ),
        turned=DEEP_FIRST,
    ),
    Form(
        name="SegFormer as its authors (NVlabs) write it",
        preset="segformer",
        encoder="backbone.",
        sizes={"project": ("decode_head.linear_c4.proj.weight", 0), "fusion_width": ("decode_head.linear_fuse.conv.weight", 0)},
        classifier="decode_head.linear_pred.weight",
        rules=(
            Rule(r"decode_head\.linear_c(?P<stage>\d)\.proj\.(?P<leaf>\w+)", PROJECT + "{stage}.{leaf}"),
            Rule(r"decode_head\.linear_fuse\.conv\.(?P<leaf>\w+)", MIX + "conv.{leaf}"),
            Rule(r"decode_head\.linear_fuse\.bn\.(?P<leaf>\w+)", MIX + "norm.{leaf}"),
            Rule(r"decode_head\.linear_pred\.(?P<leaf>\w+)", CLASSIFIER + "{leaf}"),
        ),
        turned=DEEP_FIRST,
        dead=UNUSED_CLASSIFIER,
    ),
    Form(
        name="SegFormer as segmentation_models_pytorch writes it",
        preset="segformer",
        encoder="encoder.",
        sizes={"project": ("decoder.mlp_stage.0.linear.weight", 0), "fusion_width": ("decoder.fuse_stage.0.weight", 0)},
        classifier="segmentation_head.0.weight",
        rules=(
            *(Rule(rf"decoder\.mlp_stage\.{4 - stage}\.linear\.(?P<leaf>\w+)", f"{PROJECT}{stage}.{{leaf}}") for stage in (4, 3, 2, 1)),
            Rule(r"decoder\.fuse_stage\.0\.(?P<leaf>\w+)", MIX + "conv.{leaf}"),
            Rule(r"decoder\.fuse_stage\.1\.(?P<leaf>\w+)", MIX + "norm.{leaf}"),
            Rule(r"segmentation_head\.0\.(?P<leaf>\w+)", CLASSIFIER + "{leaf}"),
        ),
        turned=DEEP_FIRST,
        dead={r"classification_head\..+": "the second output of aux_params, a label for the whole image"},
        # The original refuses other sizes.
        pad_multiple=32,
    ),
)
