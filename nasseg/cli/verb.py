"""What every verb is: a click command whose options, where they take one value, are given once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import click

from nasseg.errors import ConfigError, Problem


class Verb(click.Command):
    """A command that refuses a second value of an option that takes one; click itself keeps the last in silence.

    Options declared with ``multiple=True`` are repeatable, and the same flag may be given again. Raises
    :class:`nasseg.errors.ConfigError` with every repeated option at once.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As :meth:`click.Command.parse_args`, after the check."""
        if not ctx.resilient_parsing:
            problems = [problem for option, values in self._repeated(ctx, args) if (problem := _refusal(option, values)) is not None]
            if problems:
                raise ConfigError(problems)
        return super().parse_args(ctx, args)

    def _repeated(self, ctx: click.Context, args: Sequence[str]) -> list[tuple[click.Option, list[Any]]]:
        """Options that take one value and were given several, with all values in their order."""
        once = [p for p in self.get_params(ctx) if isinstance(p, click.Option) and not p.multiple and not p.count]
        params: list[click.Parameter] = [param for param in self.get_params(ctx) if param not in once]
        # The same options, as a parser that collects values reads them.
        for option in once:
            collecting = copy.copy(option)
            collecting.multiple = True
            params.append(collecting)
        parser = click.Command(self.name, params=params, add_help_option=False).make_parser(ctx)
        given, _, _ = parser.parse_args(args=list(args))
        return [(option, given[option.name]) for option in once if option.name in given and len(given[option.name]) > 1]


class VerbGroup(click.Group):
    """A verb with verbs of its own."""

    command_class = Verb


def _refusal(option: click.Option, values: list[Any]) -> Problem | None:
    if option.is_flag:
        if len(set(values)) == 1:
            return None
        return Problem("", " and ".join((max(option.opts, key=len), max(option.secondary_opts, key=len))), "exclude each other: give one")
    given = ", ".join(" ".join(value) if isinstance(value, tuple) else str(value) for value in values)
    return Problem("", max(option.opts, key=len), f"takes one value, and {len(values)} are given: {given}")
