"""Where a run computes: device, precision, threads, random numbers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nasseg.cores import usable_cores
from nasseg.errors import ConfigError, Problem


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that is there; raises :class:`ConfigError` where it is not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        there = f"{count} CUDA device{'s are' if count != 1 else ' is'} visible" if count else "no CUDA device is visible"
        raise ConfigError(Problem("trainer", "device", there, name, f"cuda:{count - 1}" if count else "cpu"))
    return device


def check_precision(amp: str, device: torch.device) -> None:
    """Raise :class:`ConfigError` where the device has no such arithmetic."""
    if amp == "fp16" and device.type != "cuda":
        raise ConfigError(Problem("trainer", "amp", "fp16 needs a CUDA device, and this run is on the CPU", amp, "none"))
    if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(Problem("trainer", "amp", f"{torch.cuda.get_device_name(device)} has no bf16 arithmetic", amp, "fp16"))


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """The forward pass's precision as a context; does nothing for ``none``."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "none")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Use ``count`` CPU threads inside the block, and the former number after it.

    0 are PyTorch's own number (its cores, or OMP_NUM_THREADS), but no more than the cores this process may use: PyTorch does not know of
    the CPU quota of a container.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_everything(seed: int) -> None:
    """Start the random numbers of torch (all devices), numpy and Python from ``seed``."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator a run may draw from, as tensors and plain values (no pickled objects)."""
    mersenne = np.random.get_state(legacy=False)
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": {
            "kind": mersenne["bit_generator"],
            "keys": torch.from_numpy(mersenne["state"]["key"].astype(np.int64)),
            "position": int(mersenne["state"]["pos"]),
            "has_gauss": int(mersenne["has_gauss"]),
            "cached": float(mersenne["gauss"]),
        },
        "python": {"version": version, "numbers": torch.tensor(numbers, dtype=torch.int64), "gauss": gauss},
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    kept = state["numpy"]
    np.random.set_state((kept["kind"], kept["keys"].numpy().astype(np.uint32), kept["position"], kept["has_gauss"], kept["cached"]))
    kept = state["python"]
    random.setstate((kept["version"], tuple(kept["numbers"].tolist()), kept["gauss"]))


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """What is drawn inside the block (loading, validating) leaves the run's random numbers where they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
