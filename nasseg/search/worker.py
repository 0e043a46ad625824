"""What runs one trial, wherever it runs: takes an attempt of its own, goes on from the newest checkpoint, never raises for a failed run.

A trial's folder ``work/NUMBER`` holds one folder an attempt. Two processes never share one: after a kill an orphaned worker may still write
for a second or two, and it writes into its own attempt.
"""

from __future__ import annotations

import json
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nasseg.errors import NassegError
from nasseg.files import canonical_json, digest, read_json_or_none, write_atomic
from nasseg.search.candidate import Proposal, finite, unfinite
from nasseg.search.returned import plain_report, plain_result
from nasseg.training.trainer import load_trainer
from nasseg.training.trial import Report, Result, Trainer, Trial


@dataclass(frozen=True)
class Outcome:
    """A result, and the attempt that reached it."""

    result: Result
    attempt: int


class LostProcess(RuntimeError):
    """A process of a trial that runs in several went away: the trial goes on from its checkpoint with new ones."""


class Stopped(BaseException):  # not an error: the search is being stopped, the trial goes on later
    """Raised out of a report to leave a running trainer at once."""


Run = Callable[[Trial, Report, Path | None], Result]
"""``run(trial, report, own)`` trains one attempt in its folder; :func:`attempt` in this process."""


LOST = 2
"""A trial whose worker was lost this often without progress in between is given up."""


class Losses:
    """Counts how often in a row the worker of a trial was lost without progress.

    Progress is a checkpoint that was not there at the last loss: on machines that may be taken away at any time (spot instances) a long
    trial is lost many times, and comes to its end all the same.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, int] | None] = {}
        self._counts: dict[int, int] = {}

    def count(self, proposal: Proposal) -> int:
        """Note one more loss.

        Args:
            proposal: the trial whose worker was lost.

        Returns:
            How many losses there were since its last progress, this one included.
        """
        trial = proposal.trial
        checkpoint = None if trial.workdir is None else newest_checkpoint(Path(trial.workdir), identify(trial))
        now = None if checkpoint is None else (str(checkpoint), checkpoint.stat().st_mtime_ns)
        progressed = now is not None and now != self._seen.get(proposal.number)
        self._seen[proposal.number] = now
        self._counts[proposal.number] = 1 if progressed else self._counts.get(proposal.number, 0) + 1
        return self._counts[proposal.number]


def timed_out(limit: float, seconds: float) -> Result:
    """The result of a trial that has run for longer than ``--trial-timeout``."""
    return Result(status=Result.FAILED, reason=f"it ran for longer than --trial-timeout ({limit:g} s)", seconds=seconds)


def execute(trial: Trial, report: Report, run: Run | None = None) -> Outcome:
    """Run one trial to its end, by ``run`` (:func:`attempt` where none is given).

    ``trial.workdir`` is the trial's folder. An attempt that had finished before its driver was killed is not run again: its result is read.
    A trainer that raises gives a failed result with the reason; its traceback lies in ``traceback.txt`` of the attempt.
    """
    if trial.workdir is None:
        return Outcome((run or attempt)(trial, report, None), 1)
    folder = Path(trial.workdir)
    identity = identify(trial)
    for number, earlier in attempts(folder, identity):
        found = read_result(earlier)
        if found is not None:
            return Outcome(found, number)
    parent = newest_checkpoint(folder, identity)
    number, own = claim(folder)
    write_atomic(own / "trial.json", canonical_json({"identity": identity}))
    claimed = replace(trial, workdir=str(own), parent=None if parent is None else str(parent))
    result = (run or attempt)(claimed, report, own)
    write_atomic(own / "result.json", json.dumps(finite(result.to_dict())))
    return Outcome(result, number)


def read_result(folder: Path) -> Result | None:
    """The result an attempt left; None where there is none, or none that can be read."""
    found = read_json_or_none(folder / "result.json")
    try:
        return None if found is None else Result.from_dict(unfinite(found))
    except (TypeError, ValueError, AttributeError):
        return None


def attempt(trial: Trial, report: Report, own: Path | None, passed_on: tuple[type[Exception], ...] = ()) -> Result:
    """One attempt. What the trainer raises, but for exceptions of the types ``passed_on``, and what it returns that is no result become a
    failed result."""
    started = time.monotonic()
    try:
        trainer: Trainer = load_trainer(trial.trainer)(trial.settings)
        return plain_result(trainer.run(trial, plain_report(report)))
    except passed_on:
        raise
    except NassegError as error:
        reason = str(error)
    except SystemExit as error:
        reason = f"the recipe ended with exit({'' if error.code is None else repr(error.code)})"
    except MemoryError:
        reason = "out of memory"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        if own is not None:
            write_atomic(own / "traceback.txt", traceback.format_exc())
    return Result(status=Result.FAILED, reason=reason, seconds=time.monotonic() - started, settings=dict(trial.settings))


def identify(trial: Trial) -> str:
    """What a checkpoint must have been written for. Paths are left out: the study's configuration answers for data and weights."""
    return digest({k: v for k, v in trial.to_dict().items() if k not in ("workdir", "parent", "data", "weights")}, 16)


def claim(folder: Path) -> tuple[int, Path]:
    """Make the next attempt's folder; no other process can have made it."""
    number = 1 + max((int(path.name.partition("-")[2]) for path in folder.glob("attempt-*")), default=0)
    while True:
        own = folder / f"attempt-{number}"
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return number, own


def attempts(folder: Path, identity: str) -> list[tuple[int, Path]]:
    """Earlier attempts of this very trial, the newest first. A number that was used for another trial (lost in a power cut) is left out."""
    found = [(int(path.name.partition("-")[2]), path) for path in folder.glob("attempt-*")]
    return sorted(
        ((k, path) for k, path in found if (read_json_or_none(path / "trial.json") or {}).get("identity") == identity), reverse=True
    )


def newest_checkpoint(folder: Path, identity: str) -> Path | None:
    """The newest whole checkpoint of earlier attempts, by time of writing; None where there is none.

    Checkpoints are ``.pt`` files, which are zip archives: one that was cut short has no directory at its end and is passed over.
    """
    found = [path for _, earlier in attempts(folder, identity) for path in earlier.glob("**/*.pt") if zipfile.is_zipfile(path)]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path)), default=None)
