"""Command lines made for tests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import click

from nasseg.cli.main import main


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


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The verb of a ``nasseg …`` line as a shell splits it, and its parameters as the real parser reads them; nothing is run.

    Raises what the parser raises for an unknown verb or option, a missing one, or one given twice.
    """
    words = shlex.split(line, comments=True)
    assert words[0] == "nasseg", line
    group, names = main, []
    context = click.Context(main, info_name="nasseg")
    rest = words[1:]
    while True:
        name, command, rest = group.resolve_command(context, rest)
        assert command is not None
        names.append(str(name))
        if not isinstance(command, click.Group) or not (rest and rest[0] in command.list_commands(context)):
            break
        group = command
    context = command.make_context(str(name), list(rest), parent=context)
    return " ".join(names), context.params
