"""Backbones as programs: exported and compiled, they compute what the module computes."""

from __future__ import annotations

import pytest
import torch
from kits_backbone import cached, image
from torch.export import Dim

NAMES = ("mit_b0", "mscan_t", "resnet18", "tf_efficientnet_lite0")


@pytest.mark.parametrize("name", NAMES)
def test_export_with_any_batch(name: str) -> None:
    backbone = cached(name).eval()
    program = torch.export.export(backbone, (image(),), dynamic_shapes=({0: Dim("batch", min=1, max=64)},)).module()
    x = image(batch=3, seed=1)
    with torch.no_grad():
        for one, two in zip(program(x), backbone(x), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_compile_in_one_graph(name: str) -> None:
    backbone = cached(name).eval()
    torch.compiler.reset()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    x = image(seed=1)
    with torch.no_grad():
        for one, two in zip(compiled(x), backbone(x), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
