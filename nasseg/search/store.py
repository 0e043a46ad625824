"""``results.parquet``: one row a finished trial, whether trained, rejected or answered; and the ways into a results folder for readers.

A Parquet file cannot be appended to. The rows live in the journal (Optuna's attributes hold every field of a result, on disk before the
trial is told); this file is written whole from them, to a temporary file that is moved over the old one. It is written at most every
second, and less often as it grows (a twentieth of the time at most), and always at the end; what a killed driver had not written yet is
restored from the journal when the study is opened. A row never changes once written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nasseg.errors import Problem, StudyError, nearest
from nasseg.files import read_yaml
from nasseg.genes.genotype import Genotype
from nasseg.search.driver import DriverLock
from nasseg.search.journal import read_storage
from nasseg.search.view import COMPLETE, RETRIED, RUNNING, WAITING, StudyView, TrialView, load_optuna, view_trials
from nasseg.training.collapse import worst_class

PARQUET = "results.parquet"
CONFIG = "study.yaml"
WORST = "worst_class_iou"

TEXT = ("id", "genotype", "short", "settings", "origin", "trainer", "key", "state", "reason", "protocol", "environment")
BY_CLASS = ("per_class", "worst_class", "unpredicted", "class_weights")
WHOLE = ("number", "seed", "duplicate_of", "attempt", "iterations")
COSTS = ("params", "macs", "macs_fvcore", "decoder_params", "decoder_macs")
REAL = ("fidelity", "seconds", WORST)
TIMES = ("started", "finished")
Row = Mapping[str, Any]
"""A row of ``results.parquet`` without its empty columns."""

METRICS = ("miou", "macc", "aacc")
"""Columns by kind. Mappings and lists are JSON text; metrics of other names (``miou_holdout``) get a column of their own behind these. A
file of an older nasseg lacks some of :data:`BY_CLASS`; it is written anew with them when its search goes on."""


def row_of(trial: TrialView, *, trainer: str, fidelity: float, seed: int) -> dict[str, Any]:
    """A finished trial as one flat row."""
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state,
        "origin": trial.origin,
        "id": trial.id,
        "short": trial.short,
        "genotype": json.dumps(dict(trial.genotype)),
        "settings": json.dumps(dict(trial.settings)),
        "trainer": trainer,
        "fidelity": fidelity,
        "seed": seed,
        "key": trial.key,
        "reason": trial.reason,
        "duplicate_of": trial.duplicate_of,
        "attempt": trial.attempt,
        "iterations": trial.iterations,
        "seconds": trial.seconds,
        "started": trial.started,
        "finished": trial.finished,
        "per_class": json.dumps(dict(trial.per_class)),
        "unpredicted": None if trial.unpredicted is None else json.dumps(list(trial.unpredicted)),
        "class_weights": json.dumps(dict(trial.class_weights)) if trial.class_weights else None,
        "protocol": json.dumps(dict(trial.protocol)),
        "environment": json.dumps(dict(trial.environment)),
    }
    row["worst_class"], row[WORST] = worst_class(trial.per_class) or (None, None)
    row |= {name: None if (value := trial.cost.get(name)) is None else int(value) for name in COSTS}
    return row | {name: float(value) for name, value in trial.metrics.items()}


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of fixed types, in the order of their numbers."""
    ordered = sorted(rows, key=lambda row: int(row["number"]))
    known = {*TEXT, *BY_CLASS, *WHOLE, *COSTS, *REAL, *TIMES, *METRICS}
    others = sorted({name for row in ordered for name in row} - known)
    head = ["number", "state", "origin", "id", "short", *METRICS, *others, "worst_class", WORST, *COSTS, "duplicate_of"]
    names = [
        *head,
        "reason",
        "trainer",
        "fidelity",
        "seed",
        "attempt",
        "iterations",
        "seconds",
        "started",
        "finished",
        "key",
        "settings",
        "genotype",
        "per_class",
        "unpredicted",
        "class_weights",
        "protocol",
        "environment",
    ]
    types = dict.fromkeys((*TEXT, *BY_CLASS, *TIMES), pa.string()) | dict.fromkeys((*WHOLE, *COSTS), pa.int64())
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in names])
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in ordered], schema=schema)


class Store:
    """The record of one study's finished trials."""

    def __init__(self, folder: str | Path, *, trainer: str, fidelity: float, seed: int) -> None:
        self.path = Path(folder) / PARQUET
        self._shared: dict[str, Any] = {"trainer": trainer, "fidelity": fidelity, "seed": seed}
        self._rows: dict[int, dict[str, Any]] = {}
        self._dirty = False
        self._next_write = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, view: StudyView) -> int:
        """Compare the file with the journal, which is the record: rows that are missing, differ or cannot be read are made anew from it.

        Args:
            view: the study as its journal has it.

        Returns:
            How many rows were made anew.

        Raises:
            StudyError: the file knows a trial that the journal does not: then the journal is not this file's.
        """
        there = read_rows(self.path) or {}
        finished = {trial.number: trial for trial in view.trials if trial.state not in (RUNNING, WAITING) and trial.finished is not None}
        strange = [n for n, row in there.items() if n not in finished or finished[n].key != row.get("key")]
        if strange:
            raise StudyError(
                f"{self.path} holds trials that journal.log does not know ({', '.join(map(str, strange[:5]))}): "
                "the journal was lost or exchanged; put it back, or give another --out"
            )
        for trial in finished.values():
            self.add(trial, write=False)
        made = [n for n, row in self._rows.items() if there.get(n) != {k: v for k, v in row.items() if v is not None}]
        self._dirty = bool(made) or len(there) != len(self._rows)
        self.flush()
        return len(made)

    def add(self, trial: TrialView, *, write: bool = True) -> None:
        """Add a finished trial; written when it is time to."""
        if trial.number not in self._rows:
            self._rows[trial.number] = row_of(trial, **self._shared)
            self._dirty = True
        if write and time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write the file if anything is new."""
        if not self._dirty and self.path.exists():
            return
        started = time.monotonic()
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{PARQUET}.")
        os.close(handle)
        try:
            pq.write_table(table_of(self._rows.values()), temporary, compression="zstd", write_page_checksum=True)
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        took = time.monotonic() - started
        self._dirty, self._next_write = False, time.monotonic() + max(1.0, 20 * took)


def read_rows(path: str | Path) -> dict[int, Row] | None:
    """The rows of a ``results.parquet`` by number, the checksums of its pages verified; None where it is missing or damaged."""
    try:
        rows = pq.read_table(path, page_checksum_verification=True).to_pylist()
        return {int(row["number"]): {k: v for k, v in row.items() if v is not None} for row in rows}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def is_study(path: str | Path) -> bool:
    """Whether a folder is a study's results."""
    return (Path(path) / CONFIG).is_file()


def read_study(path: str | Path) -> StudyView:
    """A study as it stands on disk, for reading only: also while a search runs, also after a kill. Raises :class:`StudyError`."""
    folder = Path(path)
    if not folder.is_dir():
        raise StudyError(f"{folder}: there is no such results folder")
    if not is_study(folder):
        raise StudyError(f"{folder} is not a study: it has no {CONFIG}")
    config = read_yaml(folder / CONFIG)
    if not isinstance(config, Mapping) or not isinstance(config.get("objectives"), Mapping):
        raise StudyError(f"{folder / CONFIG} is not the configuration of a study")
    objectives = {str(k): str(v) for k, v in config["objectives"].items()}
    driver = DriverLock(folder).holder()
    study = load_optuna(read_storage(folder / "journal.log"))
    trials: tuple[TrialView, ...] = ()
    if study is not None:
        retried = study.user_attrs.get(RETRIED, ())
        trials = view_trials(study.get_trials(deepcopy=False), list(objectives.values()), driven=driver is not None, retried=retried)
    return StudyView(path=folder, trials=trials, objectives=objectives, config=config, driver=driver)


@dataclass(frozen=True, kw_only=True)
class Picked:
    """One trial of a study, with all that is needed to train it again.

    ``settings`` are the trainer's fields that were searched: they belong to the network found, whatever trains it. ``fixed`` are those the
    whole study was run with: they belong to the study's ``trainer``.
    """

    genotype: Genotype
    settings: Mapping[str, Any]
    data: str
    size: tuple[int, int]
    weights: str | None
    pretrained: bool
    trainer: str
    seed: int
    number: int
    fidelity: float = 1.0
    checkpoint: Path | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


def pick(path: str | Path) -> Picked:
    """A trial by ``results/X`` or ``results/X:best`` (the front's best in the first objective), or ``results/X:NUMBER``.

    Raises :class:`StudyError`.
    """
    text = str(path)
    found = re.fullmatch(r"(.+):([A-Za-z]+|\d+)", text)
    folder, wanted = (found[1], found[2]) if found and not Path(text).is_dir() else (text, "best")
    study = read_study(folder)
    if wanted == "best":
        trial = study.best
        if trial is None:
            raise StudyError(f"{folder}: no trial is complete yet, so there is no best one")
    elif wanted.isdigit():
        trial = study.trial(int(wanted))
        numbers = [t.number for t in study.trials if t.genotype]
        if trial is None or not trial.genotype:
            raise StudyError(str(Problem(folder, wanted, "no such trial", None, nearest(int(wanted), numbers))))
    else:
        raise StudyError(f"{text}: behind the colon stands a trial's number or best (given {wanted!r})")
    config = study.config
    weights = config.get("weights") or {}
    kept = Path(folder) / "checkpoints" / str(trial.number) / "model.safetensors"
    return Picked(
        genotype=Genotype.from_dict(trial.genotype, where=f"{folder}:{trial.number}"),
        settings=dict(trial.settings),
        data=str(config["data"]["spec"]),
        size=(int(config["size"][0]), int(config["size"][1])),
        weights=weights.get("path"),
        pretrained=bool(config.get("pretrained", False)),
        trainer=str(config["trainer"]),
        seed=int(config.get("seed", 0)),
        number=trial.number,
        fidelity=float(config.get("fidelity", 1.0)),
        checkpoint=kept if trial.state == COMPLETE and kept.is_file() else None,
        fixed=dict(config.get("settings", {})),
    )
