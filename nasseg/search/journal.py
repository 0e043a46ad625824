"""The journal: Optuna's own log format, one JSON operation a line, written by one driver at a time.

What is told stays told: a finished trial is on disk before :meth:`Journal.append_logs` returns. The operations before it (one a
parameter, a dozen or more a candidate) are written at once but reach the disk with the next finished trial, because a file is flushed in
order: a power cut can lose only the tail, which holds no finished trial. A kill of the process loses nothing that was written.

Every line ends with a check, ``"check":"<CRC-32>.<n>"``: the CRC-32 of the line before it and of n, the number of trials created before
this line. Optuna ignores the key. A line whose check fails is damaged: it is named, never applied, and the rest is kept
(:mod:`nasseg.search.journal_repair`). Lines written before checks were introduced are read without one.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from nasseg.errors import StudyError

CREATE_TRIAL = 4
"""Optuna's operation code for a new trial."""

SET_STATE = 6
"""Optuna's operation code for a change of a trial's state; a finished state goes to disk at once."""

NO_OPERATION = 10
"""Optuna's code of an operation that its reader skips (``DISCARD_TRIALS``): stands for a damaged line."""

CREATES = b'{"op_code":4,'

CHECK = re.compile(rb',"check":"([0-9a-f]{8})\.(\d{1,9})"\}\n\Z')

FINISHED_STATES = (1, 2, 3)
"""COMPLETE, PRUNED, FAIL in Optuna's ``TrialState``."""


class Journal(JournalFileBackend):
    """Optuna's file journal without its lock and with fewer flushes.

    Optuna's backend takes a lock file and flushes to disk for every operation, some twenty a candidate; a lock left by a killed process
    blocks the next one for 30 s. Here :class:`nasseg.search.driver.DriverLock` keeps other drivers out of the folder for as long as this
    one lives.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(str(path))
        self._created = sum(line.creates for line in read_lines(path))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations with one write; flush to disk if one of them finishes a trial."""
        text = b""
        for log in logs:
            text += seal(log, self._created)
            self._created += log["op_code"] == CREATE_TRIAL
        while text:
            text = text[os.write(self._file, text) :]
        if any(log["op_code"] == SET_STATE and log["state"] in FINISHED_STATES for log in logs):
            os.fsync(self._file)

    def flush(self) -> None:
        """Everything written so far is on disk when this returns."""
        os.fsync(self._file)

    def close(self) -> None:
        """Flush and close; the journal cannot be written afterwards."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a journal.

    Attributes:
        number: from 1.
        text: its bytes, newline included.
        whole: whether it is an operation as it was written; False where it is damaged or torn.
        created: how many trials were created before it, as its check says; None without a check.
    """

    number: int
    text: bytes
    whole: bool
    created: int | None

    @property
    def creates(self) -> bool:
        """Whether the line creates a trial."""
        return self.whole and self.text.startswith(CREATES)

    @property
    def operation(self) -> dict[str, Any]:
        """What Optuna applies. Only of a whole line."""
        value: dict[str, Any] = json.loads(self.text)
        return value


def seal(operation: Mapping[str, Any], created: int) -> bytes:
    """An operation as one line with its check; ``created``: trials created before it."""
    body = json.dumps(operation, separators=(",", ":"))[:-1].encode()
    return body + b',"check":"%08x.%d"}\n' % (zlib.crc32(b"%d" % created, zlib.crc32(body)), created)


def is_whole(line: bytes) -> bool:
    """Whether a line is one operation as it was written: by its check, or, without one, readable as an operation."""
    found = CHECK.search(line)
    if found is not None:
        return zlib.crc32(found[2], zlib.crc32(line[: found.start()])) == int(found[1], 16)
    if not line.endswith(b"\n"):
        return False
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("op_code"), int)


def read_lines(path: str | os.PathLike[str]) -> Iterator[Line]:
    """The lines of a journal. Behind the first line with a check, a line without one is damaged."""
    checked = False
    if not Path(path).is_file():
        return
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            found = CHECK.search(text)
            whole = is_whole(text) and (found is not None or not checked)
            checked = checked or (whole and found is not None)
            yield Line(number, text, whole, int(found[2]) if whole and found is not None else None)


def read_operations(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], int]]:
    """The operations of a journal, each with the number of its line.

    A damaged line gives :data:`NO_OPERATION`. Trials that were created by damaged lines are created again, empty, so that every later
    trial keeps its number: the check of the next whole line says how many. Damaged lines at the end are left out, as a torn tail is.
    """
    created = 0
    damaged: list[int] = []
    for line in read_lines(path):
        if not line.whole:
            damaged.append(line.number)
            continue
        for number in damaged:
            yield {"op_code": NO_OPERATION}, number
        if damaged and line.created is not None:
            for _ in range(line.created - created):
                yield {"op_code": CREATE_TRIAL, "worker_id": "repair", "study_id": 0, "datetime_start": None}, damaged[-1]
            created = max(created, line.created)
        damaged = []
        created += line.creates
        yield line.operation, line.number


class JournalReader(BaseJournalBackend):
    """A journal that is only read: torn, damaged or growing. Writes nothing, not even an empty file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from the given number on."""
        for index, (operation, _) in enumerate(read_operations(self.path)):
            if index >= log_number_from:
                yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refused."""
        raise StudyError(f"{self.path} was opened for reading only")


def repair(path: str | os.PathLike[str]) -> int:
    """Cut a torn tail off a journal and say how many bytes went; without this the next operation would be glued to it, unreadable for ever.

    A tail is torn where the last line has no newline (killed while writing, disk full), is no operation (zeros after a power cut), or fails
    its check.
    """
    file = Path(path)
    if not file.is_file():
        return 0
    size = end = file.stat().st_size
    with open(file, "r+b") as handle:
        while end:
            start = line_start(handle, end)
            handle.seek(start)
            if is_whole(handle.read(end - start)):
                break
            end = start
        if end != size:
            handle.truncate(end)
            handle.flush()
            os.fsync(handle.fileno())
    return size - end


def line_start(handle: Any, end: int, block: int = 1 << 16) -> int:
    """Where the line that ends at ``end`` begins. The byte at ``end - 1`` is its last, newline or not."""
    upto = end - 1
    while upto > 0:
        start = max(0, upto - block)
        handle.seek(start)
        found = handle.read(upto - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        upto = start
    return 0


def open_storage(path: str | os.PathLike[str]) -> tuple[JournalStorage, Journal]:
    """The storage over a journal that is about to be written, its tail repaired.

    Raises:
        StudyError: it cannot be read as a journal of Optuna.
    """
    repair(path)
    journal = Journal(path)
    try:
        return JournalStorage(journal), journal
    except (ValueError, KeyError, AssertionError) as error:
        journal.close()
        raise StudyError(f"{path}: not readable as a journal of Optuna: {error}") from error


def read_storage(path: str | os.PathLike[str]) -> JournalStorage:
    """The storage over a journal as it stands, for reading only; also while a search runs, also with a torn tail or damaged lines."""
    return JournalStorage(JournalReader(path))
