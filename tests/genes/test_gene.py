"""The catalogue of genes: canonical values, every refusal, and the table in search_spaces/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nasseg.errors import Problem
from nasseg.genes.gene import GENES, GLOBAL_GENES, IMPLIED, NATIVE_HEADS, STAGE_GENES, STAGES, STRIDES, check_value
from nasseg.genes.variable import plain

README = Path(__file__).resolve().parents[2] / "search_spaces" / "README.md"


def test_catalogue() -> None:
    assert GLOBAL_GENES == ("backbone", "fusion_stride", "project", "project_norm", "fusion", "ham_rank", "fusion_width")
    assert STAGE_GENES == (
        "attention", "heads", "key_stride", "rank", "inputs", "input_norm", "pool_edge", "pool_conv", "mixing", "softmax_scale",
        "query_pool", "lpm", "lpm_residual", "ffn", "ffn_depthwise", "residual",
    )  # fmt: skip
    # What a genotype file that does not name them has always meant; a changed default would change networks behind their ids.
    assert IMPLIED == {
        "input_norm": False, "pool_edge": "mean", "mixing": "norm_gelu", "softmax_scale": "width", "lpm_residual": "once",
        "residual": "raw", "project_norm": "none",
    }  # fmt: skip
    assert [2 ** (i + 1) for i in STAGES] == list(STRIDES)


@pytest.mark.parametrize("name", GENES)
def test_listed_values_and_the_default_are_legal(name: str) -> None:
    gene = GENES[name]
    stages = STAGES if gene.scope == "stage" else (0,)
    for stage in stages:
        for value in gene.values:
            assert gene.check(value, stage) is not None
        if gene.default != "":
            # A canonical value is its own canonical form.
            assert gene.check(gene.check(gene.default, stage), stage) == gene.check(gene.default, stage)


@pytest.mark.parametrize(
    ("name", "stage", "given", "canonical"),
    [
        ("heads", 1, "native", 1),
        ("heads", 3, "native", 5),
        ("heads", 4, 64, 64),
        ("inputs", 3, "self", (3,)),
        ("inputs", 3, "all", (1, 2, 3, 4)),
        ("inputs", 3, [4, 2], (2, 4)),
        ("inputs", 3, 2, (2,)),
        ("backbone", 0, " timm:resnet18 ", "resnet18"),
        ("backbone", 0, None, None),
        ("fusion_width", 0, 1024, 1024),
        ("rank", 2, "full", "full"),
        ("ham_rank", 0, 5, 5),
        ("project", 0, 64, 64),
        ("pool_conv", 1, False, False),
    ],
)
def test_canonical(name: str, stage: int, given: Any, canonical: Any) -> None:
    assert GENES[name].check(given, stage) == canonical
    assert [GENES["heads"].check("native", i) for i in STAGES] == list(NATIVE_HEADS)


@pytest.mark.parametrize(
    ("name", "given", "rule", "near"),
    [
        ("attention", "stage1", "must be one of none, own, stage2, stage3, stage4", "stage4"),
        ("rank", 3, "must be one of 0, 1, 2, 4, 8, full", 2),
        ("rank", True, "must be one of 0, 1, 2, 4, 8, full", None),
        ("pool_conv", 1, "must be one of true, false", None),
        ("heads", 0, "must be 'native' (1, 2, 5, 8 for stages 1 to 4) or a whole number from 1 to 64", 1),
        ("heads", "nativ", "must be 'native' (1, 2, 5, 8 for stages 1 to 4) or a whole number from 1 to 64", "native"),
        ("heads", True, "must be 'native' (1, 2, 5, 8 for stages 1 to 4) or a whole number from 1 to 64", None),
        ("inputs", [], "must be 'self', 'all' or a non-empty list of stages out of 1, 2, 3, 4, each once", None),
        ("inputs", [1, 1], "must be 'self', 'all' or a non-empty list of stages out of 1, 2, 3, 4, each once", None),
        ("inputs", [5], "must be 'self', 'all' or a non-empty list of stages out of 1, 2, 3, 4, each once", None),
        ("inputs", [True], "must be 'self', 'all' or a non-empty list of stages out of 1, 2, 3, 4, each once", None),
        ("fusion_width", 100, "must be a whole number from 16 to 1024, a multiple of 8", 96),
        ("fusion_width", 128.0, "must be a whole number from 16 to 1024, a multiple of 8", 128),
        ("fusion_width", 2000, "must be a whole number from 16 to 1024, a multiple of 8", 1024),
        ("backbone", 4, "must be the name of a backbone, such as mit_b0 or resnet18", None),
        ("backbone", " ", "must be the name of a backbone, such as mit_b0 or resnet18", None),
        ("lpm", "SE", "must be one of none, plain, se, eca, cbam, coord", "se"),
        ("lpm", ["se"], "must be one of none, plain, se, eca, cbam, coord", "se"),
        ("fusion", "concatt", "must be one of concat, fca, ham", "concat"),
        ("ham_rank", 0, "must be a whole number from 1 to 256", 16),
        ("fusion_stride", 16, "must be one of 4, 8", 8),
    ],
)
def test_refused(name: str, given: Any, rule: str, near: Any) -> None:
    problems: list[Problem] = []
    value = check_value(name, given, 4, "file.yaml", name, problems)
    assert [(p.where, p.key, p.rule, p.given) for p in problems] == [("file.yaml", name, rule, given)]
    assert problems[0].nearest == near
    assert value == (None if name == "backbone" else GENES[name].check(GENES[name].default, 4))


def test_readme_table_is_the_catalogue() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `") and line.count("|") == 7]
    table = {cells[0].strip("`"): cells[1:] for row in rows for cells in [[cell.strip() for cell in row.strip("|").split("|")]]}
    assert list(table) == list(GENES)
    for name, (scope, values, default, read, meaning) in table.items():
        gene = GENES[name]
        assert (scope, read, meaning) == (gene.scope, gene.active_when, gene.meaning)
        assert default.strip("`") == (plain(gene.default) if gene.default != "" else "–")
        if name not in ("backbone", "inputs"):
            assert values == ", ".join(f"`{plain(v)}`" for v in gene.values)
