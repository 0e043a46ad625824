"""Cores this process may use, and how threads of PyTorch wait for each other on them. Imports no torch."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

PASSIVE_WAIT = {"OMP_WAIT_POLICY": "passive"}
"""Environment for a process that will load torch: threads sleep where they wait for each other, instead of spinning.

GNU's OpenMP spins by default. As soon as the machine has other work, a spinning thread keeps a core from the very thread it waits for,
and an iteration takes several times as long (``bench/threads.py``). Read when torch is loaded; what the user has set stays.
"""


def wait_passively() -> None:
    """Set :data:`PASSIVE_WAIT` where the user has said nothing. Has an effect before torch is loaded, in this process and its children."""
    for name, value in PASSIVE_WAIT.items():
        os.environ.setdefault(name, value)


def usable_cores() -> int:
    """Cores this process may run on: its affinity, and no more than the CPU quota of its control group (containers, batch systems)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def cpu_quota(system: Path = Path("/")) -> float | None:
    """CPUs' worth of time the control groups of this process grant, None without a limit; ``system`` is where ``proc`` and ``sys`` lie.

    Linux control groups, version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``). A group's limit holds for all below it, so the smallest on
    the way to the root counts. In a container that path may lead nowhere; then the root is the container's own group.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = PurePosixPath(path.lstrip("/"))
        limits += [limit for at in (own, *own.parents) if (limit := _limit(root / at)) is not None]
    return min(limits, default=None)


def _limit(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
