"""A loss as text: ``cross_entropy``, or a weighted sum such as ``cross_entropy+0.5*dice``.

One word, so that a search space, ``--set`` and a Parquet row can all hold it. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nasseg.errors import nearest

TERMS = ("cross_entropy", "ohem", "boundary", "dice", "lovasz")
"""The terms; :mod:`nasseg.training.losses` says what each is."""

NAMED: Mapping[str, str] = {"cross_entropy_dice": "cross_entropy+dice", "cross_entropy_lovasz": "cross_entropy+lovasz"}
"""Sums with a name of their own."""

EXAMPLE = "cross_entropy+0.5*dice"
LEGAL = f"one of {', '.join((*TERMS, *NAMED))}, or a weighted sum of different terms such as {EXAMPLE}"


def parse_mixture(text: str) -> dict[str, float]:
    """Term to weight; raises ValueError for a term that is none, one named twice, and a weight that is no number above 0."""
    found: dict[str, float] = {}
    for part in NAMED.get(text.strip(), text).split("+"):
        factor, star, name = part.rpartition("*")
        name = name.strip()
        weight = float(factor) if star else 1.0
        if name not in TERMS or name in found or not 0 < weight < math.inf:
            raise ValueError(f"{text}: not {LEGAL}")
        found[name] = weight
    return found


def spell_mixture(given: Any) -> Any:
    """One spelling for one loss: a mapping ``{cross_entropy: 1, dice: 0.5}`` becomes text, blanks and factors of 1 go. What is neither a
    text nor a mapping is given back; raises as :func:`parse_mixture`."""
    if isinstance(given, Mapping):
        given = "+".join(f"{weight}*{name}" for name, weight in given.items())
    if not isinstance(given, str) or given in NAMED:
        return given
    return "+".join(name if weight == 1 else f"{_number(weight)}*{name}" for name, weight in parse_mixture(given).items())


def _number(weight: float) -> str:
    return f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)


def nearest_mixture(given: Any) -> str:
    """A legal loss for someone who gave an illegal one."""
    return nearest(given, (*TERMS, *NAMED)) or EXAMPLE if isinstance(given, str) and "+" not in given and "*" not in given else EXAMPLE
