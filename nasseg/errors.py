"""Every error nasseg raises on purpose.

NassegError                  exit code 2: something given to nasseg was wrong
├── ConfigError              one or more problems in a file or on the command line, all reported at once
│   └── BudgetError          no genotype of the space fits the budget
├── DataError                a data set that cannot be read or does not keep the rules
├── BackboneError            unknown backbone, or one that breaks the four-stage contract
├── WeightsError             a weights file that does not belong to the model
├── StudyError               a results folder that belongs to something else, or cannot be written
├── BundleError              a bundle that cannot be read
└── RunFailed                exit code 1: the input was right, the run went wrong
    ├── TrainingFailed       NaN loss, out of memory, worker lost; carries the reason
    └── ExportFailed         an exported program does not agree with the module
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class NassegError(Exception):
    """Root of nasseg's errors. ``exit_code`` is what the command line returns for it."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one key: where it stands, what was given, the rule, the nearest legal thing.

    ``legal`` are all legal names, for a rule that does not list them: they are shown where ``nearest`` is None.
    """

    where: str
    key: str
    rule: str
    given: Any = None
    nearest: Any = None
    legal: tuple[Any, ...] = ()

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        given = "" if self.given is None else f" (given {self.given!r})"
        if self.nearest is not None:
            hint = f"; nearest legal: {self.nearest}"
        else:
            hint = f"; legal are {', '.join(map(str, self.legal))}" if self.legal else ""
        return f"{place}: {self.rule}{given}{hint}" if place else f"{self.rule}{given}{hint}"


class ConfigError(NassegError):
    """One or more :class:`Problem`; the text holds all of them, one a line."""

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.problems,))


class BudgetError(ConfigError):
    """No genotype of the space fits the budget."""


class DataError(NassegError):
    """A data set that cannot be read or does not keep the rules."""


class BackboneError(NassegError):
    """Unknown backbone, or one that does not yield strides 4, 8, 16, 32."""


class WeightsError(NassegError):
    """A weights file that does not belong to the model."""


class StudyError(NassegError):
    """A results folder that belongs to another study, or cannot be written."""


class BundleError(NassegError):
    """A bundle that cannot be read."""


class RunFailed(NassegError):
    """The input was right, the run went wrong."""

    exit_code = 1


class TrainingFailed(RunFailed):
    """NaN loss, out of memory, lost worker: the message is the reason."""


class ExportFailed(RunFailed):
    """An exported program does not agree with the module it came from."""


CLOSE = 0.6
"""Share of the letters of two names that must match in order, 2·matches / letters of both, for one to be a slip for the other."""


def nearest(given: object, options: Iterable[Any]) -> Any:
    """The legal option closest to what was given: by distance for numbers, by spelling for names; None if nothing is close.

    A name is close where letters and order differ little (:data:`CLOSE`), or where it goes on from what was given (``iter``,
    ``iterations``).
    """
    choices = list(options)
    if isinstance(given, (list, tuple)) and len(given) == 1:
        given = given[0]
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        numbers = [o for o in choices if isinstance(o, (int, float)) and not isinstance(o, bool)]
        if numbers:
            return min(numbers, key=lambda o: (abs(o - given), o))
    by_text = {str(o): o for o in choices}
    text = str(given)
    folded = {t.lower(): t for t in by_text}
    if text.lower() in folded:
        return by_text[folded[text.lower()]]
    close = sorted((t for t in folded if t.startswith(text.lower())), key=len)[:1] if len(text) > 2 else []
    close = close or difflib.get_close_matches(text.lower(), list(folded), n=1, cutoff=CLOSE)
    return by_text[folded[close[0]]] if close else None
