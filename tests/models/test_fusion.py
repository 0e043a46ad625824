"""The fusion: where the projection stands, what dropout does, and what the gates of FCA read."""

from __future__ import annotations

import pytest
import torch
from kits_model import features, fill

from nasseg.models.fusion import Fusion

WIDTHS = {1: 8, 2: 16, 3: 24, 4: 32}


def test_a_map_is_projected_on_its_own_grid() -> None:
    # The same function either way round, at a quarter to a 64th of the work.
    fusion = fill(Fusion("concat", WIDTHS, 16, 3, project=64, dropout=0.0)).eval()
    seen: dict[str, tuple[int, ...]] = {}
    for name, conv in fusion.project.items():
        conv.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (*args[0].shape[1:], out.shape[1])}))
    fusion(features(1, (64, 96)))
    assert seen == {"stage1": (8, 16, 24, 64), "stage2": (16, 8, 12, 64), "stage3": (24, 4, 6, 64), "stage4": (32, 2, 3, 64)}


@pytest.mark.parametrize("kind", ["concat", "fca"])
def test_dropout_drops_whole_channels_before_the_classifier(kind: str) -> None:
    torch.manual_seed(0)
    fusion = fill(Fusion(kind, WIDTHS, 64, 3, project=None, dropout=0.5)).train()
    seen: list[torch.Tensor] = []
    fusion.classifier.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    fusion(features(2, (64, 96)))
    dropped = seen[0].flatten(2).abs().sum(2) == 0
    assert 0.3 < dropped.float().mean() < 0.7


def test_fca_gates_read_the_shallow_map_by_pixel_and_the_deep_ones_by_channel() -> None:
    fusion = fill(Fusion("fca", WIDTHS, 16, 3, project=None, dropout=0.0)).eval()
    read: dict[str, tuple[int, ...]] = {}
    for name in ("spatial", "channel"):
        module = fusion.get_submodule(f"mix.{name}")
        module.register_forward_hook(lambda _, args, out, name=name: read.update({name: (*args[0].shape[1:], out.shape[1])}))
    fusion(features(1, (64, 96)))
    assert read == {"spatial": (8, 16, 24, 1), "channel": (16 + 24 + 32, 1, 1, 16)}
