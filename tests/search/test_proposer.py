from __future__ import annotations

import random
from typing import ClassVar

import pytest

from nasseg.errors import BudgetError
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
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


WIDE: dict[str, object] = {
    # 4 · 3 · 4 · 2 · 2 · 2 = 384 networks.
    "fusion": {"choices": ["concat", "fca"]},
    "stage4.query_pool": {"choices": [1, 2]},
    "stage3.query_pool": {"choices": [1, 2]},
}


def tried_to_the_end(proposer: Proposer, rng: random.Random) -> list[Point]:
    """What fresh gives until it gives nothing, as a study takes it: the first point tried is the whole front."""
    tried: list[Point] = []
    while (found := proposer.fresh(tried[:1], lambda point: point not in tried, rng, lambda: tried)) is not None:
        tried.append(found[0])
    return tried


def test_a_small_space_is_tried_to_the_last_network() -> None:
    proposer = make("macs=200M", **WIDE)
    meant = {g for g in proposer.space.enumerate() if fake_cost(g)["macs"] <= 200e6}
    assert len(meant) == 30 * 8 == proposer.count()
    assert {point.genotype for point in tried_to_the_end(proposer, random.Random(0))} == meant
    assert proposer.used_up() == "every network of the space fake that fits the budget has been tried"


def test_a_listed_space_is_listed_when_draws_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 384 networks 24 fit, and no draw finds them: between a listing at once and none at all."""
    monkeypatch.setattr(module, "ENUMERABLE", 100)
    monkeypatch.setattr(module, "DRAWS", 0)
    proposer = make("macs=32M", **WIDE)
    assert not proposer.enumerable
    assert proposer.listable
    assert len(tried_to_the_end(proposer, random.Random(0))) == 24


def test_a_space_too_large_to_list_is_tried_by_neighbours_and_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTABLE", 100)
    monkeypatch.setattr(module, "ENUMERABLE", 100)
    monkeypatch.setattr(module, "DRAWS", 0)
    proposer = make("macs=32M", **WIDE)
    proposer.check_budget()
    assert proposer.count() is None
    assert len(tried_to_the_end(proposer, random.Random(0))) == 24
    assert proposer.used_up() == (
        "no other network of the space fake that fits the budget was found by 0 random draws and among the neighbours of all that were "
        "tried; there may be more"
    )


def test_descents_reach_what_no_neighbour_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two corners of the space fit, and no way of single steps leads from one to the other."""
    monkeypatch.setattr(module, "LISTABLE", 10)
    monkeypatch.setattr(module, "ENUMERABLE", 10)
    monkeypatch.setattr(module, "DRAWS", 0)
    monkeypatch.setattr("nasseg.genes.stats.EXACT", 10)

    def cost(genotype: Genotype) -> dict[str, float]:
        stage = genotype.stages[3]
        assert stage is not None
        far = abs(genotype.fusion_width - 32) / 32 + 3 * stage.ffn
        return {"macs": 1e6 + 1e6 * min(far, abs(genotype.fusion_width - 128) / 32 + 3 * (4 - stage.ffn))}

    proposer = Proposer(fake_space(), Budget.parse("macs=1M"), cost)
    proposer.check_budget()
    found = {(p.genotype.fusion_width, p.genotype.stages[3].ffn) for p in tried_to_the_end(proposer, random.Random(0))}  # type: ignore[union-attr]
    assert found == {(32, 0), (128, 4)}


def test_settings_of_choices_are_listed_too() -> None:
    """12 networks fit; each has 3 settings with ohem and 3 · 2 with cross_entropy."""
    settings: dict[str, object] = {
        "train.loss": {"choices": ["cross_entropy", "ohem"]},
        "train.label_smoothing": {"choices": [0.0, 0.1], "when": {"train.loss": "cross_entropy"}},
        "train.batch_size": {"low": 4, "high": 8, "step": 2},
    }
    proposer = make("macs=128M", lpm="none", **settings)
    fitting = [g for g in proposer.space.enumerate() if fake_cost(g)["macs"] <= 128e6]
    assert (proposer.size, proposer.count()) == (16 * 12, len(fitting) * 9)
    tried = tried_to_the_end(proposer, random.Random(0))
    assert len(tried) == len({point.key for point in tried}) == len(fitting) * 9
    assert proposer.used_up() == "every network of the space fake that fits the budget has been tried with every setting"
    assert make("", lr=True).size is None


class TestDefaults:
    OWN: ClassVar[dict[str, object]] = {"lr": 3e-3, "loss": "cross_entropy", "batch_size": 8, "drop_path": 0.0}
    SETTINGS: ClassVar[dict[str, object]] = {
        "train.lr": {"low": 1e-4, "high": 1e-3, "log": True},
        "train.loss": {"choices": ["ohem", "cross_entropy_dice"]},
        "train.batch_size": {"low": 4, "high": 16, "step": 3},
        "train.drop_path": {"low": 0.0, "high": 0.3},
    }

    def make(self, budget: str = "", **genes: object) -> Proposer:
        space = fake_space(**{**self.SETTINGS, **genes})  # type: ignore[arg-type]
        return Proposer(space, Budget.parse(budget), fake_cost, self.OWN)

    def test_of_one_decoder(self) -> None:
        starts = self.make(fusion_width=64, lpm="se", ffn=1).starts()
        assert [(start.origin, start.reason) for start in starts] == [("defaults", None)]
        assert starts[0].point is not None
        assert starts[0].point.settings == {"lr": 1e-3, "loss": "cross_entropy_dice", "batch_size": 7, "drop_path": 0.0}
        assert str(starts[0]) == "the recipe's defaults are trained first"

    def test_what_lies_outside_is_said(self) -> None:
        assert self.make().moved_defaults() == [
            "the recipe's default lr=0.003 is outside 0.0001 … 0.001 log: 0.001 is taken",
            "the recipe's default loss=cross_entropy is outside ohem, cross_entropy_dice: cross_entropy_dice is taken",
            "the recipe's default batch_size=8 is outside 4 … 16 step 3: 7 is taken",
        ]
        assert make("", lr=True).moved_defaults() == []

    def test_of_one_decoder_on_several_backbones(self) -> None:
        starts = self.make(fusion_width=64, lpm="se", ffn=1, backbone={"choices": ["mit_b0", "mit_b1"]}).starts()
        assert {(start.origin, start.point.genotype.backbone) for start in starts if start.point} == {
            ("defaults:mit_b0", "mit_b0"),
            ("defaults:mit_b1", "mit_b1"),
        }
        assert str(starts[0]).startswith("the recipe's defaults on mit_b")

    def test_of_every_preset(self) -> None:
        raw = Space.load("tiny").with_fixed({"backbone": "mit_b0"}).to_dict()
        space = Space.from_dict({**raw, "genes": {**raw["genes"], "train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}})

        def cost(genotype: Genotype) -> dict[str, float]:
            return {"macs": 2e6 if genotype.fusion == "fca" else 1e6}

        starts = Proposer(space, Budget.parse("macs=1.5M"), cost, {"lr": 3e-3}).starts()
        assert [(start.origin, start.reason) for start in starts] == [
            ("defaults:csap", None),
            ("defaults:canet_fca", "over budget: macs 2.00M > 1.50M"),
        ]
        assert starts[0].point == Point(preset("csap", "mit_b0"), {"lr": 3e-3})
        assert str(starts[1]) == "the recipe's defaults on canet_fca are left out: over budget: macs 2.00M > 1.50M"
        without = Proposer(space, Budget.parse("macs=1.5M"), cost).starts()
        assert [(start.origin, start.point) for start in without if start.point] == [("preset:csap", Point(preset("csap", "mit_b0")))]

    def test_without_a_preset_on_a_network_that_fits(self) -> None:
        proposer = self.make("macs=64M")
        proposer.check_budget()
        starts = proposer.starts()
        assert [start.origin for start in starts] == ["defaults"]
        assert starts[0].point is not None
        assert proposer.fits(starts[0].point.genotype)
        assert starts[0].point.settings["lr"] == 1e-3
        assert proposer.starts() == starts

    def test_follow_conditions(self) -> None:
        proposer = self.make(
            fusion_width=64, lpm={"choices": ["none", "se"], "tie": "all"}, ffn=1,
            **{"train.drop_path": {"low": 0.1, "high": 0.3, "when": {"stage4.lpm": "se"}, "else": 0.05}},
        )  # fmt: skip
        found = {g.stages[3].lpm: proposer._start_point(g).settings["drop_path"] for g in proposer.space.enumerate()}  # type: ignore[union-attr]
        assert found == {"none": 0.05, "se": 0.1}


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
    plans = Proposer(space, Budget.parse("macs=1M"), lambda genotype: tiny).starts()
    assert [(plan.origin, plan.reason) for plan in plans] == [("preset:csap", None), ("preset:canet_fca", None)]
    raw = {**space.to_dict(), "genes": {**space.to_dict()["genes"], "backbone": {"choices": ["mit_b0", "mit_b1"]}}}
    both = Proposer(Space.from_dict(raw), Budget(), lambda genotype: tiny).starts()
    assert sorted(plan.origin.removeprefix("preset:") for plan in both) == [
        "canet_fca on mit_b0",
        "canet_fca on mit_b1",
        "csap on mit_b0",
        "csap on mit_b1",
    ]
    assert {plan.point.genotype.backbone for plan in both if plan.point} == {"mit_b0", "mit_b1"}


def test_presets_outside_over_budget_and_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space.load("tiny").with_fixed({"backbone": "mit_b0"})
    monkeypatch.setattr(space, "presets", ("segformer", "csap", "csap", "canet_fca"))

    def cost(genotype: Genotype) -> dict[str, float]:
        return {"macs": 2e6 if genotype.fusion == "fca" else 1e6}

    plans = Proposer(space, Budget.parse("macs=1.5M"), cost).starts()
    assert [(plan.origin, plan.reason) for plan in plans] == [
        ("preset:segformer", "lies outside the space"),
        ("preset:csap", None),
        ("preset:csap", "the same network as csap"),
        ("preset:canet_fca", "over budget: macs 2.00M > 1.50M"),
    ]
    assert [str(plan) for plan in plans[:2]] == ["preset segformer is left out: lies outside the space", "preset csap is trained first"]


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
