"""SIGINT (Ctrl-C) and SIGTERM (a batch system, a container that is stopped) in a search: one clean end, however often they come."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

PATIENCE = 8.0
"""Seconds after a signal in which further ones change nothing, so that the search is cleaned up; a later one interrupts that, too."""


class Switch:
    """Notes which signal came first. An ``eager`` one raises KeyboardInterrupt for it, and every one for a signal that comes ``patience``
    seconds later."""

    def __init__(self, *, eager: bool, patience: float = PATIENCE) -> None:
        self.signal: int | None = None
        self._eager = eager
        self._patience = patience
        self._since = 0.0

    def press(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        now = time.monotonic()
        first = self.signal is None
        if not first and now - self._since < self._patience:
            return
        self._since = now
        self.signal = number if self.signal is None else self.signal
        if self._eager or not first:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first of the signals raises KeyboardInterrupt; those that follow closely change nothing."""
    with handled(Switch(eager=True)):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Switch]:
    """The signals have no effect in the block; the switch says which one came first. One that comes much later interrupts."""
    switch = Switch(eager=False)
    with handled(switch):
        yield switch


@contextlib.contextmanager
def handled(switch: Switch) -> Iterator[None]:
    """Both signals go to the switch while the block runs. Only the main thread can handle signals; one that is ignored stays ignored."""
    with contextlib.ExitStack() as after:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                after.callback(signal.signal, number, before)
                if before is not signal.SIG_IGN:
                    signal.signal(number, switch.press)
        yield
