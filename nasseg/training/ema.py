"""The moving average of a model's weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An average of weights and normalisation statistics: a ← d·a + (1-d)·w with d = min(decay, (1+n)/(10+n)) at update n.

    The ramp lets a run of a hundred iterations have a useful average: with the plain decay it would still hold the first weights.
    """

    def average(averaged: Any, current: Any, count: Tensor | int) -> None:
        n = int(count)
        # torch's function factory carries no types
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
