"""What a published network says of itself beside its weights: classes, pixels, how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasseg.data.layouts import NAMED
from nasseg.data.palette import Colour, default_palette

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Description:
    """None where the file or folder does not say.

    ``mean`` and ``std`` are for images scaled to 0…1, RGB. ``size`` is (height, width) of the training crop, or what the published
    preprocessing resizes to. ``protocol`` holds fields of :class:`nasseg.training.protocol.Protocol` by name. ``reduce_zero_label``:
    masks were read with 0 ignored and every other label one less. ``pad_multiple`` is what inputs are padded to inside, 1 for not at all.
    ``bgr``: the network takes images as BGR (``mean`` and ``std`` are RGB all the same). ``align_corners``: its head resizes so. ``head``
    is the class of the decoder in its own framework, ``ham_rank`` the rank of SegNeXt's factorisation. ``origin`` names where all of this
    stands.
    """

    origin: str | None = None
    classes: tuple[str, ...] | None = None
    palette: tuple[Colour, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: Size | None = None
    protocol: Mapping[str, Any] | None = None
    reduce_zero_label: bool | None = None
    pad_multiple: int | None = None
    head: str | None = None
    ham_rank: int | None = None
    bgr: bool = False
    align_corners: bool = False


def classes_of(description: Description, count: int) -> tuple[tuple[str, ...] | None, tuple[Colour, ...]]:
    """Names, or None where the network has none, and colours for ``count`` classes.

    Names that are those of a public data set but for spaces and capitals get that set's spelling, and its colours where none are given.
    """
    names = description.classes
    if names is not None and (len(names) != count or numbered(names)):
        names = None
    palette = description.palette if description.palette is not None and len(description.palette) == count else None
    for layout in NAMED.values():
        if names is not None and layout.facts is not None and same_names(names, layout.facts.names):
            return layout.facts.names, palette or layout.facts.palette
    return names, palette or default_palette(count)


def same_names(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists of classes agree in order and wording, spaces at the ends and capitals aside."""
    return [plain(name) for name in some] == [plain(name) for name in others]


def numbered(names: Sequence[str]) -> bool:
    """Whether the names are numbers alone (``LABEL_0``, ``class_0``): then they say nothing."""
    return all(plain(name) in (f"label_{i}", f"class_{i}", f"class {i}", str(i)) for i, name in enumerate(names))


def plain(name: str) -> str:
    """A class name without what spelling varies in."""
    return " ".join(name.split()).casefold()
