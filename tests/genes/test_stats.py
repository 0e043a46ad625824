"""What a space holds under a budget: exact where it can be, with an interval where not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest

from nasseg.cost.cost import Part
from nasseg.cost.macs import decoder_cost
from nasseg.errors import BudgetError
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.genes.stats import EXACT, Cheapest, Histogram, SpaceStats, find_cheapest, require_feasible, wilson

TINY = Space.load("tiny")
DECODER = Space.load("decoder")


def widths(genotype: Genotype) -> dict[str, float]:
    """A cost one can compute in the head: the fusion's width, doubled at stride 4, and the number of kept stages."""
    return {"macs": genotype.fusion_width * (8 // genotype.fusion_stride), "params": len(genotype.kept)}


def decoder_macs(genotype: Genotype) -> dict[str, float]:
    total = sum(decoder_cost(genotype, (32, 64, 160, 256), (512, 512), 150).values(), Part())
    return {"macs": total.macs, "params": total.params}


def test_exact() -> None:
    stats = TINY.stats(widths, Budget.parse("macs=100,params=2"))
    assert (stats.size, stats.exact, stats.evaluated, stats.fitting) == (312, True, 312, 0)
    assert stats.violations == {"params": 1.0, "macs": 0.5}
    assert stats.binding == "params"
    assert stats.share == 0.0
    assert stats.interval == (0.0, 0.0)
    half = TINY.stats(widths, Budget.parse("macs=64"))
    assert (half.fitting, half.share, half.interval, half.binding) == (156, 0.5, (0.5, 0.5), "macs")
    assert half.lowest["macs"].values == {"macs": 64, "params": 3}
    assert half.lowest["macs"].exact
    assert half.histograms["macs"].counts[0] == half.histograms["macs"].counts[-1] == 156
    assert TINY.stats(widths, Budget.parse("macs=1K")).binding is None
    json.dumps(half.to_dict())
    assert half.to_dict()["lowest"]["macs"]["id"] == half.lowest["macs"].genotype.id


def test_budget_of_the_space_is_the_default() -> None:
    space = Space.from_dict({**TINY.to_dict(), "budget": {"macs": 64}})
    assert space.stats(widths).fitting == 156
    assert space.stats(widths, Budget()).fitting == 312


def test_without_costs_only_the_size_is_known() -> None:
    stats = DECODER.stats()
    assert stats.size == DECODER.size()
    assert (stats.share, stats.interval, stats.binding) == (None, None, None)
    assert stats.to_dict()["interval"] is None


def test_sampled_interval_holds_the_exact_share() -> None:
    # Of the full space, the share with the four narrowest of eight widths at stride 8 can be counted: almost all genotypes lie at stride 4.
    budget = Budget.parse("macs=384")
    exact = DECODER.with_fixed({"fusion_stride": 4, "fusion_width": {"choices": [64, 96, 128, 192]}}).size()
    exact += DECODER.with_fixed({"fusion_stride": 8, "fusion_width": {"choices": [64, 96, 128, 192, 256, 384]}}).size()
    stats = DECODER.stats(widths, budget, samples=400, seed=1)
    assert not stats.exact
    assert stats.evaluated == 400
    assert stats.interval is not None
    low, high = stats.interval
    assert low < exact / DECODER.size() < high
    assert stats == DECODER.stats(widths, budget, samples=400, seed=1)


def test_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


def test_histogram() -> None:
    even = Histogram.of([1, 2, 3, 4, 5, 6, 7], bins=3)
    assert (even.edges, even.counts) == ((1, 3, 5, 7), (2, 2, 3))
    ratio = Histogram.of([1, 2, 10, 99, 100], bins=2)
    assert ratio.edges == pytest.approx((1, 10, 100))
    assert ratio.counts == (2, 3)
    assert Histogram.of([5, 5]) == Histogram((5, 5), (2,))
    assert Histogram.of([0, 90], bins=2).edges == (0, 45, 90)
    assert even.to_dict() == {"edges": [1, 3, 5, 7], "counts": [2, 2, 3]}


def test_cheapest_of_a_small_space_is_the_cheapest() -> None:
    found = TINY.cheapest(decoder_macs, "macs")
    assert found.exact
    assert found.words == "the cheapest one"
    assert found.values["macs"] == min(decoder_macs(g)["macs"] for g in TINY.enumerate())


def test_cheapest_of_a_large_space_is_found() -> None:
    found = DECODER.cheapest(decoder_macs, "macs", samples=60)
    assert not found.exact
    assert found.words == "the cheapest one found"
    assert DECODER.size() > EXACT
    # By hand: no block is cheaper than any; at stride 8 project 64 costs 64·(4096·c2 + 1024·c3 + 256·c4), the fusion 4096·64·(3·64 + 150).
    project = 64 * (64 * 4096 + 160 * 1024 + 256 * 256)
    assert found.values["macs"] == project + 4096 * 64 * (3 * 64 + 150)
    assert found.genotype.short() == "4:- 3:- 2:- | lpm none | ffn 0 | concat p64 64/8"


def test_search_stops_at_what_is_enough() -> None:
    calls = 0

    def counted(genotype: Genotype) -> Mapping[str, float]:
        nonlocal calls
        calls += 1
        return widths(genotype)

    found = find_cheapest(TINY, lambda values: values["macs"], counted, enough=64)
    assert found.values["macs"] == 64
    assert calls < 312


def test_feasible() -> None:
    assert require_feasible(TINY, Budget(), widths) is None
    witness = require_feasible(TINY, Budget.parse("macs=64"), widths)
    assert isinstance(witness, Cheapest)
    assert witness.values["macs"] == 64
    # No uniform draw fits; the search finds one that does.
    budget = Budget.parse("macs=150M")
    assert DECODER.stats(decoder_macs, budget, samples=50).fitting == 0
    found = require_feasible(DECODER, budget, decoder_macs, samples=50)
    assert found is not None
    assert DECODER.contains(found.genotype)
    assert budget.fits(found.values)


def test_infeasible_says_what_the_cheapest_costs() -> None:
    with pytest.raises(BudgetError) as caught:
        require_feasible(TINY, Budget.parse("macs=63.9,params=2"), widths)
    first, second = map(str, caught.value.problems)
    assert re.fullmatch(
        r"budget: params: no network of space tiny fits this bound: the cheapest one has params 3 > 2 \(4:.*\); nearest legal: params=3",
        first,
    )
    assert re.fullmatch(r"budget: macs: no network of space tiny fits this bound: the cheapest one has macs 64 > 63\.9 .* macs=64", second)
    with pytest.raises(
        BudgetError, match=r"no network of space decoder fits this bound: the cheapest one found has macs 121M > 100M .* macs=122M"
    ):
        require_feasible(DECODER, Budget.parse("macs=100M"), decoder_macs, samples=50)


def test_bounds_that_fit_one_by_one_but_not_together() -> None:
    def opposed(genotype: Genotype) -> dict[str, float]:
        return {"macs": genotype.fusion_width, "params": 192 - genotype.fusion_width}

    with pytest.raises(
        BudgetError,
        match=r"budget: no network of space tiny fits all bounds at once: the closest one has .* \(given 'params=100,macs=100'\)",
    ):
        require_feasible(TINY, Budget.parse("macs=100,params=100"), opposed)


def test_empty_stats() -> None:
    assert SpaceStats(5).to_dict()["share"] is None
