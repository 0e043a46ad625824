"""The counter on single operations, by hand; then arithmetic and counter against each other, to the last digit."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kits_cost import WIDTHS, count_decoder, counted_parts, random_genotype
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasseg.cost.cost import Part
from nasseg.cost.macs import decoder_cost
from nasseg.errors import NassegError
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.backbones.registry import create_backbone
from nasseg.models.counting import count
from nasseg.models.strip import ranges, strip_attention
from nasseg.models.strip_bound import panels_for

RANDOM = 150
"""Random decoders whose cost by arithmetic is compared with the count on the built module."""


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def counted(function: Callable[..., Any], *shapes: tuple[int, ...], device: str = "meta") -> tuple[int, int]:
    """``macs`` and what ``fvcore`` adds, of a function of tensors."""
    result = count(Call(function), *(torch.zeros(shape, device=device) for shape in shapes))
    return result.macs, result.fvcore - result.macs


@pytest.mark.parametrize(
    ("module", "shape", "cost"),
    [
        # 3×3, 4 → 6 channels, 8×10 positions of the output.
        (nn.Conv2d(4, 6, 3, padding=1), (1, 4, 8, 10), Part(222, 6 * 4 * 9 * 80, 17280)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 8, 10), Part(222, 6 * 4 * 9 * 20, 4320)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 8, 10), Part(40, 4 * 9 * 80, 2880)),
        (nn.Conv1d(1, 1, 3, padding=1, bias=False), (1, 1, 12), Part(3, 36, 36)),
        # Transposed: every position of the input meets every weight.
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), Part(102, 4 * 6 * 4 * 25, 2400)),
        (nn.Linear(4, 6), (1, 7, 4), Part(30, 168, 168)),
        (nn.Linear(4, 6, bias=False), (4,), Part(24, 24, 24)),
        (nn.LayerNorm(4), (1, 7, 4), Part(8, 0, 140)),
        (nn.LayerNorm(4, elementwise_affine=False), (1, 7, 4), Part(0, 0, 112)),
        (nn.GroupNorm(2, 4), (1, 4, 3, 3), Part(8, 0, 180)),
        (nn.BatchNorm2d(4), (1, 4, 3, 3), Part(8, 0, 72)),
        (nn.BatchNorm2d(4, affine=False), (1, 4, 3, 3), Part(0, 0, 36)),
        (nn.InstanceNorm2d(4, affine=True), (1, 4, 3, 3), Part(8, 0, 180)),
        (nn.AdaptiveAvgPool2d(1), (1, 4, 3, 5), Part(0, 0, 60)),
        (nn.AdaptiveAvgPool2d(2), (1, 4, 3, 5), Part(0, 0, 60)),
        (nn.AvgPool2d(2), (1, 4, 4, 4), Part()),
        (nn.AdaptiveMaxPool2d(1), (1, 4, 3, 5), Part()),
        (nn.Sequential(nn.GELU(), nn.Softmax(dim=-1), nn.Sigmoid()), (1, 4, 3, 5), Part()),
    ],
)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_layers_by_hand(module: nn.Module, shape: tuple[int, ...], cost: Part, device: str):
    assert count(module.to_empty(device=device), torch.zeros(shape, device=device)).part == cost


@pytest.mark.parametrize(
    ("function", "shapes", "cost"),
    [
        (torch.matmul, [(2, 3, 4), (2, 4, 5)], (120, 0)),
        (torch.matmul, [(2, 3, 4), (4, 5)], (120, 0)),
        (torch.matmul, [(3, 4), (4,)], (12, 0)),
        (torch.dot, [(7,), (7,)], (7, 0)),
        (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], (120, 0)),
        (lambda q, k: torch.einsum("bhnd,bhmd->bhnm", q, k), [(1, 2, 3, 4), (1, 2, 5, 4)], (120, 0)),
        # Q·Kᵀ over 4 channels and A·V over 7: both products.
        (F.scaled_dot_product_attention, [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 7)], (2 * 3 * 5 * (4 + 7), 0)),
        (lambda x: F.interpolate(x, size=(6, 8), mode="bilinear", align_corners=False), [(1, 4, 3, 4)], (0, 4 * 4 * 48)),
        (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), [(1, 4, 3, 4)], (0, 4 * 48)),
        (lambda x, g: F.grid_sample(x, g, align_corners=False), [(1, 4, 3, 4), (1, 5, 5, 2)], (0, 4 * 100)),
        (lambda x: x.mean(dim=(2, 3)), [(1, 4, 3, 5)], (0, 60)),
        (lambda x: x.mean(dim=3, keepdim=True), [(1, 4, 3, 5)], (0, 60)),
        (lambda x: x.mean(dim=-2), [(1, 4, 3, 5)], (0, 60)),
        (lambda x: x.mean(dim=1), [(1, 6, 5)], (0, 30)),
        # Over channels, over everything, over the last of three axes: no pooling.
        (lambda x: x.mean(dim=1), [(1, 4, 3, 5)], (0, 0)),
        (lambda x: x.mean(), [(1, 4, 3, 5)], (0, 0)),
        (lambda x: x.mean(dim=2), [(1, 6, 5)], (0, 0)),
        (lambda x: x.amax(dim=(2, 3)) + x.softmax(dim=1).sum(dim=(2, 3)), [(1, 4, 3, 5)], (0, 0)),
    ],
)
def test_functions_by_hand(function: Callable[..., Any], shapes: list[tuple[int, ...]], cost: tuple[int, int]):
    assert counted(function, *shapes) == cost
    assert counted(function, *shapes, device="cpu") == cost


def test_fused_attention_counts_as_its_two_products():
    shapes = [(1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 5, 8)]
    q, k, v = (torch.zeros(shape) for shape in shapes)
    called = []

    def fused(*inputs: Tensor) -> Tensor:
        called.append(True)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)[0]

    assert count(Call(fused), q, k, v).macs == 2 * 3 * 5 * 16
    assert called


@pytest.mark.parametrize(
    ("mode", "shape", "panels", "macs"),
    [
        # Two heads, 100 queries, 50 keys, 8 channels. By P panels: (P + 1)·50·(2 + 16) and 100·4·8; exact: every pair, 8 channels twice.
        ("interpolated", (1, 2, 100, 50, 8), 16, 2 * (17 * 50 * 18 + 100 * 32)),
        ("exact", (1, 2, 100, 50, 8), 16, 2 * 100 * 50 * 16),
        ("auto", (1, 2, 100, 50, 8), 16, 2 * 100 * 50 * 16),
        ("auto", (3, 2, 4096, 1024, 8), 32, 6 * (33 * 1024 * 18 + 4096 * 32)),
        ("auto", (3, 2, 4096, 1024, 8), 2040, 6 * 4096 * 1024 * 16),
    ],
)
def test_strips_by_hand(mode: str, shape: tuple[int, int, int, int, int], panels: int, macs: int):
    b, h, n, m, d = shape
    strip = Call(lambda q, k, v: strip_attention(q, k, v, 0.5, mode=mode))
    inputs = [torch.zeros(size, device="meta") for size in ((b, h, n), (b, h, m), (b, h, m, d))]
    assert count(strip, *inputs, panels=panels).part == Part(0, macs, macs)


def test_a_strip_with_data_counts_the_products_it_runs():
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(size, generator=random) for size in ((1, 2, 64), (1, 2, 48), (1, 2, 48, 8)))
    seen = ranges(q, k, 0.3)
    panels = panels_for(seen.product, 0.5e-2)
    meta = [x.to("meta") for x in (q, k, v)]
    for mode in ("exact", "interpolated"):
        strip = Call(partial(strip_attention, scale=0.3, tolerance=1e-2, mode=mode))
        # The logits at the panels' ends, one multiplication each, are an elementwise product there.
        logits = 2 * (panels + 1) * 48 if mode == "interpolated" else 0
        assert count(strip, q, k, v).macs == count(strip, *meta, panels=panels).macs - logits


def test_weights_behind_a_strip_are_live():
    class Strip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 6)

        def forward(self, x_BNC: Tensor) -> Tensor:
            q, k = (layer(x_BNC).transpose(1, 2) for layer in (self.query, self.key))
            return strip_attention(q, k, self.value(x_BNC).unflatten(2, (2, 3)).transpose(1, 2), 0.5)

    with torch.device("meta"):
        module, x = Strip(), torch.zeros(1, 5, 4)
    # Linears 4 → 2, 2 and 6 on five tokens, two heads of 5·5 pairs with 3 channels twice.
    result = count(module, x)
    assert result.part == Part(50, 5 * 40 + 2 * 25 * 6, 5 * 40 + 2 * 25 * 6)
    assert result.dead == ()
    assert count(module.to_empty(device="cpu"), torch.zeros(1, 5, 4)) == result


def test_batches_count_whole():
    assert count(nn.Linear(4, 6), torch.zeros(3, 4)).macs == 72


class Nested(nn.Module):
    """A shared layer called twice, a layer inside a child, a child that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4, bias=False)
        self.child = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.again = self.shared
        self.unused = nn.Linear(4, 9)
        self.scale = nn.Parameter(torch.ones(4))
        self.detached = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.child(self.again(self.shared(x)))
        return {"scaled": [x * self.scale], "plain": (x.detach() * self.detached).detach()}


def test_parts_and_live_parameters():
    result = count(Nested(), torch.zeros(2, 4))
    assert result.macs == 3 * 32
    assert result.params == 16 + 20 + 8 + 4
    assert result.parts["shared"] == Part(16, 64, 64)
    assert result.parts["child"] == Part(28, 32, 32 + 40)
    assert result.parts["child.1"] == Part(8, 0, 40)
    assert result.parts["unused"] == Part()
    assert result.parts[""] == result.part
    assert set(result.dead) == {"unused.weight", "unused.bias", "detached"}


def test_only_outputs_that_are_read_keep_a_parameter_alive():
    module = Nested()
    assert count(module, torch.zeros(2, 4), outputs=lambda out: out["plain"]).params == 0


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    module[0].eval()
    module[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    count(module, torch.ones(3, 4))
    assert [module.training, module[0].training, module[2].training] == [True, False, True]
    assert [p.requires_grad for p in module.parameters()] == [False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(not child._forward_hooks and not child._forward_pre_hooks for child in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_a_module_that_fails_is_left_as_it_was():
    module = nn.Linear(4, 4)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        count(module, torch.zeros(2, 5))
    assert module.training
    assert not module._forward_hooks


def test_an_operation_that_multiplies_and_has_no_rule_is_refused():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    def whole_layer_at_once(x: Tensor) -> Any:
        attention = layer.self_attn
        return torch.ops.aten._native_multi_head_attention(
            *(x, x, x, 8, 2, attention.in_proj_weight, attention.in_proj_bias),
            *(attention.out_proj.weight, attention.out_proj.bias),
        )

    with pytest.raises(NassegError, match=r"cannot count aten\._native_multi_head_attention\.default: it multiplies"):
        count(Call(whole_layer_at_once), torch.zeros(1, 3, 8))
    # Called as usual it comes apart: Q, K, V and output 8 → 8, two products of two heads, 8 → 16 → 8.
    assert count(layer, torch.zeros(1, 3, 8)).macs == 3 * 4 * 64 + 2 * (2 * 3 * 3 * 4) + 3 * 2 * 128


@pytest.mark.parametrize("name", ["mit_b0", "mscan_t", "pvt_v2_b0", "convnext_atto", "tf_efficientnet_lite0"])
def test_backbones_agree_with_pytorchs_own_counter_and_across_devices(name: str):
    with torch.device("meta"):
        backbone = create_backbone(name).eval()
        image = torch.zeros(1, 3, 64, 96)
    counted_there = count(backbone, image)
    with FlopCounterMode(display=False) as theirs:
        backbone(image)
    assert theirs.get_total_flops() == 2 * counted_there.macs
    # The CPU runs attention as one fused operation, the meta device as two products.
    assert count(backbone.to_empty(device="cpu"), torch.zeros(1, 3, 64, 96)) == counted_there


@pytest.mark.parametrize("start", range(0, RANDOM, 25))
def test_arithmetic_is_the_count_on_random_decoders(start: int):
    rng = random.Random(start)
    seen = set()
    for _ in range(25):
        genotype = random_genotype(rng)
        channels = rng.choice(list(WIDTHS.values()))
        size = rng.choice([(32, 32), (64, 96), (100, 60), (160, 96)])
        classes = rng.choice([1, 2, 19, 150])
        result = count_decoder(genotype, channels, size, classes, "cpu")
        parts = decoder_cost(genotype, channels, size, classes)
        assert counted_parts(result) == parts, genotype.to_dict()
        assert result.part == sum(parts.values(), Part())
        assert result.dead == ()
        seen.add(genotype.id)
    assert len(seen) == 25


@pytest.mark.parametrize("backbone", WIDTHS)
@pytest.mark.parametrize("name", PRESETS)
def test_arithmetic_is_the_count_on_published_designs(name: str, backbone: str):
    for size, classes, device in (((512, 512), 150, "meta"), ((72, 200), 19, "cpu")):
        result = count_decoder(preset(name), WIDTHS[backbone], size, classes, device)
        assert counted_parts(result) == decoder_cost(preset(name), WIDTHS[backbone], size, classes)
        assert result.dead == ()


def test_a_reused_pooled_map_is_counted_on_its_sources_grids():
    genotype = Genotype.from_dict(
        {"key_stride": 64, "query_pool": 2, "heads": 4, "stage3": {"attention": "stage4", "inputs": [1, 4]}, "stage1.attention": "stage3"}
        | {"stage3": {"attention": "own", "rank": "full"}, "stage2.attention": "stage4"}
    )
    result = count_decoder(genotype, WIDTHS["mit_b0"], (96, 160), 3)
    assert counted_parts(result) == decoder_cost(genotype, WIDTHS["mit_b0"], (96, 160), 3)
