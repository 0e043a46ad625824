"""The driver's lock: who holds it, what a killed driver leaves, file systems without locks, systems without fcntl."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nasseg.errors import StudyError
from nasseg.search import driver
from nasseg.search.driver import DriverLock


def test_a_second_driver_is_refused_with_the_holder(tmp_path: Path) -> None:
    with DriverLock(tmp_path) as lock:
        assert lock.holder() == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(StudyError, match=rf"is in use by another search \(process {os.getpid()} on"), DriverLock(tmp_path):
            pass
        assert lock.holder() is not None, "the refused driver must not take the lock with it"
    with DriverLock(tmp_path):
        pass
    assert DriverLock(tmp_path).holder() is None


def test_a_driver_on_another_machine_is_refused_too(tmp_path: Path) -> None:
    with DriverLock(tmp_path) as lock:
        lock.path.write_text("process 12 on another-host\n")
        with (
            pytest.raises(StudyError, match=r"another search \(process 12 on another-host\); wait for it or stop it"),
            DriverLock(tmp_path),
        ):
            pass


def test_lock_of_a_killed_driver_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from nasseg.search.driver import DriverLock; DriverLock(sys.argv[1]).__enter__(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / ".driver").read_text().startswith("process ")
    assert DriverLock(tmp_path).holder() is None
    with DriverLock(tmp_path):
        pass


def test_a_name_without_a_lock_is_no_holder(tmp_path: Path) -> None:
    (tmp_path / ".driver").write_text("process 12 on another-host\n")
    assert DriverLock(tmp_path).holder() is None
    assert [path.name for path in tmp_path.iterdir()] == [".driver"], "asking for the holder writes nothing"


def test_a_forked_child_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    code = """
import os, sys
from nasseg.search.driver import DriverLock
from nasseg.errors import StudyError
with DriverLock(sys.argv[1]) as lock:
    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    try:
        DriverLock(sys.argv[1]).__enter__()
    except StudyError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "is in use by another search (process " in ran.stdout, ran.stderr


def test_a_new_driver_waits_for_orphans_of_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DriverLock(tmp_path) as held:
        held.path.write_text(f"process 999999999 on {socket.gethostname()}\n")
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            held.__exit__(None, None, None)

        monkeypatch.setattr(driver.time, "sleep", nap)
        with DriverLock(tmp_path):
            assert naps == [0.1]


def test_orphans_that_stay_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ORPHAN_SECONDS", 0.0)
    with DriverLock(tmp_path) as held:
        held.path.unlink()
        with pytest.raises(StudyError, match=r"is in use by another search \(unknown\)"), DriverLock(tmp_path):
            pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    sentence = rf"lies on a file system without file locks \({os.strerror(code)}\), where two searches could write at once; give an --out"
    with pytest.raises(StudyError, match=sentence), DriverLock(tmp_path):
        pass
    assert not (tmp_path / ".driver").exists()


def test_where_locks_cannot_be_asked_the_name_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for name in (".driver", ".driver.lock"):
        (tmp_path / name).write_text("process 12 on another-host\n")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert DriverLock(tmp_path).holder() == "process 12 on another-host"


def test_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert driver.alive(os.getpid())
    assert driver.alive(1)
    assert not driver.alive(999_999_999)
    monkeypatch.setattr(sys, "platform", "win32")
    assert driver.alive(999_999_999)


def test_show_needs_no_posix_modules(tmp_path: Path) -> None:
    """``nasseg show`` runs where Python comes without its POSIX modules, as on Windows."""
    missing = ["fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"]
    code = f"""
import sys
for name in {missing!r}:
    sys.modules[name] = None
from nasseg.cli.main import run
run(["show", sys.argv[1]])
"""
    # filelock warns that POSIX without fcntl has existence locks alone; on Windows it has the system's.
    python = [sys.executable, "-W", "ignore:only soft file lock is available"]
    ran = subprocess.run([*python, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (2, f"nasseg: {tmp_path} is not a study: it has no study.yaml\n")
