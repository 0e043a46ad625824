"""Space files: everything that can be wrong with one, said at once; what extends what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nasseg.errors import ConfigError
from nasseg.genes import spacefile
from nasseg.genes.presets import PRESETS, preset
from nasseg.genes.space import Space

README = Path(__file__).resolve().parents[2] / "search_spaces" / "README.md"
LPM = "must be one of none, plain, se, eca, cbam, coord"
SOURCE = "a reused map must belong to a deeper stage whose attention is own with a rank above 0"
POOLED = "maps are pooled to the key grid, never upsampled, so no input's stride may be above key_stride"
JOINS = "joins stages; it goes with a stage gene that is named without its stage"
DEAD = "no network of this space is legal"
NONE = "no network of this space can have this value"
TIES = "is 'all' or a list of at least two stages out of 1, 2, 3, 4, each once"


def problems_of(raw: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Space.from_dict(raw)
    return [str(problem) for problem in caught.value.problems]


def test_all_at_once_with_file_key_rule_and_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extend: tiny\ngenes: {lmp: se, fusion: {choices: [concat, fac]}, stage3: {rnk: 1}, stage4.lpm: sse}\n"
        "budget: {mac: 1G}\nobjectives: {miou: min}\npresets: [csapp]\n"
    )
    with pytest.raises(ConfigError) as caught:
        Space.load(path)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}: extend: no such key of a space; nearest legal: extends",
        f"{path}: genes.lmp: no such gene; nearest legal: lpm",
        f"{path}: genes.stage3.rnk: no such stage gene; nearest legal: rank",
        f"{path}: budget: mac: no such bound; there are params, macs, macs_fvcore, decoder_params, decoder_macs (given "
        f"'1G'); nearest legal: macs",
        f"{path}: objectives.miou: must be max (given 'min'); nearest legal: max",
        f"{path}: presets: no such design; there are {', '.join(PRESETS)} (given 'csapp'); nearest legal: csap",
    ]


def test_values_all_at_once() -> None:
    assert problems_of(
        {"genes": {"fusion": {"choices": ["concat", "fac"]}, "stage4.lpm": "sse", "rank": [1, 2], "ffn": {"choices": [2, 3]}}}
    ) == [
        "space: genes.fusion: must be one of concat, fca, ham (given 'fac'); nearest legal: fca",
        f"space: genes.stage4.lpm: {LPM} (given 'sse'); nearest legal: se",
        "space: genes.rank: must be one of 0, 1, 2, 4, 8, full; several values are written {choices: [...]} (given [1, 2])",
        "space: genes.ffn: must be one of 0, 1, 2, 4 (given 3); nearest legal: 2",
    ]


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ([], ["space: a space is a mapping of extends, name, description, genotype, genes, budget, objectives, presets (given 'list')"]),
        ({"genes": ["lpm"]}, ["space: genes: is a mapping of genes to values (given ['lpm'])"]),
        ({"name": 3, "description": ["x"]}, ["space: name: is a text (given 3)", "space: description: is a text (given ['x'])"]),
        ({"extends": 3}, ["space: extends: is the name of a shipped space or the path of a file (given 3)"]),
        ({"genes": {"stage3": "own"}}, ["space: genes.stage3: is a mapping of stage genes (given 'own')"]),
        ({"genes": {"train": 3}}, ["space: genes.train: is a mapping of a trainer's fields (given 3)"]),
        ({"genes": {"train.LR": 3}}, ["space: genes.train.LR: a training gene is train. and a field of the trainer, such as train.lr"]),
        ({"genes": {"stage2.fusion": "fca"}}, ["space: genes.stage2.fusion: a gene of the whole decoder, not of a stage; "
            "nearest legal: fusion"]),
        ({"genes": {"stage3": {"lpm": "se"}, "stage3.lpm": "se"}}, ["space: genes.stage3.lpm: stage3.lpm is given twice"]),
        ({"genotype": "scaseq"}, [
            "space: genotype: is 'given' (it comes by --genotype), a published design, the path of a genotype file, or a mapping of genes "
            "(given 'scaseq'); nearest legal: scaseg",
        ]),
        ({"genotype": {"lpm": "sse"}}, [f"space: genotype: lpm: {LPM} (given 'sse'); nearest legal: se"]),
        ({"objectives": {}}, ["space: objectives: is a mapping such as {miou: max, macs: min} (given {})"]),
        ({"objectives": {"mIoU!": "max", 3: "max"}}, [
            "space: objectives: is the name of a metric, such as miou, miou_holdout or iou[crop,weed], or of a cost (given 'mIoU!'); "
            "nearest legal: miou",
            "space: objectives: is the name of a metric, such as miou, miou_holdout or iou[crop,weed], or of a cost (given 3)",
        ]),
        ({"objectives": {"f1": "up", "macs": "least", "iou[a]": "min"}}, [
            "space: objectives.f1: must be max or min (given 'up'); nearest legal: max",
            "space: objectives.macs: must be max or min (given 'least'); nearest legal: min",
            "space: objectives.iou[a]: must be max (given 'min'); nearest legal: max",
        ]),
        ({"objectives": {"macs": "max"}}, ["space: objectives.macs: must be min (given 'max'); nearest legal: min"]),
        ({"budget": "1G"}, ["space: budget: a budget is a mapping of names to upper bounds (given '1G'); nearest legal: "
            "{macs: 1.5G, params: 6M}"]),
        ({"presets": "csap"}, [
            "space: presets: is a list of published designs (given 'csap'); nearest legal: "
            f"{list(PRESETS)}",
        ]),
        ({"presets": ["scaseg", "scaseg"], "genotype": "scaseg"}, ["space: presets: names a design twice (given 'scaseg')"] * 2),
        # The form of an entry.
        ({"genes": {"lpm": {"choice": ["se"]}}}, [
            "space: genes.lpm.choice: a gene has the keys value, choices, low, high, step, log, when, else, tie; nearest legal: choices",
            "space: genes.lpm: wants one of value, choices, or low and high (given {'choice': ['se']})",
        ]),
        ({"genes": {"lpm": {}}}, ["space: genes.lpm: wants one of value, choices, or low and high"]),
        ({"genes": {"lpm": {"choices": []}}}, ["space: genes.lpm.choices: is a list with at least one value (given [])"]),
        ({"genes": {"lpm": {"choices": "se"}}}, ["space: genes.lpm.choices: is a list with at least one value (given 'se')"]),
        ({"genes": {"lpm": {"value": "se", "choices": ["se"]}}}, [
            "space: genes.lpm: wants one of value, choices, or low and high (given {'value': 'se', 'choices': ['se']})",
        ]),
        ({"genes": {"fusion_width": {"low": 64, "high": 128}}}, [
            "space: genes.fusion_width: a range is for train.* alone; list the values of a decoder's gene under choices",
        ]),
        ({"genes": {"lpm": {"choices": ["se"], "log": True}}}, ["space: genes.lpm.log: goes with low and high alone"]),
        ({"genes": {"lpm": {"choices": ["none", "se", "none"]}}}, ["space: genes.lpm: gives one value twice: none and none"]),
        ({"genes": {"inputs": {"choices": ["all", [1, 2, 3, 4]]}}}, ["space: genes.inputs: gives one value twice: all and [1, 2, 3, 4]"]),
        ({"genes": {"stage4.heads": {"choices": ["native", 8]}}}, ["space: genes.stage4.heads: gives one value twice: native and 8"]),
        ({"genes": {"lpm": {"value": "se", "when": "own"}}}, ["space: genes.lpm.when: is a mapping of genes to a value or a "
            "list of values (given 'own')"]),
        ({"genes": {"lpm": {"value": "se", "else": "none"}}}, ["space: genes.lpm.else: is the value where when does not "
            "hold; there is no when"]),
        ({"genes": {"lpm": {"value": "se", "when": {"attention": "own"}, "else": "non"}}}, [
            f"space: genes.lpm.else: {LPM} (given 'non'); nearest legal: none",
        ]),
        ({"genes": {"backbone": {"choices": ["mit_b0", None]}}}, ["space: genes.backbone: is the name of a backbone; leave "
            "the key out for none"]),
        # Ties.
        ({"genes": {"fusion": {"value": "fca", "tie": "all"}}}, [
            f"space: genes.fusion.tie: {JOINS} (given 'all')",
        ]),
        ({"genes": {"stage3.lpm": {"value": "se", "tie": [3, 4]}}}, [
            f"space: genes.stage3.lpm.tie: {JOINS} (given [3, 4])",
        ]),
        ({"genes": {"lpm": {"value": "se", "tie": [3]}}}, [f"space: genes.lpm.tie: {TIES} (given [3]); nearest legal: all"]),
        ({"genes": {"lpm": {"value": "se", "tie": [3, 3]}}}, [f"space: genes.lpm.tie: {TIES} (given [3, 3]); nearest legal: all"]),
        ({"genes": {"lpm": {"value": "se", "tie": [3, 5]}}}, [f"space: genes.lpm.tie: {TIES} (given [3, 5]); nearest legal: all"]),
        # Conditions.
        ({"genes": {"lpm": {"value": "se", "when": {"atention": "own"}}}}, [
            "space: genes.lpm.when.atention: no such gene to depend on; nearest legal: attention",
        ]),
        ({"genes": {"lpm": {"value": "se", "when": {"stage3.rank": 3}}}}, [
            "space: genes.lpm.when.stage3.rank: must be one of 0, 1, 2, 4, 8, full (given 3); nearest legal: 2",
        ]),
        ({"genes": {"fusion": {"value": "fca", "when": {"lpm": "se"}}}}, ["space: genes.fusion.when.lpm: say at which stage; "
            "nearest legal: stage4.lpm"]),
        ({"genes": {"attention": {"choices": ["own", "none"], "when": {"rank": 1}}}}, [
            "space: genes.stage4.attention.when: its condition waits for itself (a circle through stage4.attention, stage3.attention, "
            "stage2.attention, stage1.attention)",
        ]),
        # What no network can have.
        ({"genes": {"stage3.attention": "stage2"}}, [
            "space: genes.stage3.attention: a reused map must belong to a deeper stage (given 'stage2'); nearest legal: stage4",
            "space: genes.stage3.attention: a reused map must belong to a deeper stage; at stage 3 none of these can be "
                "(given ['stage2']); nearest legal: own",
        ]),
        ({"genes": {"stage4.attention": "none", "stage3.attention": "stage4"}}, [
            f"space: genes.stage3.attention: {DEAD}: {SOURCE} (given 'stage4')",
        ]),
        ({"genes": {"key_stride": 16, "inputs": "all"}}, [
            f"space: genes.stage4.inputs: {DEAD}: {POOLED} (given 'all')",
        ]),
        ({"genes": {"stage4.attention": "none", "stage3.attention": {"choices": ["own", "stage4"]}}}, [
            f"space: genes.stage3.attention: {NONE}: {SOURCE} (given 'stage4')",
        ]),
        ({"genes": {"key_stride": 16, "inputs": {"choices": ["all", [1], [4]]}}}, [
            f"space: genes.inputs: {NONE}: {POOLED} (given {given})" for given in ("'all'", "[4]")
        ]),
        ({"genes": {"attention": "none", "rank": {"choices": [1, 2]}, "stage3.heads": 8}}, [
            "space: genes.rank: nothing reads this gene in this space: it is read when the stage's attention is own",
            "space: genes.stage3.heads: nothing reads this gene in this space: it is read when the stage's attention is own "
                "with a rank above 0",
        ]),
        ({"genes": {"fusion_stride": 8, "stage1": {"lpm": "se"}}}, [
            "space: genes.stage1.lpm: nothing reads this gene in this space: it is read when the stage is kept",
        ]),
        ({"genes": {"lpm": {"choices": ["se", "eca"], "when": {"fusion": "fca"}}}}, [
            f"space: genes.lpm: no network of this space meets the condition with this value (given '{given}')" for given in ("se", "eca")
        ]),
        ({"genes": {"lpm": "none"}, "presets": ["scaseg", "u_mixformer"]}, [
            "space: presets: scaseg lies outside the space: stage4.lpm is se there and none here; stage3.lpm is se there and none here; "
            "stage2.lpm is se there and none here; stage1.lpm is se there and none here",
            "space: presets: u_mixformer lies outside the space: " + "; ".join(
                f"stage{i}.rank is full there and 1 here; stage{i}.residual is normalised there and raw here" for i in (4, 3, 2, 1)
            ),
        ]),
    ],
)  # fmt: skip
def test_refused(raw: Any, messages: list[str]) -> None:
    assert problems_of(raw) == messages


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1}, "a range wants both low and high"),
        ({"low": 2, "high": 1}, "a range wants numbers with low below high (given [2, 1])"),
        ({"low": 0, "high": True}, "a range wants numbers with low below high (given [0, True])"),
        ({"low": 0.0, "high": float("inf")}, "a range wants numbers with low below high (given [0.0, inf])"),
        ({"low": 0.0, "high": 1.0, "log": True}, "a logarithmic range must start above 0 (given 0.0)"),
        ({"low": 0.1, "high": 1.0, "log": 1}, "must be true or false (given 1)"),
        ({"low": 1, "high": 9, "step": 0}, "must be a whole number from 1 (given 0); nearest legal: 1"),
        ({"low": 0.1, "high": 1.0, "step": 2}, "is for ranges of whole numbers that are not logarithmic (given 2)"),
        ({"low": 1, "high": 9, "step": 2, "log": True}, "is for ranges of whole numbers that are not logarithmic (given 2)"),
        ({"low": 1, "high": 8, "step": 2}, "must lie a multiple of 2 above low (given 8); nearest legal: 7"),
        ({"choices": ["a", "a"]}, "gives one value twice (given ['a', 'a'])"),
        ({"choices": [[1]]}, "must be a number, a text, true or false (given [1])"),
        ({"choices": [float("nan")]}, "must be a number, a text, true or false (given nan)"),
        ({"value": 1, "tie": "all"}, f"{JOINS} (given 'all')"),
        ({"value": 1, "when": {"train.other": 1}}, "depends on a training gene that does not stand above it"),
        ({"value": 1, "when": {"train.rate": 0.1}}, "depends on a range; a condition wants a gene with choices"),
        ({"value": 1, "when": {"train.loss": "b"}}, "must be out of a, c (given 'b')"),
        ({"value": 1, "when": {"lpm": "se"}}, "say at which stage; nearest legal: stage4.lpm"),
    ],
)
def test_refused_settings(entry: Any, message: str) -> None:
    genes = {"train.rate": {"low": 0.0, "high": 1.0}, "train.loss": {"choices": ["a", "c"]}, "train.x": entry}
    (found,) = problems_of({"genes": genes})
    assert found.startswith("space: genes.train.x")
    assert message in found


class TestExtends:
    def write(self, folder: Path, name: str, text: str) -> Path:
        (folder / name).write_text(text)
        return folder / name

    def test_what_is_said_later_wins(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            "base.yaml",
            "extends: tiny\ndescription: from below\ngenes: {stage3: {lpm: se}, rank: 2, train.lr: 0.1}\nbudget: {macs: 1G}\n",
        )
        path = self.write(
            tmp_path, "top.yaml", "extends: base.yaml\ngenes: {lpm: eca, fusion: fca, train: {lr: 0.2}}\nobjectives: {miou: max}\n"
        )
        space = Space.load(path)
        assert space.name == "top"
        assert space.description == "from below"
        assert space.budget.bounds == {"macs": 1e9}
        assert space.objectives == {"miou": "max"}
        # A bare gene of the later file replaces the entry of a single stage in the earlier one.
        assert space.fixed["stage3.lpm"] == "eca"
        assert space.fixed["stage4.rank"] == 2
        assert space.fixed["train.lr"] == 0.2
        # tiny starts from csap and canet_fca, which the settled genes exclude.
        assert space.presets == ()

    def test_round_about(self, tmp_path: Path) -> None:
        self.write(tmp_path, "a.yaml", "extends: b.yaml\n")
        self.write(tmp_path, "b.yaml", "extends: c.yaml\n")
        self.write(tmp_path, "c.yaml", "extends: a.yaml\n")
        with pytest.raises(ConfigError, match=r"c\.yaml: extends: goes round in a circle: .*a\.yaml → .*b\.yaml → .*c\.yaml → .*a\.yaml"):
            Space.load(tmp_path / "a.yaml")
        self.write(tmp_path, "self.yaml", "extends: self.yaml\n")
        with pytest.raises(ConfigError, match="goes round in a circle"):
            Space.load(tmp_path / "self.yaml")

    def test_problems_of_both_files_are_told(self, tmp_path: Path) -> None:
        self.write(tmp_path, "base.yaml", "genes: {lmp: se}\n")
        path = self.write(tmp_path, "top.yaml", "extends: base.yaml\ngenes: {fusoin: fca}\n")
        with pytest.raises(ConfigError) as caught:
            Space.load(path)
        assert [Path(p.where).name for p in caught.value.problems] == ["base.yaml", "top.yaml"]

    def test_a_key_is_blamed_on_the_file_that_wrote_it(self, tmp_path: Path) -> None:
        self.write(tmp_path, "base.yaml", "genes: {stage3.attention: stage4}\n")
        path = self.write(tmp_path, "top.yaml", "extends: base.yaml\ngenes: {stage4.attention: none}\n")
        with pytest.raises(ConfigError, match=r"base\.yaml: genes\.stage3\.attention: no network of this space is legal"):
            Space.load(path)

    def test_unknown(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "top.yaml", "extends: tinny\n")
        with pytest.raises(ConfigError, match=r"top\.yaml: extends: no such space, and no file of that name; .* nearest legal: tiny"):
            Space.load(path)
        self.write(tmp_path, "top.yaml", "extends: gone.yaml\n")
        with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
            Space.load(path)

    def test_settled_values_may_leave_inherited_ones_idle(self) -> None:
        space = Space.from_dict({"extends": "decoder", "genes": {"fusion_stride": 8}})
        assert not [v.name for v in space.variables if "stage1" in v.name]
        assert "segformer" not in space.presets
        assert "csap" in space.presets


def test_unknown_space_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"space: no such space.*shipped spaces are csap, decoder, .*\(given 'decodr'\); nearest legal: decoder"
    ):
        Space.load("decodr")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("genes: {lpm: se, lpm: eca}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:1: not readable as YAML"):
        Space.load(path)
    path.write_text("")
    assert Space.load(path).size() == 1
    assert Space.load(path).name == "bad"


def test_genotype_beside_the_file(tmp_path: Path) -> None:
    preset("metaseg").save(tmp_path / "base.yaml")
    (tmp_path / "space.yaml").write_text("genotype: base.yaml\ngenes: {fusion_width: {choices: [64, 128]}}\n")
    space = Space.load(tmp_path / "space.yaml")
    assert [g.fusion_width for g in space.enumerate()] == [64, 128]
    assert space.contains(preset("metaseg"))
    (tmp_path / "space.yaml").write_text("genotype: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        Space.load(tmp_path / "space.yaml")


def test_readme_example_is_a_space(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "my_space.yaml").write_text(example[1])
    space = Space.load(tmp_path / "my_space.yaml")
    assert space.presets == ("csap",)
    assert space.contains(preset("csap", "mit_b0"))
    assert {"train.lr", "train.batch_size", "lpm", "stage34.rank", "stage2.rank"} <= {v.name for v in space.variables}
    # It shows every key there is.
    for key in (*spacefile.KEYS, *(k for k in spacefile.ENTRY_KEYS if k != "value")):
        assert f"{key}:" in example[1], key
