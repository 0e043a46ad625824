"""Each gene lives in four places: the catalogue, space files, the cost model, the decoder; one that lacks a place fails a test.

The decoder's part of the walk is tests/models/test_gene_walk.py, that of the README tests/genes/test_gene.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from kits_model import with_gene

from nasseg.cost.cost import Part
from nasseg.cost.macs import decoder_cost
from nasseg.genes.gene import GENES, GLOBAL_GENES
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space

DECODER_GENES = [name for name in GENES if name != "backbone"]
WIDTHS = (32, 64, 160, 256)


def variants(name: str) -> dict[Any, Genotype]:
    """One genotype per value of the gene, each different; ``native`` heads are spelled as another value."""
    start = {"fusion_width": 16, "heads": 4, "ffn": 1, "rank": 2}
    made: dict[str, tuple[Any, Genotype]] = {}
    for value in GENES[name].values:
        genotype = with_gene(name, value, start)
        made.setdefault(genotype.id, (value, genotype))
    return dict(made.values())


def total_cost(genotype: Genotype, channels: tuple[int, int, int, int] = WIDTHS) -> Part:
    return sum(decoder_cost(genotype, channels, (512, 512), 19).values(), Part())


@pytest.fixture(scope="module")
def open_space() -> Space:
    """A space that opens every gene with all of its values."""
    choices = {name: [list(v) if isinstance(v, tuple) else v for v in GENES[name].values] for name in DECODER_GENES}
    return Space.from_dict({"extends": "decoder", "genes": {name: {"choices": values} for name, values in choices.items()}})


@pytest.mark.parametrize("name", DECODER_GENES)
def test_space_files_open_it(name: str, open_space: Space) -> None:
    values = {v for variable in open_space.variables if variable.gene == name for s in variable.values.values() for v in s}  # type: ignore[union-attr]
    stages = (0,) if name in GLOBAL_GENES else (1, 2, 3, 4)
    assert values >= {GENES[name].check(value, stages[0]) for value in GENES[name].values}


@pytest.mark.parametrize("name", DECODER_GENES)
def test_every_value_has_its_cost(name: str) -> None:
    costs = {value: total_cost(genotype) for value, genotype in variants(name).items()}
    assert len(costs) >= 2
    # Where a residual leaves from, a scale, an activation, and at whole windows what becomes of others cost nothing.
    alike = {"mixing": 2, "pool_edge": 1, "softmax_scale": 1, "lpm_residual": 1, "residual": 1}
    assert len(set(costs.values())) == alike.get(name, len(costs)), costs
