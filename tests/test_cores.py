from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nasseg import cores
from nasseg.cores import cpu_quota, usable_cores


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """A tree with ``proc/self/cgroup`` and files under ``sys/fs/cgroup``, / written as __ in their names."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "4:memory:/a\n2:cpu,cpuacct:/docker/abc\n3:cpuset:/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        # A group is limited by those above it; a path of the host's leads nowhere in a container, whose own group is the root.
        ("0::/user/job\n", {"user__cpu.max": "400000 100000", "user__job__cpu.max": "max 100000"}, 4.0),
        ("0::/user/job\n", {"user__cpu.max": "400000 100000", "user__job__cpu.max": "150000 100000"}, 1.5),
        ("0::/kubepods/pod1\n", {"cpu.max": "50000 100000"}, 0.5),
        (V1, {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu__cpu.cfs_quota_us": "300000\n", "cpu__cpu.cfs_period_us": "100000\n"}, 3.0),
        (V1, {"cpu__docker__abc__cpu.cfs_quota_us": "200000", "cpu__docker__abc__cpu.cfs_period_us": "100000"}, 2.0),
        (V1, {"cpu__cpu.cfs_quota_us": "broken", "cpu__cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_quota_of_control_groups(cgroup: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cpu_quota(machine(tmp_path, cgroup, **files)) == quota


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("cores_there", "quota", "usable"), [(8, None, 8), (8, 2.5, 2), (8, 0.5, 1), (2, 16.0, 2)])
def test_usable_cores(cores_there: int, quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores_there)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == usable
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores_there)
    assert usable_cores() == usable


@pytest.mark.parametrize(("given", "read"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_threads_of_a_command_sleep_while_they_wait(given: dict[str, str], read: str) -> None:
    rest = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-m", "nasseg", "backbones", "mit_b0", "--size", "64", "--json"]
    ran = subprocess.run(command, env={**rest, "OMP_DISPLAY_ENV": "true", **given}, capture_output=True, text=True, check=True)
    shown = re.findall(r"OMP_WAIT_POLICY\s*=\s*'(\w+)'", ran.stderr)
    if not shown:
        pytest.skip("this build of torch has no OpenMP that shows its settings")
    assert set(shown) == {read}
