"""Where a verb prints its tables."""

from __future__ import annotations

import sys

from rich.console import Console

PLAIN_WIDTH = 140
"""Columns of a table that goes to a file or a pipe, where no terminal says how wide it is."""


def wide_console() -> Console:
    """Standard output: as wide as the terminal; without one, :data:`PLAIN_WIDTH` wide and without colours. Numbers are never coloured."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
