"""Decoders of SegFormer's lineage under the names of their code bases, each on an encoder: what is loaded, and what it must compute.

Used by tests/published and bench/peers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kits_published import State, hugging_face, mmseg_encoder, randomised, smp_segformer
from references import reference
from references.light_ham import LightHam
from torch import Tensor, nn

from nasseg.models.backbones.registry import create_backbone
from nasseg.models.ham import fixed_bases
from tests.models.backbones.test_checkpoint_names import mscan_authors

SMALL = (32, 64, 160, 256)
"""Widths of MiT-B0 and MSCAN-T."""

Maps = Sequence[Tensor]


@dataclass(frozen=True)
class Encoder:
    """``maps`` computes it, ``state`` are its weights under published names, ``name`` is ours."""

    name: str
    maps: Callable[[Tensor], Maps]
    state: State


def authors_mit() -> Encoder:
    """MiT-B0 in the authors' code, as segmentation_models_pytorch has it."""
    module: Any = smp_segformer().encoder
    return Encoder("mit_b0", lambda x: module(x)[2:], {f"backbone.{key}": value for key, value in module.state_dict().items()})


def mmseg_mit() -> Encoder:
    """MiT-B0 as mmsegmentation computes it."""
    module: Any = hugging_face()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    return Encoder("mit_b0?norm_eps=1e-06", lambda x: module.segformer(x, output_hidden_states=True).hidden_states, mmseg_encoder(module))


def mscan(*, mmseg: bool) -> Encoder:
    """MSCAN-T, which has no peer here; its own tests hold it to its formulas."""
    module: Any = randomised(create_backbone("mscan_t"), seed=2)
    state = mscan_authors(dict(module.state_dict()), "mlp.dwconv" if mmseg else "mlp.dwconv.dwconv")
    return Encoder("mscan_t", module, {f"backbone.{key}": value for key, value in state.items() if not key.startswith("head.")})


def head_of(name: str, channels: Sequence[int], classes: int, width: int) -> nn.Module:
    """A reference with random weights."""
    made = reference(name, channels, classes, width)
    assert isinstance(made, nn.Module)
    return randomised(made, seed=11)


class SegNeXt(LightHam):
    """The reference on the maps of strides 8 to 32, from the bases that ours starts from in eval mode (the original's are random)."""

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__(tuple(channels[1:]), width, classes)

    def forward(self, maps: Maps) -> Tensor:  # type: ignore[override]
        return super().forward(list(maps)[1:], fixed_bases(self.squeeze.conv.out_channels, 16)[None])


@dataclass(frozen=True)
class Case:
    """A design on an encoder: whose form it is, the genes that tell it from its sisters, and image sizes it must hold at.

    ``head(channels, classes, width)`` is the decoder, whose parameters have the published names without ``decode_head.``: maps → logits.
    """

    kind: str
    encoder: Callable[[], Encoder]
    head: Callable[[Sequence[int], int, int], nn.Module]
    genes: dict[str, Any]
    sizes: tuple[tuple[int, int], ...]
    width: int = 128

    @property
    def any_size(self) -> bool:
        """Whether sizes that are no multiples of 32 are among them."""
        return any(side % 32 for size in self.sizes for side in size)


# At 96x160 the keys of MetaSeg and at 45x77 those of FeedFormer have windows that reach over the edge: both drop them. The Cityscapes forms
# ask for maps of even sides.
EVEN, ODD = ((64, 96), (128, 64)), ((45, 77),)
CASES = {
    "feedformer": Case(
        "FeedFormer",
        authors_mit,
        partial(head_of, "feedformer"),
        {"stage4.key_stride": 32, "stage3.key_stride": 16, "stage2.key_stride": 8, "stage4.query_pool": 1, "stage4.input_norm": True},
        (*EVEN, *ODD),
    ),
    "feedformer_city": Case(
        "FeedFormer's Cityscapes form (FeedFormerHeadCity)",
        authors_mit,
        partial(head_of, "feedformer_city"),
        {"stage4.key_stride": 64, "stage3.key_stride": 32, "stage2.key_stride": 16, "stage4.query_pool": 2},
        ((64, 128),),
    ),
    "u_mixformer": Case(
        "U-MixFormer (APFormerHead2)",
        mmseg_mit,
        partial(head_of, "u_mixformer"),
        {"stage4.residual": "normalised", "stage1.key_stride": 32, "stage1.mixing": "norm_gelu"},
        (*EVEN, *ODD),
    ),
    "u_mixformer_city": Case(
        "U-MixFormer's Cityscapes form (APFormerHeadCity)",
        mmseg_mit,
        partial(head_of, "u_mixformer_city"),
        {"stage4.residual": "normalised", "stage1.key_stride": 64, "stage1.mixing": "norm_norm_gelu", "stage2.query_pool": 2},
        ((64, 128), (128, 128)),
    ),
    "u_mixformer on mscan": Case(
        "U-MixFormer (APFormerHead2)",
        partial(mscan, mmseg=True),
        partial(head_of, "u_mixformer"),
        {"stage4.residual": "normalised"},
        (*EVEN, *ODD),
    ),
    "metaseg": Case(
        "MetaSeg",
        partial(mscan, mmseg=False),
        partial(head_of, "metaseg"),
        {
            "fusion_stride": 8,
            "stage4.heads": 8,
            "stage3.heads": 4,
            "stage2.heads": 2,
            "stage4.input_norm": True,
            "stage2.ffn_depthwise": False,
        },
        ((64, 128), (96, 160), (77, 173)),
    ),
    "segnext": Case(
        "SegNeXt (LightHamHead)",
        partial(mscan, mmseg=False),
        lambda channels, classes, width: randomised(SegNeXt(channels, classes, width), seed=11),
        {"fusion": "ham", "ham_rank": 16, "fusion_stride": 8, "stage4.attention": "none"},
        (*EVEN, *ODD),
        width=256,
    ),
}
