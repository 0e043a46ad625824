"""Evaluation in bf16 on the CPU: the network under autocast, in both forms of its blocks, and the folded program."""

from __future__ import annotations

import pytest
import torch
from kits_model import image, tiny_model
from torch import Tensor

from nasseg.genes.presets import PRESETS, preset
from nasseg.models.folding import fold
from nasseg.models.form import written_out

KEPT = 0.01
"""bf16 keeps 8 bits: 0.004 a rounding. Logits may be off by this share of the largest."""


def close(logits: Tensor, expected: Tensor) -> None:
    assert logits.dtype == torch.bfloat16
    delta = float((logits.float() - expected).abs().max() / expected.abs().max())
    assert 0 < delta < KEPT
    assert float((logits.argmax(1) == expected.argmax(1)).float().mean()) > 0.98


@pytest.mark.parametrize("name", PRESETS)
def test_networks_evaluate_in_bf16(name: str):
    model, x_BCHW = tiny_model(preset(name)), image(2, (64, 96))
    with torch.no_grad():
        expected = model(x_BCHW)
        with torch.autocast("cpu", torch.bfloat16):
            close(model(x_BCHW), expected)
            with written_out(model):
                close(model(x_BCHW), expected)
    assert all(value.dtype == torch.float32 for value in model.parameters())


@pytest.mark.parametrize("name", ["segformer", "csap"])
def test_folded_programs_evaluate_in_bf16(name: str):
    model, x_BCHW = tiny_model(preset(name)), image(2, (64, 96))
    with torch.no_grad():
        expected = model(x_BCHW)
        program = fold(torch.export.export(model, (x_BCHW,))).module
        with torch.autocast("cpu", torch.bfloat16):
            close(program(x_BCHW), expected)
