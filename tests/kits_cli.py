"""Command lines made for tests."""

from __future__ import annotations

from collections.abc import Sequence


def replaced(command: Sequence[str], more: Sequence[str]) -> list[str]:
    """``command`` with the options of ``more``, of which each ``--name value`` replaces the one of that name (``--set`` is repeatable)."""
    named = {word for word in more if word.startswith("--") and word != "--set"}
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in named:
            next(words)
        else:
            kept.append(word)
    return [*kept, *more]
