"""What a space holds under a budget, before anything is built: shares, spreads, the bound that binds, the cheapest network."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nasseg.errors import BudgetError, Problem
from nasseg.genes.budget import Budget, comparison, quantity
from nasseg.genes.genotype import Genotype

CostOf = Callable[[Genotype], Mapping[str, float]]
"""What a genotype costs, by budget names: ``lambda g: nasseg.cost(g, size=…, num_classes=…).values()``."""


class Listed(Protocol):
    """What of a :class:`nasseg.genes.space.Space` is needed here."""

    @property
    def name(self) -> str:
        """For messages."""

    def size(self) -> int:
        """How many genotypes there are."""

    def enumerate(self) -> Iterator[Genotype]:
        """All of them."""

    def sample(self, n: int, seed: int = 0) -> list[Genotype]:
        """Some of them, drawn uniformly."""

    def near(self, genotype: Genotype, rng: random.Random) -> Iterator[Genotype]:
        """Those one variable away."""


EXACT = 20_000
"""Up to this many genotypes a space is listed whole; beyond, it is sampled."""

BINS = 12


@dataclass(frozen=True)
class Histogram:
    """How many genotypes fall between neighbouring ``edges`` (one more than ``counts``; the last bin holds its upper edge)."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Iterable[float], bins: int = BINS) -> Histogram:
        """Bins of equal width, or of equal ratio where the largest value is over eight times the smallest. Wants one value at least."""
        given = sorted(values)
        low, high = given[0], given[-1]
        if low == high:
            return cls((low, high), (len(given),))
        if low > 0 and high > 8 * low:
            edges = [low * (high / low) ** (k / bins) for k in range(bins)]
        else:
            edges = [low + (high - low) * k / bins for k in range(bins)]
        counts = [0] * bins
        k = 0
        for value in given:
            while k < bins - 1 and value >= edges[k + 1]:
                k += 1
            counts[k] += 1
        return cls((*edges, high), tuple(counts))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {"edges": list(self.edges), "counts": list(self.counts)}


@dataclass(frozen=True)
class Cheapest:
    """A network that was found to cost little. ``exact`` says that all of the space was looked at, so that none costs less."""

    genotype: Genotype
    values: Mapping[str, float]
    exact: bool

    @property
    def words(self) -> str:
        """``the cheapest one`` where that is certain, ``the cheapest one found`` where not."""
        return "the cheapest one" if self.exact else "the cheapest one found"


@dataclass(frozen=True)
class SpaceStats:
    """A space under a budget.

    ``size`` is exact. ``exact`` says whether all genotypes were costed (``evaluated`` of them) or that many drawn; ``fitting`` of them fit.
    ``violations`` is the share of genotypes that break each bound, ``histograms`` and ``lowest`` the spread and the cheapest seen, by name
    of the cost.
    """

    size: int
    exact: bool = True
    evaluated: int = 0
    fitting: int = 0
    budget: Budget = field(default_factory=Budget)
    violations: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    lowest: Mapping[str, Cheapest] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """The share of genotypes that fit the budget; None if nothing was costed."""
        return self.fitting / self.evaluated if self.evaluated else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The share's 95 % interval: a point where it is exact, Wilson's where it is sampled."""
        if not self.evaluated:
            return None
        return (self.fitting / self.evaluated,) * 2 if self.exact else wilson(self.fitting, self.evaluated)

    @property
    def binding(self) -> str | None:
        """The bound that most genotypes break; None if none is broken."""
        worst = max(self.violations, key=lambda name: self.violations[name], default=None)
        return worst if worst is not None and self.violations[worst] > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "size": self.size,
            "exact": self.exact,
            "evaluated": self.evaluated,
            "fitting": self.fitting,
            "share": self.share,
            "interval": None if self.interval is None else list(self.interval),
            "budget": self.budget.to_dict(),
            "violations": dict(self.violations),
            "binding": self.binding,
            "histograms": {name: histogram.to_dict() for name, histogram in self.histograms.items()},
            "lowest": {
                name: {"id": low.genotype.id, "value": low.values[name], "genotype": low.genotype.to_dict()}
                for name, low in self.lowest.items()
            },
        }


def wilson(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default (E. B. Wilson, 1927)."""
    p, zz = hits / n, z * z / n
    centre = (p + zz / 2) / (1 + zz)
    half = z / (1 + zz) * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def take_stats(space: Listed, cost: CostOf | None, budget: Budget, samples: int, seed: int) -> SpaceStats:
    """Cost all genotypes of a space of at most :data:`EXACT`, or ``samples`` uniform draws. Without ``cost`` only the size is known."""
    size = space.size()
    if cost is None:
        return SpaceStats(size, budget=budget)
    exact = size <= EXACT
    genotypes: Iterator[Genotype] = space.enumerate() if exact else iter(space.sample(samples, seed))
    columns: dict[str, list[float]] = {}
    lowest: dict[str, Cheapest] = {}
    fitting = evaluated = 0
    for genotype in genotypes:
        values = cost(genotype)
        evaluated += 1
        fitting += budget.fits(values)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
            if name not in lowest or value < lowest[name].values[name]:
                lowest[name] = Cheapest(genotype, values, exact)
    violations = {name: sum(value > bound for value in columns[name]) / evaluated for name, bound in budget.bounds.items()}
    histograms = {name: Histogram.of(column) for name, column in columns.items()}
    return SpaceStats(size, exact, evaluated, fitting, budget, violations, histograms, lowest)


def find_cheapest(
    space: Listed,
    score: Callable[[Mapping[str, float]], float],
    cost: CostOf,
    samples: int = 200,
    seed: int = 0,
    enough: float = -math.inf,
) -> Cheapest:
    """The genotype with the lowest score: exactly where the space can be listed, by search where not.

    The search draws ``samples`` genotypes and walks from the best three to better neighbours, one variable at a time, until none is better.
    It may miss the very cheapest, so its answer is not ``exact``. It stops at the first score at or below ``enough``.
    """
    if space.size() <= EXACT:
        best: tuple[float, Genotype, Mapping[str, float]] | None = None
        for genotype in space.enumerate():
            values = cost(genotype)
            if best is None or score(values) < best[0]:
                best = (score(values), genotype, values)
                if best[0] <= enough:
                    break
        assert best is not None
        return Cheapest(best[1], best[2], exact=True)
    drawn = [(score(values := cost(genotype)), k, genotype, values) for k, genotype in enumerate(space.sample(samples, seed))]
    rng = random.Random(seed)
    found = []
    for value, _, genotype, values in sorted(drawn, key=lambda row: row[:2])[:3]:
        climbed = _descend(space, score, cost, (value, genotype, values), enough, rng)
        if climbed[0] <= enough:
            return Cheapest(climbed[1], climbed[2], exact=False)
        found.append(climbed)
    lowest = min(found, key=lambda row: row[0])
    return Cheapest(lowest[1], lowest[2], exact=False)


def _descend(
    space: Listed,
    score: Callable[[Mapping[str, float]], float],
    cost: CostOf,
    start: tuple[float, Genotype, Mapping[str, float]],
    enough: float,
    rng: random.Random,
) -> tuple[float, Genotype, Mapping[str, float]]:
    """To the first better neighbour, again and again."""
    here, better = start, True
    while better and here[0] > enough:
        better = False
        for genotype in space.near(here[1], rng):
            values = cost(genotype)
            if score(values) < here[0]:
                here, better = (score(values), genotype, values), True
                break
    return here


def require_feasible(space: Listed, budget: Budget, cost: CostOf, samples: int = 200, seed: int = 0) -> Cheapest | None:
    """A genotype inside the budget (None for an empty budget), or a :class:`BudgetError` that says what the cheapest one costs."""
    if not budget:
        return None
    closest = find_cheapest(space, lambda values: max(budget.excess(values).values()), cost, samples, seed, enough=0.0)
    if budget.fits(closest.values):
        return closest
    problems = []
    for name, bound in budget.bounds.items():
        low = find_cheapest(space, lambda values, name=name: values[name], cost, samples, seed, enough=bound)  # type: ignore[misc]
        if low.values[name] > bound:
            over = comparison(name, low.values[name], bound)
            rule = f"no network of space {space.name} fits this bound: {low.words} has {over} ({low.genotype.short()})"
            problems.append(Problem("budget", name, rule, None, f"{name}={quantity(low.values[name], up=True)}"))
    if not problems:
        which = closest.words.replace("cheapest", "closest")
        rule = f"no network of space {space.name} fits all bounds at once: {which} has {budget.violated(closest.values)}"
        problems.append(Problem("budget", "", f"{rule} ({closest.genotype.short()})", str(budget)))
    raise BudgetError(problems)
