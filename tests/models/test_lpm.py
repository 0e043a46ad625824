"""The local perception module: hidden widths of its gates, and what each gate can and cannot do."""

from __future__ import annotations

import pytest
import torch
from kits_model import features, fill

from nasseg.models.lpm import GATES, Lpm

# Weights of a gate at widths 8 and 512, by hand: m is 1 and 32, for coord 8 and 16.
EXPECTED = {
    "plain": (0, 0),
    "se": (8 * 1 * 2 + 1 + 8, 512 * 32 * 2 + 32 + 512),
    "eca": (3, 3),
    "cbam": (8 * 1 * 2 + 98, 512 * 32 * 2 + 98),
    "coord": (8 * 8 * 3 + 2 * 8 + 2 * 8, 512 * 16 * 3 + 2 * 16 + 2 * 512),
}


@pytest.mark.parametrize("kind", GATES)
def test_gates_have_the_published_hidden_widths(kind: str) -> None:
    assert tuple(sum(p.numel() for p in GATES[kind](c).parameters()) for c in (8, 512)) == EXPECTED[kind]


@pytest.mark.parametrize("kind", ["se", "eca", "cbam", "coord"])
def test_a_gate_weighs_each_value_by_a_factor_between_0_and_1(kind: str) -> None:
    x_BCHW = features()[1]
    with torch.no_grad():
        factor = fill(GATES[kind](16)).eval()(x_BCHW) / x_BCHW
    assert 0 < float(factor.min()) < float(factor.max()) < 1
    by_pixel = float((factor - factor[:, :, :1, :1]).abs().max())
    # SE and ECA give a channel one factor; CBAM and CoordAtt see where a pixel lies.
    assert (by_pixel > 0.01) == (kind in ("cbam", "coord"))


def test_coordinate_factors_are_a_row_times_a_column() -> None:
    x_BCHW = features()[1]
    factor = fill(GATES["coord"](16)).eval()(x_BCHW) / x_BCHW
    product = factor[:, :, :1] * factor[:, :, :, :1] / factor[:, :, :1, :1]
    torch.testing.assert_close(factor, product, rtol=1e-3, atol=1e-4)


def test_the_module_without_a_gate_has_two_convolutions_and_a_depthwise_one() -> None:
    assert sum(p.numel() for p in Lpm(16, "plain").parameters()) == 2 * (16 * 16 + 16) + 10 * 16
