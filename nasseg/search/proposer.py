"""Candidates that need no sampler: presets that fit, unseen neighbours of the front, uniform feasible draws."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nasseg.genes.budget import Budget
from nasseg.genes.chooser import FixedChooser
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.genes.space import Point, Space
from nasseg.genes.stats import Cheapest, require_feasible

CostFunction = Callable[[Genotype], Mapping[str, float]]
"""A genotype's cost under the names of a budget."""

ENUMERABLE = 5_000
"""Up to this many genotypes a space is walked whole, so its end is known for certain."""

DRAWS = 4_096
"""Uniform draws without a new feasible one after which a space counts as used up."""

REMEMBERED = 50_000
"""Costs kept at a time."""


@dataclass(frozen=True)
class PresetPlan:
    """What becomes of one published design: proposed where ``point`` is given, else left out for the ``reason``."""

    name: str
    point: Point | None
    reason: str | None = None


class Proposer:
    """Draws from a space under a budget. Costs are remembered by genotype, so asking again costs nothing."""

    def __init__(self, space: Space, budget: Budget, cost: CostFunction) -> None:
        self.space = space
        self.budget = budget
        self.cost = cost
        self._costs: dict[Genotype, dict[str, float]] = {}
        self._anchor: Cheapest | None = None
        self._checked = False
        self._enumerated: list[Genotype] | None = None

    def values(self, genotype: Genotype) -> dict[str, float]:
        """The genotype's cost."""
        found = self._costs.get(genotype)
        if found is None:
            if len(self._costs) >= REMEMBERED:
                self._costs.clear()
            found = self._costs[genotype] = dict(self.cost(genotype))
        return found

    def fits(self, genotype: Genotype) -> bool:
        """Whether the genotype keeps every bound."""
        return self.budget.fits(self.values(genotype))

    @property
    def has_settings(self) -> bool:
        """Whether training settings are searched as well, so that genotypes alone do not make up the space."""
        return any(variable.name.startswith("train.") for variable in self.space.variables)

    @property
    def enumerable(self) -> bool:
        """Whether the space is small enough to be walked whole."""
        return not self.has_settings and self.space.size() <= ENUMERABLE

    def presets(self) -> list[PresetPlan]:
        """The space's presets on every backbone of the space: which are proposed, which are left out and why."""
        plans: list[PresetPlan] = []
        backbones = list(dict.fromkeys(g.backbone for g in self.space.sample(64, seed=0)))
        taken: dict[Genotype, str] = {}
        for name, backbone in itertools.product(self.space.presets, backbones):
            genotype = preset(name, backbone)
            label = name if len(backbones) == 1 else f"{name} on {backbone}"
            point = Point(genotype)
            if self.space.encode(point) is None:
                plans.append(PresetPlan(label, None, "lies outside the space"))
            elif (violated := self.budget.violated(self.values(genotype))) is not None:
                plans.append(PresetPlan(label, None, f"over budget: {violated}"))
            elif genotype in taken:
                plans.append(PresetPlan(label, None, f"the same network as {taken[genotype]}"))
            else:
                taken[genotype] = label
                plans.append(PresetPlan(label, point))
        return plans

    def check_budget(self) -> None:
        """Raise :class:`nasseg.errors.BudgetError` with the cheapest genotype's cost if none fits."""
        if not self._checked:
            self._anchor = require_feasible(self.space, self.budget, self.values)
            self._checked = True

    def fresh(self, front: Sequence[Point], unseen: Callable[[Point], bool], rng: random.Random) -> tuple[Point, str] | None:
        """A feasible point that no trial has had yet, and its origin: a neighbour of a front point (``neighbour``), else a uniform draw
        (``uniform``); None where the space holds no other.

        ``front`` may be empty. In a space too large to walk, ``DRAWS`` draws in a row that give nothing new count as the end.
        """
        for point in rng.sample(list(front), len(front)):
            for near in self.space.neighbours(point, rng):
                if self.fits(near.genotype) and unseen(near):
                    return near, "neighbour"
        for point in self._uniform(rng):
            if self.fits(point.genotype) and unseen(point):
                return point, "uniform"
        if self._anchor is not None and not front:
            # Too tight for uniform draws: what the search for the cheapest came by, then its neighbours.
            start = self._with_settings(self._anchor.genotype, rng)
            for point in itertools.chain([start], self.space.neighbours(start, rng)):
                if self.fits(point.genotype) and unseen(point):
                    return point, "uniform"
        return None

    def _with_settings(self, genotype: Genotype, rng: random.Random) -> Point:
        """The genotype with its settings drawn."""
        parameters = self.space.encode(genotype)
        return self.space.suggest(FixedChooser(parameters or {}, rng))

    def _uniform(self, rng: random.Random) -> Iterator[Point]:
        if self.enumerable:
            genotypes = self._all()
            yield from (self._with_settings(genotype, rng) for genotype in rng.sample(genotypes, len(genotypes)))
            return
        for _ in range(DRAWS // 256):
            yield from self.space.points(256, seed=rng.randrange(2**31))

    def _all(self) -> list[Genotype]:
        if self._enumerated is None:
            self._enumerated = list(self.space.enumerate())
        return self._enumerated
