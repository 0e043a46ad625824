"""The spaces that come with nasseg."""

from __future__ import annotations

import functools
import re
from importlib.resources import files

import pytest

from nasseg.genes import spacefile
from nasseg.genes.gene import GENES
from nasseg.genes.presets import PRESETS, design, preset
from nasseg.genes.space import Space
from nasseg.genes.variable import Choices

load = functools.cache(Space.load)
"""A space does not change, and the large ones take a second to read."""

SIZES = {
    "csap": 23_862_720,
    "decoder": 1_912_601_457_847_628_824_742_136,
    "hyperparameters": None,
    "scaseg": 2_021_760,
    "tiny": 312,
}


def test_sizes() -> None:
    assert {name: None if (space := load(name)).needs_genotype else space.size() for name in spacefile.shipped()} == SIZES


@pytest.mark.parametrize("name", spacefile.shipped())
def test_file_opens_with_its_command_and_says_what_it_is(name: str) -> None:
    text = (files("nasseg.search_spaces") / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# nasseg search {name} ")
    space = load(name)
    assert space.name == name
    assert space.description
    assert "miou" in space.objectives


@pytest.mark.parametrize(
    ("name", "presets"),
    [
        ("tiny", ("csap", "canet_fca")),
        ("decoder", PRESETS),
        ("scaseg", ("scaseg", "scaseg_city", "u_mixformer")),
        ("csap", ("csap", "metaseg")),
    ],
)
def test_presets_lie_inside_on_any_backbone(name: str, presets: tuple[str, ...]) -> None:
    space = load(name).with_fixed({"backbone": "resnet18"})
    assert space.presets == presets
    assert [each for each in presets if not space.contains(preset(each, "resnet18"))] == []
    # In every size: on a backbone of each.
    for backbone in {size.backbones[0] for each in presets for size in design(each).sizes}:
        on_it = space.with_fixed({"backbone": backbone})
        assert [each for each in presets if not on_it.contains(preset(each, backbone))] == [], backbone


def test_tiny_can_be_listed() -> None:
    space = load("tiny")
    genotypes = list(space.enumerate())
    assert len({g.id for g in genotypes}) == space.size() == 312
    # 13 ways to attend (none at stage 4: 2 × 2, own: 3 × 3), 3 local modules, 2 FFNs, 2 fusions, 2 widths.
    assert 13 * 3 * 2 * 2 * 2 == 312


def test_decoder_opens_every_gene() -> None:
    space = load("decoder")
    # Two readings of SCASeg's text and what pooling does at an edge, which change no cost, are left to --set.
    assert {v.gene for v in space.variables} == set(GENES) - {"backbone", "softmax_scale", "lpm_residual", "pool_edge"}
    for variable in space.variables:
        assert isinstance(variable, Choices)
        # Every listed value of the decoder space is one some network has.
        assert space.used_choices(variable) == variable.choices
        # And what is left out is left out on purpose: key grids of stride 4 (as many keys as pixels of stage 1) and 128.
        if variable.gene not in ("heads", "key_stride", "inputs", "attention"):
            listed = {GENES[variable.gene].check(v, variable.stages[0]) for v in GENES[variable.gene].values}
            assert set(variable.values[variable.stages[0]]) == listed, variable.name


def test_hyperparameters_name_fields_of_the_trainer() -> None:
    # Read as text: the trainer's module imports torch.
    config = (files("nasseg.training") / "config.py").read_text(encoding="utf-8")
    space = load("hyperparameters")
    assert len(space.variables) == 10
    for variable in space.variables:
        assert re.search(rf"^    {variable.name.removeprefix('train.')}: ", config, re.MULTILINE), variable.name


def test_readme_tells_the_sizes() -> None:
    text = (files("nasseg.search_spaces") / "README.md").read_text(encoding="utf-8")
    for name, size in SIZES.items():
        assert f"| `{name}` |" in text
        assert size is None or f"{size:,}" in text or (f"{size:.1e}" == "1.9e+24" and "1.9·10²⁴" in text) or f"| {size} small" in text
