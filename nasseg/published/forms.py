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
    counts the classes. ``present`` and ``absent`` are further keys that a file of this form has, or has not. ``halves``: a key that
    matches the pattern holds two matrices, one above the other, which get the two names. ``rules`` turn the decoder's names into ours.
    ``turned`` lists patterns of our names whose input channels run from the deepest map to the shallowest, ours the other way round: the
    maps that the fusion concatenates, or the inputs of a stage. ``dead``: patterns of names that are registered and never used by the
    network in eval mode, with the reason. ``said``: genes that no shape tells, by the attribute of the description that does; where the
    file does not say, they are the design's on this encoder. ``remark`` is what a user should know of every network of this form.
    ``pad_multiple`` is what images are padded to inside, where no configuration says so.
    """

    name: str
    preset: str
    encoder: str = "backbone."
    sizes: Mapping[str, tuple[str, int]]
    classifier: str
    rules: tuple[Rule, ...]
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    halves: tuple[str, str, str] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    turned: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    pad_multiple: int = 1

    @property
    def signs(self) -> frozenset[str]:
        """The keys without which a file is not of this form."""
        return frozenset((self.classifier, *self.present, *(key for key, _ in self.sizes.values())))


MIX, PROJECT, CLASSIFIER = "decoder.fusion.mix.", "decoder.fusion.project.stage", "decoder.fusion.classifier."
ATTENTION, FFN = "decoder.stage{stage}.attention.", "decoder.stage{stage}.ffn."
LEAF = r"\.(?P<leaf>\w+)"

FUSION_DEEP_FIRST = {r"decoder\.fusion\.mix\.conv\.weight": FUSION}
INPUTS_DEEP_FIRST = {r"decoder\.stage(?P<stage>\d)\.attention\.(?:key|value|mixing\.norm|mixing\.second_norm)\.\w+": INPUTS}
TWO_IN_ONE = (r"(.+\.attn\.)kv(\.\w+)", r"\1k\2", r"\1v\2")

UNUSED_CLASSIFIER = {r"decode_head\.conv_seg\.\w+": "the classifier of mmsegmentation's base class, beside the head's own"}
AUXILIARY = {r"auxiliary_head\..+": "a second head, for training alone"}


def fused(classifier: str) -> tuple[Rule, ...]:
    """The last layers, as SegFormer's authors call them and those who built on their code."""
    return (
        Rule(r"decode_head\.linear_fuse\.conv" + LEAF, MIX + "conv.{leaf}"),
        Rule(r"decode_head\.linear_fuse\.bn" + LEAF, MIX + "norm.{leaf}"),
        Rule(rf"decode_head\.{classifier}" + LEAF, CLASSIFIER + "{leaf}"),
    )


def block(start: str) -> tuple[Rule, ...]:
    """What the blocks of FeedFormer, MetaSeg and U-MixFormer share. ``start`` matches a block's name and has the group ``stage``."""
    return (
        Rule(start + r"norm1" + LEAF, ATTENTION + "norm.{leaf}"),
        Rule(start + r"norm3" + LEAF, FFN + "norm.{leaf}"),
        Rule(start + r"attn\.q" + LEAF, ATTENTION + "query.{leaf}"),
        Rule(start + r"attn\.k" + LEAF, ATTENTION + "key.{leaf}"),
        Rule(start + r"attn\.v" + LEAF, ATTENTION + "value.{leaf}"),
        Rule(start + r"attn\.proj" + LEAF, ATTENTION + "out.{leaf}"),
        Rule(start + r"mlp\.fc1" + LEAF, FFN + "branch.expand.{leaf}"),
        Rule(start + r"mlp\.dwconv\.dwconv" + LEAF, FFN + "branch.depthwise.{leaf}"),
        Rule(start + r"mlp\.fc2" + LEAF, FFN + "branch.reduce.{leaf}"),
    )


SEGFORMER = (
    Form(
        name="SegFormer as Hugging Face's transformers writes it",
        preset="segformer",
        encoder="segformer.",
        sizes={"project": ("decode_head.linear_fuse.weight", 0), "fusion_width": ("decode_head.linear_fuse.weight", 0)},
        classifier="decode_head.classifier.weight",
        rules=(
            # linear_projections since transformers 5.
            Rule(r"decode_head\.linear_(?:c|projections)\.(?P<stage0>\d)\.proj" + LEAF, PROJECT + "{stage}.{leaf}"),
            Rule(r"decode_head\.linear_fuse" + LEAF, MIX + "conv.{leaf}"),
            Rule(r"decode_head\.batch_norm" + LEAF, MIX + "norm.{leaf}"),
            Rule(r"decode_head\.classifier" + LEAF, CLASSIFIER + "{leaf}"),
        ),
        turned=FUSION_DEEP_FIRST,
    ),
    Form(
        name="SegFormer as its authors (NVlabs) write it",
        preset="segformer",
        sizes={"project": ("decode_head.linear_c4.proj.weight", 0), "fusion_width": ("decode_head.linear_fuse.conv.weight", 0)},
        classifier="decode_head.linear_pred.weight",
        rules=(Rule(r"decode_head\.linear_c(?P<stage>\d)\.proj" + LEAF, PROJECT + "{stage}.{leaf}"), *fused("linear_pred")),
        turned=FUSION_DEEP_FIRST,
        dead=UNUSED_CLASSIFIER,
    ),
    Form(
        name="SegFormer as mmsegmentation writes it",
        preset="segformer",
        sizes={"project": ("decode_head.convs.0.conv.weight", 0), "fusion_width": ("decode_head.fusion_conv.conv.weight", 0)},
        classifier="decode_head.conv_seg.weight",
        fixed={"project_norm": "batch"},
        rules=(
            Rule(r"decode_head\.convs\.(?P<stage0>\d)\.conv" + LEAF, PROJECT + "{stage}.conv.{leaf}"),
            Rule(r"decode_head\.convs\.(?P<stage0>\d)\.bn" + LEAF, PROJECT + "{stage}.norm.{leaf}"),
            Rule(r"decode_head\.fusion_conv\.conv" + LEAF, MIX + "conv.{leaf}"),
            Rule(r"decode_head\.fusion_conv\.bn" + LEAF, MIX + "norm.{leaf}"),
            Rule(r"decode_head\.conv_seg" + LEAF, CLASSIFIER + "{leaf}"),
        ),
        dead=AUXILIARY,
    ),
    Form(
        name="SegFormer as segmentation_models_pytorch writes it",
        preset="segformer",
        encoder="encoder.",
        sizes={"project": ("decoder.mlp_stage.0.linear.weight", 0), "fusion_width": ("decoder.fuse_stage.0.weight", 0)},
        classifier="segmentation_head.0.weight",
        rules=(
            *(Rule(rf"decoder\.mlp_stage\.{4 - stage}\.linear" + LEAF, f"{PROJECT}{stage}.{{leaf}}") for stage in (4, 3, 2, 1)),
            Rule(r"decoder\.fuse_stage\.0" + LEAF, MIX + "conv.{leaf}"),
            Rule(r"decoder\.fuse_stage\.1" + LEAF, MIX + "norm.{leaf}"),
            Rule(r"segmentation_head\.0" + LEAF, CLASSIFIER + "{leaf}"),
        ),
        turned=FUSION_DEEP_FIRST,
        dead={r"classification_head\..+": "the second output of aux_params, a label for the whole image"},
        # The original refuses other sizes.
        pad_multiple=32,
    ),
)

_U_MIX_BLOCK = r"decode_head\.attn_c(?P<stage>\d)\."
_FEED_BLOCK = r"decode_head\.attn_c(?P<stage>\d)_c1\."
_META_BLOCK = r"decode_head\.attn(?P<stage>\d)\."
DROPPED = {"pool_edge": "drop"}
"""FeedFormer and MetaSeg pool without ceil_mode. The presets leave that out: at the papers' sizes windows are whole."""
_WIDTH = {"fusion_width": ("decode_head.linear_fuse.conv.weight", 0)}


def _cat_keys(deepest: int) -> tuple[Rule, ...]:
    """U-MixFormer's convolutions on pooled maps: ``cat_key1`` serves stage 4, ``cat_key4`` stage 1; ``sr_list`` counts the maps that are
    pooled, from ``deepest`` to 1."""
    return tuple(
        Rule(
            rf"decode_head\.cat_key{5 - stage}\.sr_list\.{deepest - source}" + LEAF,
            f"decoder.stage{stage}.attention.mixing.convs.stage{source}.{{leaf}}",
        )
        for stage in (4, 3, 2, 1)
        for source in range(deepest, 0, -1)
    )


LINEAGE = (
    Form(
        name="U-MixFormer (APFormerHead2)",
        preset="u_mixformer",
        sizes=_WIDTH,
        classifier="decode_head.linear_pred.weight",
        present=("decode_head.cat_key1.sr_list.0.weight",),
        absent=("decode_head.attn_c4.attn.sr1.weight",),
        halves=TWO_IN_ONE,
        rules=(
            *block(_U_MIX_BLOCK),
            Rule(_U_MIX_BLOCK + "norm2" + LEAF, ATTENTION + "mixing.norm.{leaf}"),
            *_cat_keys(3),
            *fused("linear_pred"),
        ),
        turned={**FUSION_DEEP_FIRST, **INPUTS_DEEP_FIRST},
        dead={
            **UNUSED_CLASSIFIER,
            r"decode_head\.attn_c\d\.attn\.sr\.\w+": "a convolution of FeedFormer's attention, whose use is commented out",
            r"decode_head\.attn_c\d\.attn\.norm\.\w+": "a LayerNorm whose output is thrown away: GELU reads its input",
        },
    ),
    Form(
        name="U-MixFormer's Cityscapes form (APFormerHeadCity)",
        preset="u_mixformer_city",
        sizes=_WIDTH,
        classifier="decode_head.linear_pred.weight",
        present=("decode_head.cat_key1.sr_list.0.weight", "decode_head.attn_c4.attn.sr1.weight"),
        halves=TWO_IN_ONE,
        rules=(
            *block(_U_MIX_BLOCK),
            Rule(_U_MIX_BLOCK + "norm2" + LEAF, ATTENTION + "mixing.norm.{leaf}"),
            Rule(_U_MIX_BLOCK + r"attn\.norm2" + LEAF, ATTENTION + "mixing.second_norm.{leaf}"),
            Rule(_U_MIX_BLOCK + r"attn\.sr1" + LEAF, ATTENTION + "query_conv.{leaf}"),
            Rule(_U_MIX_BLOCK + r"attn\.norm1" + LEAF, ATTENTION + "query_norm.{leaf}"),
            *_cat_keys(4),
            *fused("linear_pred"),
        ),
        turned={**FUSION_DEEP_FIRST, **INPUTS_DEEP_FIRST},
        dead={
            **UNUSED_CLASSIFIER,
            r"decode_head\.attn_c\d\.attn\.sr2\.\w+": "a convolution of FeedFormer's attention that is never called",
        },
    ),
    Form(
        name="FeedFormer",
        preset="feedformer",
        sizes=_WIDTH,
        classifier="decode_head.linear_pred.weight",
        present=("decode_head.attn_c4_c1.attn.sr.weight",),
        # In U-MixFormer's code the same names stand for another network, whose residuals leave from normalised maps.
        absent=("backbone.layers.0.0.projection.weight",),
        fixed=DROPPED,
        halves=TWO_IN_ONE,
        rules=(
            *block(_FEED_BLOCK),
            Rule(_FEED_BLOCK + "norm2" + LEAF, ATTENTION + "mixing.input_norm.stage1.{leaf}"),
            Rule(_FEED_BLOCK + r"attn\.sr" + LEAF, ATTENTION + "mixing.convs.stage1.{leaf}"),
            Rule(_FEED_BLOCK + r"attn\.norm" + LEAF, ATTENTION + "mixing.norm.{leaf}"),
            *fused("linear_pred"),
        ),
        turned=FUSION_DEEP_FIRST,
        dead=UNUSED_CLASSIFIER,
    ),
    Form(
        name="FeedFormer's Cityscapes form (FeedFormerHeadCity)",
        preset="feedformer_city",
        sizes=_WIDTH,
        classifier="decode_head.linear_pred.weight",
        present=("decode_head.attn_c4_c1.attn.sr1.weight",),
        absent=("backbone.layers.0.0.projection.weight",),
        fixed=DROPPED,
        halves=TWO_IN_ONE,
        rules=(
            *block(_FEED_BLOCK),
            Rule(_FEED_BLOCK + "norm2" + LEAF, ATTENTION + "mixing.input_norm.stage1.{leaf}"),
            Rule(_FEED_BLOCK + r"attn\.sr1" + LEAF, ATTENTION + "query_conv.{leaf}"),
            Rule(_FEED_BLOCK + r"attn\.norm1" + LEAF, ATTENTION + "query_norm.{leaf}"),
            Rule(_FEED_BLOCK + r"attn\.sr2" + LEAF, ATTENTION + "mixing.convs.stage1.{leaf}"),
            Rule(_FEED_BLOCK + r"attn\.norm2" + LEAF, ATTENTION + "mixing.norm.{leaf}"),
            *fused("linear_pred"),
        ),
        turned=FUSION_DEEP_FIRST,
        dead=UNUSED_CLASSIFIER,
    ),
    Form(
        name="MetaSeg",
        preset="metaseg",
        sizes={**_WIDTH, **{f"stage{stage}.heads": (f"decode_head.attn{stage}.attn.q.weight", 0) for stage in (4, 3, 2)}},
        classifier="decode_head.linear_pred.weight",
        fixed=DROPPED,
        rules=(
            *block(_META_BLOCK),
            *(
                Rule(rf"decode_head\.attn{stage}\.attn\.sr" + LEAF, f"decoder.stage{stage}.attention.mixing.convs.stage{stage}.{{leaf}}")
                for stage in (4, 3, 2)
            ),
            Rule(_META_BLOCK + r"attn\.norm" + LEAF, ATTENTION + "mixing.norm.{leaf}"),
            *fused("linear_pred"),
        ),
        turned=FUSION_DEEP_FIRST,
        dead=UNUSED_CLASSIFIER,
    ),
)

HAMBURGER = MIX + "hamburger."
SEGNEXT = Form(
    name="SegNeXt (LightHamHead)",
    preset="segnext",
    sizes={"fusion_width": ("decode_head.squeeze.conv.weight", 0)},
    classifier="decode_head.conv_seg.weight",
    present=("decode_head.hamburger.ham_in.conv.weight",),
    rules=(
        Rule(r"decode_head\.squeeze\.conv" + LEAF, MIX + "conv.{leaf}"),
        Rule(r"decode_head\.squeeze\.gn" + LEAF, MIX + "norm.{leaf}"),
        Rule(r"decode_head\.hamburger\.ham_in\.conv" + LEAF, HAMBURGER + "enter.{leaf}"),
        Rule(r"decode_head\.hamburger\.ham_out\.conv" + LEAF, HAMBURGER + "leave.{leaf}"),
        Rule(r"decode_head\.hamburger\.ham_out\.gn" + LEAF, HAMBURGER + "norm.{leaf}"),
        Rule(r"decode_head\.align\.conv" + LEAF, MIX + "align.{leaf}"),
        Rule(r"decode_head\.align\.gn" + LEAF, MIX + "align_norm.{leaf}"),
        Rule(r"decode_head\.conv_seg" + LEAF, CLASSIFIER + "{leaf}"),
    ),
    said={"ham_rank": "ham_rank"},
    remark="the original starts its factorisation from random bases in every call; here they are fixed, so logits differ as its own do",
    dead=AUXILIARY,
)

FORMS: tuple[Form, ...] = (*SEGFORMER, *LINEAGE, SEGNEXT)
