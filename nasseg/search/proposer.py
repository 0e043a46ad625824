"""Candidates that need no sampler: presets that fit, unseen neighbours of the front, uniform feasible draws, and the proof that any
exist."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasseg.errors import BudgetError, Problem
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset

if TYPE_CHECKING:
    from nasseg.genes.space import Point, Space

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
        self._anchor: Point | None = None
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
        example = self.space.points(1, seed=0)[0]
        taken: dict[Genotype, str] = {}
        for name, backbone in itertools.product(self.space.presets, backbones):
            genotype = preset(name, backbone)
            label = name if len(backbones) == 1 else f"{name} on {backbone}"
            point = type(example)(genotype, dict(example.settings))
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
        """Raise :class:`BudgetError` with the cheapest genotype's cost if none fits.

        A small space is walked whole. In a large one, where uniform draws find none that fits, the cost is walked down over neighbours from
        the cheapest draws; only the end of these walks is reported, so it says "the cheapest found".
        """
        if not self.budget:
            return
        if self.enumerable:
            genotypes = self._all()
            if not any(self.fits(genotype) for genotype in genotypes):
                self._refuse(min(genotypes, key=self.excess), "the cheapest")
            return
        points = self.space.points(512, seed=0)
        if any(self.fits(point.genotype) for point in points) or any(plan.point for plan in self.presets()):
            return
        ends = [self._descend(point) for point in sorted(points, key=lambda p: self.excess(p.genotype))[:4]]
        best = min(ends, key=lambda p: self.excess(p.genotype))
        if not self.fits(best.genotype):
            self._refuse(best.genotype, "the cheapest found")
        self._anchor = best

    def excess(self, genotype: Genotype) -> tuple[float, float]:
        """How far over the budget: the worst bound's share first, the sum of all to break ties."""
        shares = self.budget.excess(self.values(genotype))
        return max(shares.values()), sum(shares.values())

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
            # Too tight for uniform draws: what the descent found, then its neighbours.
            for point in itertools.chain([self._anchor], self.space.neighbours(self._anchor, rng)):
                if self.fits(point.genotype) and unseen(point):
                    return point, "uniform"
        return None

    def _uniform(self, rng: random.Random) -> Iterator[Point]:
        if self.enumerable:
            settings: dict[str, Any] = {}
            maker = type(self.space.points(1, seed=0)[0])
            genotypes = self._all()
            yield from (maker(genotype, dict(settings)) for genotype in rng.sample(genotypes, len(genotypes)))
            return
        for _ in range(DRAWS // 256):
            yield from self.space.points(256, seed=rng.randrange(2**31))

    def _all(self) -> list[Genotype]:
        if self._enumerated is None:
            self._enumerated = list(self.space.enumerate())
        return self._enumerated

    def _descend(self, point: Point) -> Point:
        """Walk to the cheapest neighbour until none is cheaper or the budget is kept."""
        rng = random.Random(0)
        while not self.fits(point.genotype):
            near = min(self.space.neighbours(point, rng), key=lambda p: self.excess(p.genotype), default=point)
            if self.excess(near.genotype) >= self.excess(point.genotype):
                break
            point = near
        return point

    def _refuse(self, genotype: Genotype, which: str) -> None:
        violated = self.budget.violated(self.values(genotype))
        raise BudgetError(
            Problem("", "budget", f"no genotype of the space {self.space.name} fits; {which} has {violated} ({genotype.short()})")
        )
