"""Presets against independent references of their authors' codes: weights mapped over, logits, classes, costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from references import NAMES, reference
from torch import nn

from nasseg.cost.cost import Part
from nasseg.cost.macs import decoder_cost, stage_grids
from nasseg.genes.presets import design, preset
from nasseg.models.counting import count
from nasseg.models.decoder import Decoder

SMALL, LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
CLASSES = 19
TOLERANCE = 1e-4
SIZE = (128, 192)
"""All pooling windows are whole there. The codes of FeedFormer and MetaSeg, and the pooled queries of U-MixFormer's, leave out those at the
border that are not; the presets average what they have."""

CASES = [(name, size.name, LARGE if size.name != "base" else SMALL, size.backbones[0]) for name in NAMES for size in design(name).sizes]


def random_reference(name: str, channels: tuple[int, ...], width: int, seed: int = 0) -> Any:
    """A reference none of whose numbers is a default: norms, their statistics and biases too."""
    torch.manual_seed(seed)
    made = reference(name, channels, CLASSES, width)
    assert isinstance(made, nn.Module)
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            if value.dim() > 1:
                value.copy_(torch.randn_like(value) * (1.5 / value[0].numel() ** 0.5))
            else:
                value.copy_(torch.rand_like(value) + 0.5 if key.endswith(("weight", "running_var")) else 0.3 * torch.randn_like(value))
    return made


def encoder_maps(channels: tuple[int, ...], seed: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(1, c, SIZE[0] // s, SIZE[1] // s) * 1.3 + 0.2 for c, s in zip(channels, (4, 8, 16, 32), strict=True)]


@pytest.mark.parametrize(("name", "size", "channels", "backbone"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_preset_is_the_function_of_its_authors_code(name: str, size: str, channels: tuple[int, ...], backbone: str) -> None:
    genotype = preset(name, backbone)
    theirs = random_reference(name, channels, genotype.fusion_width)
    ours = Decoder(genotype, channels, CLASSES).eval()
    # Strict: what the authors' code registers beyond ours is what it never uses, and to_ours leaves it out.
    ours.load_state_dict(theirs.to_ours(theirs.state_dict()))
    maps = encoder_maps(channels)
    with torch.no_grad():
        expected, found = theirs(maps), ours(maps)
    assert expected.std() > 0.3
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= TOLERANCE
    assert torch.equal(found.argmax(1), expected.argmax(1))


OTHER_READINGS = {
    "feedformer": {"input_norm": False},
    "feedformer_city": {"input_norm": False},
    "u_mixformer": {"residual": "raw"},
    "u_mixformer_city": {"mixing": "norm_gelu"},
    "metaseg": {"input_norm": False},
}


@pytest.mark.parametrize("name", OTHER_READINGS)
def test_a_reference_tells_another_reading_apart(name: str) -> None:
    # A reference that agreed with any reading would prove nothing.
    theirs = random_reference(name, SMALL, 128)
    changed = Decoder(preset(name).override(OTHER_READINGS[name]), SMALL, CLASSES).eval()
    changed.load_state_dict(theirs.to_ours(theirs.state_dict()), strict=False)
    maps = encoder_maps(SMALL)
    with torch.no_grad():
        same = (changed(maps).argmax(1) == theirs(maps).argmax(1)).double().mean()
    assert same < 0.95


UNUSED = {
    "segformer": {"conv_seg"},
    "segformer_mmseg": set[str](),
    "feedformer": {"conv_seg"},
    "feedformer_city": {"conv_seg"},
    "u_mixformer": {"conv_seg", *(f"attn_c{i}.attn.{layer}" for i in (4, 3, 2, 1) for layer in ("sr", "norm"))},
    "u_mixformer_city": {"conv_seg", *(f"attn_c{i}.attn.sr2" for i in (4, 3, 2, 1))},
    "metaseg": {"conv_seg"},
}
"""What the authors' codes register and never use."""


@pytest.mark.parametrize(("name", "size", "channels", "backbone"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_cost_is_the_count_of_the_reference(name: str, size: str, channels: tuple[int, ...], backbone: str) -> None:
    genotype = preset(name, backbone)
    image = (1024, 2048) if name.endswith("_city") else (512, 512)
    with torch.device("meta"):
        theirs: Any = reference(name, channels, CLASSES, genotype.fusion_width)
        maps = [torch.empty(1, c, h, w) for c, (h, w) in zip(channels, stage_grids(image), strict=True)]
    counted = count(theirs, maps)
    assert counted.part == sum(decoder_cost(genotype, channels, image, CLASSES).values(), Part())
    assert {name.rpartition(".")[0] for name in counted.dead} == UNUSED[name]
