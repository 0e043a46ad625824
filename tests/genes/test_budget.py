"""Budgets: what they read, what they say."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasseg.errors import ConfigError
from nasseg.genes.budget import Budget, parse_quantity, quantity


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("macs=1.5G,params=6M", {"params": 6e6, "macs": 1.5e9}),
        (" macs = 1.5 g , ", {"macs": 1.5e9}),
        ("decoder_macs=750M", {"decoder_macs": 7.5e8}),
        ("macs_fvcore=1e9", {"macs_fvcore": 1e9}),
        ("params=640", {"params": 640.0}),
        ("decoder_params=.5T", {"decoder_params": 5e11}),
        ("", {}),
        (None, {}),
    ],
)
def test_parse(text: str | None, bounds: dict[str, float]) -> None:
    budget = Budget.parse(text)
    assert budget.bounds == bounds
    assert bool(budget) == bool(bounds)
    assert Budget.from_mapping(budget.to_dict()) == budget
    assert hash(Budget.from_mapping(budget.to_dict())) == hash(budget)


def test_parse_refuses_everything_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Budget.parse("mac=1G,params=-2,macs=1.5X,nothing,decoder_macs=1,decoder_macs=2,decoder_params=0")
    rule = "must be a number above 0, with K, M, G or T behind it if you like, such as 1.5G"
    assert [str(p) for p in caught.value.problems] == [
        "--budget: wants name=value pairs with commas between (given 'nothing'); nearest legal: macs=1.5G,params=6M",
        "--budget: decoder_macs: takes one value, and two are given: 1, 2",
        "--budget: mac: no such bound; there are params, macs, macs_fvcore, decoder_params, decoder_macs (given '1G'); nearest legal: macs",
        f"--budget: params: {rule} (given '-2')",
        f"--budget: macs: {rule} (given '1.5X')",
        f"--budget: decoder_params: {rule} (given '0')",
    ]


def test_a_name_that_is_near_to_nothing_gets_the_list_alone() -> None:
    with pytest.raises(ConfigError) as caught:
        Budget.parse("fps=20")
    assert str(caught.value) == (
        "--budget: fps: no such bound; there are params, macs, macs_fvcore, decoder_params, decoder_macs (given '20')"
    )


@pytest.mark.parametrize("given", [True, None, [], float("nan"), math.inf, "1e400", "", "G"])
def test_no_quantity(given: Any) -> None:
    with pytest.raises(ValueError, match="must be a number above 0"):
        parse_quantity(given)


def test_from_mapping_wants_a_mapping() -> None:
    with pytest.raises(ConfigError, match=r"space\.yaml: a budget is a mapping of names to upper bounds \(given '1.5G'\)"):
        Budget.from_mapping("1.5G", where="space.yaml")  # type: ignore[arg-type]
    assert not Budget.from_mapping(None)


def test_bounds_hold_to_the_last_digit() -> None:
    budget = Budget.parse("macs=1.5G,params=6M")
    inside, outside = {"macs": 1_500_000_000, "params": 6_000_000}, {"macs": 1_930_000_000, "params": 6_000_001}
    assert budget.fits(inside)
    assert budget.violated(inside) is None
    assert budget.excess(inside) == {"params": 0.0, "macs": 0.0}
    assert not budget.fits(outside)
    assert budget.violated(outside) == "macs 1.93G > 1.50G, params 6,000,001 > 6,000,000"
    assert budget.excess({"macs": 1_875_000_000, "params": 3_000_000}) == {"params": -0.5, "macs": 0.25}
    assert Budget().fits({})
    assert Budget().violated({}) is None


def test_str_and_tightened() -> None:
    budget = Budget.parse("params=6M,macs=1.5G")
    assert str(budget) == "params=6.00M,macs=1.50G"
    assert budget.tightened(Budget.parse("macs=2G,decoder_macs=1G")).bounds == {"params": 6e6, "macs": 1.5e9, "decoder_macs": 1e9}


@pytest.mark.parametrize(
    ("value", "words", "upwards"),
    [
        (0, "0", "0"), (7, "7", "7"), (640, "640", "640"), (999.7e6, "1.00G", "1.00G"), (5_494_321, "5.49M", "5.50M"),
        (98_760, "98.8K", "98.8K"),
        (1.5e9, "1.50G", "1.50G"), (1e12, "1.00T", "1.00T"), (9_996, "10.0K", "10.0K"),
        (1_234e12, "1230T", "1240T"), (0.25, "0.25", "0.25"),
    ],
)  # fmt: skip
def test_quantity(value: float, words: str, upwards: str) -> None:
    assert quantity(value) == words
    assert quantity(value, up=True) == upwards


@settings(deadline=None)
@given(st.floats(min_value=1, max_value=1e14))
def test_quantity_reads_back(value: float) -> None:
    assert parse_quantity(quantity(value)) == pytest.approx(value, rel=0.0051)
    assert parse_quantity(quantity(value, up=True)) >= value * (1 - 1e-9)
    assert re.fullmatch(r"[0-9.]+(e\+\d+)?[KMGT]?", quantity(value))
