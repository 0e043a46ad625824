"""The driver's lock: one search at a time writes into a results folder."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from nasseg.errors import StudyError

ORPHAN_SECONDS = 10.0
"""Forked children of a killed driver (data loader workers) may hold its lock for a moment: how long a new driver waits for them."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers: NFS without its lock service, some FUSE file systems."""


class DriverLock:
    """Keeps a second driver out of a results folder. Use as a context.

    ``.driver.lock`` is locked by the operating system, which drops the lock with the process that held it: a killed driver leaves none
    behind. ``.driver`` beside it names the holder; it is a file of its own because Windows lets nobody read a locked one.

    Args:
        folder: the results folder, which exists.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / ".driver"
        self._lock = self._new_lock()

    def _new_lock(self) -> FileLock:
        return FileLock(f"{self.path}.lock", blocking=False, thread_local=False, fallback_to_soft=False)

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            StudyError: another search holds it, or the file system has no locks.
            OSError: the folder cannot be written.
        """
        deadline = time.monotonic() + ORPHAN_SECONDS
        while True:
            try:
                self._lock.acquire()
                break
            except Timeout:
                holder = self.holder()
                if holder is not None or time.monotonic() >= deadline:
                    who = holder or "unknown"
                    raise StudyError(f"{self.path.parent} is in use by another search ({who}); wait for it or stop it") from None
                time.sleep(0.1)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise StudyError(
                    f"{self.path.parent} lies on a file system without file locks ({error.strerror}), where two searches could write at "
                    "once; give an --out on a local disk, or mount it with locks"
                ) from error
        self.path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str | None:
        """``process 123 on host`` of the driver that holds the folder, None where none does or it is known to be dead. Writes nothing."""
        text = ""
        with contextlib.suppress(OSError):
            text = self.path.read_text(encoding="utf-8").strip()
        words = text.split()
        if len(words) == 4 and words[1].isdigit() and words[3] == socket.gethostname() and not alive(int(words[1])):
            return None
        return text if text and self._is_held() else None

    def _is_held(self) -> bool:
        """Whether the lock is taken; True where that cannot be found out (no permission, a file system without locks)."""
        if not Path(f"{self.path}.lock").exists():
            return False
        lock = self._new_lock()
        try:
            lock.acquire()
        except (Timeout, OSError):
            return True
        lock.release()
        return False


def alive(process: int) -> bool:
    """Whether a process of this machine runs. On Windows always True: signal 0 does not probe there, it interrupts."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
