"""Log records and Python warnings as the user sees them: one line each, above whatever table or bar is being drawn.

The command line shows them on the console (:func:`console_logs`). A process that trains for another one sends its records there
(:func:`forwarded`, :func:`relay`). A program that imports nasseg configures :mod:`logging` as it likes; nothing here runs on import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.text import Text

STDERR = Console(stderr=True, highlight=False, soft_wrap=True)
"""Standard error. Bars that are drawn there use this console, so that log lines appear above them."""

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}

Send = Callable[[str, int, str], None]
"""``send(logger, level, text)`` of one record."""


class ConsoleHandler(RichHandler):
    """Shows a record as ``warning: text``, one of level INFO as its text alone; never wrapped, so that paths stay whole."""

    def __init__(self) -> None:
        super().__init__(logging.INFO, console=STDERR, highlighter=NullHighlighter())

    def render(self, *, record: logging.LogRecord, traceback: Any, message_renderable: ConsoleRenderable) -> ConsoleRenderable:
        """The line of a record."""
        if record.levelno < logging.WARNING:
            return message_renderable
        style = STYLES.get(record.levelno, "")
        return Text.assemble((f"{record.levelname.lower()}: ", style), str(message_renderable))


@contextlib.contextmanager
def console_logs() -> Iterator[None]:
    """Show nasseg's records from INFO, others' from WARNING, and Python warnings, on the console while the block runs."""
    root, ours, handler = logging.getLogger(), logging.getLogger("nasseg"), ConsoleHandler()
    level, show, formatted = ours.level, warnings.showwarning, warnings.formatwarning
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warnings.showwarning, warnings.formatwarning = show, formatted
        ours.setLevel(level)
        root.removeHandler(handler)


def _one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A Python warning without the line of code that raised it."""
    return f"{' '.join(str(message).split())} ({category.__name__}, {filename}:{lineno})"


@contextlib.contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Send log lines to the console of a live table or bar while it is drawn. A console that draws none (a pipe) changes nothing."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, ConsoleHandler)]
    if not (console.is_terminal or console.quiet):
        handlers = []
    before = [handler.console for handler in handlers]
    for handler in handlers:
        handler.console = console
    try:
        yield
    finally:
        for handler, earlier in zip(handlers, before, strict=True):
            handler.console = earlier


class _Forward(logging.Handler):
    """Gives records to a function. Forked children (data loader workers) keep out: they share no lock with their parent."""

    def __init__(self, send: Send) -> None:
        super().__init__(logging.WARNING)
        self.send = send
        self.process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() == self.process:
            self.send(record.name, record.levelno, self.format(record))


@contextlib.contextmanager
def forwarded(send: Send) -> Iterator[None]:
    """Give every record from WARNING up to ``send`` while the block runs, beside what shows it already."""
    handler = _Forward(send)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def relay(origin: str, logger: str, level: int, text: str) -> None:
    """Log a record of another process here, with ``origin`` (``trial 7``) before it."""
    logging.getLogger(logger).log(level, "%s: %s", origin, text)
