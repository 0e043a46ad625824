"""Failures of a study that say nothing of its networks: equal ones in a row, lost workers, and which of them are tried again."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from optuna.trial import FrozenTrial, TrialState

from nasseg.search import view

EQUAL_FAILURES = 5
"""After so many trials in a row that failed for the same reason the search stops: it is the machine, the data or the recipe that fails."""


class FailureStreak:
    """Counts failures in a row that have one reason. Numbers and paths in a reason do not make it another."""

    def __init__(self) -> None:
        self._kind = ""
        self._count = 0

    def clear(self) -> None:
        """A trial was completed."""
        self._count = 0

    def note(self, reason: str) -> str | None:
        """Note a failed trial.

        Args:
            reason: why it failed.

        Returns:
            Why the search must stop; None as long as it need not.
        """
        kind = re.sub(r"\S*[/\d]\S*", "…", reason)
        self._count = self._count + 1 if kind == self._kind else 1
        self._kind = kind
        if self._count < EQUAL_FAILURES:
            return None
        return (
            f"{self._count} trials in a row failed: {reason.splitlines()[0]}; the search stops. "
            "When the cause is mended, the same command with --retry-failed trains the failed ones again"
        )


def to_retry(trials: Sequence[FrozenTrial], retried: Collection[int], *, failed: bool) -> list[FrozenTrial]:
    """The failed trials that are trained again when a search goes on.

    Args:
        trials: all of the study.
        retried: numbers of those whose place another trial has taken already.
        failed: whether every failure is tried again, or only what was lost for no fault of its own.
    """
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL
        and view.CANDIDATE in trial.user_attrs
        and view.DUPLICATE_OF not in trial.user_attrs
        and trial.number not in retried
        and (failed or trial.user_attrs.get(view.LOST))
    ]
