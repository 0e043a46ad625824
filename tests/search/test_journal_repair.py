"""A journal or a results file with flipped bits: damage is found, named, and mended; no number is ever another one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from kits_store import complete, drive, fake_space, make_study

from nasseg.errors import StudyError
from nasseg.genes.genotype import Genotype
from nasseg.search import journal_repair
from nasseg.search.journal import read_lines, seal
from nasseg.search.journal_repair import repair_journal
from nasseg.search.store import PARQUET, Store, read_rows
from nasseg.search.study import Study
from nasseg.search.view import Event, StudyView
from nasseg.training.trial import Result

OBJECTIVES = {"miou": "max", "macs": "min"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose trials are complete, failed, rejected and duplicates, its rows written."""
    folder = tmp_path_factory.mktemp("study")
    view, _ = reopened(folder)
    assert {trial.state for trial in view.trials} == {"complete", "failed", "rejected", "duplicate"}
    return folder


def opened(folder: Path, trials: int) -> tuple[Study, list[Event]]:
    return make_study(folder, space=fake_space(fusion_width={"choices": [32, 64]}), budget="macs=150M", trials=trials, seed=3)


def outcome(genotype: Genotype) -> Result:
    """A third of the networks fail."""
    return Result(status="failed", reason="out of memory") if genotype.short().count("plain") else complete(genotype)


def store(folder: Path) -> Store:
    return Store(folder, trainer="proxy", fidelity=1.0, seed=0)


def reopened(folder: Path, trials: int = 12) -> tuple[StudyView, list[str]]:
    """What a search that goes on sees, trained to its end, and the notes it gives."""
    study, events = opened(folder, trials)
    drive(study, outcome)
    view = study.view()
    store(folder).open(view)
    study.close()
    return view, [event.text for event in events if event.kind == "note"]


def facts(view: StudyView) -> dict[int, Any]:
    return {t.number: (t.state, t.id, t.key, t.values, dict(t.metrics), dict(t.cost), t.duplicate_of, t.reason) for t in view.trials}


def flipped(whole: bytes, byte: int, bit: int) -> bytes:
    return whole[:byte] + bytes([whole[byte] ^ (1 << bit)]) + whole[byte + 1 :]


def test_every_line_has_a_check_that_optuna_ignores(searched: Path) -> None:
    lines = list(read_lines(searched / "journal.log"))
    assert all(line.whole and line.created is not None for line in lines)
    assert sum(line.creates for line in lines) == 1 + max(facts(reopened_copy(searched)))
    assert seal({"op_code": 4, "worker_id": "w"}, 7) == b'{"op_code":4,"worker_id":"w","check":"d8af6568.7"}\n'


def reopened_copy(folder: Path) -> StudyView:
    study, _ = opened(folder, 12)
    view = study.view()
    study.close()
    return view


def test_a_flipped_bit_anywhere_in_the_journal_is_mended_from_the_rows(searched: Path, tmp_path: Path) -> None:
    whole = (searched / "journal.log").read_bytes()
    expected = facts(reopened_copy(searched))
    draw = random.Random(0)
    for case in range(60):
        folder = tmp_path / str(case)
        shutil.copytree(searched, folder)
        byte, bit = draw.randrange(len(whole)), draw.randrange(8)
        (folder / "journal.log").write_bytes(flipped(whole, byte, bit))
        view, notes = reopened(folder)
        assert {number: found for number, found in facts(view).items() if number in expected} == expected, (byte, bit, notes)
        if len(whole) - byte > len(whole.splitlines()[-1]) + 1:
            assert any("was damaged in line" in note for note in notes), (byte, bit)
            assert (folder / "journal.damaged-1.log").is_file()


def test_each_whole_line_may_be_lost(searched: Path, tmp_path: Path) -> None:
    lines = (searched / "journal.log").read_bytes().splitlines(keepends=True)
    expected = facts(reopened_copy(searched))
    for index in range(0, len(lines) - 1, 3):
        folder = tmp_path / str(index)
        shutil.copytree(searched, folder)
        (folder / "journal.log").write_bytes(b"".join([*lines[:index], b"garbage\n", *lines[index + 1 :]]))
        view, notes = reopened(folder)
        assert {number: found for number, found in facts(view).items() if number in expected} == expected, (index, notes)
        assert any(f"damaged in line {index + 1} " in note for note in notes), (index, notes)


def test_without_rows_a_damaged_result_is_trained_again_and_nothing_is_invented(searched: Path, tmp_path: Path) -> None:
    lines = (searched / "journal.log").read_bytes().splitlines(keepends=True)
    expected = facts(reopened_copy(searched))
    result = next(i for i, line in enumerate(lines) if b'"user_attr":{"result"' in line and b'"status":"complete"' in line)
    number = json.loads(lines[result])["trial_id"]
    shutil.copytree(searched, tmp_path / "study")
    (tmp_path / "study" / PARQUET).unlink()
    (tmp_path / "study" / "journal.log").write_bytes(b"".join([*lines[:result], b"garbage\n", *lines[result + 1 :]]))
    view, notes = reopened(tmp_path / "study")
    assert f"trial {number} queued again, its result is lost" in notes[0]
    assert facts(view) == expected


def test_without_rows_a_trial_without_its_network_is_given_up_and_named(searched: Path, tmp_path: Path) -> None:
    lines = (searched / "journal.log").read_bytes().splitlines(keepends=True)
    ended = [json.loads(line)["trial_id"] for line in lines if b'"op_code":6' in line and b'"state":1' in line]
    at = next(i for i, line in enumerate(lines) if b'"user_attr":{"candidate"' in line and json.loads(line)["trial_id"] == ended[0])
    shutil.copytree(searched, tmp_path / "study")
    (tmp_path / "study" / PARQUET).unlink()
    (tmp_path / "study" / "journal.log").write_bytes(b"".join([*lines[:at], b"garbage\n", *lines[at + 1 :]]))
    view, notes = reopened(tmp_path / "study")
    assert f"trial {ended[0]} given up, its network is lost" in notes[0]
    assert view.count("complete", "failed") == 12


def test_repair_of_an_undamaged_journal_writes_nothing(searched: Path) -> None:
    before = (searched / "journal.log").stat().st_mtime_ns
    assert repair_journal(searched / "journal.log", lambda: pytest.fail("asked for rows"), OBJECTIVES) is None
    assert (searched / "journal.log").stat().st_mtime_ns == before


def test_a_damaged_journal_that_cannot_be_replaced_is_named(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (searched / "journal.log").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.log").write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))

    def full(path: Any, content: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_repair, "write_atomic", full)
    with pytest.raises(StudyError, match=r"journal.log is damaged in line 2 and cannot be replaced: No space left on device"):
        repair_journal(tmp_path / "journal.log", dict, OBJECTIVES)


def test_a_journal_without_checks_is_read_and_goes_on_with_them(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "study")
    plain = [{k: v for k, v in line.operation.items() if k != "check"} for line in read_lines(searched / "journal.log")]
    path = tmp_path / "study" / "journal.log"
    path.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in plain))
    view, notes = reopened(tmp_path / "study", trials=14)
    assert view.count("complete", "failed") == 14
    assert not [note for note in notes if "damaged" in note]
    lines = list(read_lines(path))
    assert [line.created is None for line in lines] == [True] * len(plain) + [False] * (len(lines) - len(plain))
    # The first new check continues the count of the old lines.
    assert lines[len(plain)].created == sum(line.creates for line in lines[: len(plain)])


def test_a_flipped_bit_anywhere_in_the_results_file_is_mended_from_the_journal(searched: Path, tmp_path: Path) -> None:
    whole = (searched / PARQUET).read_bytes()
    rows = read_rows(searched / PARQUET)
    view = reopened_copy(searched)
    draw = random.Random(1)
    for case in range(150):
        (tmp_path / PARQUET).write_bytes(flipped(whole, draw.randrange(len(whole)), draw.randrange(8)))
        store(tmp_path).open(view)
        assert read_rows(tmp_path / PARQUET) == rows, case


def test_rows_that_differ_from_the_journal_are_made_anew(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "study")
    view = reopened_copy(searched)
    assert store(tmp_path / "study").open(view) == 0
    other = Store(tmp_path / "study", trainer="full", fidelity=1.0, seed=0)
    assert other.open(view) == len(read_rows(searched / PARQUET) or {})
