"""Variables: what a space leaves open, under which conditions, and what a chooser may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nasseg.errors import nearest

Scalar = str | int | float | bool

Nearest = Callable[[Scalar], Scalar]
"""The legal answer nearest to an answer; a legal answer is its own."""


def same(answer: Scalar) -> Scalar:
    """The :data:`Nearest` of a question whose answers are all legal."""
    return answer


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds where the gene ``slot`` is read and has one of the ``allowed`` canonical values. ``text`` is how a person reads it."""

    slot: str
    allowed: tuple[Any, ...]
    text: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        """``values`` maps slots to canonical values; a missing one, or None, is a gene that nothing reads."""
        value = values.get(self.slot)
        return value is not None and value in self.allowed


@dataclass(frozen=True, slots=True)
class Choices:
    """A variable of a decoder: one gene at one stage, at several tied ones, or a global one.

    ``name`` is the Optuna parameter's name, ``choices`` what a chooser picks from, in file order. ``values[stage][k]`` is the canonical
    gene value that choice k means at that stage (stage 0 for a global gene), None where it can never be legal there: ``native`` heads are
    8 at stage 4 and 5 at stage 3. ``when`` is the condition's text, empty for none.
    """

    name: str
    gene: str
    choices: tuple[Scalar, ...]
    values: Mapping[int, tuple[Any, ...]] = field(hash=False)
    when: str = ""
    meaning: str = ""

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that share the variable, deep to shallow; ``(0,)`` for a global gene."""
        return tuple(self.values)

    @property
    def tied(self) -> bool:
        """Whether several stages share it."""
        return len(self.values) > 1

    def index(self, answer: Any) -> int:
        """The position of a chooser's answer. Raises :class:`ValueError` for what is none of the choices."""
        for k, choice in enumerate(self.choices):
            if choice == answer and isinstance(choice, bool) == isinstance(answer, bool):
                return k
        raise ValueError(f"{self.name}: {answer!r} is none of {list(self.choices)}")

    def repair(self, drawn: int, legal: Sequence[int], stage: int) -> int:
        """The legal choice nearest to an illegal draw, always the same one.

        A source without a map gives way to the next deeper one that has a map, else to ``own``, else to the first legal. Sets of inputs
        go to the one that shares most, numbers to the nearest number, names to the nearest in the list.
        """
        if drawn in legal:
            return drawn
        at = self.values[stage]
        value = at[drawn] if at[drawn] is not None else self.choices[drawn]
        if self.gene == "attention":
            deeper = sorted((at[k], k) for k in legal if str(at[k]).startswith("stage") and str(at[k]) > str(value) > "stage")
            own = [k for k in legal if at[k] == "own"]
            return deeper[0][1] if deeper else own[0] if own else legal[0]
        if isinstance(value, tuple):
            return min(legal, key=lambda k: (len(set(value) ^ set(at[k])), abs(k - drawn), k))
        if _number(value) and any(_number(at[k]) for k in legal):
            return min((k for k in legal if _number(at[k])), key=lambda k: (abs(at[k] - value), k))
        return min(legal, key=lambda k: (abs(k - drawn), k))


@dataclass(frozen=True, slots=True)
class Setting:
    """A training gene, ``train.NAME``: choices, or a range of numbers. Whether there is such a field the trainer says later.

    A range is of whole numbers when both ends are; ``step`` counts from ``low``. ``conditions`` may name genes and earlier settings; where
    they do not hold the setting takes ``otherwise``, or is left to the trainer when that is None.
    """

    name: str
    choices: tuple[Scalar, ...] = ()
    low: float = 0
    high: float = 0
    step: int = 1
    log: bool = False
    integer: bool = False
    conditions: tuple[Condition, ...] = ()
    otherwise: Any = None

    @property
    def field(self) -> str:
        """The trainer's field: the name without ``train.``."""
        return self.name.removeprefix("train.")

    @property
    def gene(self) -> str:
        """A setting is its own gene."""
        return self.name

    @property
    def when(self) -> str:
        """The condition in words, empty for none."""
        return ", ".join(condition.text for condition in self.conditions)

    @property
    def meaning(self) -> str:
        """Which field of the trainer it sets."""
        return f"the trainer's {self.field}"

    def contains(self, value: Any) -> bool:
        """Whether the value could have been drawn."""
        if self.choices:
            return any(c == value and isinstance(c, bool) == isinstance(value, bool) for c in self.choices)
        if not _number(value) or not self.low <= value <= self.high:
            return False
        return not self.integer or (isinstance(value, int) and (value - int(self.low)) % self.step == 0)

    def values(self) -> Sequence[Scalar] | None:
        """All that could be drawn; None for a range of real numbers."""
        if self.choices:
            return self.choices
        return range(int(self.low), int(self.high) + 1, self.step) if self.integer else None

    def nearest(self, value: Any) -> Scalar:
        """The value that could be drawn and is nearest to a value: by distance for numbers, by spelling for names, else the first."""
        if self.choices:
            same = [choice for choice in self.choices if choice == value and isinstance(choice, bool) == isinstance(value, bool)]
            close: Scalar | None = same[0] if same else nearest(value, self.choices)
            return self.choices[0] if close is None else close
        inside = min(max(value, self.low), self.high) if _number(value) else self.low
        return int(self.low) + round((inside - self.low) / self.step) * self.step if self.integer else float(inside)

    def ask(self, chooser: Chooser) -> Scalar:
        """One value from a chooser. Raises :class:`ValueError` for an answer outside the range or the choices."""
        if self.choices:
            answer = chooser.categorical(self.name, self.choices)
        elif self.integer:
            answer = chooser.integer(self.name, int(self.low), int(self.high), self.step, self.log)
        else:
            answer = chooser.real(self.name, self.low, self.high, self.log)
        if not self.contains(answer):
            raise ValueError(f"{self.name}: {answer!r} is not in {self.text()}")
        return answer

    def text(self) -> str:
        """``0.0001 … 0.01 log``, ``2 … 8 step 2`` or the choices."""
        if self.choices:
            return ", ".join(plain(c) for c in self.choices)
        return f"{self.low:g} … {self.high:g}" + (f" step {self.step}" if self.step > 1 else "") + (" log" if self.log else "")


Variable = Choices | Setting


class Chooser(Protocol):
    """Who answers: an Optuna trial, a random generator, a fixed set of parameters."""

    def categorical(self, name: str, choices: Sequence[Scalar], nearest: Nearest = same) -> Scalar:
        """One of ``choices``, which are the same whenever ``name`` is asked for.

        What of them is legal depends on the answers before: whoever records answers records ``nearest(answer)``.
        """

    def integer(self, name: str, low: int, high: int, step: int, log: bool) -> int:
        """A whole number from ``low`` to ``high``, both ends included."""

    def real(self, name: str, low: float, high: float, log: bool) -> float:
        """A number from ``low`` to ``high``."""


def plain(value: Any) -> str:
    """A value as a YAML file spells it: ``true``, ``[2, 3, 4]``, ``own``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(plain(v) for v in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
