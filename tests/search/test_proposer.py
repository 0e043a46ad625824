from __future__ import annotations

import random

import pytest

from nasseg.errors import BudgetError
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Point, Space
from nasseg.search import proposer as module
from nasseg.search.proposer import Proposer
from tests.kits_store import fake_cost, fake_space


def make(budget: str = "", **space: object) -> Proposer:
    return Proposer(fake_space(**space), Budget.parse(budget), fake_cost)  # type: ignore[arg-type]


def test_a_neighbour_of_the_front_comes_first() -> None:
    proposer = make("macs=200M")
    front = [Point(next(fake_space(fusion_width=64, lpm="none", ffn=0).enumerate()))]
    seen = {front[0].genotype}
    for _ in range(6):
        found = proposer.fresh(front, lambda p: p.genotype not in seen, random.Random(0))
        assert found is not None
        point, origin = found
        assert origin == "neighbour"
        assert proposer.fits(point.genotype)
        different = {k for k, v in point.genotype.flat().items() if front[0].genotype.flat().get(k) != v}
        assert len({name.split(".")[-1] for name in different} - {"ffn_depthwise", "lpm_residual", "residual"}) == 1
        seen.add(point.genotype)


def test_without_a_front_a_uniform_draw_comes() -> None:
    found = make("macs=200M").fresh([], lambda p: True, random.Random(0))
    assert found is not None
    assert found[1] == "uniform"


def test_the_last_unseen_point_of_a_small_space_is_found() -> None:
    proposer = make("macs=200M")
    fitting = [g for g in fake_space().enumerate() if fake_cost(g)["macs"] <= 200e6]
    last = fitting[-1]
    found = proposer.fresh([], lambda p: p.genotype == last, random.Random(0))
    assert found is not None
    assert found[0].genotype == last
    assert proposer.fresh([], lambda p: False, random.Random(0)) is None


def test_a_large_space_ends_after_enough_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 512)
    proposer = make("", lr=True)
    assert not proposer.enumerable
    assert proposer.fresh([], lambda p: False, random.Random(0)) is None
    asked: list[Point] = []
    proposer.fresh([], lambda p: bool(asked.append(p)), random.Random(0))
    assert len(asked) == 512


def test_too_tight_for_draws_starts_from_the_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 0)
    proposer = make("macs=32M", lr=True)
    proposer.check_budget()
    found = proposer.fresh([], lambda p: True, random.Random(0))
    assert found is not None
    assert fake_cost(found[0].genotype)["macs"] == 32e6
    assert 1e-4 <= found[0].settings["lr"] <= 1e-2


def test_presets_on_every_backbone() -> None:
    space = Space.load("tiny").with_fixed({"backbone": "mit_b0"})
    tiny = {"macs": 1.0, "params": 1.0, "macs_fvcore": 1.0, "decoder_params": 1.0, "decoder_macs": 1.0}
    plans = Proposer(space, Budget.parse("macs=1M"), lambda genotype: tiny).presets()
    assert [(plan.name, plan.reason) for plan in plans] == [("csap", None), ("canet_fca", None)]
    raw = {**space.to_dict(), "genes": {**space.to_dict()["genes"], "backbone": {"choices": ["mit_b0", "mit_b1"]}}}
    both = Proposer(Space.from_dict(raw), Budget(), lambda genotype: tiny).presets()
    assert sorted(plan.name for plan in both) == ["canet_fca on mit_b0", "canet_fca on mit_b1", "csap on mit_b0", "csap on mit_b1"]
    assert {plan.point.genotype.backbone for plan in both if plan.point} == {"mit_b0", "mit_b1"}


def test_presets_outside_over_budget_and_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space.load("tiny").with_fixed({"backbone": "mit_b0"})
    monkeypatch.setattr(space, "presets", ("segformer", "csap", "csap", "canet_fca"))

    def cost(genotype: Genotype) -> dict[str, float]:
        return {"macs": 2e6 if genotype.fusion == "fca" else 1e6}

    plans = Proposer(space, Budget.parse("macs=1.5M"), cost).presets()
    assert [(plan.name, plan.reason) for plan in plans] == [
        ("segformer", "lies outside the space"),
        ("csap", None),
        ("csap", "the same network as csap"),
        ("canet_fca", "over budget: macs 2.00M > 1.50M"),
    ]


def test_budget_nothing_fits() -> None:
    with pytest.raises(BudgetError, match=r"no network of space fake fits .*macs 32\.0M > 1\.00M"):
        make("macs=1M").check_budget()
    make("").check_budget()
    proposer = make("macs=1G")
    proposer.check_budget()
    proposer.check_budget()


def test_costs_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    calls: list[Genotype] = []

    def cost(genotype: Genotype) -> dict[str, float]:
        calls.append(genotype)
        return fake_cost(genotype)

    proposer = Proposer(fake_space(), Budget(), cost)
    genotypes = list(fake_space().enumerate())[:4]
    for genotype in (*genotypes[:3], *genotypes[:3]):
        assert proposer.values(genotype) == fake_cost(genotype)
    assert len(calls) == 3
    proposer.values(genotypes[3])
    proposer.values(genotypes[0])
    assert len(calls) == 5
