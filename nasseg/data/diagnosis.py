"""What :mod:`nasseg.data.doctor` found, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasseg.data.images import IGNORE

ERROR, NOTE = "error", "note"

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. ``split`` is empty where it concerns the whole set; ``count`` how many cases there are, ``files`` the first few.

    ``settings`` are options of ``nasseg train`` and ``nasseg search`` that make up for it.
    """

    level: str
    kind: str
    text: str
    split: str = ""
    count: int = 1
    files: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "level": self.level,
            "kind": self.kind,
            "split": self.split,
            "text": self.text,
            "count": self.count,
            "files": list(self.files),
            "settings": list(self.settings),
        }


@dataclass(slots=True)
class SplitReport:
    """Counts over one split; ``pixels`` and ``images_with`` by label 0…255 after ``?relabel``, over the ``read`` pairs that fit."""

    name: str
    images: int = 0
    masks: int = 0
    read: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: Counts = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    images_with: Counts = field(default_factory=lambda: np.zeros(256, dtype=np.int64))

    @property
    def ignored(self) -> float:
        """Share of pixels with label 255, in percent."""
        return 100 * float(self.pixels[IGNORE]) / max(int(self.pixels.sum()), 1)

    def share(self, label: int) -> float:
        """Share of the pixels that count, in percent."""
        return 100 * float(self.pixels[label]) / max(int(self.pixels[:IGNORE].sum()), 1)

    def size_range(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """Smallest, median and largest (height, width) by area."""
        ordered = sorted(self.sizes.elements(), key=lambda size: (size[0] * size[1], size))
        return (ordered[0], ordered[len(ordered) // 2], ordered[-1]) if ordered else None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain JSON-able data, shares in percent."""
        spread = self.size_range()
        return {
            "images": self.images,
            "masks": self.masks,
            "read": self.read,
            "sizes": {
                "distinct": len(self.sizes),
                **({name: list(size) for name, size in zip(("min", "median", "max"), spread, strict=True)} if spread else {}),
            },
            "ignored_percent": round(self.ignored, 4),
            "classes": {
                name: {"percent": round(self.share(label), 4), "images": int(self.images_with[label])} for label, name in enumerate(classes)
            },
            "absent": [name for label, name in enumerate(classes) if not self.pixels[label]],
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found. ``errors`` empty: the set can be trained on as it is."""

    spec: str
    layout: str
    classes: tuple[str, ...]
    classes_from: str
    splits: Mapping[str, SplitReport]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What must be put right."""
        return tuple(finding for finding in self.findings if finding.level == ERROR)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "data": self.spec,
            "layout": self.layout,
            "classes": list(self.classes),
            "classes_from": self.classes_from,
            "splits": {name: report.to_dict(self.classes) for name, report in self.splits.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "errors": len(self.errors),
        }
