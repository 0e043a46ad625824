"""Which genotypes a space holds, exactly: counted, numbered and walked without listing them.

A space is a chain of *slots*: the global genes, and each stage's genes from stage 4 to stage 1. Walking down the chain, a slot is read or
not, and open or settled, by what earlier slots hold. What later slots can still see of the past is small (whether a deeper stage owns a
map, and on which grid, not how it got there), so the number of ways to go on is a recursion over (slot, what is still seen) with a memory:
some ten thousand states for the full decoder space. From the counts follow legality (a value is legal if at least one way goes on from it),
the size, the k-th genotype, and with it uniform samples.

Every way is another genotype. Three rules see to that: a gene that nothing reads has no value; a map of rank 0 is never reused (each
stage can spell the uniform map itself); and where one variable serves several stages, a choice that means the same as an earlier one at
every stage that reads it is not taken (``native`` heads and 8 heads, if stage 4 alone has a map).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from nasseg.genes.slots import CHAIN, DEFAULT, Values, default_value, derived, is_legal, is_read, sees, slot_name
from nasseg.genes.variable import Choices, Condition


@dataclass(frozen=True, slots=True)
class Binding:
    """How one slot gets its value: from ``variable``, or else settled to ``value``; to ``otherwise`` where a condition does not hold."""

    gene: str
    stage: int
    value: Any = DEFAULT
    variable: Choices | None = None
    conditions: tuple[Condition, ...] = ()
    otherwise: Any = DEFAULT

    @property
    def slot(self) -> str:
        """The slot's name."""
        return slot_name(self.gene, self.stage)


@dataclass(frozen=True, slots=True)
class Way:
    """One way on from a slot.

    ``choice`` is set where a variable is drawn here. ``follows`` marks a slot whose tied variable was drawn before; ``value`` then stands
    for all choices alike to the one drawn.
    """

    value: Any
    state: tuple[Any, ...]
    choice: int | None = None
    follows: bool = False


class Drawn(NamedTuple):
    """What is kept of a tied variable: the first choice ``like`` the one drawn, and earlier choices that so far mean the same."""

    like: int
    twins: frozenset[int]


def alike(variable: Choices) -> tuple[int, ...]:
    """For each choice of a tied variable the first one that all later slots take for the same.

    A later slot sees of a rank only whether it is 0 or full, of an FFN ratio whether it is 0, of a local module whether there is one, of
    inputs the coarsest and whether it is alone. Choices that mean the same at some stage keep apart: which of them was drawn matters.
    """

    def seen(value: Any) -> Any:
        if variable.gene == "rank":
            return value if value in (0, "full") else None
        if variable.gene in ("lpm", "ffn"):
            return value in (0, "none")
        if variable.gene == "inputs":
            return max(value), len(value) == 1
        return value if variable.gene in ("attention", "key_stride") else None

    first: dict[Any, int] = {}
    out = []
    for k in range(len(variable.choices)):
        rows = list(variable.values.values())
        alone = all(row[k] is not None and row.count(row[k]) == 1 for row in rows)
        out.append(first.setdefault(tuple(seen(row[k]) for row in rows) if alone else k, k))
    return tuple(out)


class Cycle(ValueError):
    """Conditions that wait for each other; ``slots`` are the ones involved."""

    def __init__(self, slots: Sequence[str]) -> None:
        self.slots = tuple(slots)
        super().__init__(", ".join(slots))


class Grammar:
    """The chain of one space: one :class:`Binding` per gene and stage. Raises :class:`Cycle` where conditions wait for each other."""

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self.bindings = {binding.slot: binding for binding in bindings}
        self.order = self._ordered()
        last = len(self.order)
        watched = {condition.slot for binding in self.bindings.values() for condition in binding.conditions}
        self._alike: dict[str, tuple[int, ...]] = {}
        for variable in {
            b.variable.name: b.variable for b in self.bindings.values() if b.variable is not None and b.variable.tied
        }.values():
            named = any(slot_name(variable.gene, stage) in watched for stage in variable.stages)
            self._alike[variable.name] = tuple(range(len(variable.choices))) if named else alike(variable)
        reads = [self._reads(slot) for slot in self.order]
        self._live: list[tuple[str, ...]] = []
        for k in range(last + 1):
            later = {name for names in reads[k:] for name in names}
            earlier = {*self.order[:k], *(name for names in reads[:k] for name in names if name.startswith("tie:"))}
            self._live.append(tuple(sorted(later & earlier)))
        # Tied variables that no slot behind this one reads: whether one is left with a twin is then known.
        self._closing = [
            tuple(name for name in {*self._live[k], *reads[k]} if name.startswith("tie:") and name not in self._live[k + 1])
            for k in range(last)
        ]
        # Instance-wide memory: a state is what is still seen, so the number of ways on depends on nothing else.
        self.count: Callable[[int, tuple[Any, ...]], int] = cache(self._count)
        self.ways: Callable[[int, tuple[Any, ...]], tuple[Way, ...]] = cache(self._ways)

    def _ordered(self) -> tuple[str, ...]:
        """CHAIN, with slots moved behind those that they see or that their conditions name."""
        chain = [slot_name(gene, stage) for gene, stage in CHAIN]
        waits = {}
        for name, (gene, stage) in zip(chain, CHAIN, strict=True):
            binding = self.bindings.get(name)
            waits[name] = {*sees(gene, stage), *(c.slot for c in (binding.conditions if binding else ()))}
        order: list[str] = []
        while chain:
            ready = next((name for name in chain if waits[name] <= set(order)), None)
            if ready is None:
                raise Cycle([name for name in chain if name in self.bindings and self.bindings[name].conditions])
            order.append(ready)
            chain.remove(ready)
        return tuple(order)

    def _reads(self, slot: str) -> set[str]:
        stage, _, gene = slot.rpartition(".")
        names = set(sees(gene, int(stage[5:]) if stage else 0))
        binding = self.bindings.get(slot)
        if binding is not None:
            names |= {condition.slot for condition in binding.conditions}
            if binding.variable is not None and binding.variable.tied:
                names.add(f"tie:{binding.variable.name}")
        return names

    def _next(self, k: int, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The state in front of slot k + 1, or None where a tied variable is left with a twin."""
        for name in self._closing[k]:
            drawn = values.get(name)
            if drawn is not None and drawn.twins:
                return None
        return tuple(map(values.get, self._live[k + 1]))

    def _ways(self, k: int, state: tuple[Any, ...]) -> tuple[Way, ...]:
        """The ways on from slot k, those without a completion included."""
        slot = self.order[k]
        values: dict[str, Any] = dict(zip(self._live[k], state, strict=True))
        out: list[Way] = []

        def add(value: Any, choice: int | None = None, tie: Mapping[str, Drawn] | None = None) -> None:
            following = self._next(k, {**values, slot: value, **(tie or {})})
            if following is not None:
                out.append(Way(value, following, choice, tie is not None and choice is None))

        binding = self.bindings.get(slot)
        if binding is None:
            add(derived(slot, values))
            return tuple(out)
        gene, stage, variable = binding.gene, binding.stage, binding.variable
        holds = all(condition.holds(values) for condition in binding.conditions)
        if not is_read(gene, stage, values):
            add(None)
        elif variable is None or not holds:
            value = binding.value if holds else binding.otherwise
            value = default_value(gene, stage, values) if value is DEFAULT else value
            if is_legal(gene, stage, value, values):
                add(value)
        else:
            at = variable.values[stage]
            tie = f"tie:{variable.name}"
            before: Drawn | None = values.get(tie)
            for choice in range(len(at)) if before is None else (before.like,):
                if at[choice] is None or not is_legal(gene, stage, at[choice], values):
                    continue
                if variable.tied:
                    earlier = range(choice) if before is None else before.twins
                    twins = frozenset(u for u in earlier if at[u] == at[choice])
                    add(at[choice], choice if before is None else None, {tie: Drawn(self._alike[variable.name][choice], twins)})
                else:
                    add(at[choice], choice)
        return tuple(out)

    def _count(self, k: int, state: tuple[Any, ...]) -> int:
        if k == len(self.order):
            return 1
        return sum(self.count(k + 1, way.state) for way in self.ways(k, state))

    def size(self) -> int:
        """The number of genotypes."""
        return self.count(0, ())

    def _alive(self, k: int, state: tuple[Any, ...]) -> list[Way]:
        return [way for way in self.ways(k, state) if self.count(k + 1, way.state)]

    def _take(self, slot: str, way: Way, values: dict[str, Any], drawn: dict[str, int]) -> None:
        """Enter a way's value, and its choice if it has one."""
        variable = binding.variable if (binding := self.bindings.get(slot)) is not None else None
        values[slot] = way.value
        if variable is not None and way.choice is not None:
            drawn[variable.name] = way.choice
        elif variable is not None and binding is not None and way.follows:
            values[slot] = variable.values[binding.stage][drawn[variable.name]]

    def walk(self, pick: Callable[[Choices, int, Sequence[int]], int]) -> dict[str, Any]:
        """One genotype's values. ``pick(variable, stage, legal)`` answers with a legal choice of each variable that is drawn."""
        values: dict[str, Any] = {}
        drawn: dict[str, int] = {}
        state: tuple[Any, ...] = ()
        for k, slot in enumerate(self.order):
            ways = self._alive(k, state)
            way = ways[0]
            legal = [w.choice for w in ways if w.choice is not None]
            if legal:
                binding = self.bindings[slot]
                assert binding.variable is not None
                way = ways[legal.index(pick(binding.variable, binding.stage, legal))]
            self._take(slot, way, values, drawn)
            state = way.state
        return values

    def at(self, number: int) -> dict[str, Any]:
        """The values of the genotype with this number, 0 to ``size() - 1``."""
        values: dict[str, Any] = {}
        drawn: dict[str, int] = {}
        state: tuple[Any, ...] = ()
        for k, slot in enumerate(self.order):
            for way in self.ways(k, state):
                ahead = self.count(k + 1, way.state)
                if number < ahead:
                    self._take(slot, way, values, drawn)
                    state = way.state
                    break
                number -= ahead
        return values

    def all(self) -> Iterator[dict[str, Any]]:
        """Every genotype's values, in the order of their numbers."""

        values: dict[str, Any] = {}
        drawn: dict[str, int] = {}

        def rest(k: int, state: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
            if k == len(self.order):
                yield dict(values)
                return
            for way in self._alive(k, state):
                self._take(self.order[k], way, values, drawn)
                yield from rest(k + 1, way.state)

        if self.size():
            yield from rest(0, ())

    def parameters(self, target: Values) -> dict[str, int] | None:
        """The choices by variable name that lead :meth:`walk` to these values, or None if none do."""

        values: dict[str, Any] = {}
        drawn: dict[str, int] = {}

        def rest(k: int, state: tuple[Any, ...]) -> dict[str, int] | None:
            if k == len(self.order):
                return {}
            slot = self.order[k]
            ways = self._alive(k, state)
            binding = self.bindings.get(slot)
            for way in ways:
                self._take(slot, way, values, drawn)
                if binding is not None and values[slot] != target.get(slot):
                    continue
                found = rest(k + 1, way.state)
                if found is not None:
                    if way.choice is not None and binding is not None and binding.variable is not None:
                        found[binding.variable.name] = way.choice
                    return found
            return None

        return rest(0, ())

    def used(self) -> tuple[dict[str, set[int]], dict[str, set[Any]]]:
        """What at least one genotype takes: choices by variable name, and values by slot. A slot that no genotype reads is missing."""
        choices: dict[str, set[int]] = {b.variable.name: set() for b in self.bindings.values() if b.variable is not None}
        taken: dict[str, set[Any]] = {}
        states: set[tuple[Any, ...]] = {()} if self.size() else set()
        for k, slot in enumerate(self.order):
            binding = self.bindings.get(slot)
            following = set()
            for state in states:
                for way in self._alive(k, state):
                    following.add(way.state)
                    if way.value is None or binding is None:
                        continue
                    meant = taken.setdefault(slot, set())
                    meant.add(way.value)
                    variable = binding.variable
                    if variable is not None and way.choice is not None:
                        choices[variable.name].add(way.choice)
                    elif variable is not None and way.follows:
                        at, like = variable.values[binding.stage], self._alike[variable.name]
                        meant.update(at[k] for k in range(len(at)) if at[like[k]] == way.value)
            states = following
        return choices, taken

    def deadlock(self) -> str | None:
        """Of a space without any genotype: the last slot that can be reached and where nothing is legal. None if there is a genotype."""
        states: set[tuple[Any, ...]] = set() if self.size() else {()}
        reached = None
        for k, slot in enumerate(self.order):
            if states:
                reached = slot
            states = {way.state for state in states for way in self.ways(k, state)}
        return reached
