"""The moving average, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nasseg.training.ema import build_ema


def test_ramp_then_decay_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = build_ema(model, 0.2)
    ema.update_parameters(model)
    model.weight.data.fill_(3.0)
    ema.update_parameters(model)
    # n = 1: d = min(.2, 2/11) = 2/11
    second = 2 / 11 * 1 + 9 / 11 * 3
    assert ema.module.weight.item() == pytest.approx(second)
    ema.update_parameters(model)
    # n = 2: d = min(.2, 3/12) = .2
    assert ema.module.weight.item() == pytest.approx(0.2 * second + 0.8 * 3)


def test_starts_at_the_first_weights_and_averages_statistics() -> None:
    model = nn.BatchNorm1d(2)
    ema = build_ema(model, 0.9)
    model.running_mean = torch.tensor([2.0, 4.0])
    ema.update_parameters(model)
    assert ema.module.running_mean.tolist() == [2.0, 4.0]
    model.running_mean = torch.tensor([4.0, 8.0])
    ema.update_parameters(model)
    assert ema.module.running_mean.tolist() == pytest.approx([2 * 2 / 11 + 4 * 9 / 11, 4 * 2 / 11 + 8 * 9 / 11])


def test_state_goes_round() -> None:
    model = nn.Linear(2, 2)
    ema = build_ema(model, 0.9)
    for _ in range(3):
        ema.update_parameters(model)
    other = build_ema(nn.Linear(2, 2), 0.9)
    other.load_state_dict(ema.state_dict())
    assert int(other.n_averaged) == 3
    assert torch.equal(other.module.weight, ema.module.weight)
