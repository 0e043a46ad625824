"""Published decoders written down once more, from the facts of their authors' codes and in our own words: what ours are compared with.

Plain torch, nothing of nasseg. A module takes the four maps of an encoder, shallow to deep, and gives logits. Its parameters carry the
names of the authors' checkpoints (without ``decode_head.``), those that are registered and never used included. ``to_ours`` turns its state
into that of :class:`nasseg.models.decoder.Decoder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from references.feedformer import FeedFormer
from references.metaseg import MetaSeg
from references.segformer import SegFormer, SegFormerMmseg
from references.u_mixformer import UMixFormer


class Reference(Protocol):
    """What all references have beside being modules."""

    def __call__(self, maps: Sequence[Tensor]) -> Tensor: ...

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


def reference(name: str, channels: Sequence[int], classes: int, width: int) -> Reference:
    """The reference of a preset for an encoder of these widths, with random weights, in eval mode. ``width``: of the fused map."""
    made = {
        "segformer": lambda: SegFormer(channels, classes, width),
        "segformer_mmseg": lambda: SegFormerMmseg(channels, classes, width),
        "feedformer": lambda: FeedFormer(channels, classes, width, city=False),
        "feedformer_city": lambda: FeedFormer(channels, classes, width, city=True),
        "u_mixformer": lambda: UMixFormer(channels, classes, width, city=False),
        "u_mixformer_city": lambda: UMixFormer(channels, classes, width, city=True),
        "metaseg": lambda: MetaSeg(channels, classes, width),
    }[name]()
    return made.eval()


NAMES = ("segformer", "segformer_mmseg", "feedformer", "feedformer_city", "u_mixformer", "u_mixformer_city", "metaseg")
"""The presets that have a reference: those whose authors published their code."""
