"""The number of panels of a strip: hand-checked values of the bound, its inverse, and the worst inputs known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasseg.models.strip_bound import HERMITE, MOST_PANELS, interpolation_bound, panels_for


def test_the_constant_is_the_least_over_all_strips() -> None:
    def at(a: float) -> float:
        kappa = 1 / math.cos(a * math.pi / 2)
        return kappa * (1 + kappa) / 2 / a**4

    least = min(at(step / 100_000) for step in range(1, 100_000))
    assert pytest.approx(24 / 384 / math.pi**4 * least, rel=1e-8) == HERMITE
    assert pytest.approx(0.0093865, rel=1e-5) == HERMITE


def test_the_bound_by_hand() -> None:
    # T = 4, P = 32: T·h = 4·2/32 = 1/4, to the fourth 1/256.
    assert interpolation_bound(32, 4.0) == pytest.approx(HERMITE / 256)


def test_no_range_has_no_error() -> None:
    assert interpolation_bound(1, 0.0) == 0.0
    assert panels_for(0.0, 1e-12) == 1


@given(st.floats(0, 90), st.floats(1e-10, 1e-2))
def test_the_fewest_panels_that_suffice(product: float, tolerance: float) -> None:
    panels = panels_for(product, tolerance)
    if panels is None:
        assert interpolation_bound(MOST_PANELS, product) > tolerance
    else:
        assert interpolation_bound(panels, product) <= tolerance
        assert panels == 1 or interpolation_bound(panels - 1, product) > tolerance * (1 - 1e-9)


@pytest.mark.parametrize("product", [1e6, math.inf, math.nan])
def test_too_wide_for_any_number(product: float) -> None:
    assert panels_for(product, 1e-4) is None


@pytest.mark.parametrize("product", [0.5, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("panels", [4, 8, 16, 32, 64, 128])
def test_two_clusters_of_keys_stay_under_the_bound_and_fall_at_its_rate(product: float, panels: int) -> None:
    # tanh: the nearest poles there can be. Where panels are narrow its error is h⁴/384·max|tanh⁗|, and max|tanh⁗| = 4.0859.
    x = torch.linspace(-1, 1, panels + 1, dtype=torch.float64)
    f, slope = torch.tanh(product / 2 * x), product / 2 / torch.cosh(product / 2 * x) ** 2
    h = 2 / panels
    u = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    t = x[:-1] + u * h
    cubic = (1 + 2 * u) * (1 - u) ** 2 * f[:-1] + u * (1 - u) ** 2 * h * slope[:-1]
    cubic += u**2 * (3 - 2 * u) * f[1:] + u**2 * (u - 1) * h * slope[1:]
    error, bound = float((cubic - torch.tanh(product / 2 * t)).abs().max()), interpolation_bound(panels, product)
    assert error <= bound
    if product > 4 and product * h < 0.5:  # wide enough to reach the maximum
        assert error == pytest.approx((product * h / 2) ** 4 / 384 * 4.0859, rel=0.1)
        assert bound < 20 * error
