from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing import connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from nasseg.search import executor_local
from nasseg.search.candidate import Recipe
from nasseg.search.executor_local import Pool, reporter, run_local
from nasseg.search.worker import Stopped
from tests.kits_store import ODD, check_odd, diary_of, make_study, odd_space


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def recipe(diary: Path, **settings: object) -> Recipe:
    return Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:FakeTrainer", settings={"diary": str(diary), **settings})


def refuse(number: int, why: str) -> None:
    pytest.fail(f"worker of trial {number} lost: {why}")


@pytest.mark.parametrize("concurrency", [1, 2])
def test_every_trial_once_each_told(tmp_path: Path, concurrency: int) -> None:
    diary = tmp_path / "diary"
    told: list[tuple[int, int]] = []
    study, _ = make_study(tmp_path / "out", budget="macs=200M", trials=7, recipe=recipe(diary))

    def progress(number: int, iteration: int, metrics: Mapping[str, float]) -> None:
        told.append((number, iteration))

    run_local(study, concurrency=concurrency, progress=progress, lost=refuse)
    assert study.completed == 7
    ends = Counter(entry["id"] for entry in diary_of(diary) if entry["step"] == "end")
    assert sorted(ends.values()) == [1] * 7
    assert {number for number, _ in told} == {t.number for t in study.view().trials if t.state == "complete"}
    assert not multiprocessing.active_children()


def test_warnings_of_workers_are_logged_with_their_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study, _ = make_study(tmp_path / "out", trials=3, recipe=recipe(tmp_path / "diary", warn="a 100% odd thing"))
    run_local(study, concurrency=2, progress=lambda *told: None, lost=refuse)
    logged = sorted((record.name, record.levelname, record.getMessage()) for record in caplog.records)
    trained = sorted(t.number for t in study.view().trials if t.trained)
    assert logged == [("nasseg.fake", "WARNING", f"trial {number}: a 100% odd thing") for number in trained]


def test_failures_of_a_trainer_do_not_end_the_search(tmp_path: Path) -> None:
    study, _ = make_study(tmp_path / "out", trials=8, recipe=recipe(tmp_path / "diary", crash="raise"))
    run_local(study, concurrency=1, progress=lambda *told: None, lost=refuse)
    assert study.trained == 8
    assert study.failed > 0
    assert {t.reason for t in study.view().trials if t.state == "failed"} == {"RuntimeError: no luck"}


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_no_recipe_should_return_is_its_trials_failure(tmp_path: Path, concurrency: int) -> None:
    # In one process a recipe that ends it ends the search.
    kinds = len(ODD) - (concurrency == 1)
    study, _ = make_study(
        tmp_path, space=odd_space(kinds), trials=100, recipe=Recipe(data="synthetic", size=(64, 64), trainer="tests.kits_store:OddTrainer")
    )
    run_local(study, concurrency=concurrency, progress=lambda *told: None, lost=lambda *told: None)
    check_odd(study, kinds)


def test_a_lost_worker_is_replaced_and_its_trial_tried_once_more(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    lost: list[tuple[int, str]] = []
    study, _ = make_study(tmp_path / "out", trials=5, recipe=recipe(diary, crash="exit"), seed=2)
    run_local(study, concurrency=2, progress=lambda *told: None, lost=lambda number, why: lost.append((number, why)))
    failed = [t for t in study.view().trials if t.state == "failed"]
    assert study.trained == 5
    assert failed
    assert {t.reason for t in failed} == {"its worker was lost 2 times without progress; the last ended with exit code 9"}
    assert sorted(number for number, _ in lost) == [t.number for t in failed]
    assert {why for _, why in lost} == {"ended with exit code 9"}
    attempts = Counter(entry["trial"] for entry in diary_of(diary) if entry["step"] == 0)
    assert all(attempts[str(t.number)] == 2 for t in failed)
    assert not multiprocessing.active_children()


def test_ctrl_c_leaves_running_trials_for_the_next_start(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    study, _ = make_study(tmp_path / "out", trials=4, recipe=recipe(diary, sleep=0.2, steps=50))
    told = threading.Event()

    def interrupt() -> None:
        told.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_local(study, concurrency=2, progress=lambda *args: told.set(), lost=refuse)
    thread.join()
    assert time.monotonic() - began < 60
    assert not multiprocessing.active_children()
    assert len(study.running) == 2
    study.close()
    again, events = make_study(tmp_path / "out", trials=4, recipe=recipe(diary, sleep=0.2, steps=50))
    assert again.propose() is not None
    assert events[0].kind == "resumed"


def test_how_a_worker_died_in_words() -> None:
    pool = Pool(1)
    worker = pool.idle()
    assert worker is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    connection.wait([worker.pipe], timeout=10)
    assert pool.bury(worker) == "was killed by SIGKILL, out of memory perhaps"
    worker = pool.idle()
    assert worker is not None
    worker.process.terminate()
    assert pool.bury(worker) == "was killed by SIGTERM"
    assert pool.workers == []


def test_a_worker_leaves_with_its_driver(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from nasseg.search.executor_local import Pool
if __name__ == "__main__":
    worker = Pool(1).idle()
    print(worker.process.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    script = tmp_path / "driver.py"
    script.write_text(code)
    driver = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdin is not None
    worker = int(driver.stdout.readline())
    driver.stdin.write("\n")
    driver.stdin.close()
    driver.stdout.close()
    assert driver.wait() == -9
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and Path(f"/proc/{worker}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


class Wire:
    """One end of a pipe that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.broken = False

    def send(self, kind: str, content: object) -> None:
        if self.broken:
            raise BrokenPipeError
        self.sent.append((kind, content))


def test_reports_are_sent_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(executor_local, "time", SimpleNamespace(monotonic=lambda: now[0]))
    wire = Wire()
    report = reporter(wire.send)
    for k in range(10):
        now[0] += 0.1
        assert report(k, {"loss": 1.0}) is False
    assert wire.sent == [("progress", (k, {"loss": 1.0})) for k in (0, 3, 6, 9)]
    wire.broken = True
    now[0] += 1
    with pytest.raises(Stopped):
        report(10, {})
