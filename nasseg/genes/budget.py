"""Upper bounds on what a network may cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from nasseg.errors import ConfigError, Problem, nearest

SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([KkMmGgTt]?)\s*")


def quantity(value: float, *, up: bool = False) -> str:
    """A count with a decimal unit and three digits: ``1.93G``, ``5.49M``, ``640``; ``up`` rounds up, for a bound that holds the value."""
    if value != 0:
        # Three digits first, then the unit: 999.7e6 is 1.00G, not 1000M.
        unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
        value = (math.ceil(value / unit - 1e-9) if up else round(value / unit)) * unit
    for name, scale in reversed(SCALES.items()):
        scaled = value / scale
        if abs(scaled) >= 0.9995 and name:
            return f"{scaled:.{2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0}f}{name}"
    return f"{value:.3g}"


def parse_quantity(given: Any) -> float:
    """``"1.5G"``, ``"600 M"``, ``1.5e9`` or a plain number to a float above 0; anything else is a ``ValueError`` with the rule."""
    rule = "must be a number above 0, with K, M, G or T behind it if you like, such as 1.5G"
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        number = float(given)
    elif isinstance(given, str) and (found := _NUMBER.fullmatch(given)):
        number = float(found[1]) * SCALES[found[2].upper()]
    else:
        raise ValueError(rule)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(rule)
    return number


@dataclass(frozen=True)
class Budget:
    """Bounds by name; a network that costs exactly the bound is inside. An empty budget is falsy and fits everything."""

    NAMES: ClassVar[dict[str, str]] = {
        "params": "parameters of backbone and decoder",
        "macs": "multiply-accumulates of convolutions, linear layers and matrix products, backbone and decoder",
        "macs_fvcore": "the count of the papers: macs, and norms, resizes and pools",
        "decoder_params": "parameters of the decoder alone",
        "decoder_macs": "multiply-accumulates of the decoder alone",
    }

    bounds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, *, where: str = "--budget") -> Self:
        """``"macs=1.5G,params=6M"``; empty text or None is no budget. Raises :class:`ConfigError` with every problem at once."""
        given: dict[str, Any] = {}
        problems: list[Problem] = []
        for pair in (text or "").split(","):
            name, equals, value = pair.partition("=")
            if not pair.strip():
                continue
            if not equals:
                problems.append(Problem(where, "", "wants name=value pairs with commas between", pair.strip(), "macs=1.5G,params=6M"))
            elif name.strip() in given:
                problems.append(Problem(where, name.strip(), f"takes one value, and two are given: {given[name.strip()]}, {value.strip()}"))
            else:
                given[name.strip()] = value.strip()
        return cls._checked(given, where, problems)

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any] | None, *, where: str = "budget") -> Self:
        """``{"macs": "1.5G"}`` or ``{"macs": 1.5e9}``; None is no budget. Raises :class:`ConfigError` with every problem at once."""
        if raw is not None and not isinstance(raw, Mapping):
            raise ConfigError(Problem(where, "", "a budget is a mapping of names to upper bounds", raw, "{macs: 1.5G, params: 6M}"))
        return cls._checked(raw or {}, where, [])

    @classmethod
    def _checked(cls, raw: Mapping[str, Any], where: str, problems: list[Problem]) -> Self:
        bounds: dict[str, float] = {}
        for name, value in raw.items():
            if name not in cls.NAMES:
                rule = f"no such bound; there are {', '.join(cls.NAMES)}"
                problems.append(Problem(where, str(name), rule, value, nearest(name, cls.NAMES)))
                continue
            try:
                bounds[name] = parse_quantity(value)
            except ValueError as error:
                problems.append(Problem(where, name, str(error), value))
        if problems:
            raise ConfigError(problems)
        return cls({name: bounds[name] for name in cls.NAMES if name in bounds})

    def __bool__(self) -> bool:
        return bool(self.bounds)

    def __hash__(self) -> int:
        return hash(tuple(self.bounds.items()))

    def __str__(self) -> str:
        """``macs=1.50G,params=6.00M``: what :meth:`parse` reads (rounded to three digits)."""
        return ",".join(f"{name}={quantity(bound)}" for name, bound in self.bounds.items())

    def to_dict(self) -> dict[str, float]:
        """Plain numbers by name, for files; :meth:`from_mapping` gives the budget back."""
        return dict(self.bounds)

    def tightened(self, other: Budget) -> Budget:
        """Both budgets at once: every bound of either, the smaller where both have one."""
        bounds = {**self.bounds, **other.bounds}
        return Budget({n: min(self.bounds.get(n, bounds[n]), bounds[n]) for n in self.NAMES if n in bounds})

    def excess(self, values: Mapping[str, float]) -> dict[str, float]:
        """``value / bound - 1`` for each bound: at most 0 inside the budget, 0.25 for a quarter too much."""
        return {name: values[name] / bound - 1.0 for name, bound in self.bounds.items()}

    def fits(self, values: Mapping[str, float]) -> bool:
        """Whether every bound holds."""
        return all(values[name] <= bound for name, bound in self.bounds.items())

    def violated(self, values: Mapping[str, float]) -> str | None:
        """The broken bounds in words, ``macs 1.93G > 1.50G``, the worst first; None if the budget holds."""
        broken = sorted(((values[n] / b, n) for n, b in self.bounds.items() if values[n] > b), reverse=True)
        return ", ".join(comparison(name, values[name], self.bounds[name]) for _, name in broken) or None


def comparison(name: str, value: float, bound: float) -> str:
    """``macs 1.93G > 1.50G``; in full where three digits do not tell them apart."""
    shown, limit = quantity(value), quantity(bound)
    if shown == limit:
        shown, limit = f"{value:,.0f}", f"{bound:,.0f}"
    return f"{name} {shown} > {limit}"
