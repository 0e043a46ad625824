"""Whose encoder it is, by names and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nasseg.models.backbones.registry import BUILTIN, create_backbone
from nasseg.published.encoder import KNOWN, Encoder, Sizes, read_encoder


def test_all_of_ours_are_known() -> None:
    assert tuple(KNOWN) == BUILTIN


@pytest.mark.parametrize("name", BUILTIN)
def test_each_is_told_from_the_others(name: str) -> None:
    with torch.device("meta"):
        state = create_backbone(name, in_chans=4).state_dict()
    # Our own names are among those that are read.
    found = read_encoder(state)
    assert isinstance(found, Encoder)
    assert (found.name, found.in_chans) == (name, 4)


def sized(depths: tuple[int, ...], channels: tuple[int, ...] = (32, 64, 160, 256)) -> dict[str, Tensor]:
    state = {f"patch_embed{i + 1}.proj.weight": torch.zeros(c, 3, 3, 3) for i, c in enumerate(channels)}
    return state | {
        f"block{i + 1}.{block}.norm1.weight": torch.zeros(c)
        for i, (c, d) in enumerate(zip(channels, depths, strict=True))
        for block in range(d)
    }


def test_others_are_described_and_the_nearest_named() -> None:
    assert read_encoder(sized((2, 2, 2, 3))) == (
        "a MiT of widths 32, 64, 160, 256 and 2, 2, 2, 3 blocks; nearest: mit_b0, MiT of widths 32, 64, 160, 256 and 2, 2, 2, 2 blocks"
    )
    assert read_encoder(sized((3, 6, 39, 3), (64, 128, 320, 512))).endswith(f"nearest: mit_b5, {KNOWN['mit_b5']}")
    assert read_encoder({"layer1.0.conv1.weight": torch.zeros(3)}) == "none of MiT or MSCAN"
    assert str(Sizes("MSCAN", (1, 2, 3, 4), (1, 1, 1, 1))) == "MSCAN of widths 1, 2, 3, 4 and 1, 1, 1, 1 blocks"


@pytest.mark.parametrize(
    ("start", "eps"),
    [("layers.0.0.projection", "?norm_eps=1e-06"), ("encoder.patch_embeddings.0.proj", "?norm_eps=1e-05"), ("patch_embed1.proj", "")],
)
def test_the_constant_of_the_norms_goes_by_whose_names_they_are(start: str, eps: str) -> None:
    state = sized((2, 2, 2, 2))
    state[f"{start}.weight"] = state.pop("patch_embed1.proj.weight")
    found = read_encoder(state)
    assert isinstance(found, Encoder)
    assert found.name == f"mit_b0{eps}"
