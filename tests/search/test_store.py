from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nasseg.errors import StudyError
from nasseg.files import dump_yaml
from nasseg.search.candidate import Recipe
from nasseg.search.store import Store, pick, read_study
from nasseg.search.study import Study
from nasseg.search.view import Event
from nasseg.training.trial import Result
from tests.kits_store import drive, fake_miou, fake_space, make_study

CONFIG = {
    "format": 1,
    "objectives": {"miou": "max", "macs": "min"},
    "data": {"spec": "synthetic", "name": "streets", "fingerprint": "f"},
    "size": [64, 96],
    "weights": {"path": "/w.safetensors", "digest": "d"},
    "trainer": "proxy",
    "settings": {"iterations": 3},
    "seed": 4,
    "fidelity": 0.5,
}


def store_of(folder: Path) -> Store:
    return Store(folder, trainer="proxy", fidelity=0.5, seed=4)


def result(genotype: object) -> Result:
    metrics = {"miou": fake_miou(genotype), "aacc": 90.0, "miou_holdout": 1.5}  # type: ignore[arg-type]
    return Result(
        status=Result.COMPLETE, metrics=metrics, per_class={"road": 80.0, "sign": 0.0}, unpredicted=["sign"],
        class_weights={"rule": "auto", "weights": {"sign": 2.0}}, protocol={"split": "val"}, iterations=7, seconds=0.5,
        environment={"torch": "2"},
    )  # fmt: skip


def searched(folder: Path, trials: int = 6, **more: object) -> Study:
    study, _ = make_study(folder, budget="macs=200M", trials=trials, **more)
    drive(study, result)
    (folder / "study.yaml").write_text(dump_yaml(CONFIG))
    return study


def test_one_row_a_finished_trial(tmp_path: Path) -> None:
    study = searched(tmp_path)
    store = store_of(tmp_path)
    view = study.view()
    assert store.open(view) == len(store) == len(view.trials)
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["number"] for row in rows] == [trial.number for trial in view.trials]
    by_number = {row["number"]: row for row in rows}
    for trial in view.trials:
        row = by_number[trial.number]
        assert (row["id"], row["state"], row["origin"], row["key"]) == (trial.id, trial.state, trial.origin, trial.key)
        assert (row["trainer"], row["fidelity"], row["seed"]) == ("proxy", 0.5, 4)
        assert row["macs"] == trial.cost["macs"]
        if trial.state == "complete":
            assert row["miou"] == trial.metrics["miou"]
            assert row["miou_holdout"] == 1.5
            assert json.loads(row["per_class"]) == {"road": 80.0, "sign": 0.0}
            assert (row["worst_class"], row["worst_class_iou"]) == ("sign", 0.0)
            assert json.loads(row["unpredicted"]) == ["sign"]
            assert json.loads(row["class_weights"]) == {"rule": "auto", "weights": {"sign": 2.0}}
            assert json.loads(row["protocol"]) == {"split": "val"}
            assert json.loads(row["environment"]) == {"torch": "2"}
            assert (row["iterations"], row["seconds"], row["attempt"], row["reason"]) == (7, 0.5, 1, None)
            assert row["started"] <= row["finished"]
        elif trial.state == "duplicate":
            assert row["miou"] == by_number[row["duplicate_of"]]["miou"]
        else:
            assert row["miou"] is None
            assert row["reason"].startswith("over budget")


def test_a_file_of_an_older_nasseg_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    study = searched(tmp_path)
    view = study.view()
    store_of(tmp_path).open(view)
    whole = pq.read_table(tmp_path / "results.parquet")
    pq.write_table(whole.drop_columns(["worst_class", "worst_class_iou", "unpredicted", "class_weights"]), tmp_path / "results.parquet")
    assert store_of(tmp_path).open(view) == view.count("complete", "duplicate")
    assert pq.read_table(tmp_path / "results.parquet").equals(whole)


def test_rows_are_added_as_they_come_and_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("nasseg.search.store.time.monotonic", lambda: now[0])
    store = store_of(tmp_path)
    study, events = make_study(tmp_path, trials=3)
    store.open(study.view())
    study.listener = lambda event: store.add(event.trial) if event.kind == "complete" and event.trial else None
    drive(study, result)
    assert pq.read_table(store.path).num_rows == 0
    now[0] += 5
    done = study.view().trials[0]
    store.add(done)
    assert pq.read_table(store.path).num_rows == len(store) == 3
    before = store.path.stat().st_mtime_ns
    store.flush()
    assert store.path.stat().st_mtime_ns == before
    assert isinstance(events, list)
    assert not [e for e in events if not isinstance(e, Event)]


def test_rows_a_killed_driver_had_not_written_come_back(tmp_path: Path) -> None:
    study = searched(tmp_path)
    store_of(tmp_path).open(study.view())
    whole = pq.read_table(tmp_path / "results.parquet")
    pq.write_table(whole.slice(0, 2), tmp_path / "results.parquet")
    assert store_of(tmp_path).open(study.view()) == whole.num_rows - 2
    assert pq.read_table(tmp_path / "results.parquet").equals(whole)
    assert store_of(tmp_path).open(study.view()) == 0


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None])
def test_a_torn_or_missing_file_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    study = searched(tmp_path)
    store_of(tmp_path).open(study.view())
    whole = pq.read_table(tmp_path / "results.parquet")
    if content is None:
        (tmp_path / "results.parquet").unlink()
    else:
        (tmp_path / "results.parquet").write_bytes(content)
    assert store_of(tmp_path).open(study.view()) == whole.num_rows
    assert pq.read_table(tmp_path / "results.parquet").equals(whole)


def test_rows_of_another_journal_are_refused(tmp_path: Path) -> None:
    study = searched(tmp_path / "a")
    store_of(tmp_path / "a").open(study.view())
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "results.parquet", tmp_path / "b")
    other, _ = make_study(tmp_path / "b", trials=2)
    with pytest.raises(StudyError, match=r"holds trials that journal.log does not know \(0, 1"):
        store_of(tmp_path / "b").open(other.view())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = searched(tmp_path, trials=2)
    store = store_of(tmp_path)
    store.open(study.view())
    before = (tmp_path / "results.parquet").read_bytes()

    def full(table: pa.Table, path: str, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("nasseg.search.store.pq.write_table", full)
    store._dirty = True
    with pytest.raises(OSError, match="disk full"):
        store.flush()
    assert (tmp_path / "results.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".results*"))


def test_reading_a_study_writes_nothing_even_torn(tmp_path: Path) -> None:
    searched(tmp_path).close()
    with open(tmp_path / "journal.log", "ab") as file:
        file.write(b'{"op_code":')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    view = read_study(tmp_path)
    assert view.count("complete") == 6
    assert view.driver is None
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_study_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(dump_yaml(CONFIG))
    assert read_study(tmp_path).trials == ()


def test_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no such results folder"):
        read_study(tmp_path / "none")
    with pytest.raises(StudyError, match="it has no study"):
        read_study(tmp_path)
    (tmp_path / "study.yaml").write_text("[1]\n")
    with pytest.raises(StudyError, match="is not the configuration of a study"):
        read_study(tmp_path)


def test_pick(tmp_path: Path) -> None:
    recipe = Recipe(data="synthetic", size=(64, 96), settings={"iterations": 3})
    study = searched(tmp_path, space=fake_space(lr=True), recipe=recipe)
    best = study.view().best
    assert best is not None
    kept = tmp_path / "checkpoints" / str(best.number) / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_text("w")
    for text in (str(tmp_path), f"{tmp_path}:best", f"{tmp_path}:{best.number}"):
        picked = pick(text)
        assert (picked.number, picked.genotype.id) == (best.number, best.id)
        assert picked.settings == best.settings
        assert set(picked.settings) == {"lr"}
        assert picked.fixed == {"iterations": 3}
        assert (picked.data, picked.size, picked.trainer, picked.seed, picked.fidelity) == ("synthetic", (64, 96), "proxy", 4, 0.5)
        assert (picked.weights, picked.pretrained, picked.checkpoint) == ("/w.safetensors", False, kept)
    with pytest.raises(StudyError, match=r"999: no such trial; nearest legal: \d+"):
        pick(f"{tmp_path}:999")
    with pytest.raises(StudyError, match=r"behind the colon stands a trial's number or best \(given 'worst'\)"):
        pick(f"{tmp_path}:worst")


def test_pick_before_any_trial_is_complete(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(dump_yaml(CONFIG))
    with pytest.raises(StudyError, match="no trial is complete yet"):
        pick(str(tmp_path))
