"""Counting: equal to spelling everything out, one way for one network, every number a genotype."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from kits_space import brute_ids, random_space

from nasseg.errors import ConfigError
from nasseg.genes import spacefile
from nasseg.genes.counting import Binding, Cycle, Grammar, alike
from nasseg.genes.genotype import Genotype
from nasseg.genes.slots import DEFAULT, to_genotype, to_values
from nasseg.genes.space import Space
from nasseg.genes.variable import Choices, Condition


@pytest.mark.parametrize("seed", range(50))
def test_random_spaces_hold_what_spelling_out_finds(seed: int) -> None:
    spec = random_space(random.Random(seed))
    expected = brute_ids(spec)
    # As the parent of an empty file its keys may lie idle; a space without a network is refused all the same.
    parent = spacefile.read(spec, where="parent")
    if not expected:
        with pytest.raises(ConfigError, match=r"no network of this space is legal|at stage \d none of these can be"):
            Space(spacefile.read({}, where="child", parent=parent))
        return
    space = Space(spacefile.read({}, where="child", parent=parent))
    genotypes = list(space.enumerate())
    ids = [genotype.id for genotype in genotypes]
    assert Counter(ids) == Counter(expected), spec
    assert space.size() == len(ids)
    for number in random.Random(seed).sample(range(len(ids)), min(20, len(ids))):
        assert space.at(number) == genotypes[number]
        assert Genotype.from_dict(genotypes[number].to_dict()) == genotypes[number]
        assert space.contains(genotypes[number])


def test_the_kit_meets_the_hard_cases() -> None:
    specs = [random_space(random.Random(seed))["genes"] for seed in range(50)]
    tied_heads = [
        s for s in specs if isinstance(s.get("heads"), dict) and "tie" in s["heads"] and {"native", 8} <= set(s["heads"]["choices"])
    ]
    assert tied_heads
    assert [s for s in specs if any(isinstance(e, dict) and "when" in e for e in s.values())]
    assert [s for s in specs if isinstance(s.get("attention"), dict) and s["attention"].get("tie") == "all"]
    assert sum(len(brute_ids({"genes": s})) > 1 for s in specs) > 25


def test_twins_are_taken_once() -> None:
    # Heads native and 8 are the same where stage 4 alone has a map: 1 + 2 + 2 + 2 networks for (none, none) … (own, own), less the twins.
    genes = {"fusion_stride": 8, "stage2.attention": "none", "heads": {"choices": ["native", 8], "tie": "all"}}
    space = Space.from_dict({"genes": {**genes, "stage4.attention": "own", "stage3.attention": {"choices": ["none", "own"]}}})
    assert space.size() == 3
    assert {(g.stage(4).heads, g.stage(3).heads) for g in space.enumerate()} == {(8, None), (8, 5), (8, 8)}  # type: ignore[union-attr]


def test_a_uniform_map_is_owned_and_not_reused() -> None:
    genes = {"fusion_stride": 8, "stage4.attention": "own", "stage2.attention": "none", "stage3.rank": {"choices": [0, 1]}}
    space = Space.from_dict({"genes": {**genes, "stage3.attention": {"choices": ["own", "stage4"]}, "stage4.rank": {"choices": [0, 1]}}})
    # Stage 4 uniform: stage 3 owns rank 0 or 1. Stage 4 rank 1: own 0, own 1, reuse.
    assert space.size() == 5


def test_decoder_space_counts_in_a_moment_and_exactly() -> None:
    space = Space.load("decoder")
    assert space.size() == 1_912_601_457_847_628_824_742_136
    assert len({space.at(number).id for number in range(500)}) == 500
    assert space.at(space.size() - 1).id != space.at(0).id
    # By hand: fusion_stride 8, and every stage without attention: (6 lpm × (1 + 3·2) ffn)^3 bodies, all but the empty one with 2 residuals,
    # × (1 + 5·2) projections × (concat, fca, ham of 2 ranks) × 9 widths.
    bodies, heads = (6 * 7) ** 3, 11 * 4 * 9
    assert space.with_fixed({"fusion_stride": 8, "attention": "none"}).size() == (2 * bodies - 1) * heads
    # Stage 4 with one key grid: × 2 pool_conv × 15 inputs, less 1: [4] pools nothing; × 2 input_norm × 3 mixing. Rank 0 has no residual of
    # its own; 5 ranks × 4 heads × 2 query pools have.
    keys = (2 * 15 - 1) * 2 * 3
    alone = space.with_fixed(
        {"fusion_stride": 8, "stage3.attention": "none", "stage2.attention": "none", "stage4.attention": "own", "stage4.key_stride": 32}
    )
    assert alone.size() == keys * ((2 * bodies - 1) + 5 * 4 * 2 * 2 * bodies) * heads


def test_alike_choices() -> None:
    def variable(gene: str, *rows: tuple[object, ...]) -> Choices:
        return Choices("v", gene, tuple(map(str, range(len(rows[0])))), dict(zip((4, 3), rows, strict=True)))

    assert alike(variable("lpm", ("none", "se", "eca"), ("none", "se", "eca"))) == (0, 1, 1)
    assert alike(variable("mixing", ("norm_gelu", "norm"), ("norm_gelu", "norm"))) == (0, 0)
    # A full rank has no softmax_scale.
    assert alike(variable("rank", (0, 1, 2, "full"), (0, 1, 2, "full"))) == (0, 1, 1, 3)
    assert alike(variable("key_stride", (8, 32, 64), (8, 32, 64))) == (0, 1, 2)
    assert alike(variable("inputs", ((4,), (1, 2, 3, 4), (2, 4)), ((3,), (1, 2, 3, 4), (2, 4)))) == (0, 1, 1)
    # The first and the second are one value at stage 4.
    assert alike(variable("heads", (8, 8, 4, 2), (5, 8, 4, 2))) == (0, 1, 2, 2)


def test_conditions_that_wait_for_each_other() -> None:
    bindings = [
        Binding("lpm", 4, "se", conditions=(Condition("stage4.ffn", (4,), ""),), otherwise="none"),
        Binding("ffn", 4, 4, conditions=(Condition("stage4.lpm", ("se",), ""),), otherwise=0),
    ]
    with pytest.raises(Cycle, match=r"stage4\.lpm, stage4\.ffn"):
        Grammar(bindings)


def test_conditions_may_look_at_shallower_stages() -> None:
    genes = {
        "fusion_stride": 8,
        "attention": "none",
        "stage2.attention": {"choices": ["none", "own"]},
        "stage4.lpm": {"choices": ["se", "eca"], "when": {"stage2.attention": "own", "fusion": "fca"}, "else": "cbam"},
        "fusion": {"choices": ["concat", "fca"]},
    }
    space = Space.from_dict({"genes": genes})
    assert space.size() == 5
    for genotype in space.enumerate():
        stage2, stage4 = genotype.stage(2), genotype.stage(4)
        assert stage2 is not None
        assert stage4 is not None
        assert (stage4.lpm == "cbam") == (stage2.attention == "none" or genotype.fusion == "concat")


def test_values_and_genotypes_are_each_others_inverse() -> None:
    space = Space.load("decoder")
    for genotype in space.sample(50, seed=3):
        values = to_values(genotype)
        assert to_genotype(values) == genotype
        assert set(values) == {b.slot for b in space._grammar.bindings.values()}


def test_deadlock_names_the_slot() -> None:
    space = Space.load("tiny")
    bindings = {**space._grammar.bindings, "stage4.attention": Binding("attention", 4, "stage3")}
    assert space._grammar.deadlock() is None
    dead = Grammar(bindings.values())
    assert dead.size() == 0
    assert dead.deadlock() == "stage4.attention"
    assert list(dead.all()) == []
    assert dead.used()[1] == {}
    assert Binding("inputs", 3).value is DEFAULT
