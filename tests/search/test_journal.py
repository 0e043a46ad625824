from __future__ import annotations

import json
import os
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nasseg.errors import StudyError
from nasseg.search import journal
from nasseg.search.journal import Journal, JournalReader, is_whole, open_storage, read_storage, repair, seal


def study_in(folder: Path, trials: int = 3) -> Path:
    path = folder / "journal.log"
    storage, file = open_storage(path)
    study = optuna.create_study(storage=storage, study_name="nasseg")
    for k in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, float(k))
    file.close()
    return path


def values(path: Path) -> list[float | None]:
    study = optuna.load_study(study_name="nasseg", storage=read_storage(path))
    return [trial.value for trial in study.get_trials(deepcopy=False)]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_optuna_itself_reads_what_we_write(tmp_path: Path) -> None:
    path = study_in(tmp_path)
    theirs = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    assert [t.value for t in optuna.load_study(study_name="nasseg", storage=theirs).trials] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "tail", [b'{"op_code":6,"worker', b"\x00\x00\x00\x00", b'{"op_code":6}\n\x00\x00\n', b"not an operation\n", b"[1]\n"]
)
def test_torn_tail_is_cut(tmp_path: Path, tail: bytes) -> None:
    path = study_in(tmp_path)
    whole = path.read_bytes()
    cut = 0 if tail.startswith(b'{"op_code":6}\n') else len(tail)
    path.write_bytes(whole + tail)
    assert repair(path) == (cut or 3)
    assert path.read_bytes() == (whole if cut else whole + b'{"op_code":6}\n')
    assert repair(path) == 0


def test_torn_at_every_byte_loses_at_most_the_last_operation(tmp_path: Path) -> None:
    path = study_in(tmp_path, trials=2)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    before = len(whole) - len(lines[-1])
    for size in range(before + 1, len(whole)):
        path.write_bytes(whole[:size])
        repair(path)
        assert path.read_bytes() == whole[:before]
    storage, file = open_storage(path)
    study = optuna.load_study(study_name="nasseg", storage=storage)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    study.tell(1, 5.0)
    file.close()
    assert values(path) == [0.0, 5.0]


def test_repair_of_nothing(tmp_path: Path) -> None:
    assert repair(tmp_path / "journal.log") == 0
    (tmp_path / "journal.log").write_bytes(b"torn")
    assert repair(tmp_path / "journal.log") == 4
    assert (tmp_path / "journal.log").read_bytes() == b""


def test_long_lines_are_found_over_block_borders(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    line = json.dumps({"op_code": 8, "text": "x" * 200_000}).encode() + b"\n"
    path.write_bytes(line + line + line[:150_000])
    assert repair(path) == 150_000
    assert path.read_bytes() == line + line


def test_reading_leaves_a_torn_journal_as_it_is(tmp_path: Path) -> None:
    path = study_in(tmp_path)
    torn = path.read_bytes() + b'{"op_code":4,"stu'
    path.write_bytes(torn)
    assert values(path) == [0.0, 1.0, 2.0]
    assert path.read_bytes() == torn
    assert list(tmp_path.iterdir()) == [path]


def test_reader_of_a_missing_journal_makes_none(tmp_path: Path) -> None:
    assert list(JournalReader(tmp_path / "journal.log").read_logs(0)) == []
    assert list(tmp_path.iterdir()) == []


def test_reader_refuses_to_write(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="opened for reading only"):
        JournalReader(tmp_path / "journal.log").append_logs([])


def test_a_damaged_line_in_the_middle_is_passed_over_by_a_reader(tmp_path: Path) -> None:
    path = study_in(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    # Line 2 creates trial 0: it is still counted, so that the others keep their numbers.
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
    assert values(path) == [0.0, 1.0, 2.0]
    told = next(i for i, line in enumerate(lines) if b'"op_code":6' in line)
    path.write_bytes(b"".join([*lines[:told], lines[told].replace(b"0.0", b"9.0"), *lines[told + 1 :]]))
    assert values(path) == [None, 1.0, 2.0]


def test_what_is_no_journal_of_optuna_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_text('{"op_code":4}\n')
    with pytest.raises(StudyError, match=r"journal.log: not readable as a journal of Optuna"):
        open_storage(tmp_path / "journal.log")


def test_a_lock_of_optuna_left_by_a_killed_process_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = study_in(tmp_path, trials=1)
    os.symlink(path, f"{path}.lock")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited for a stale lock"))
    storage, file = open_storage(path)
    study = optuna.load_study(study_name="nasseg", storage=storage)
    study.tell(study.ask(), 7.0)
    file.close()
    assert values(path) == [0.0, 7.0]


def test_only_a_finished_trial_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(journal.os, "fsync", flushed.append)
    storage, file = open_storage(tmp_path / "journal.log")
    study = optuna.create_study(storage=storage, study_name="nasseg")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    assert len(flushed) == 0
    study.tell(trial, 1.0)
    assert len(flushed) == 1
    file.flush()
    assert len(flushed) == 2
    file.close()
    file.close()


def test_is_whole() -> None:
    assert is_whole(b'{"op_code":0}\n')
    assert not is_whole(b'{"op_code":0}')
    assert not is_whole(b'{"other":0}\n')
    sealed = seal({"op_code": 6, "values": [55.25]}, 3)
    assert is_whole(sealed)
    assert not is_whole(sealed.replace(b"55.25", b"45.25"))


def test_journal_survives_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = journal.os.write
    monkeypatch.setattr(journal.os, "write", lambda file, data: whole(file, data[:7]))
    file = Journal(tmp_path / "journal.log")
    file.append_logs([{"op_code": 8, "text": "longer than seven bytes"}])
    assert [operation["text"] for operation in file.read_logs(0)] == ["longer than seven bytes"]
    file.close()
