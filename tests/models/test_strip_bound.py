"""The number of nodes of a strip: hand-checked values of the bound, and the bound against the worst inputs known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasseg.models.strip_bound import TIERS, interpolation_bound, nodes_for, reach


def dense_bound(nodes: int, range_product: float) -> float:
    """The bound's minimum over ρ on a fine grid, written out from the docstring."""
    best = math.inf
    for step in range(1, 20_000):
        y = step / 20_000 * math.pi / range_product
        rho = y + math.sqrt(1 + y * y)
        kappa = 1 / math.cos(y * range_product / 2)
        best = min(best, 4 * kappa * (1 + kappa) / 2 * rho ** (1 - nodes) / (rho - 1))
    return best


@pytest.mark.parametrize(("nodes", "product"), [(8, 1.0), (24, 4.0), (64, 11.0), (128, 22.0)])
def test_the_bound_is_the_minimum_over_all_ellipses(nodes: int, product: float) -> None:
    assert interpolation_bound(nodes, product) == pytest.approx(dense_bound(nodes, product), rel=1e-6)


def test_no_range_has_no_error() -> None:
    assert interpolation_bound(2, 0.0) == 0.0
    assert nodes_for(0.0, 1e-12) == 2


@given(st.sampled_from(TIERS), st.floats(1e-10, 1e-2))
def test_reach_is_the_inverse_of_the_bound(nodes: int, tolerance: float) -> None:
    widest = reach(nodes, tolerance)
    assert interpolation_bound(nodes, widest) <= tolerance
    assert interpolation_bound(nodes, widest * 1.001 + 1e-12) > tolerance


@given(st.floats(0, 90), st.floats(1e-10, 1e-2))
def test_the_fewest_nodes_that_suffice(product: float, tolerance: float) -> None:
    nodes = nodes_for(product, tolerance)
    if nodes is None:
        assert interpolation_bound(TIERS[-1], product) > tolerance
    else:
        assert interpolation_bound(nodes, product) <= tolerance
        fewer = [tier for tier in TIERS if tier < nodes]
        assert not fewer or product == 0 or interpolation_bound(fewer[-1], product) > tolerance


@pytest.mark.parametrize("product", [1e6, math.inf, math.nan])
def test_too_wide_for_every_tier(product: float) -> None:
    assert nodes_for(product, 1e-4) is None


@pytest.mark.parametrize("product", [0.5, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("nodes", [4, 8, 16, 32, 64, 128])
def test_two_clusters_of_keys_stay_under_the_bound_and_fall_at_its_rate(product: float, nodes: int) -> None:
    # tanh: the nearest poles there can be. Its error must stay below the bound, and not by more than the constants of step 2 and 3.
    angles = (2 * torch.arange(nodes, dtype=torch.float64) + 1) * math.pi / (2 * nodes)
    x, w = torch.cos(angles), torch.sin(angles) * (-1.0) ** torch.arange(nodes)
    t = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    weights = w / (t[:, None] - x + 1e-25)
    found = (weights @ torch.tanh(product / 2 * x)) / weights.sum(1)
    error, bound = float((found - torch.tanh(product / 2 * t)).abs().max()), interpolation_bound(nodes, product)
    assert error <= bound + 1e-14
    assert bound < 1e6 * error + 1e-9
