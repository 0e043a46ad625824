"""Spaces: samples, suggestions, encodings, neighbours."""

from __future__ import annotations

import itertools
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits_space import random_space

from nasseg.errors import ConfigError
from nasseg.genes import spacefile
from nasseg.genes.chooser import FixedChooser, RandomChooser
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset
from nasseg.genes.space import Point, Space
from nasseg.genes.variable import Choices, same

DECODER = Space.load("decoder")
TINY = Space.load("tiny")
SCASEG = Space.load("scaseg")
CSAP = Space.load("csap")
JOINT = Space.from_dict(
    {
        "extends": "csap",
        "genes": {
            "backbone": {"choices": ["mit_b0", "resnet18"]},
            "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "train.batch_size": {"low": 4, "high": 16, "step": 4},
            "train.drop_path": {"low": 0.0, "high": 0.3, "when": {"backbone": "mit_b0"}},
            "train.loss": {"choices": ["cross_entropy", "ohem"]},
            "train.label_smoothing": {"choices": [0.0, 0.1], "when": {"train.loss": "cross_entropy"}, "else": 0.0},
            "train.ema": 0.99,
        },
    }
)


class Recorder:
    """Draws at random and notes what it was asked and what it answered."""

    def __init__(self, seed: int) -> None:
        self.inner = RandomChooser(random.Random(seed))
        self.asked: dict[str, Any] = {}

    def categorical(self, name: str, choices: Any, nearest: Any = same) -> Any:
        assert name not in self.asked
        self.asked[name] = self.inner.categorical(name, choices, nearest)
        return self.asked[name]

    def integer(self, name: str, low: int, high: int, step: int, log: bool) -> int:
        assert name not in self.asked
        self.asked[name] = self.inner.integer(name, low, high, step, log)
        return int(self.asked[name])

    def real(self, name: str, low: float, high: float, log: bool) -> float:
        assert name not in self.asked
        self.asked[name] = self.inner.real(name, low, high, log)
        return float(self.asked[name])


def check_suggestion(space: Space, seed: int) -> None:
    """A suggestion is legal and canonical, and its encoding leads back to it whatever else is answered."""
    recorder = Recorder(seed)
    point = space.suggest(recorder)
    assert Genotype.from_dict(point.genotype.to_dict()) == point.genotype
    assert space.contains(point.genotype)
    assert set(recorder.asked) <= {variable.name for variable in space.variables}
    encoded = space.encode(point)
    assert encoded is not None
    assert all(isinstance(value, (str, int, float, bool)) for value in encoded.values())
    again = space.suggest(FixedChooser(encoded, random.Random(seed + 1)))
    assert again == point
    assert again.key == point.key
    # What was answered is what is encoded: a random chooser answers legally.
    assert encoded == recorder.asked


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_suggestions_of_the_full_space(seed: int) -> None:
    check_suggestion(DECODER, seed)


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_suggestions_of_a_joint_space(seed: int) -> None:
    check_suggestion(JOINT, seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9))
def test_suggestions_of_shipped_spaces(seed: int) -> None:
    for space in (TINY, SCASEG, CSAP):
        check_suggestion(space, seed)


@pytest.mark.parametrize("seed", range(12))
def test_every_network_can_be_encoded_and_suggested(seed: int) -> None:
    spec = random_space(random.Random(seed))
    try:
        space = Space(spacefile.read({}, where="child", parent=spacefile.read(spec, where="parent")))
    except ConfigError:
        return
    for genotype in itertools.islice(space.enumerate(), 200):
        encoded = space.encode(genotype)
        assert encoded is not None
        assert space.suggest(FixedChooser(encoded, random.Random(0))).genotype == genotype


def test_samples_are_uniform() -> None:
    counts = Counter(TINY.sample(6_240, seed=7))
    assert len(counts) == TINY.size() == 312
    chi_square = sum((count - 20) ** 2 / 20 for count in counts.values())
    # 311 degrees of freedom: mean 311, deviation 24.9; the bounds are the 0.1 % and 99.9 % points.
    assert 240 < chi_square < 393


def test_samples_are_uniform_under_conditions() -> None:
    # One network without attention, 24 with: a draw gene by gene would give the one half of all.
    space = Space.from_dict(
        {
            "genes": {
                "fusion_stride": 8,
                "stage3.attention": "none",
                "stage2.attention": "none",
                "stage4.attention": {"choices": ["none", "own"]},
                "stage4.rank": {"choices": [1, 2, 4, "full"]},
                "stage4.query_pool": {"choices": [1, 2]},
                "stage4.heads": {"choices": [8, 4, 2]},
            }
        }
    )
    assert space.size() == 25
    drawn = space.sample(5000, seed=1)
    alone = sum(g.stage(4).attention == "none" for g in drawn)  # type: ignore[union-attr]
    assert alone == pytest.approx(200, abs=45)


def test_samples_follow_the_seed() -> None:
    assert DECODER.sample(5, seed=3) == DECODER.sample(5, seed=3)
    assert DECODER.sample(5, seed=3) != DECODER.sample(5, seed=4)
    assert JOINT.points(5, seed=3) == JOINT.points(5, seed=3)
    assert [p.genotype for p in JOINT.points(5, seed=3)] == JOINT.sample(5, seed=3)


def test_points_of_a_joint_space() -> None:
    points = JOINT.points(300, seed=0)
    for point in points:
        values = point.settings
        assert values["ema"] == 0.99
        assert 1e-4 <= values["lr"] <= 1e-2
        assert values["batch_size"] in (4, 8, 12, 16)
        assert ("drop_path" in values) == (point.genotype.backbone == "mit_b0")
        assert values["loss"] == "cross_entropy" or values["label_smoothing"] == 0.0
        assert JOINT.encode(point) is not None
    assert {p.settings["label_smoothing"] for p in points} == {0.0, 0.1}
    below = sum(p.settings["lr"] < 1e-3 for p in points)
    assert below == pytest.approx(150, abs=35)


class TestEncode:
    def test_golden(self) -> None:
        encoded = TINY.encode(preset("csap"))
        assert encoded == {
            "stage4.attention": "own",
            "lpm": "none",
            "ffn": 2,
            "stage3.attention": "stage4",
            "stage2.attention": "stage4",
            "fusion": "concat",
            "fusion_width": 128,
        }

    def test_labels_of_the_full_space(self) -> None:
        encoded = DECODER.encode(preset("metaseg"))
        assert encoded is not None
        assert encoded["stage4.inputs"] == "self"
        assert encoded["stage3.heads"] == 4
        assert encoded["stage2.pool_conv"] is True
        scaseg = DECODER.encode(preset("scaseg"))
        assert scaseg is not None
        assert scaseg["stage1.inputs"] == "all"
        assert scaseg["stage3.heads"] == 5
        # Drawing order: a stage's attention before what depends on it, deep stages first.
        names = list(scaseg)
        assert names.index("stage4.attention") < names.index("stage4.rank") < names.index("stage4.heads") < names.index("stage3.attention")

    def test_tied_words_stay_words(self) -> None:
        encoded = SCASEG.encode(preset("u_mixformer"))
        assert encoded is not None
        assert (encoded["heads"], encoded["rank"], encoded["lpm"]) == ("native", "full", "none")
        assert next(v for v in CSAP.variables if v.name == "inputs").choices == ("self", "2+3+4", "all")

    def test_outside(self) -> None:
        assert TINY.encode(preset("scaseg")) is None
        assert TINY.encode(preset("csap", "mit_b0")) is None
        assert TINY.with_fixed({"backbone": "mit_b0"}).encode(preset("csap", "mit_b0")) is not None
        assert TINY.encode(Point(preset("csap"), {"lr": 0.1})) is None
        point = JOINT.points(1, seed=0)[0]
        for change in ({"lr": 1.0}, {"batch_size": 5}, {"ema": 0.5}, {"unknown": 1}, {"loss": "dice"}):
            assert JOINT.encode(Point(point.genotype, {**point.settings, **change})) is None
        other = point.genotype.on("resnet18")
        assert JOINT.encode(Point(other, {"drop_path": 0.1})) is None
        assert JOINT.encode(Point(other, {"loss": "ohem", "label_smoothing": 0.1})) is None

    def test_a_design_leaves_the_training_open(self) -> None:
        encoded = JOINT.encode(preset("csap", "mit_b0"))
        assert encoded is not None
        assert encoded["backbone"] == "mit_b0"
        assert not [name for name in encoded if name.startswith("train.")]

    def test_all_published_designs_lie_in_the_full_space(self) -> None:
        assert DECODER.presets == PRESETS
        for name in PRESETS:
            assert DECODER.why_outside(preset(name, "mit_b0")) is None
            encoded = DECODER.encode(preset(name))
            assert encoded is not None
            assert DECODER.suggest(FixedChooser(encoded, random.Random(0))).genotype == preset(name)

    def test_why_outside(self) -> None:
        why = TINY.why_outside(preset("metaseg"))
        assert why is not None
        assert "stage4.key_stride is 64 there and 32 here" in why
        assert "stage4.ffn_depthwise is false there and true here" in why
        tied = Space.from_dict({"genes": {"lpm": {"choices": ["none", "se"], "tie": "all"}}})
        mixed = Genotype.from_dict({"stage4.lpm": "se"})
        assert tied.why_outside(mixed) == "its values are each in the space, but not together"


class TestNeighbours:
    def test_are_all_there_is_one_variable_away(self) -> None:
        point = Point(preset("csap"))
        found = list(TINY.neighbours(point, random.Random(0)))
        start = TINY.encode(point)
        assert start is not None
        # lpm 2, ffn 1, fusion 1, width 1, stages 2 and 3 to none or own; without a map at stage 4 nobody can reuse it.
        assert len(found) == 10
        assert len({p.key for p in found} | {point.key}) == 11
        for other in found:
            encoded = TINY.encode(other)
            assert encoded is not None
            changed = {name for name in start if encoded.get(name) != start[name]}
            assert len(changed) == 1 or changed == {"stage4.attention", "stage3.attention", "stage2.attention"}

    def test_order_follows_the_generator(self) -> None:
        point = Point(preset("scaseg"))
        first = [p.genotype.id for p in DECODER.neighbours(point, random.Random(1))]
        assert first == [p.genotype.id for p in DECODER.neighbours(point, random.Random(1))]
        other = [p.genotype.id for p in DECODER.neighbours(point, random.Random(2))]
        assert first != other
        assert all(DECODER.contains(g) for g in itertools.islice((p.genotype for p in DECODER.neighbours(point, random.Random(3))), 30))

    def test_step_along_ranges(self) -> None:
        point = JOINT.points(1, seed=5)[0]
        others = list(JOINT.neighbours(point, random.Random(0)))
        assert len({p.key for p in others}) == len(others)
        moved = [p for p in others if p.genotype == point.genotype]
        rates = [p.settings["lr"] for p in moved if p.settings["lr"] != point.settings["lr"]]
        assert len(rates) == 2
        assert min(rates) < point.settings["lr"] < max(rates)
        assert max(rates) / min(rates) < 100**0.4 * 1.001
        batches = {p.settings["batch_size"] for p in moved} - {point.settings["batch_size"]}
        assert batches
        assert batches <= {4, 8, 12, 16}
        assert all(JOINT.encode(p) is not None for p in others)

    def test_at_the_end_of_a_range_there_is_one_side(self) -> None:
        space = Space.from_dict({"genes": {"train.workers": {"low": 0, "high": 3}}})
        point = Point(next(space.enumerate()), {"workers": 3})
        assert [p.settings["workers"] for p in space.neighbours(point, random.Random(0))] == [2]

    def test_of_a_point_outside(self) -> None:
        assert list(TINY.neighbours(Point(preset("scaseg")), random.Random(0))) == []
        assert list(TINY.near(preset("scaseg"), random.Random(0))) == []

    def test_of_a_decoder_leave_the_training_aside(self) -> None:
        near = list(JOINT.near(preset("csap", "mit_b0"), random.Random(0)))
        assert preset("csap", "mit_b0") not in near
        assert len(near) > 20


class TestSettle:
    def test_genes(self) -> None:
        space = DECODER.with_fixed({"backbone": "timm:resnet18", "lpm": "se", "stage3.lpm": "eca", "stage4.attention": "own"})
        genotype = space.sample(1)[0]
        assert genotype.backbone == "resnet18"
        assert space.backbones == ("resnet18",)
        assert [g.lpm for g in reversed(genotype.stages) if g][:2] == ["se", "eca"]
        assert space.fixed["stage3.lpm"] == "eca"
        assert DECODER.with_fixed({}) is DECODER
        assert DECODER.backbones == ()
        assert JOINT.backbones == ("mit_b0", "resnet18")

    def test_a_bare_gene_settles_single_stages_too(self) -> None:
        assert TINY.with_fixed({"attention": "none"}).size() == 3 * 2 * 2 * 2

    def test_settings(self) -> None:
        space = JOINT.with_fixed({"train.lr": 0.5})
        assert space.settings["lr"] == 0.5
        assert "train.lr" not in {v.name for v in space.variables}
        assert {p.settings["lr"] for p in space.points(3)} == {0.5}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lmp": "se"}, "--set: genes.lmp: no such gene; nearest legal: lpm"),
            ({"lpm": "sse"}, "--set: genes.lpm: must be one of"),
            ({"fusion_stride": 8, "stage1.lpm": "se"}, "--set: genes.stage1.lpm: nothing reads this gene in this space"),
            (
                {"stage4.attention": "none", "stage3.attention": "stage4"},
                "--set: genes.stage3.attention: no network of this space is legal",
            ),
        ],
    )
    def test_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            DECODER.with_fixed(change)
        assert message in str(caught.value)

    def test_genotype_from_outside(self) -> None:
        space = Space.load("hyperparameters")
        assert space.needs_genotype
        assert [v.name for v in space.variables][:2] == ["train.lr", "train.backbone_lr_scale"]
        for call in (space.size, lambda: space.sample(1), lambda: next(space.enumerate()), lambda: space.encode(preset("csap"))):
            with pytest.raises(ConfigError, match=r"hyperparameters\.yaml: genotype: this space takes its decoder from outside"):
                call()
        whole = space.with_genotype(preset("feedformer")).with_fixed({"backbone": "mit_b0"})
        assert whole.size() == 1
        assert {p.genotype for p in whole.points(5)} == {preset("feedformer", "mit_b0")}
        assert whole.fixed["stage3.key_stride"] == 16
        assert space.with_fixed({"backbone": "mit_b0"}).with_genotype(preset("csap")).sample(1) == [preset("csap", "mit_b0")]

    @given(st.integers(0, DECODER.size() - 1))
    @settings(max_examples=10, deadline=None)
    def test_any_genotype_settles_any_space(self, number: int) -> None:
        genotype = DECODER.at(number).on("mit_b0")
        assert list(JOINT.with_genotype(genotype).enumerate()) == [genotype]
        assert list(DECODER.with_fixed(genotype.flat()).enumerate()) == [genotype]


class TestForm:
    @pytest.mark.parametrize("name", spacefile.shipped())
    def test_round_trip(self, name: str) -> None:
        space = Space.load(name)
        again = Space.from_dict(space.to_dict())
        assert again == space
        assert again.fingerprint == space.fingerprint
        assert pickle.loads(pickle.dumps(space)) == space
        assert hash(again) == hash(space)
        assert space.fingerprint in repr(space)

    def test_golden(self) -> None:
        space = Space.from_dict(
            {"name": "a", "genes": {"stage4": {"lpm": {"choices": ["none", "se"]}}, "train": {"lr": 0.1}}, "budget": {"macs": "1G"}}
        )
        assert space.to_dict() == {
            "name": "a",
            "genes": {"stage4.lpm": {"choices": ["none", "se"]}, "train.lr": 0.1},
            "budget": {"macs": 1e9},
            "objectives": {"miou": "max"},
        }
        assert space.fingerprint == "436b69e4a95a"

    def test_fingerprint_is_of_what_is_searched(self) -> None:
        assert Space.from_dict({**TINY.to_dict(), "name": "other", "description": "else"}).fingerprint == TINY.fingerprint
        for change in ({"fusion_width": 64}, {"backbone": "mit_b0"}):
            assert TINY.with_fixed(change).fingerprint != TINY.fingerprint
        assert Space.from_dict({**TINY.to_dict(), "budget": {"macs": "1G"}}).fingerprint != TINY.fingerprint
        assert Space.from_dict({**TINY.to_dict(), "objectives": {"miou": "max"}}).fingerprint != TINY.fingerprint
        assert TINY != "tiny"

    def test_at(self) -> None:
        assert TINY.at(0) == next(TINY.enumerate())
        for number in (-1, 312):
            with pytest.raises(IndexError, match=f"tiny holds genotypes 0 to 311, not {number}"):
                TINY.at(number)

    def test_variables(self) -> None:
        names = [v.name for v in JOINT.variables]
        assert names[0] == "backbone"
        assert names[-5:] == ["train.lr", "train.batch_size", "train.drop_path", "train.loss", "train.label_smoothing"]
        lpm = next(v for v in JOINT.variables if v.name == "lpm")
        assert isinstance(lpm, Choices)
        assert JOINT.read_stages(lpm) == (4, 3, 2)
        assert JOINT.used_choices(lpm) == ("none", "plain", "se", "eca")
        settled = DECODER.with_fixed({"inputs": "self", "fusion_stride": 8}).settled
        assert settled["stage2.inputs"] == ((2,),)
        # Inputs that nobody names are what the key grid allows.
        assert Space.from_dict({"genes": {"key_stride": {"choices": [16, 32]}}}).settled["stage1.inputs"] == ((1, 2, 3), (1, 2, 3, 4))

    def test_path_or_name(self, tmp_path: Path) -> None:
        (tmp_path / "tiny.yaml").write_text("genes: {fusion: fca}\n")
        assert Space.load(tmp_path / "tiny.yaml").size() == 1
        assert Space.load("tiny").size() == 312


def test_an_answer_that_was_not_offered() -> None:
    with pytest.raises(ValueError, match=r"stage4\.attention: 'maybe' is none of \['none', 'own'\]"):
        TINY.suggest(FixedChooser({"stage4.attention": "maybe"}, random.Random(0)))


def test_illegal_answers_go_to_the_nearest_legal() -> None:
    answers = {"stage4.attention": "none", "stage3.attention": "own", "stage2.attention": "stage4"}
    genotype = TINY.suggest(FixedChooser(answers, random.Random(0))).genotype
    stage2 = genotype.stage(2)
    assert stage2 is not None
    assert stage2.attention == "own"
    fine = DECODER.suggest(FixedChooser({"stage4.attention": "own", "stage4.key_stride": 16, "stage4.inputs": "all"}, random.Random(0)))
    stage4 = fine.genotype.stage(4)
    assert stage4 is not None
    assert stage4.inputs == (1, 2, 3)


def test_a_design_named_as_genotype_has_the_size_of_the_settled_backbone() -> None:
    space = Space.from_dict({"genotype": "segformer", "genes": {"ffn": {"choices": [0, 2]}}})
    assert {g.fusion_width for g in space.enumerate()} == {256}
    large = space.with_fixed({"backbone": "mit_b2"})
    assert {(g.project, g.fusion_width) for g in large.enumerate()} == {(768, 768)}
    assert Space.from_dict(large.to_dict()) == large
    # Several backbones: the base size. A genotype spelled out is taken as it is.
    several = Space.from_dict({"genotype": "segformer", "genes": {"backbone": {"choices": ["mit_b0", "mit_b2"]}}})
    assert {g.fusion_width for g in several.enumerate()} == {256}
    spelled = Space.from_dict({"genotype": preset("segformer").to_dict(), "genes": {"backbone": "mit_b2"}})
    assert {g.fusion_width for g in spelled.enumerate()} == {256}
    with pytest.raises(ConfigError, match="must be the name of a backbone"):
        space.with_fixed({"backbone": " "})


def test_a_preset_is_inside_if_one_of_its_sizes_is() -> None:
    raw = {"genotype": "scaseg", "genes": {"fusion_width": 768}, "presets": ["scaseg"]}
    with pytest.raises(ConfigError, match="scaseg lies outside the space: fusion_width is 128 there and 768 here"):
        Space.from_dict(raw)
    assert Space.from_dict({**raw, "genes": {"fusion_width": 768, "backbone": "mit_b3"}}).presets == ("scaseg",)
