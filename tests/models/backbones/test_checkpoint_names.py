"""Published checkpoints: files written with somebody else's names load to the last tensor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nasseg.models.backbones.checkpoint_names import Rule, rename
from nasseg.models.backbones.registry import create_backbone

State = dict[str, Tensor]


def swap(key: str, *pairs: tuple[str, str]) -> str:
    """The first pattern that matches at the start replaces what it matched; {n} stands for a stage counted from 1."""
    for pattern, new in pairs:
        found = re.match(pattern, key)
        if found is not None:
            stage = int(found.groupdict().get("s") or 0) + 1
            return new.format(*found.groups(), n=stage) + key[found.end() :]
    raise AssertionError(key)


def mit_authors(state: State) -> State:
    pairs = (
        (r"stages\.(?P<s>\d)\.embed\.", "patch_embed{n}."),
        (r"stages\.(?P<s>\d)\.norm\.", "norm{n}."),
        (r"stages\.(?P<s>\d)\.blocks\.(\d+)\.attn\.reduce", "block{n}.{1}.attn.sr"),
        (r"stages\.(?P<s>\d)\.blocks\.(\d+)\.ffn\.depthwise", "block{n}.{1}.mlp.dwconv.dwconv"),
        (r"stages\.(?P<s>\d)\.blocks\.(\d+)\.ffn\.", "block{n}.{1}.mlp."),
        (r"stages\.(?P<s>\d)\.blocks\.(\d+)\.", "block{n}.{1}."),
    )
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    return {swap(key, *pairs): value for key, value in state.items()} | head


def mit_mmsegmentation(state: State) -> State:
    pairs = (
        (r"stages\.(\d)\.embed\.proj", "layers.{0}.0.projection"),
        (r"stages\.(\d)\.embed\.norm", "layers.{0}.0.norm"),
        (r"stages\.(\d)\.norm", "layers.{0}.2"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.proj", "layers.{0}.1.{1}.attn.attn.out_proj"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.reduce", "layers.{0}.1.{1}.attn.sr"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.fc1", "layers.{0}.1.{1}.ffn.layers.0"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.depthwise", "layers.{0}.1.{1}.ffn.layers.1"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.fc2", "layers.{0}.1.{1}.ffn.layers.4"),
        (r"stages\.(\d)\.blocks\.(\d+)\.", "layers.{0}.1.{1}."),
    )
    out: State = {}
    for key, value in state.items():
        if ".attn.kv." in key:
            continue
        if ".attn.q." in key:
            new = swap(key.replace(".attn.q.", ".attn.attn.in_proj_"), *pairs)
            out[new] = torch.cat([value, state[key.replace(".q.", ".kv.")]])
        else:
            convolution = ".fc" in key and key.endswith("weight")
            out[swap(key, *pairs)] = value[:, :, None, None] if convolution else value
    network = {f"backbone.{key}": value for key, value in out.items()}
    return network | {"decode_head.conv_seg.weight": torch.zeros(19, 256, 1, 1)}


def mit_hugging_face(state: State) -> State:
    pairs = (
        (r"stages\.(\d)\.embed\.proj", "segformer.encoder.patch_embeddings.{0}.proj"),
        (r"stages\.(\d)\.embed\.norm", "segformer.encoder.patch_embeddings.{0}.layer_norm"),
        (r"stages\.(\d)\.norm", "segformer.encoder.layer_norm.{0}"),
        (r"stages\.(\d)\.blocks\.(\d+)\.norm(\d)", "segformer.encoder.block.{0}.{1}.layer_norm_{2}"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.q", "segformer.encoder.block.{0}.{1}.attention.self.query"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.reduce", "segformer.encoder.block.{0}.{1}.attention.self.sr"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.norm", "segformer.encoder.block.{0}.{1}.attention.self.layer_norm"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.proj", "segformer.encoder.block.{0}.{1}.attention.output.dense"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.KEY", "segformer.encoder.block.{0}.{1}.attention.self.key"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.VALUE", "segformer.encoder.block.{0}.{1}.attention.self.value"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.fc(\d)", "segformer.encoder.block.{0}.{1}.mlp.dense{2}"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.depthwise", "segformer.encoder.block.{0}.{1}.mlp.dwconv.dwconv"),
    )
    out: State = {"classifier.weight": torch.zeros(1000, 256)}
    for key, value in state.items():
        if ".attn.kv." in key:
            for part, half in zip(("KEY", "VALUE"), value.chunk(2), strict=True):
                out[swap(key.replace(".kv.", f".{part}."), *pairs)] = half.clone()
        else:
            out[swap(key, *pairs)] = value
    return out


def mit_transformers_5(state: State) -> State:
    block, attention = "segformer.stages.{0}.blocks.{1}.", "segformer.stages.{0}.blocks.{1}.attention."
    pairs = (
        (r"stages\.(\d)\.embed\.proj", "segformer.stages.{0}.patch_embeddings.proj"),
        (r"stages\.(\d)\.embed\.norm", "segformer.stages.{0}.patch_embeddings.layer_norm"),
        (r"stages\.(\d)\.norm", "segformer.stages.{0}.layer_norm"),
        (r"stages\.(\d)\.blocks\.(\d+)\.norm1", block + "layernorm_before"),
        (r"stages\.(\d)\.blocks\.(\d+)\.norm2", block + "layernorm_after"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.reduce", attention + "sequence_reduction.sequence_reduction"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.norm", attention + "sequence_reduction.layer_norm"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.q", attention + "q_proj"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.KEY", attention + "k_proj"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.VALUE", attention + "v_proj"),
        (r"stages\.(\d)\.blocks\.(\d+)\.attn\.proj", attention + "o_proj"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.depthwise", block + "mlp.dwconv.dwconv"),
        (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.", block + "mlp."),
    )
    out: State = {"classifier.weight": torch.zeros(1000, 256)}
    for key, value in state.items():
        if ".attn.kv." in key:
            for part, half in zip(("KEY", "VALUE"), value.chunk(2), strict=True):
                out[swap(key.replace(".kv.", f".{part}."), *pairs)] = half.clone()
        else:
            out[swap(key, *pairs)] = value
    return out


def mscan_authors(state: State, depthwise: str = "mlp.dwconv.dwconv") -> State:
    block, gate = r"stages\.(?P<s>\d)\.blocks\.(\d+)\.", "block{n}.{1}.attn.spatial_gating_unit."
    pairs = (
        (r"stages\.0\.embed\.(\d)", "patch_embed1.proj.{0}"),
        (r"stages\.(?P<s>\d)\.embed\.0", "patch_embed{n}.proj"),
        (r"stages\.(?P<s>\d)\.embed\.1", "patch_embed{n}.norm"),
        (r"stages\.(?P<s>\d)\.norm", "norm{n}"),
        (block + r"scale(\d)", "block{n}.{1}.layer_scale_{2}"),
        (block + r"attn\.project_in", "block{n}.{1}.attn.proj_1"),
        (block + r"attn\.project_out", "block{n}.{1}.attn.proj_2"),
        (block + r"attn\.gate\.local", gate + "conv0"),
        (block + r"attn\.gate\.mix", gate + "conv3"),
        (block + r"attn\.gate\.strips\.(\d)\.0", gate + "conv{2}_1"),
        (block + r"attn\.gate\.strips\.(\d)\.1", gate + "conv{2}_2"),
        (block + r"ffn\.depthwise", "block{n}.{1}." + depthwise),
        (block + r"ffn\.", "block{n}.{1}.mlp."),
        (block, "block{n}.{1}."),
    )
    renamed = {swap(key, *pairs): value for key, value in state.items()}
    scales = {key: value.flatten() for key, value in renamed.items() if "layer_scale" in key}
    return renamed | scales | {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}


def mscan_mmsegmentation(state: State) -> State:
    network = {f"backbone.{key}": value for key, value in mscan_authors(state, "mlp.dwconv").items() if not key.startswith("head.")}
    return network | {"decode_head.squeeze.conv.weight": torch.zeros(256, 480, 1, 1)}


CHECKPOINTS: list[tuple[str, Callable[[State], State], str]] = [
    ("mit_b0", mit_authors, "block3.1.mlp.dwconv.dwconv.weight"),
    ("mit_b0", mit_mmsegmentation, "backbone.layers.2.1.1.attn.attn.in_proj_weight"),
    ("mit_b0", mit_hugging_face, "segformer.encoder.block.2.1.attention.self.key.weight"),
    ("mit_b0", mit_transformers_5, "segformer.stages.2.blocks.1.attention.k_proj.weight"),
    ("mscan_t", mscan_authors, "block3.1.attn.spatial_gating_unit.conv2_2.weight"),
    ("mscan_t", mscan_mmsegmentation, "backbone.block3.1.mlp.dwconv.weight"),
]


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize(("name", "foreign", "known"), CHECKPOINTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_published_checkpoint_loads(name: str, foreign: Callable[[State], State], known: str, ending: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = create_backbone(name)
    state = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in source.state_dict().items()}
    written = foreign(state)
    assert known in written
    assert not any(key.startswith("stages.") for key in written)
    path = tmp_path / f"checkpoint.{ending}"
    if ending == "pth":
        torch.save({"state_dict": written, "meta": {"epoch": 3}}, path)
    else:
        save_file({key: value.contiguous() for key, value in written.items()}, path)
    loaded = create_backbone(name, weights=str(path)).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


# As listed by the checkpoints that the authors published.
MIT_BLOCK = (
    *("norm1.weight", "norm1.bias", "attn.q.weight", "attn.q.bias", "attn.kv.weight", "attn.kv.bias", "attn.proj.weight", "attn.proj.bias"),
    *(
        "attn.sr.weight",
        "attn.sr.bias",
        "attn.norm.weight",
        "attn.norm.bias",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
    ),
    *("mlp.dwconv.dwconv.weight", "mlp.dwconv.dwconv.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
MSCAN_BLOCK = (
    *("layer_scale_1", "layer_scale_2", "attn.proj_1.weight", "attn.proj_1.bias", "attn.proj_2.weight", "attn.proj_2.bias"),
    *(
        f"attn.spatial_gating_unit.conv{c}.{leaf}"
        for c in ("0", "0_1", "0_2", "1_1", "1_2", "2_1", "2_2", "3")
        for leaf in ("weight", "bias")
    ),
    *(f"norm{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    *(f"mlp.{part}.{leaf}" for part in ("fc1", "dwconv.dwconv", "fc2") for leaf in ("weight", "bias")),
)


@pytest.mark.parametrize(("name", "foreign", "block"), [("mit_b0", mit_authors, MIT_BLOCK), ("mscan_t", mscan_authors, MSCAN_BLOCK)])
def test_a_block_is_written_as_the_authors_write_it(name: str, foreign: Callable[[State], State], block: tuple[str, ...]) -> None:
    with torch.device("meta"):
        written = foreign(create_backbone(name).state_dict())
    assert {key.removeprefix("block1.0.") for key in written if key.startswith("block1.0.")} == set(block)


def test_a_rule_counts_from_one_where_the_group_says_so() -> None:
    rule = Rule(r"block(?P<stage1>\d)\.(?P<block>\d+)", "stages.{stage}.blocks.{block}")
    assert rule.apply("block1.10") == "stages.0.blocks.10"
    assert rule.apply("block1.10.bias") is None


def test_unknown_names_stay_and_tops_are_set_aside() -> None:
    wanted = {"a": torch.zeros(2, 3)}
    out, spare = rename(
        {"x.a": torch.ones(2, 3, 1, 1), "b": torch.ones(1), "head.a": torch.ones(1)}, [Rule("x.(?P<k>a)", "{k}")], wanted, ("head.",)
    )
    assert spare == {"head.a"}
    assert out.keys() == {"a", "b"}
    assert out["a"].shape == (2, 3)


def test_a_half_written_pair_of_key_and_value_is_left_alone() -> None:
    backbone = create_backbone("mit_b0")
    lone = "segformer.encoder.block.0.0.attention.self.{}.weight"
    for part in ("key", "value"):
        out, _ = backbone.rename({lone.format(part): torch.zeros(32, 32)})
        assert out.keys() == {lone.format(part)}
