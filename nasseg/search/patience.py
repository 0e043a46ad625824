"""How long a study waits for a draw of its sampler that is new and fits the budget."""

from __future__ import annotations

REJECTS_IN_A_ROW = 200
"""After so many rejects one that fits is drawn; half as many the next time, until the sampler finds one itself."""

FEWEST_REJECTS = 25

SLOW_REJECTS = {"gp": 5}
"""Samplers that need seconds a draw, or to which rejects say nothing: so many in a row for them."""

MOST_STUCK = 200
"""Queued points in a row that were not handed out: then something is wrong, and the search ends."""


class Patience:
    """Counts rejects and duplicates; :attr:`over` says when a point that is new and fits is to be queued in place of the next draw."""

    def __init__(self, sampler: str) -> None:
        self._first = self._limit = SLOW_REJECTS.get(sampler, REJECTS_IN_A_ROW)
        self._seen: set[str] = set()
        self._streak = 0
        self.want_fresh = False
        """Whether the sampler repeats itself."""
        self.stuck = 0
        """Points queued since a trial was handed out."""

    @property
    def over(self) -> bool:
        """Whether a point is to be queued."""
        return self.want_fresh or self._streak >= self._limit

    def remember(self, key: str) -> None:
        """A reject of an earlier start."""
        self._seen.add(key)

    def reject(self, key: str) -> None:
        """A draw over budget. One that was rejected before is a repetition: this sampler learns nothing from rejects."""
        self.want_fresh = self.want_fresh or key in self._seen
        self._seen.add(key)
        self._streak += 1

    def hand_out(self, *, drawn: bool) -> None:
        """A trial was handed out; ``drawn``: by the sampler itself."""
        self._streak = self.stuck = 0
        if drawn:
            self._limit = self._first

    def queue(self) -> None:
        """A point is about to be queued."""
        if self._streak >= self._limit:
            self._limit = max(min(FEWEST_REJECTS, self._first), self._limit // 2)
        self.want_fresh, self._streak = False, 0
        self.stuck += 1
