from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
import pytest
from kits_data import IDS, write_tree

import nasseg
from nasseg.errors import ConfigError, DataError, StudyError
from nasseg.search import run as module
from nasseg.search.resources import Resources
from nasseg.search.run import search
from nasseg.search.store import pick, read_study
from nasseg.search.view import Event, StudyView
from tests.kits_store import diary_of, fake_space

DATA = "synthetic?train=2&val=1&size=64x96"


def go(folder: Path, space: Any = None, **more: Any) -> StudyView:
    given: dict[str, Any] = {
        "data": DATA, "size": (64, 96), "trials": 5, "out": folder / "out", "trainer": "tests.kits_store:FakeTrainer", "executor": "local",
        "budget": "macs=2G", "settings": {"diary": str(folder / "diary")},
    }  # fmt: skip
    return search(fake_space() if space is None else space, **{**given, **more})


def test_a_search_from_beginning_to_end(tmp_path: Path) -> None:
    events: list[Event] = []
    verbosity = optuna.logging.get_verbosity()
    view = go(tmp_path, listener=events.append)
    out = tmp_path / "out"
    assert view.count("complete") == 5
    assert view.path == out
    assert sorted(p.name for p in out.iterdir()) == [
        ".driver.lock",
        "checkpoints",
        "journal.log",
        "results.parquet",
        "search.log",
        "study.yaml",
    ]
    assert pq.read_table(out / "results.parquet").num_rows == len(view.trials)
    assert {p.name for p in (out / "checkpoints").iterdir()} == {str(t.number) for t in view.front}
    for trial in view.front:
        assert (out / "checkpoints" / str(trial.number) / "model.safetensors").read_text() == f"weights of {trial.id}"
    log = (out / "search.log").read_text()
    assert log.count(" complete: mIoU ") == 5
    assert log.count(" started (") == 5
    counted = Counter(event.kind for event in events)
    assert counted["complete"] == 5
    assert counted["progress"] == 15
    assert view.driver is None
    assert optuna.logging.get_verbosity() == verbosity
    assert pick(str(out)).checkpoint == out / "checkpoints" / str(view.best.number) / "model.safetensors"  # type: ignore[union-attr]


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    first = go(tmp_path, trials=3)
    ran = len(diary_of(tmp_path / "diary"))
    assert go(tmp_path, trials=3).trials == first.trials
    assert len(diary_of(tmp_path / "diary")) == ran
    more = go(tmp_path, trials=6)
    assert more.count("complete") == 6
    kept = {t.number: (t.id, t.values, t.finished) for t in first.trials}
    assert {t.number: (t.id, t.values, t.finished) for t in more.trials if t.number in kept} == kept
    assert more.config["trials"] == 6
    assert more.config["created"] == first.config["created"]


def test_from_python_by_the_public_door(tmp_path: Path) -> None:
    study = nasseg.search(  # type: ignore[operator]
        fake_space(), data=DATA, size=(64, 96), trials=2, out=tmp_path / "out", trainer="tests.kits_store:FakeTrainer", executor="local"
    )
    assert [trial.number for trial in study.front] == [t.number for t in read_study(tmp_path / "out").front]


def test_a_study_of_settings(tmp_path: Path) -> None:
    view = go(tmp_path, fake_space(lr=True, fusion_width=64, lpm="se", ffn=1), trials=4)
    assert len({t.id for t in view.trials}) == 1
    settings = [t.settings["lr"] for t in view.trials if t.trained]
    assert len(set(settings)) == 4
    assert pick(str(view.path)).settings == view.best.settings  # type: ignore[union-attr]
    assert pick(str(view.path)).fixed == {"diary": str(tmp_path / "diary")}


def test_failed_trials_leave_their_traceback_in_the_log(tmp_path: Path) -> None:
    view = go(tmp_path, settings={"crash": "raise"}, trials=8)
    assert view.count("failed") > 0
    log = (tmp_path / "out" / "search.log").read_text()
    assert log.count("Traceback (most recent call last)") == view.count("failed")
    assert "RuntimeError: no luck" in log
    assert not (tmp_path / "out" / "work").exists()


def test_what_a_killed_driver_left_is_put_in_order(tmp_path: Path) -> None:
    """Killed between telling and recording: rows, weights and folders are made good at the next start."""
    view = go(tmp_path, trials=3)
    best = view.best
    assert best is not None
    out = tmp_path / "out"
    kept = out / "checkpoints" / str(best.number) / "model.safetensors"
    work = Path(best.checkpoint or "")
    work.parent.mkdir(parents=True)
    kept.rename(work)
    (out / "work" / "999" / "attempt-1").mkdir(parents=True)
    (out / "results.parquet").unlink()
    with open(out / "journal.log", "ab") as file:
        file.write(b'{"op_code":')
    again = go(tmp_path, trials=3)
    assert again.trials == view.trials
    assert kept.read_text() == f"weights of {best.id}"
    assert not (out / "work").exists()
    assert pq.read_table(out / "results.parquet").num_rows == len(view.trials)
    assert "rows restored from the journal" in (out / "search.log").read_text()


def test_another_study_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    go(tmp_path, trials=2)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(StudyError, match=r"belongs to another study; it differs in budget\.macs: 2\.00G → 3\.00G"):
        go(tmp_path, trials=2, budget="macs=3G")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_a_study_whose_networks_are_counted_otherwise_now_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasseg.search import plan as planning  # noqa: PLC0415  # for this test alone

    go(tmp_path, trials=2)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    real = planning.cost

    class Another:
        def __init__(self, *given: Any, **more: Any) -> None:
            self.found = real(*given, **more).values()

        def values(self) -> dict[str, float]:
            return {**self.found, "macs": self.found["macs"] + 1000}

    monkeypatch.setattr(planning, "cost", Another)
    version = nasseg.__version__
    said = rf"out cannot go on: nasseg {version} counted [\d,]+ macs for trial 0, nasseg {version} counts [\d,]+\. Give another --out"
    with pytest.raises(StudyError, match=said):
        go(tmp_path, trials=3)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_two_drivers_cannot_share_a_folder(tmp_path: Path) -> None:
    caught: list[str] = []

    def second(event: Event) -> None:
        if event.kind == "complete" and not caught:
            try:
                go(tmp_path, trials=3)
            except StudyError as error:
                caught.append(str(error))

    go(tmp_path, trials=2, listener=second)
    assert len(caught) == 1
    assert f"is in use by another search (process {os.getpid()} on " in caught[0]


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/out cannot be written: Not a directory"):
        go(tmp_path, out=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"executor": "dask"}, "--executor: must be one of ray, local"),
        ({"concurrency": 0}, "--concurrency: must be a whole number from 1"),
        ({"cpus": 0.0}, "--cpus-per-trial: must be above 0"),
        ({"gpus": -1.0}, "--gpus-per-trial: must not be below 0"),
        ({"executor": "local", "address": "auto"}, "--address: joins a Ray cluster, which the local executor does not use"),
        ({"address": "ray://head:10001"}, "--address: is host:port of the cluster's head, or auto"),
    ],
)
def test_resources_are_checked(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Resources(**given)


def test_an_interrupt_is_clean_and_sigterm_is_one(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stop(event: Event) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, listener=stop)
    assert signal.getsignal(signal.SIGTERM) is before
    view = read_study(tmp_path / "out")
    assert [t.state for t in view.trials if t.attempt] == ["waiting"]
    assert view.driver is None
    assert go(tmp_path).count("complete") == 5
    assert {entry["attempt"] for entry in diary_of(tmp_path / "diary") if entry["trial"] == "0"} == {"attempt-1", "attempt-2"}


def test_in_a_thread_signals_are_left_alone(tmp_path: Path) -> None:
    out: list[StudyView] = []
    thread = threading.Thread(target=lambda: out.append(go(tmp_path, trials=1)))
    thread.start()
    thread.join()
    assert out[0].count("complete") == 1


def test_weights_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(module, "check_weights", checked.append)
    go(tmp_path, trials=1)
    go(tmp_path, trials=2)
    assert len(checked) == 1


DRIVER = """
import sys
from nasseg.search.run import search
from tests.kits_store import fake_space
if __name__ == "__main__":
    out, diary, concurrency = sys.argv[1:]
    search(fake_space(), data="synthetic?train=2&val=1&size=64x96", size=(64, 96), trials=10, out=out, budget="macs=2G", executor="local",
           trainer="tests.kits_store:FakeTrainer", concurrency=int(concurrency), settings={"diary": diary, "sleep": 0.02, "steps": 5})
"""


@pytest.mark.parametrize("concurrency", [1, 2])
def test_kill_minus_nine_at_random_moments(tmp_path: Path, concurrency: int) -> None:
    """Killed again and again, the study ends with exactly N trials, none trained twice, none lost, none left running."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    out, diary = tmp_path / "out", tmp_path / "diary"
    command = [sys.executable, str(script), str(out), str(diary), str(concurrency)]
    rng = random.Random(concurrency)
    told: dict[int, Any] = {}
    for kill in range(4):
        driver = subprocess.Popen(command, env=environment, cwd=root)
        deadline = time.monotonic() + 120
        already = len(diary_of(diary))
        # From the first step on, so that most kills meet a running trial; a machine may be slow to start.
        while kill < 3 and len(diary_of(diary)) <= already and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if kill < 3:
            time.sleep(rng.uniform(0, 0.3))
            driver.kill()
        code = driver.wait(120)
        view = read_study(out)
        for number, values in told.items():
            assert view.trial(number).values == values  # type: ignore[union-attr]
        told |= {t.number: t.values for t in view.trials if t.trained}
    assert code == 0
    assert view.count("complete") == 10
    assert view.count("running", "waiting") == 0
    entries = diary_of(diary)
    ends = Counter(entry["id"] for entry in entries if entry["step"] == "end")
    assert len(ends) == 10
    trained = [t for t in view.trials if t.trained]
    assert len({t.id for t in trained}) == 10
    # A run that ended just before the kill may have written its last line without its result: at most one a worker and kill ends again.
    assert sum(ends.values()) <= 10 + 3 * concurrency
    assert any(t.attempt > 1 for t in trained)
    assert pq.read_table(out / "results.parquet").num_rows == len(view.trials)


def test_data_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    broken = root / "train" / "images" / f"{IDS[0]}.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match="file is truncated"):
        go(tmp_path, data=f"{root}?classes=3")
    assert not (tmp_path / "out").exists()


def test_warnings_reach_the_log_of_the_search(tmp_path: Path) -> None:
    go(tmp_path, trials=2, settings={"diary": "", "warn": "the sky is falling"})
    lines = (tmp_path / "out" / "search.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines if "sky" in line] == ["warning: the sky is falling"] * 2
    logging.getLogger("nasseg.fake").warning("after the search")
    assert "after the search" not in (tmp_path / "out" / "search.log").read_text()
