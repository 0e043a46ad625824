"""What a run ran on: versions, device, threads, commit. Travels with every result."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nasseg

PACKAGES = ("torch", "torchvision", "timm", "numpy")


def stamp(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Plain data: ``nasseg``, ``commit`` (None outside a checkout), ``python``, package versions, ``platform``, ``device``, ``threads``."""
    device = torch.device(device)
    return {
        "nasseg": nasseg.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


@functools.cache
def commit() -> str | None:
    """The commit of the checkout nasseg is imported from, ``+`` behind it where files differ; None outside one and without git."""
    root = Path(nasseg.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


@functools.cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
