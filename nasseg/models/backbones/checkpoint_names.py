"""Names of published checkpoints: rules that turn the keys of somebody else's file into our state-dict names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

_COUNTED = {"1": -1, "0": 1}
"""What a group's last character, where it counts, adds to the number it matched."""


@dataclass(frozen=True)
class Rule:
    """A key that matches ``pattern`` as a whole becomes ``name``, filled with the pattern's groups.

    A group whose name ends in 1 (``stage1``, ``pass1``) counts from 1; it fills the place without the 1 (``stage``, ``pass``) from 0. One
    whose name ends in 0 counts from 0 and fills its place from 1.
    """

    pattern: str
    name: str

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, ready to match."""
        return re.compile(self.pattern)

    def apply(self, key: str) -> str | None:
        """Our name, or None where the rule does not speak of this key."""
        found = self.compiled.fullmatch(key)
        if found is None:
            return None
        return self.name.format(**dict(_place(group, text) for group, text in found.groupdict().items()))


def _place(group: str, text: str) -> tuple[str, str]:
    if group[-1] in _COUNTED:
        return group[:-1], str(int(text) + _COUNTED[group[-1]])
    return group, text


def rename(
    tensors: Mapping[str, Tensor], rules: Iterable[Rule], wanted: Mapping[str, Tensor], top: tuple[str, ...]
) -> tuple[dict[str, Tensor], set[str]]:
    """Tensors under our names, and the keys that start with one of ``top`` (classifiers, other heads: not the backbone's).

    A tensor that differs from the wanted one only by axes of length 1 (a 1×1 convolution for a linear layer, a layer scale kept as C×1×1)
    takes the wanted shape. A key that no rule knows keeps its name.
    """
    rules = tuple(rules)
    out: dict[str, Tensor] = {}
    spare: set[str] = set()
    for key, value in tensors.items():
        if key not in wanted and key.startswith(top):
            spare.add(key)
            continue
        name = key if key in wanted else next((new for rule in rules if (new := rule.apply(key)) is not None), key)
        if name in wanted and value.shape != wanted[name].shape and value.squeeze().shape == wanted[name].squeeze().shape:
            value = value.reshape(wanted[name].shape)
        out[name] = value
    return out, spare
