"""One form fits, or the sentence says which is nearest and what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kits_published import State, nvlabs
from torch import Tensor

from nasseg.errors import WeightsError
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.backbones.registry import create_backbone
from nasseg.models.segmenter import build
from nasseg.published.description import Description
from nasseg.published.forms import FORMS
from nasseg.published.recognise import Recognised, recognise

SILENT = Description()


def smp_names(classes: int = 3, **genes: Any) -> State:
    """SegFormer-B0 as smp writes it, made from a network of ours: shapes alone matter here."""
    with torch.device("meta"):
        ours = build(preset("segformer", "mit_b0").override(genes), classes).state_dict()
    state: State = {}
    for key, value in ours.items():
        value = torch.zeros(value.shape, dtype=value.dtype)
        if key.startswith("backbone."):
            stage, _, rest = key.removeprefix("backbone.stages.").partition(".")
            number = int(stage) + 1
            rest = rest.replace("attn.reduce", "attn.sr").replace("ffn.depthwise", "mlp.dwconv.dwconv").replace("ffn.", "mlp.")
            for ours_, theirs in (("embed.", f"patch_embed{number}."), ("blocks.", f"block{number}."), ("norm.", f"norm{number}.")):
                if rest.startswith(ours_):
                    state[f"encoder.{theirs}{rest.removeprefix(ours_)}"] = value
        elif ".project.stage" in key:
            stage, _, leaf = key.partition(".project.stage")[2].partition(".")
            state[f"decoder.mlp_stage.{4 - int(stage)}.linear.{leaf}"] = value.squeeze()
        else:
            for ours_, theirs in (
                (".mix.conv.", "decoder.fuse_stage.0."),
                (".mix.norm.", "decoder.fuse_stage.1."),
                (".classifier.", "segmentation_head.0."),
            ):
                if ours_ in key:
                    state[theirs + key.partition(ours_)[2]] = value
    return state


def recognised(state: State) -> Recognised:
    return recognise(state, SILENT, "net.pth")


def test_every_tensor_is_placed() -> None:
    found = recognised(smp_names(7))
    assert (found.num_classes, found.in_chans, found.dropped) == (7, 3, ())
    assert found.genotype == preset("segformer", "mit_b0")
    assert found.input_convs == ("backbone.stages.0.embed.proj.weight",)
    with torch.device("meta"):
        wanted = build(found.genotype, 7).state_dict()
    assert {key: value.shape for key, value in found.tensors.items()} == {key: value.shape for key, value in wanted.items()}


def test_sizes_are_genes() -> None:
    found = recognised(smp_names(project=128, fusion_width=64))
    assert (found.genotype.project, found.genotype.fusion_width) == (128, 64)


def test_batch_counters_may_be_missing() -> None:
    state = smp_names()
    del state["decoder.fuse_stage.1.num_batches_tracked"]
    assert recognised(state).tensors["decoder.fusion.mix.norm.num_batches_tracked"] == 0


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


def resnet() -> State:
    return {
        (f"encoder.{key}" if key.startswith("block") else key): value
        for key, value in smp_names().items()
        if not key.startswith("encoder.patch")
    }


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda: without(smp_names(), "encoder.block1.0.attn.q.bias"),
            r"net.pth: SegFormer as segmentation_models_pytorch writes it, but 1 of the network's \d+ tensors are missing, such as",
        ),
        (
            lambda: smp_names() | {"decoder.extra.weight": torch.zeros(2), "encoder.extra": torch.zeros(1)},
            r"writes it, but 2 of the file's mean nothing to it, such as backbone.extra, decoder.extra.weight$",
        ),
        (
            lambda: smp_names() | {"decoder.fuse_stage.1.bias": torch.zeros(7)},
            r"but 1 have another shape, such as decoder.fusion.mix.norm.bias: 7 in the file, 256 in the network$",
        ),
        (
            lambda: smp_names() | {"decoder.fuse_stage.0.weight": torch.zeros(256, 1000, 1, 1)},
            r"such as decoder.fusion.mix.conv.weight: 256x1000x1x1 in the file, 256x1024x1x1 in the network$",
        ),
        (
            lambda: smp_names() | {"decoder.mlp_stage.0.linear.weight": torch.zeros(250, 256)},
            r"but its sizes are none of the search space: .*project: must be one of none, 64, 128, 256.* \(given 250\); nearest legal: 256",
        ),
        (resnet, r"writes it, but its encoder is none of MiT or MSCAN$"),
        (
            lambda: {f"backbone.{key}": value for key, value in create_backbone("mit_b0").state_dict().items()},
            r"net.pth: an encoder alone \(mit_b0\), not a whole network; as the weights of a backbone: --backbone mit_b0 --weights FILE",
        ),
        (
            lambda: {"fc.weight": torch.zeros(2), "decode_head.linear_fuse.conv.weight": torch.zeros(3)},
            r"net.pth: no published network that nasseg knows, with 2 tensors such as fc.weight, decode_head.linear_fuse.conv.weight; "
            r"nearest: SegFormer as its authors \(NVlabs\) write it, which has decode_head.linear_c4.proj.weight, decode_head.linear_pred",
        ),
    ],
)
def test_what_does_not_fit_is_named(state: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as refused:
        recognised(state())
    assert "\n" not in str(refused.value)


def test_two_that_fit_are_both_named() -> None:
    smp = next(form for form in FORMS if "segmentation_models_pytorch" in form.name)
    twin = replace(smp, name="its twin", fixed={"fusion_stride": 4})
    with pytest.raises(
        WeightsError, match=r"fit SegFormer as segmentation_models_pytorch writes it and its twin, which are different networks"
    ):
        recognise(smp_names(), SILENT, "net.pth", (smp, twin))


def test_a_network_that_cannot_be_built_is_no_traceback() -> None:
    state = smp_names()
    state["segmentation_head.0.weight"] = torch.zeros(0, 256, 1, 1)
    with pytest.raises(WeightsError, match=r"but it cannot be built: build: num_classes: must be a whole number from 1 \(given 0\)"):
        recognised(state)


def test_dead_weights_are_dropped_and_no_others() -> None:
    state: dict[str, Tensor] = nvlabs(smp_names(), classes=3)
    assert recognised(state).dropped == ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
    with pytest.raises(WeightsError, match=r"1 of the file's mean nothing to it, such as decode_head.conv_segs.weight"):
        recognised(state | {"decode_head.conv_segs.weight": torch.zeros(1)})


def test_the_table_is_sound() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS)
    for form in FORMS:
        assert form.preset in PRESETS
        assert form.classifier in form.signs
        assert all(reason for reason in form.dead.values())
