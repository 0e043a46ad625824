"""The fusion: its executed form against the one as written, what dropout does, and what the gates of FCA read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from kits_model import PRESET_CASES, features, fill, tiny_decoder
from torch import Tensor, nn

from nasseg.genes.presets import PRESETS
from nasseg.models import fusion as fusion_module
from nasseg.models import ops
from nasseg.models.form import written_out
from nasseg.models.fusion import Fusion, composed, scale_and_shift, summed
from nasseg.models.ops import channels_last

WIDTHS = {1: 8, 2: 16, 3: 24, 4: 32}
KINDS = ("concat", "fca", "ham")
STAGES_KEPT = ((1, 2, 3, 4), (2, 3, 4), (1, 4))


PROJECTIONS = {"raw": (None, False), "narrow": (12, False), "wide": (64, False), "normed": (12, True)}
"""Width of the projection, and whether BatchNorm and ReLU follow it."""


def made(
    kind: str, kept: Sequence[int], width: int, project: int | None, dtype: torch.dtype = torch.float64, *, normed: bool = False
) -> Fusion:
    """A fusion of some stages, every weight and statistic set."""
    if kind == "ham":
        width = 2 * width  # in groups of 32
    fusion = Fusion(kind, {i: WIDTHS[i] for i in kept}, width, 3, project=project, project_norm=normed, dropout=0.0, ham_rank=4)
    return fill(fusion).to(dtype)


def maps_of(kept: Sequence[int], size: tuple[int, int] = (64, 96), batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [channels_last(features(batch, size)[i - 1].to(dtype)).requires_grad_() for i in kept]


def run(fusion: Fusion, maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """Logits, the gradient of every parameter and map, and every buffer afterwards, by name."""
    torch.manual_seed(0)  # of the bases that ham draws in training
    fusion.zero_grad()
    leaves = [m.detach().clone(memory_format=torch.preserve_format).requires_grad_() for m in maps]
    logits = fusion(leaves)
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).sin().reshape(logits.shape)).sum().backward()
    out = {"logits": logits.detach()}
    for i, leaf in enumerate(leaves):
        assert leaf.grad is not None
        out[f"map {i}"] = leaf.grad
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        out[name] = parameter.grad.clone()
    return out | {name: buffer.clone() for name, buffer in fusion.named_buffers()}


def both_forms(fusion: Fusion, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same on a copy as written, and as executed."""
    plain = copy.deepcopy(fusion)
    with written_out(plain):
        written = run(plain, maps)
    return written, run(fusion, maps)


def assert_alike(written: dict[str, Tensor], executed: dict[str, Tensor], tolerance: float) -> None:
    assert written.keys() == executed.keys()
    for name, value in written.items():
        # Behind a BatchNorm that reads the batch, a bias has no gradient but rounding.
        scale = float(value.abs().max().clamp_min(1.0))
        torch.testing.assert_close(executed[name], value, rtol=0, atol=tolerance * scale, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("project", "normed"), PROJECTIONS.values(), ids=PROJECTIONS)
@pytest.mark.parametrize("width", [16, 96])
@pytest.mark.parametrize("kept", STAGES_KEPT, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_executed_form_is_the_written_one(
    kind: str, kept: Sequence[int], width: int, project: int | None, normed: bool, train: bool
) -> None:
    # Width 96 is eight times 8 and six times 16: the first of the deep maps is resized before its weight, the others behind it.
    fusion = made(kind, kept, width, project, normed=normed).train(train)
    assert_alike(*both_forms(fusion, maps_of(kept)), tolerance=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_in_single_precision(kind: str, train: bool) -> None:
    fusion = made(kind, (1, 2, 3, 4), 32, 64, torch.float32).train(train)
    assert_alike(*both_forms(fusion, maps_of((1, 2, 3, 4), dtype=torch.float32)), tolerance=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (64, 160)])
def test_the_forms_agree_on_grids_of_one_row_and_with_one_image(kind: str, size: tuple[int, int]) -> None:
    assert_alike(*both_forms(made(kind, (1, 2, 3, 4), 16, None).eval(), maps_of((1, 2, 3, 4), size, batch=1)), tolerance=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_forms_agree_on_grids_that_are_no_multiples(kind: str) -> None:
    maps = [features(1, (64, 96))[i] for i in range(4)]
    odd = [m[:, :, :r, :c].double().requires_grad_() for m, (r, c) in zip(maps, ((16, 24), (7, 12), (3, 5), (2, 2)), strict=True)]
    assert_alike(*both_forms(made(kind, (1, 2, 3, 4), 16, None).eval(), odd), tolerance=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_norm_learns_the_same(kind: str) -> None:
    # A BatchNorm in eval mode inside a network that trains.
    fusion = made(kind, (1, 2, 3, 4), 16, 12).train()
    for module in fusion.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert_alike(*both_forms(fusion, maps_of((1, 2, 3, 4))), tolerance=1e-9)


@pytest.mark.parametrize(("project", "normed"), PROJECTIONS.values(), ids=PROJECTIONS)
@pytest.mark.parametrize("kept", STAGES_KEPT, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_bands_of_rows_make_the_same_logits(
    kind: str, kept: Sequence[int], project: int | None, normed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = made(kind, kept, 96, project, normed=normed).eval()
    maps = [m.detach() for m in maps_of(kept)]
    with torch.no_grad():
        with written_out(fusion):
            expected = fusion(maps)
        monkeypatch.setattr(ops, "BAND", 1)
        for shortest in (1, 3, 4):
            monkeypatch.setattr(ops, "SHORTEST_BAND", shortest)
            assert len(ops.bands(maps[0], 96)) > 1
            torch.testing.assert_close(fusion(maps), expected)


@pytest.mark.parametrize("name", PRESETS)
def test_bands_in_published_designs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = tiny_decoder(PRESET_CASES[name])
    maps = features(2, (96, 160))
    whole = decoder(maps).detach()
    monkeypatch.setattr(ops, "BAND", 1)
    monkeypatch.setattr(ops, "SHORTEST_BAND", 4)
    with torch.no_grad():
        by_bands = decoder(maps)
    torch.testing.assert_close(by_bands, whole, rtol=1e-4, atol=1e-5)


def test_no_map_of_all_channels_exists() -> None:
    seen: list[tuple[int, ...]] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is torch.conv2d:
                seen.append((*args[0].shape[1:], out.shape[1]))
            return out

    fusion = made("concat", (1, 2, 3, 4), 32, 64).eval()
    with Watch():
        fusion(maps_of((1, 2, 3, 4)))
    # Stage 4's grid is too small for the product of the weights to pay.
    assert seen == [(32, 2, 3, 64), (16, 8, 12, 32), (24, 4, 6, 32), (64, 2, 3, 32), (8, 16, 24, 32), (32, 16, 24, 3)]


def test_a_map_is_projected_on_its_own_grid() -> None:
    # The same function either way round, at a quarter to a 64th of the work.
    fusion = fill(Fusion("concat", WIDTHS, 16, 3, project=64, dropout=0.0)).eval()
    seen: dict[str, tuple[int, ...]] = {}
    for name, conv in fusion.project.items():
        conv.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (*args[0].shape[1:], out.shape[1])}))
    with written_out(fusion):
        fusion(features(1, (64, 96)))
    assert seen == {"stage1": (8, 16, 24, 64), "stage2": (16, 8, 12, 64), "stage3": (24, 4, 6, 64), "stage4": (32, 2, 3, 64)}


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_drops_whole_channels_before_the_classifier(kind: str) -> None:
    torch.manual_seed(0)
    fusion = fill(Fusion(kind, WIDTHS, 64, 3, project=None, dropout=0.5, ham_rank=4)).train()
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
    with written_out(fusion):
        fusion(features(1, (64, 96)))
    assert read == {"spatial": (8, 16, 24, 1), "channel": (16 + 24 + 32, 1, 1, 16)}


def test_composed_by_hand() -> None:
    project = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        project.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None])
        project.bias.copy_(torch.tensor([10.0, 20.0]))  # type: ignore[union-attr]
    weight, bias = composed(torch.tensor([[1.0, -1.0]]), project)
    assert weight.tolist() == [[-2.0, -2.0]]
    assert bias is not None
    assert bias.tolist() == [-10.0]
    assert composed(torch.tensor([[1.0, -1.0]]), nn.Conv2d(2, 2, 1, bias=False))[1] is None


def test_a_norms_scale_and_shift_by_hand() -> None:
    norm = nn.BatchNorm2d(1, eps=0.0).eval()
    with torch.no_grad():
        norm.weight.fill_(6.0)
        norm.bias.fill_(1.0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.fill_(2.0)
        norm.running_var.fill_(9.0)
    affine = scale_and_shift(norm)
    assert affine is not None
    assert [a.item() for a in affine] == [2.0, -3.0]
    plain = nn.BatchNorm2d(1, affine=False, eps=0.0).eval()
    assert [a.item() for a in scale_and_shift(plain) or ()] == [1.0, 0.0]
    assert scale_and_shift(nn.BatchNorm2d(1).train()) is None
    assert scale_and_shift(nn.BatchNorm2d(1, track_running_stats=False).eval()) is None
    assert scale_and_shift(nn.Identity()) is None


@pytest.mark.parametrize("early", [0, 10**6])
def test_summed_is_one_function_whatever_comes_first(early: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [m.detach() for m in maps_of((1, 2, 3, 4))]
    weights = [torch.randn(8, m.shape[1], dtype=m.dtype, generator=torch.Generator().manual_seed(0)) for m in maps]
    bias = torch.arange(8.0, dtype=torch.float64)
    expected = sum(
        torch.einsum("ec,bchw->behw", w, nn.functional.interpolate(m, size=(16, 24), mode="bilinear", align_corners=False))
        for m, w in zip(maps, weights, strict=True)
    )
    monkeypatch.setattr(fusion_module, "RESIZE_FIRST", early)
    out = summed(list(zip(maps, weights, strict=True)), bias, (16, 24))((0, 16))
    torch.testing.assert_close(out, expected + bias[:, None, None])
    assert out.is_contiguous(memory_format=torch.channels_last)
