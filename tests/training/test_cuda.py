"""What only a CUDA device can show: half precision, and going on with its random numbers. Skipped with a reason elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kits_trainer import Told, tiny_trial

from nasseg.training.trainer import load_trainer
from nasseg.training.trial import Result

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")

SHORT = {"iterations": 6, "batch_size": 4, "device": "cuda", "dropout": 0.3}


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_every_precision_learns_the_same(amp: str) -> None:
    exact, told = Told(), Told()
    load_trainer("proxy")({**SHORT, "device": "cpu", "dropout": 0.0}).run(tiny_trial(), exact)
    result = load_trainer("proxy")({**SHORT, "dropout": 0.0, "amp": amp}).run(tiny_trial(), told)
    assert result.status == Result.COMPLETE
    assert result.environment["device"] == torch.cuda.get_device_name()
    assert told.losses[0] == pytest.approx(exact.losses[0], rel=1e-3 if amp == "none" else 2e-2)


def test_goes_on_with_the_devices_random_numbers(tmp_path: Path) -> None:
    straight, before, after = Told(), Told(stop_at=3), Told()
    for told, changes in (
        (straight, {}),
        (before, {"workdir": str(tmp_path)}),
        (after, {"parent": str(tmp_path)}),
    ):
        load_trainer("full")({**SHORT, "amp": "fp16"}).run(tiny_trial(**changes), told)
    assert before.losses + after.losses == pytest.approx(straight.losses, rel=1e-3)
