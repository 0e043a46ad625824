"""The training genes of a space: fixed values, and open settings with their conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nasseg.genes.genotype import Genotype
from nasseg.genes.slots import to_values
from nasseg.genes.variable import Chooser, Setting


class TrainingGenes:
    """Gives a genotype its settings: drawn, nearest to those of a recipe, or all there are.

    Args:
        fixed: values by field, the same for every genotype.
        opened: the open settings, each behind those its conditions name.
    """

    def __init__(self, fixed: Mapping[str, Any], opened: tuple[Setting, ...]) -> None:
        self.fixed = dict(fixed)
        self.opened = opened

    @property
    def combinations(self) -> int | None:
        """How many combinations of settings a genotype can have at most; None where a setting is a range of real numbers."""
        counts = [None if (values := setting.values()) is None else len(values) for setting in self.opened]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def active(self, setting: Setting, genotype: Genotype, settings: Mapping[str, Any]) -> bool:
        """Whether every condition of a setting holds for this genotype and these other settings."""
        if not setting.conditions:
            return True
        named = {f"train.{name}": value for name, value in {**self.fixed, **settings}.items()}
        values = {**to_values(genotype), **named}
        return all(condition.holds(values) for condition in setting.conditions)

    def draw(self, genotype: Genotype, chooser: Chooser) -> dict[str, Any]:
        """Settings from a chooser's answers."""
        out = dict(self.fixed)
        for setting in self.opened:
            if self.active(setting, genotype, out):
                out[setting.field] = setting.ask(chooser)
            elif setting.otherwise is not None:
                out[setting.field] = setting.otherwise
        return out

    def near(self, genotype: Genotype, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The settings nearest to those wanted, which hold a value for every open field."""
        out = dict(self.fixed)
        for setting in self.opened:
            if self.active(setting, genotype, out):
                out[setting.field] = setting.nearest(wanted[setting.field])
            elif setting.otherwise is not None:
                out[setting.field] = setting.otherwise
        return out

    def all(self, genotype: Genotype) -> Iterator[dict[str, Any]]:
        """Every combination of settings once. Only where :attr:`combinations` is a number."""

        def rest(k: int, out: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if k == len(self.opened):
                yield out
                return
            setting = self.opened[k]
            if self.active(setting, genotype, out):
                for value in setting.values() or ():
                    yield from rest(k + 1, {**out, setting.field: value})
            else:
                yield from rest(k + 1, out if setting.otherwise is None else {**out, setting.field: setting.otherwise})

        return rest(0, dict(self.fixed))
