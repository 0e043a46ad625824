"""Signals: one clean end, however often they come."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasseg.search import interrupts
from nasseg.search.cluster import PREFIX, short_folder
from nasseg.search.interrupts import Switch, deferred, handled, interruptible
from nasseg.search.store import read_study

ROOT = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Ctrl-C as in a terminal, whatever started the tests; nothing is left changed."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@BOTH
def test_the_first_interrupts_and_those_that_follow_do_not(number: signal.Signals) -> None:
    cleaned = []

    def search() -> None:
        with interruptible():
            try:
                signal.raise_signal(number)
            finally:
                for other in interrupts.SIGNALS:
                    signal.raise_signal(other)
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        search()
    assert cleaned


def test_one_that_comes_much_later_interrupts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    switch = Switch(eager=True, patience=5.0)
    moments = []
    for moment in (100.0, 101.0, 104.9, 105.0, 106.0, 109.9, 110.0):
        now[0] = moment
        try:
            switch.press(signal.SIGTERM, None)
        except KeyboardInterrupt:
            moments.append(moment)
    assert moments == [100.0, 105.0, 110.0]
    assert switch.signal == signal.SIGTERM


@BOTH
def test_deferred(number: signal.Signals) -> None:
    with deferred() as switch:
        assert switch.signal is None
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
    assert switch.signal == number


def test_handlers_are_put_back_even_where_the_block_replaced_them() -> None:
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    with interruptible(), deferred():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert {number: signal.getsignal(number) for number in interrupts.SIGNALS} == before


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def enter() -> None:
        with handled(Switch(eager=True)):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


NASSEG = """
import signal
from nasseg.cli.main import run
signal.signal(signal.SIGINT, signal.default_int_handler)
run()
"""
"""The nasseg command, with Ctrl-C as in a terminal."""


def wait_for(words: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while words not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.05)


def processes_of(driver: int) -> list[str]:
    """Processes of a driver's session, or of the Ray it started."""
    listing = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    found = [line.split(None, 2) for line in listing.splitlines()]
    return [
        command for sid, state, command in found if (int(sid) == driver or f"{PREFIX}{driver}-" in command) and not state.startswith("Z")
    ]


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("executor", ["ray", "local"])
def test_signals_in_a_row_end_a_search_once_and_say_how_to_go_on(tmp_path: Path, executor: str) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command = [
        "search", "tiny", "--data", "synthetic?train=2&val=1&size=64x96", "--size", "64x96", "--backbone", "mit_b0", "--trials", "3",
        "--trainer", "tests.kits_store:FakeTrainer", "--set", "trainer.sleep=0.1", "--set", "trainer.steps=5000",
        "--executor", executor, "--out", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as file:
        code = [sys.executable, "-c", NASSEG, *command]
        driver = subprocess.Popen(code, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True)
    wait_for(" started (", log, driver)
    deadline = time.monotonic() + 120
    while not list((out / "work").glob("*/attempt-1/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    for _ in range(4):
        time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(90) == 130
    said = log.read_text(encoding="utf-8")
    assert said.splitlines()[-2:] == [
        "stopped after 0 of 3 trials; 1 were running and go on from their checkpoints",
        f"go on with: nasseg search tiny --data 'synthetic?train=2&val=1&size=64x96' {' '.join(command[4:])}",
    ]
    assert "Traceback" not in said
    assert "***" not in said
    deadline = time.monotonic() + 30
    while (left := processes_of(driver.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    assert list(Path(short_folder() or "/tmp").glob(f"{PREFIX}{driver.pid}-*")) == []
    assert [trial.state for trial in read_study(out).trials if trial.attempt] == ["waiting"]
