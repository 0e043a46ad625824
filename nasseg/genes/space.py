"""A search space: which genotypes and training settings may be tried, how many there are, and which lie next to which."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from nasseg.errors import ConfigError, Problem
from nasseg.files import digest
from nasseg.genes import spacefile
from nasseg.genes.binding import bind, bind_settings, entries
from nasseg.genes.budget import Budget
from nasseg.genes.chooser import FixedChooser, RandomChooser
from nasseg.genes.counting import Cycle, Grammar
from nasseg.genes.gene import IMPLIED
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.genes.slots import slot_name, to_genotype, to_values
from nasseg.genes.soundness import dead_end, unused
from nasseg.genes.spacefile import GIVEN, SpaceFile
from nasseg.genes.stats import Cheapest, CostOf, SpaceStats, find_cheapest, take_stats
from nasseg.genes.training_genes import TrainingGenes
from nasseg.genes.variable import Choices, Chooser, Scalar, Setting, Variable, plain


@dataclass(frozen=True)
class Point:
    """One thing to try: a decoder, and the trainer's fields that the space sets (keys without ``train.``)."""

    genotype: Genotype
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, tuple[tuple[str, Any], ...]]:
        """Equal for equal points."""
        return self.genotype.id, tuple(sorted(self.settings.items()))


class Space:
    """Ordered genes, fixed values, budget and objectives. Made by :meth:`load` or :meth:`from_dict`; never changed afterwards."""

    def __init__(self, file: SpaceFile) -> None:
        """Raises :class:`ConfigError` with every problem of the merged file at once."""
        problems: list[Problem] = []
        self._file = file
        given = entries(file, problems)
        bindings = bind(file, given, problems)
        self.settings, self._open_settings = bind_settings(given, problems)
        self.training = TrainingGenes(self.settings, self._open_settings)
        if problems:
            raise ConfigError(problems)
        self.needs_genotype = file.genotype == GIVEN
        """Whether the decoder has to come by :meth:`with_genotype` before a point can be drawn."""
        try:
            self._grammar = Grammar(bindings)
        except Cycle as cycle:
            rule = f"its condition waits for itself (a circle through {', '.join(cycle.slots)})"
            raise ConfigError(Problem(file.where, f"genes.{cycle.slots[0]}.when", rule)) from cycle
        self._choices, self._values = ({}, {}) if self.needs_genotype else self._grammar.used()
        if not self.needs_genotype:
            problems = dead_end(self._grammar, file) or unused(file, given, self._values)
            if problems:
                raise ConfigError(problems)
        inside = {} if self.needs_genotype else {name: self._why_preset_outside(name) for name in file.presets}
        problems = [Problem(file.where, "presets", f"{name} lies outside the space: {why}") for name, why in inside.items() if why]
        if problems and file.own_presets:
            raise ConfigError(problems)
        self.presets = tuple(name for name in file.presets if not inside.get(name))
        """Published designs to start from; those of an extended space that no longer lie inside are left out."""

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Self:
        """A shipped space by name, or a space file by path. Raises :class:`ConfigError` with every problem at once."""
        return cls(spacefile.load(name))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "space") -> Self:
        """A space from a mapping with the keys of a space file."""
        return cls(spacefile.read(raw, where=where))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._file,))

    @property
    def name(self) -> str:
        """As the file says, or the file's name."""
        return self._file.name

    @property
    def description(self) -> str:
        """One sentence on what is searched."""
        return self._file.description

    @property
    def budget(self) -> Budget:
        """The bounds that the file sets."""
        return self._file.budget

    @property
    def objectives(self) -> dict[str, str]:
        """Direction (``max`` or ``min``) by metric or cost."""
        return dict(self._file.objectives)

    def to_dict(self) -> dict[str, Any]:
        """The space with all it extends merged in; :meth:`from_dict` gives an equal space back."""
        file = self._file
        genotype = file.genotype.to_dict() if isinstance(file.genotype, Genotype) else file.genotype
        out = {
            "name": file.name,
            "description": file.description,
            "genotype": genotype,
            "genes": dict(file.genes),
            "budget": file.budget.to_dict(),
            "objectives": self.objectives,
            "presets": list(self.presets),
        }
        return {key: value for key, value in out.items() if value not in (None, "", {}, [])}

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of all that decides what is searched: everything but name and description."""
        return digest({k: v for k, v in self.to_dict().items() if k not in ("name", "description")})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Space({self.name!r}, {self.fingerprint})"

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """What is searched, in drawing order. A variable that no genotype of the space reads, or that has one legal value, is left out."""
        seen: dict[str, Variable] = {}
        for slot in self._grammar.order:
            binding = self._grammar.bindings.get(slot)
            if binding is not None and binding.variable is not None and len(self._choices.get(binding.variable.name, ())) > 1:
                seen.setdefault(binding.variable.name, binding.variable)
        return (*seen.values(), *self._open_settings)

    @cached_property
    def _open(self) -> dict[str, Choices]:
        """The decoder's variables by name."""
        return {variable.name: variable for variable in self.variables if isinstance(variable, Choices)}

    @cached_property
    def settled(self) -> dict[str, tuple[Any, ...]]:
        """What no variable decides, by slot (``stage4.rank``, ``train.lr``): one value, or those that conditions or the key grid give."""
        searched = {slot_name(v.gene, i) for v in self.variables if isinstance(v, Choices) for i in v.stages}
        slots = [slot for slot in self._grammar.order if slot in self._values and slot not in searched]
        genes = {slot: tuple(sorted(self._values[slot], key=str)) for slot in slots}
        return genes | {f"train.{name}": (value,) for name, value in self.settings.items()}

    @property
    def fixed(self) -> dict[str, Any]:
        """What has one value in every genotype that reads it: genes by slot, and training genes."""
        return {slot: values[0] for slot, values in self.settled.items() if len(values) == 1}

    @property
    def backbones(self) -> tuple[str, ...]:
        """The backbones of the space; empty where it leaves them to ``--backbone``."""
        return tuple(sorted(self._values.get("backbone", ())))

    def used_choices(self, variable: Choices) -> tuple[Scalar, ...]:
        """The choices that at least one genotype of the space takes."""
        return tuple(choice for k, choice in enumerate(variable.choices) if k in self._choices[variable.name])

    def read_stages(self, variable: Choices) -> tuple[int, ...]:
        """The variable's stages, deep to shallow, without those where no genotype reads it."""
        return tuple(i for i in variable.stages if slot_name(variable.gene, i) in self._values)

    def with_fixed(self, assignments: Mapping[str, Any], *, where: str = "--set") -> Space:
        """A copy with genes settled: ``{"backbone": "mit_b0", "lpm": "se", "train.lr": 1e-3}``; a bare stage gene at all stages.

        Raises :class:`ConfigError` for unknown genes, illegal values, and values that no genotype of the space goes with.
        """
        if not assignments:
            return self
        return type(self)(spacefile.read({"name": self.name, "genes": dict(assignments)}, where=where, parent=self._file))

    def with_genotype(self, genotype: Genotype) -> Space:
        """A copy whose decoder is settled to this one; the training genes stay open. A genotype without a backbone takes the space's."""
        kept = {k: v for k, v in self._file.genes.items() if k.startswith("train.") or (k == "backbone" and genotype.backbone is None)}
        file = self._file
        return type(self)(
            SpaceFile(
                name=file.name,
                where=file.where,
                description=file.description,
                genotype=genotype,
                genes=kept,
                origin={k: file.origin[k] for k in kept},
                budget=file.budget,
                objectives=file.objectives,
            )
        )

    def size(self) -> int:
        """The number of distinct genotypes, exactly. Training genes are not counted."""
        return self._decoders().size()

    def at(self, number: int) -> Genotype:
        """The genotype with this number. Raises :class:`IndexError` outside 0 … ``size() - 1``."""
        if not 0 <= number < self.size():
            raise IndexError(f"{self.name} holds genotypes 0 to {self.size() - 1}, not {number}")
        return to_genotype(self._grammar.at(number))

    def sample(self, n: int, seed: int = 0) -> list[Genotype]:
        """``n`` independent draws, uniform over the genotypes of the space."""
        rng, size = random.Random(seed), self.size()
        return [to_genotype(self._grammar.at(rng.randrange(size))) for _ in range(n)]

    def points(self, n: int, seed: int = 0) -> list[Point]:
        """``n`` independent draws with settings, uniform (logarithmically where the range is) over each open training gene."""
        rng = random.Random(f"settings {seed}")
        return [Point(genotype, self.training.draw(genotype, RandomChooser(rng))) for genotype in self.sample(n, seed)]

    def enumerate(self) -> Iterator[Genotype]:
        """Every genotype once, in the order of their numbers."""
        return (to_genotype(values) for values in self._decoders().all())

    def suggest(self, chooser: Chooser) -> Point:
        """A point from a chooser's answers.

        The chooser is asked, in drawing order, for each variable that the network reads, with all its choices and with a function that
        finds the nearest legal one after the answers before; also where only one is legal, so that a record of the answers holds every open
        gene. An illegal answer goes to the nearest legal one (:meth:`nasseg.genes.variable.Choices.repair`). Raises :class:`ValueError`
        for an answer that was not offered.
        """

        def pick(variable: Choices, stage: int, legal: Sequence[int]) -> int:
            def nearest(answer: Scalar) -> Scalar:
                return variable.choices[variable.repair(variable.index(answer), legal, stage)]

            if variable.name not in self._open:
                return legal[0]
            return variable.index(nearest(chooser.categorical(variable.name, variable.choices, nearest)))

        genotype = to_genotype(self._decoders().walk(pick))
        return Point(genotype, self.training.draw(genotype, chooser))

    def encode(self, point: Point | Genotype) -> dict[str, Scalar] | None:
        """The answers that make :meth:`suggest` give this point, or None if it lies outside the space.

        Open training genes that the point does not set are left out: a published design says nothing about them.
        """
        genotype, settings = (point.genotype, point.settings) if isinstance(point, Point) else (point, {})
        found = self._decoders().parameters(to_values(genotype))
        if found is None or settings.keys() - self.settings.keys() - {s.field for s in self._open_settings}:
            return None
        if any(settings.get(name, value) != value for name, value in self.settings.items()):
            return None
        names = self._open
        out: dict[str, Scalar] = {name: names[name].choices[found[name]] for name in names if name in found}
        for setting in self._open_settings:
            active = self.training.active(setting, genotype, settings)
            given = settings.get(setting.field)
            if not active and given not in (None, setting.otherwise):
                return None
            if active and given is not None:
                if not setting.contains(given):
                    return None
                out[setting.name] = given
        return out

    def contains(self, genotype: Genotype) -> bool:
        """Whether this very genotype, backbone included, is one of the space."""
        return self.encode(genotype) is not None

    def _why_preset_outside(self, name: str) -> str | None:
        """Why neither the base size of a published design nor one for a backbone of the space is a genotype of it; None if one is."""
        forms = dict.fromkeys((preset(name), *(preset(name, backbone).on(None) for backbone in self.backbones)))
        reasons = [self.why_outside(form) for form in forms]
        return None if None in reasons else reasons[0]

    def why_outside(self, genotype: Genotype) -> str | None:
        """Why a design, its backbone left aside, is no genotype of the space; None if it is one."""
        target = to_values(genotype)
        grammar = self._decoders()
        target["backbone"] = next(iter(self._values.get("backbone", {None})))
        if grammar.parameters(target) is not None:
            return None
        reasons = []
        for slot in grammar.order:
            value, legal = target.get(slot), self._values.get(slot, set())
            implied = slot.rpartition(".")[2] in IMPLIED
            if value is not None and value not in legal and (legal or not implied):
                here = " or ".join(sorted(map(plain, legal))) or "not read"
                reasons.append(f"{slot} is {plain(value)} there and {here} here")
        return "; ".join(reasons) or "its values are each in the space, but not together"

    def neighbours(self, point: Point, rng: random.Random) -> Iterator[Point]:
        """Distinct other points, one variable away, in random order.

        What depends on the changed variable follows: genes that come to be read are drawn, values that are no longer legal go to the
        nearest legal one. A range gives two neighbours, each a tenth of its width away on average. Empty for a point outside the space.
        """
        start = self.encode(point)
        if start is None:
            return
        moves: list[tuple[str, Scalar]] = []
        for variable in self.variables:
            if variable.name not in start:
                continue
            if isinstance(variable, Choices) or variable.choices:
                moves += [(variable.name, choice) for choice in variable.choices if choice != start[variable.name]]
            else:
                moves += [(variable.name, _step(variable, start[variable.name], sign, rng)) for sign in (-1, 1)]
        rng.shuffle(moves)
        seen = {point.key}
        for name, answer in moves:
            other = self.suggest(FixedChooser({**start, name: answer}, rng))
            if other.key not in seen:
                seen.add(other.key)
                yield other

    def near(self, genotype: Genotype, rng: random.Random) -> Iterator[Genotype]:
        """The decoders of :meth:`neighbours`, training genes left aside."""
        seen = {genotype}
        for point in self.neighbours(Point(genotype), rng):
            if point.genotype not in seen:
                seen.add(point.genotype)
                yield point.genotype

    def stats(self, cost: CostOf | None = None, budget: Budget | None = None, samples: int = 2000, seed: int = 0) -> SpaceStats:
        """Size, the share inside the budget, which bound binds, and the spread of cost; see :func:`nasseg.genes.stats.take_stats`."""
        return take_stats(self, cost, self.budget if budget is None else budget, samples, seed)

    def cheapest(self, cost: CostOf, bound: str, samples: int = 200, seed: int = 0) -> Cheapest:
        """The genotype with the lowest ``bound`` that was found; see :func:`nasseg.genes.stats.find_cheapest`."""
        return find_cheapest(self, lambda values: values[bound], cost, samples, seed)

    def _decoders(self) -> Grammar:
        if self.needs_genotype:
            rule = "this space takes its decoder from outside: name one with --genotype, or Space.with_genotype"
            raise ConfigError(Problem(self._file.where, "genotype", rule, GIVEN, "scaseg"))
        return self._grammar


def _step(setting: Setting, value: Any, sign: int, rng: random.Random) -> Scalar:
    """A value a tenth of the range away on average, on the scale the range is drawn on; at least one step, and inside."""
    low, high = (math.log(setting.low), math.log(setting.high)) if setting.log else (setting.low, setting.high)
    moved = (math.log(value) if setting.log else value) + sign * rng.uniform(0, 0.2) * (high - low)
    moved = math.exp(moved) if setting.log else moved
    if setting.integer:
        steps = round((moved - setting.low) / setting.step)
        here = (value - int(setting.low)) // setting.step
        if steps == here:
            steps += sign
        return min(max(int(setting.low) + steps * setting.step, int(setting.low)), int(setting.high))
    return min(max(float(moved), setting.low), setting.high)
