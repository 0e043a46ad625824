"""Genotypes: one id for one network, every refusal, round trips."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasseg.errors import ConfigError
from nasseg.files import dump_yaml, parse_yaml
from nasseg.genes.gene import IMPLIED
from nasseg.genes.genotype import Genotype, default_inputs
from nasseg.genes.presets import preset
from nasseg.genes.space import Space

DECODER = Space.load("decoder")

# The public form of a genotype: a change of these literals breaks every file and study that users have.
CSAP_JSON = (
    '{"backbone":"mit_b0","fusion":"concat","fusion_stride":8,"fusion_width":128,"project":"none",'
    '"stage2":{"attention":"stage4","ffn":2,"ffn_depthwise":true,"inputs":[2],"lpm":"none","pool_conv":false},'
    '"stage3":{"attention":"stage4","ffn":2,"ffn_depthwise":true,"inputs":[3],"lpm":"none","pool_conv":false},'
    '"stage4":{"attention":"own","ffn":2,"ffn_depthwise":true,"heads":8,"inputs":[4],"key_stride":32,"lpm":"none","query_pool":1,"rank":1}}'
)
CSAP_YAML = """\
format: 1
backbone: mit_b0
fusion_stride: 8
stage4:
  attention: own
  heads: 8
  key_stride: 32
  rank: 1
  inputs: [4]
  query_pool: 1
  lpm: none
  ffn: 2
  ffn_depthwise: true
stage3:
  attention: stage4
  inputs: [3]
  pool_conv: false
  lpm: none
  ffn: 2
  ffn_depthwise: true
stage2:
  attention: stage4
  inputs: [2]
  pool_conv: false
  lpm: none
  ffn: 2
  ffn_depthwise: true
project: none
fusion: concat
fusion_width: 128
"""

OLD_IDS = {
    "354e67a77f9f": json.loads(
        '{"fusion":"fca","fusion_stride":4,"fusion_width":96,"project":128,"stage1":{"attention":"stage2","ffn":0,"inputs":[1],"l'
        'pm":"eca","pool_conv":false},"stage2":{"attention":"own","ffn":4,"ffn_depthwise":false,"heads":2,"inputs":[2],"key_strid'
        'e":8,"lpm":"cbam","query_pool":1,"rank":"full"},"stage3":{"attention":"own","ffn":4,"ffn_depthwise":false,"heads":8,"inp'
        'uts":[1,2,3,4],"key_stride":64,"lpm":"none","pool_conv":false,"query_pool":1,"rank":4},"stage4":{"attention":"none","ffn'
        '":0,"lpm":"coord"}}'
    ),
    "ea2ae0d2b122": json.loads(
        '{"fusion":"concat","fusion_stride":8,"fusion_width":64,"project":64,"stage2":{"attention":"stage3","ffn":0,"inputs":[1,2'
        '],"lpm":"coord","pool_conv":false},"stage3":{"attention":"own","ffn":0,"heads":8,"inputs":[2,3,4],"key_stride":64,"lpm":'
        '"cbam","pool_conv":false,"query_pool":1,"rank":8},"stage4":{"attention":"own","ffn":4,"ffn_depthwise":true,"heads":64,"i'
        'nputs":[1,2,3],"key_stride":128,"lpm":"none","pool_conv":true,"query_pool":2,"rank":4}}'
    ),
    "bc33e563ea53": json.loads(
        '{"fusion":"concat","fusion_stride":8,"fusion_width":64,"project":"none","stage2":{"attention":"own","ffn":0,"heads":8,"i'
        'nputs":[2],"key_stride":8,"lpm":"coord","query_pool":2,"rank":8},"stage3":{"attention":"none","ffn":4,"ffn_depthwise":fa'
        'lse,"lpm":"eca"},"stage4":{"attention":"none","ffn":2,"ffn_depthwise":true,"lpm":"plain"}}'
    ),
}
"""Genotypes and ids from before there were implied genes (input_norm, mixing, softmax_scale, project_norm and others)."""

SOURCE = "a reused map must belong to a deeper stage whose attention is own"
POOLED = "maps are pooled to the key grid, never upsampled: at key_stride 16 the inputs must be out of [1, 2, 3]"


def test_golden_forms() -> None:
    csap = preset("csap", "mit_b0")
    assert csap.to_json() == CSAP_JSON
    assert csap.id == "538fe096d7e1"
    assert dump_yaml(csap.to_dict()) == CSAP_YAML
    assert Genotype.from_dict(parse_yaml(CSAP_YAML, "literal")) == csap
    assert Genotype.from_dict(json.loads(CSAP_JSON)) == csap
    # What is not named has its default: SCASeg without the local module.
    assert Genotype.from_dict({}).id == "78974f4df80e"
    assert Genotype.from_dict({"lpm": "se"}) == preset("scaseg")


@pytest.mark.parametrize("identity", OLD_IDS)
def test_a_genotype_from_before_a_gene_keeps_its_id(identity: str) -> None:
    raw = OLD_IDS[identity]
    old = Genotype.from_dict(raw)
    assert old.id == identity
    assert json.loads(old.to_json()) == raw
    # Said or not said, a default is the same network; any other value is another.
    unread = ("pool_edge", "softmax_scale", "project_norm")
    assert old.override({gene: value for gene, value in IMPLIED.items() if gene not in unread}) == old
    assert Genotype.from_dict({**raw, **IMPLIED}).id == identity
    assert Genotype.from_dict({**raw, "residual": "normalised"}).id != identity


def test_implied_genes_are_read_like_others() -> None:
    scaseg = preset("scaseg")
    assert "residual" not in scaseg.to_dict()["stage4"]
    assert scaseg.flat()["stage4.residual"] == "raw"
    other = scaseg.override({"stage4.residual": "normalised", "stage3.input_norm": True})
    assert other.to_dict()["stage4"]["residual"] == "normalised"
    assert {key for key, value in other.flat().items() if scaseg.flat()[key] != value} == {"stage4.residual", "stage3.input_norm"}
    assert other.override({"residual": "raw", "input_norm": False}) == scaseg
    assert "project_norm" not in scaseg.flat()
    assert preset("segformer").flat()["project_norm"] == "none"
    assert preset("segformer").override({"project_norm": "batch"}).to_dict()["project_norm"] == "batch"


def test_flat() -> None:
    assert preset("canet_fca").flat() == {
        "fusion_stride": 8,
        **{f"stage{i}.{gene}": value for i in (4, 3, 2) for gene, value in (("attention", "none"), ("lpm", "none"), ("ffn", 0))},
        "project": "none",
        "fusion": "fca",
        "fusion_width": 128,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"heads": "native"}, {"stage4.heads": 8, "stage3": {"heads": 5}, "stage2.heads": 2, "stage1.heads": 1}),
        ({"stage4.inputs": "self"}, {"stage4": {"inputs": [4]}}),
        ({"inputs": "all"}, {"inputs": [4, 3, 2, 1]}),
        # Nothing reads these.
        ({"attention": "none"}, {"attention": "none", "rank": 8, "heads": 3, "inputs": [1], "key_stride": 64, "pool_conv": False}),
        ({"ffn": 0}, {"ffn": 0, "ffn_depthwise": False}),
        ({"fusion_stride": 8}, {"fusion_stride": 8, "stage1": {"attention": "none", "lpm": "se"}}),
        ({"rank": 0}, {"rank": 0, "heads": 4, "query_pool": 2}),
        # Nothing is pooled: the only input lies on the key grid.
        ({"stage4.inputs": [4]}, {"stage4": {"inputs": [4], "pool_conv": False}}),
        # A uniform map is the same wherever it comes from.
        (
            {"stage4.rank": 0, "stage3": {"attention": "stage4"}},
            {"stage4.rank": 0, "stage3": {"attention": "own", "rank": 0, "inputs": "self"}},
        ),
        # A bare gene holds where it is read; what a map is made of is its source's.
        ({"stage3.attention": "stage4", "heads": "native"}, {"stage3.attention": "stage4", "stage3.heads": 8}),
        ({"backbone": "timm:resnet18"}, {"backbone": "resnet18"}),
        ({"project": "none"}, {}),
        ({"project_norm": "batch"}, {}),
        # Several inputs, one that lies on the key grid, or a map of another stage: there is nothing to drop.
        ({"pool_edge": "drop"}, {}),
        ({"inputs": "self", "stage4.pool_edge": "drop"}, {"inputs": "self"}),
        ({"stage3.attention": "stage4", "inputs": [2], "stage3.pool_edge": "mean"}, {"stage3.attention": "stage4", "inputs": [2]}),
        ({"project": 64, "project_norm": "none"}, {"project": 64}),
        ({"attention": "none"}, {"attention": "none", "input_norm": True, "mixing": "norm", "softmax_scale": "rank"}),
        ({"rank": "full", "softmax_scale": "rank"}, {"rank": "full"}),
        ({"rank": 0, "ffn": 0, "residual": "normalised"}, {"rank": 0, "ffn": 0}),
        ({"lpm": "none", "lpm_residual": "twice"}, {}),
        ({"residual": "raw", "input_norm": False}, {}),
        ({"ham_rank": 64}, {}),
        ({"fusion": "ham"}, {"fusion": "ham", "ham_rank": 16}),
        ({"format": 1}, {}),
    ],
)
def test_two_spellings_of_one_network_have_one_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = Genotype.from_dict(one), Genotype.from_dict(other)
    assert first == second
    assert first.id == second.id
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "mit_b0"}, {"fusion_stride": 8}, {"project": 128}, {"fusion": "fca"}, {"fusion_width": 64},
        {"fusion": "ham"}, {"fusion": "ham", "ham_rank": 64},
        {"stage1.attention": "none"},
        {"stage2.attention": "stage4"}, {"stage2.attention": "stage3"}, {"heads": 8}, {"key_stride": 64}, {"rank": 0}, {"rank": "full"},
        {"inputs": "self"}, {"pool_conv": False}, {"query_pool": 2}, {"lpm": "plain"}, {"ffn": 2}, {"ffn_depthwise": False},
        {"residual": "normalised"}, {"input_norm": True}, {"mixing": "norm"}, {"softmax_scale": "rank"},
        {"inputs": [1], "pool_edge": "drop"},
        {"lpm": "plain", "lpm_residual": "twice"}, {"project": 128, "project_norm": "batch"},
    ],
)  # fmt: skip
def test_different_networks_have_different_ids(change: dict[str, Any]) -> None:
    assert Genotype.from_dict(change).id != Genotype.from_dict({}).id


@settings(deadline=None)
@given(st.integers(0, DECODER.size() - 1))
def test_round_trips(number: int) -> None:
    genotype = DECODER.at(number)
    assert Genotype.from_dict(genotype.to_dict()) == genotype
    assert Genotype.from_dict(parse_yaml(dump_yaml(genotype.to_dict()), "text")) == genotype
    assert Genotype.from_dict(json.loads(genotype.to_json())) == genotype
    assert Genotype.from_dict(genotype.flat()) == genotype
    assert genotype.override(genotype.flat()) == genotype
    assert genotype.on("mit_b0").on(None) == genotype
    assert pickle.loads(pickle.dumps(genotype)).id == genotype.id


def test_save_and_load(tmp_path: Path) -> None:
    genotype = preset("metaseg", "mscan_t")
    genotype.save(tmp_path / "new" / "genotype.yaml")
    assert Genotype.load(tmp_path / "new" / "genotype.yaml") == genotype
    (tmp_path / "genotype.json").write_text(genotype.to_json())
    assert Genotype.load(tmp_path / "genotype.json") == genotype
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        Genotype.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ([1], ["genotype: a genotype is a mapping of gene names to values (given 'list')"]),
        (None, ["genotype: a genotype is a mapping of gene names to values (given 'NoneType')"]),
        ({"format": 2}, ["genotype: format: written by a newer nasseg; this one reads format 1 (given 2); nearest legal: 1"]),
        ({"format": True}, ["genotype: format: must be a whole number from 1 (given True); nearest legal: 1"]),
        ({"format": 0}, ["genotype: format: must be a whole number from 1 (given 0); nearest legal: 1"]),
        ({"fusoin": "fca"}, ["genotype: fusoin: no such gene; nearest legal: fusion"]),
        ({"stage5": {}}, ["genotype: stage5: no such gene; nearest legal: stage4"]),
        ({"stage3": "own"}, ["genotype: stage3: a stage is a mapping of its genes (given 'own')"]),
        ({"stage3": {"lmp": "se"}}, ["genotype: stage3.lmp: no such stage gene; nearest legal: lpm"]),
        ({"stage3.fusion": "fca"}, ["genotype: stage3.fusion: a gene of the whole decoder, not of a stage; nearest legal: fusion"]),
        ({"stage3": {"lpm": "se"}, "stage3.lpm": "eca"}, ["genotype: stage3.lpm: is given twice (given 'eca')"]),
        # One value, one line, though four stages read it.
        ({"lpm": "sse"}, ["genotype: lpm: must be one of none, plain, se, eca, cbam, coord (given 'sse'); nearest legal: se"]),
        # Illegal, though nothing reads it.
        (
            {"attention": "none", "stage2.rank": 3},
            ["genotype: stage2.rank: must be one of 0, 1, 2, 4, 8, full (given 3); nearest legal: 2"],
        ),
        (
            {"stage4.attention": "none", "stage3.attention": "stage4"},
            [f"genotype: stage3.attention: {SOURCE} (given 'stage4'); nearest legal: own"],
        ),
        (
            {"stage3.attention": "stage4", "stage2.attention": "stage3"},
            [f"genotype: stage2.attention: {SOURCE} (given 'stage3'); nearest legal: stage4"],
        ),
        (
            {"stage3.attention": "stage3"},
            [f"genotype: stage3.attention: {SOURCE} (given 'stage3'); nearest legal: stage4"],
        ),
        (
            {"stage3": {"attention": "stage4", "heads": 5, "key_stride": 64, "rank": 2, "query_pool": 2, "softmax_scale": "rank"}},
            [
                "genotype: stage3.key_stride: a reused map has that of its source, stage4 (given 64); nearest legal: 32",
                "genotype: stage3.rank: a reused map has that of its source, stage4 (given 2); nearest legal: 1",
                "genotype: stage3.heads: a reused map has that of its source, stage4 (given 5); nearest legal: 8",
                "genotype: stage3.softmax_scale: a reused map has that of its source, stage4 (given 'rank'); nearest legal: width",
                "genotype: stage3.query_pool: a reused map has that of its source, stage4 (given 2); nearest legal: 1",
            ],
        ),
        (
            {"stage1": {"key_stride": 16, "inputs": "all"}},
            [f"genotype: stage1.inputs: {POOLED} (given [1, 2, 3, 4]); nearest legal: [1, 2, 3]"],
        ),
        (
            {"stage4": {"key_stride": 16, "inputs": "self"}},
            [f"genotype: stage4.inputs: {POOLED} (given [4]); nearest legal: [1, 2, 3]"],
        ),
        (
            {"fusion": "ham", "fusion_width": 24, "ham_rank": 300},
            [
                "genotype: ham_rank: must be a whole number from 1 to 256 (given 300); nearest legal: 64",
                "genotype: fusion_width: with fusion ham a multiple of 32, the groups of its GroupNorms (given 24); nearest legal: 32",
            ],
        ),
        (
            {"fusion": "ham", "fusion_width": 1016, "ham_rank": 16.0},
            [
                "genotype: ham_rank: must be a whole number from 1 to 256 (given 16.0); nearest legal: 16",
                "genotype: fusion_width: with fusion ham a multiple of 32, the groups of its GroupNorms (given 1016); nearest legal: 1024",
            ],
        ),
        (
            {"fusion": "cat", "fusion_width": 100, "stage4.ffn": 3},
            [
                "genotype: stage4.ffn: must be one of 0, 1, 2, 4 (given 3); nearest legal: 2",
                "genotype: fusion: must be one of concat, fca, ham (given 'cat'); nearest legal: fca",
                "genotype: fusion_width: must be a whole number from 16 to 1024, a multiple of 8 (given 100); nearest legal: 96",
            ],
        ),
    ],
)
def test_refusals_come_all_at_once(raw: Any, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Genotype.from_dict(raw)
    assert [str(problem) for problem in caught.value.problems] == messages


def test_default_inputs() -> None:
    assert default_inputs(2, 16, reuses=False) == (1, 2, 3)
    assert default_inputs(2, 64, reuses=False) == (1, 2, 3, 4)
    assert default_inputs(2, 64, reuses=True) == (2,)
    # This stage's map is coarser than the grid.
    assert default_inputs(3, 8, reuses=True) == (1, 2)
    stage3 = Genotype.from_dict({"stage4": {"key_stride": 8}, "stage3.attention": "stage4"}).stage(3)
    assert stage3 is not None
    assert stage3.inputs == (1, 2)


class TestOverride:
    def test_bare_and_dotted(self) -> None:
        changed = preset("csap").override({"lpm": "eca", "stage3.lpm": "se", "fusion_width": 64})
        assert [genes.lpm for genes in changed.stages if genes] == ["eca", "se", "eca"]
        assert changed.fusion_width == 64
        assert changed.override({"lpm": "none", "fusion_width": 128}) == preset("csap")

    def test_a_map_that_is_reused_now_leaves_nothing_behind(self) -> None:
        assert preset("scaseg").override({"stage3.attention": "stage4"}) == Genotype.from_dict(
            {"lpm": "se", "stage3": {"attention": "stage4", "inputs": "all"}}
        )
        back = preset("csap").override({"stage3.attention": "own"})
        assert back.stage(3) == Genotype.from_dict({"inputs": "self", "pool_conv": False, "ffn": 2}).stage(3)

    def test_a_stage_that_comes_back_takes_bare_genes(self) -> None:
        stage1 = preset("csap").override({"fusion_stride": 4, "lpm": "se"}).stage(1)
        assert stage1 is not None
        assert stage1.lpm == "se"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"stage3.attention": "stage4", "stage3.heads": 5}, "--set: stage3.heads: a reused map has that of its source"),
            ({"fusion.lpm": "se"}, "--set: fusion.lpm: no such gene; nearest legal: fusion"),
            ({"stage9.lpm": "se"}, "--set: stage9.lpm: no such gene"),
            ({"stage1.attention": "none", "stage1.rank": 4}, "--set: stage1.rank: nothing reads this gene here: it is"),
            ({"attention": "none", "rank": 4}, "--set: rank: nothing reads this gene here"),
            ({"fusion_stride": 8, "stage1.lpm": "se"}, "--set: stage1.lpm: nothing reads this gene here"),
            ({"project_norm": "batch"}, "--set: project_norm: nothing reads this gene here: it is read when project is not none"),
            ({"ham_rank": 64}, "--set: ham_rank: nothing reads this gene here: it is read when fusion is ham"),
            ({"fusion": "ham", "fusion_width": 40}, "--set: fusion_width: with fusion ham a multiple of 32, the groups of its GroupNorms "
                "(given 40); nearest legal: 32"),
        ],
    )  # fmt: skip
    def test_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            preset("scaseg").override(change)
        assert message in str(caught.value)


def test_views() -> None:
    csap = preset("csap")
    assert csap.kept == (2, 3, 4)
    assert csap.reusers(4) == (2, 3)
    assert csap.reusers(3) == ()
    assert csap.stage(1) is None
    stage3 = csap.stage(3)
    assert stage3 is not None
    assert stage3.source == 4
    # 8 divides 64, 160 and 256; with 80 channels at stage 2 the whole group has to make do with 5.
    assert csap.heads((32, 64, 160, 256)) == (None, 8, 8, 8)
    assert csap.heads((32, 50, 160, 250)) == (None, 5, 5, 5)
    assert preset("scaseg").heads((64, 128, 256, 512)) == (1, 2, 4, 8)
    assert preset("segformer").heads((64, 128, 256, 512)) == (None, None, None, None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("segformer", "4:- 3:- 2:- 1:- | lpm none | ffn 0 | concat p256 256/4"),
        ("feedformer", "4:ownF 3:ownF 2:ownF 1:- | k32·k16·k8 1+n | lpm none | ffn 4·4·4·0 | concat 128/4"),
        ("metaseg", "4:own1 3:own1 2:own1 | k64 self+n | lpm none | ffn 2m | concat 128/8"),
        ("scaseg_city", "4:own1 3:own1 2:own1 1:own1 | k64 q2 all | lpm se | ffn 4 | concat 128/4"),
        ("segformer_mmseg", "4:- 3:- 2:- 1:- | lpm none | ffn 0 | concat p256bn 256/4"),
        ("u_mixformer", "4:ownF 3:ownF 2:ownF 1:ownF | k32 all | lpm none | ffn 4 | res n | concat 128/4"),
        ("csap", "4:own1 3:4 2:4 | k32 self | lpm none | ffn 2 | concat 128/8"),
        ("segnext", "4:- 3:- 2:- | lpm none | ffn 0 | ham16 256/8"),
    ],
)
def test_short(name: str, words: str) -> None:
    assert preset(name).short() == words


def test_short_of_any_genotype() -> None:
    rng = random.Random(0)
    for _ in range(50):
        assert DECODER.at(rng.randrange(DECODER.size())).short().count(" | ") in (3, 4, 5)
