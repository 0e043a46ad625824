"""Devices, precision, threads, random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nasseg.errors import ConfigError
from nasseg.training import device
from nasseg.training.device import (
    autocast,
    check_precision,
    own_randomness,
    random_state,
    resolve_device,
    seed_everything,
    set_random_state,
    threads,
)

CPU = torch.device("cpu")


def test_devices_that_are_there() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"no CUDA device is visible .given 'cuda'.; nearest legal: cpu"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"2 CUDA devices are visible .given 'cuda:5'.; nearest legal: cuda:1"):
        resolve_device("cuda:5")


def test_precision_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        check_precision("fp16", CPU)
    check_precision("bf16", CPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(ConfigError, match=r"Old GPU has no bf16 arithmetic .given 'bf16'.; nearest legal: fp16"):
        check_precision("bf16", torch.device("cuda"))


def test_autocast_is_off_and_on() -> None:
    x = torch.ones(2, 2)
    with autocast("none", CPU):
        assert (x @ x).dtype == torch.float32
    with autocast("bf16", CPU):
        assert (x @ x).dtype == torch.bfloat16


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with threads(0):
        assert torch.get_num_threads() <= before
    assert torch.get_num_threads() == before


def test_no_number_of_threads_is_that_of_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    with threads(4):
        for cores, used in ((3, 3), (64, 4)):
            monkeypatch.setattr(device, "usable_cores", lambda cores=cores: cores)
            with threads(0):
                assert torch.get_num_threads() == used
            assert torch.get_num_threads() == 4


def draws() -> list[float]:
    return [float(torch.rand(1)), float(np.random.rand()), random.random(), float(np.random.normal()), random.gauss(0, 1)]


def test_random_state_goes_round() -> None:
    seed_everything(3)
    draws()
    state = random_state(CPU)
    first = draws()
    set_random_state(state, CPU)
    assert draws() == first
    seed_everything(3)
    assert draws() != first


def test_own_randomness_moves_nothing() -> None:
    seed_everything(0)
    expected = torch.rand(2)
    seed_everything(0)
    with own_randomness(CPU):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)
