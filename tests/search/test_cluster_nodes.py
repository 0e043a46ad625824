"""A cluster whose nodes have temporary folders of their own, as real machines do: ``ray.cluster_utils.Cluster`` shares the driver's."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasseg.search.cluster import ENVIRONMENT
from nasseg.search.store import read_study

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
PRIVATE = "mount --make-rprivate / && mount -t tmpfs none /tmp && "
# A token would lie in the home folder, which the tests put under /tmp.
OURS = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}


def can_unshare() -> bool:
    """Whether this user may give a process a /tmp of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "sh", "-c", PRIVATE + "true"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not can_unshare(), reason="mount namespaces need Linux and the right to make them"),
]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that all nodes see, outside /tmp."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@contextlib.contextmanager
def cluster(logs: Path) -> Iterator[str]:
    """A head without CPUs on the driver's file system and a node with two whose /tmp is its own; the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    temporary = tempfile.mkdtemp(prefix="nr-", dir="/tmp")
    head = [str(RAY), "start", "--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--include-dashboard=false"]
    node = ["unshare", "-m", "sh", "-c", PRIVATE + 'exec "$0" "$@"', str(RAY), "start", f"--address={address}", "--num-cpus=2"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in (("head", [*head, f"--temp-dir={temporary}", *options]), ("node", [*node, *options])):
            with open(logs / f"{name}.log", "wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=OURS, cwd=ROOT, start_new_session=True))
            until_it_says(logs / f"{name}.log", "Ray runtime started", started[-1])
        yield address
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(1)
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        shutil.rmtree(temporary, ignore_errors=True)


def until_it_says(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a log holds these words."""
    deadline = time.monotonic() + 90
    while words not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.2)


def test_a_search_on_a_node_that_does_not_share_the_drivers_tmp(shared_folder: Path) -> None:
    out = shared_folder / "out"
    with cluster(shared_folder) as address:
        command = [
            sys.executable, "-m", "nasseg", "search", "tiny", "--data", "synthetic?train=8&val=4&size=64x96", "--backbone", "resnet10t",
            "--size", "64x96", "--trials", "3", "--concurrency", "2", "--address", address, "--set", "trainer.iterations=2",
            "--out", str(out),
        ]  # fmt: skip
        done = subprocess.run(command, env=OURS, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(out)
    assert [trial.state for trial in study.trials if trial.trained] == ["complete"] * 3, done.stdout
    assert "lost" not in done.stdout
