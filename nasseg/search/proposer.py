"""Candidates that need no sampler: points to start from, unseen neighbours of the front, uniform feasible draws, all there are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from nasseg.genes.budget import Budget
from nasseg.genes.chooser import FixedChooser
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Point, Space
from nasseg.genes.stats import Cheapest, find_cheapest, require_feasible
from nasseg.search.starts import DEFAULTS, PRESET, Start, designs, moved_defaults, single_decoders

CostFunction = Callable[[Genotype], Mapping[str, float]]
"""A genotype's cost under the names of a budget."""

ENUMERABLE = 5_000
"""A space of up to this many genotypes is listed as soon as a point is wanted that is new and fits."""

LISTABLE = 50_000
"""Up to this many a space is listed when random draws give nothing new, so that its end is known for certain (20 s at most)."""

DRAWS = 4_096
"""Uniform draws without a new feasible one after which they count as used up."""

DESCENTS = 4
"""Searches from random genotypes for one that fits, where neighbours and draws give nothing new."""

REMEMBERED = 50_000
"""Costs kept at a time."""


class Proposer:
    """Draws from a space under a budget. Costs are remembered by genotype, so asking again costs nothing.

    Args:
        space: what may be tried.
        budget: what a genotype may cost.
        cost: what it does cost.
        defaults: the recipe's own values of the settings that the space leaves open, by field; None where nobody knows them.
    """

    def __init__(self, space: Space, budget: Budget, cost: CostFunction, defaults: Mapping[str, Any] | None = None) -> None:
        self.space = space
        self.budget = budget
        self.cost = cost
        self.defaults = defaults
        self._costs: dict[Genotype, dict[str, float]] = {}
        self._anchor: Cheapest | None = None
        self._checked = False
        self._fitting: list[Genotype] | None = None
        self._drawn_out = False
        """Whether uniform draws have given nothing new once: from then on they come last."""
        self._barren: set[Any] = set()
        """Keys of points without a neighbour that is new and fits."""

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
        return bool(self.space.training.opened)

    @property
    def size(self) -> int | None:
        """How many points the space holds at most, settings included; None where a setting is a range of real numbers."""
        combinations = self.space.training.combinations
        return None if combinations is None else self.space.size() * combinations

    @property
    def enumerable(self) -> bool:
        """Whether the space is small enough to be listed at once."""
        return self.size is not None and self.size <= ENUMERABLE

    @property
    def listable(self) -> bool:
        """Whether the space is small enough to be listed at its end."""
        return self.size is not None and self.size <= LISTABLE

    def count(self) -> int | None:
        """How many points fit the budget, exactly; None where the space is too large to be listed."""
        if not self.listable:
            return None
        if not self.has_settings:
            return len(self.fitting())
        return sum(1 for genotype in self.fitting() for _ in self.space.training.all(genotype))

    def fitting(self) -> list[Genotype]:
        """Every genotype that fits."""
        if self._fitting is None:
            self._fitting = [genotype for genotype in self.space.enumerate() if self.fits(genotype)]
        return self._fitting

    def starts(self) -> list[Start]:
        """What is tried before the sampler is asked, in this order, and what is left out and why.

        The published designs that the space names, on each of its backbones. Where training settings are searched and the recipe's defaults
        are known, each design is tried with those; a space without designs tries them on its decoder, or on one drawn from it.
        """
        with_defaults = self.has_settings and self.defaults is not None
        kind = DEFAULTS if with_defaults else PRESET
        listed = (single_decoders(self.space) if with_defaults else []) or list(designs(self.space))
        starts: list[Start] = []
        taken: dict[Genotype, str] = {}
        for name, genotype in listed:
            origin = f"{kind}:{name}" if name else kind
            if self.space.encode(genotype) is None:
                starts.append(Start(origin, None, "lies outside the space"))
            elif (violated := self.budget.violated(self.values(genotype))) is not None:
                starts.append(Start(origin, None, f"over budget: {violated}"))
            elif genotype in taken:
                starts.append(Start(origin, None, f"the same network as {taken[genotype]}"))
            else:
                taken[genotype] = name
                starts.append(Start(origin, self._start_point(genotype)))
        if with_defaults and not taken:
            drawn = self.fresh((), lambda point: True, random.Random(DEFAULTS))
            if drawn is not None:
                starts.append(Start(DEFAULTS, self._start_point(drawn[0].genotype)))
        return starts

    def moved_defaults(self) -> list[str]:
        """A sentence for each default of the recipe that the space does not hold."""
        return [] if self.defaults is None else moved_defaults(self.space, self.defaults)

    def _start_point(self, genotype: Genotype) -> Point:
        """A genotype to start from. Without defaults its settings are left to the sampler."""
        return Point(genotype) if self.defaults is None else Point(genotype, self.space.training.near(genotype, self.defaults))

    def check_budget(self) -> None:
        """Raise :class:`nasseg.errors.BudgetError` with the cheapest genotype's cost if none fits."""
        if not self._checked:
            self._anchor = require_feasible(self.space, self.budget, self.values)
            self._checked = True

    def fresh(
        self,
        front: Sequence[Point],
        unseen: Callable[[Point], bool],
        rng: random.Random,
        tried: Callable[[], Sequence[Point]] = tuple,
    ) -> tuple[Point, str] | None:
        """A feasible point that no trial has had yet.

        Args:
            front: points whose neighbours are looked at first; may be empty.
            unseen: whether a point is new.
            rng: for the order of everything.
            tried: all points that have been tried, for a space that is too large to list: their neighbours are the last to be looked at.

        Returns:
            The point and its origin, ``neighbour`` or ``uniform``; None where there is no other (:meth:`used_up` says how certain that is).
        """

        def new(points: Iterable[Point]) -> Point | None:
            return next((point for point in points if self.fits(point.genotype) and unseen(point)), None)

        for point in rng.sample(list(front), len(front)):
            if (found := new(self.space.neighbours(point, rng))) is not None:
                return found, "neighbour"
        if not self.enumerable and not self._drawn_out:
            if (found := new(self._uniform(rng))) is not None:
                return found, "uniform"
            self._drawn_out = True
        if self.listable:
            found = new(self._listed(rng))
            return None if found is None else (found, "uniform")
        if self._anchor is not None:
            # Too tight for uniform draws: what the search for the cheapest came by, then its neighbours.
            start = self._with_settings(self._anchor.genotype, rng)
            if (found := new(itertools.chain([start], self.space.neighbours(start, rng)))) is not None:
                return found, "uniform"
        points = list(tried())
        for point in rng.sample(points, len(points)):
            if point.key not in self._barren:
                if (found := new(self.space.neighbours(point, rng))) is not None:
                    return found, "neighbour"
                self._barren.add(point.key)
        found = new(itertools.chain(self._uniform(rng), self._descents(rng)))
        return None if found is None else (found, "uniform")

    def used_up(self) -> str:
        """Why :meth:`fresh` gave nothing, in words; certain only where the space was listed."""
        if self.listable:
            settings = " with every setting" if self.has_settings else ""
            return f"every network of the space {self.space.name} that fits the budget has been tried{settings}"
        return (
            f"no other network of the space {self.space.name} that fits the budget was found by {DRAWS:,} random draws and among the "
            "neighbours of all that were tried; there may be more"
        )

    def _with_settings(self, genotype: Genotype, rng: random.Random) -> Point:
        """The genotype with its settings drawn."""
        parameters = self.space.encode(genotype)
        return self.space.suggest(FixedChooser(parameters or {}, rng))

    def _uniform(self, rng: random.Random) -> Iterator[Point]:
        for _ in range(DRAWS // 256):
            yield from self.space.points(256, seed=rng.randrange(2**31))

    def _listed(self, rng: random.Random) -> Iterator[Point]:
        """Every point that fits, in random order."""
        for genotype in rng.sample(self.fitting(), len(self.fitting())):
            settings = list(self.space.training.all(genotype))
            for each in rng.sample(settings, len(settings)):
                yield Point(genotype, each)

    def _descents(self, rng: random.Random) -> Iterator[Point]:
        """Genotypes that fit, come by from random ones step by step, and their neighbours."""
        for _ in range(DESCENTS if self.budget else 0):
            found = find_cheapest(
                self.space, lambda values: max(self.budget.excess(values).values()), self.values, 64, rng.randrange(2**31), enough=0.0
            )
            start = self._with_settings(found.genotype, rng)
            yield start
            yield from self.space.neighbours(start, rng)
