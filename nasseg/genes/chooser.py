"""Choosers that need no sampler: at random, and from given answers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from nasseg.genes.variable import Nearest, Scalar, same


class RandomChooser:
    """Answers at random, uniformly over choices and ranges, over the logarithm of a logarithmic range."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def categorical(self, name: str, choices: Sequence[Scalar], nearest: Nearest = same) -> Scalar:
        """One of the legal ``choices``."""
        return self.rng.choice([choice for choice in choices if nearest(choice) == choice])

    def integer(self, name: str, low: int, high: int, step: int, log: bool) -> int:
        """A whole number from ``low`` to ``high``; on a logarithmic range each stands for the unit around it."""
        if log:
            drawn = math.exp(self.rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(drawn), low), high)
        return self.rng.randrange(low, high + 1, step)

    def real(self, name: str, low: float, high: float, log: bool) -> float:
        """A number from ``low`` to ``high``."""
        drawn = math.exp(self.rng.uniform(math.log(low), math.log(high))) if log else self.rng.uniform(low, high)
        return min(max(drawn, low), high)


class FixedChooser(RandomChooser):
    """Answers from ``parameters``, as :meth:`nasseg.genes.space.Space.encode` gives them; at random for what they do not name."""

    def __init__(self, parameters: Mapping[str, Scalar], rng: random.Random) -> None:
        super().__init__(rng)
        self.parameters = parameters

    def categorical(self, name: str, choices: Sequence[Scalar], nearest: Nearest = same) -> Scalar:
        """The given answer, or one of the legal ``choices``."""
        return self.parameters[name] if name in self.parameters else super().categorical(name, choices, nearest)

    def integer(self, name: str, low: int, high: int, step: int, log: bool) -> int:
        """The given answer, or one from the range."""
        return int(self.parameters[name]) if name in self.parameters else super().integer(name, low, high, step, log)

    def real(self, name: str, low: float, high: float, log: bool) -> float:
        """The given answer, or one from the range."""
        return float(self.parameters[name]) if name in self.parameters else super().real(name, low, high, log)
