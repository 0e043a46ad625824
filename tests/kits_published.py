"""Networks as others publish them, made here: random weights in modules of transformers and segmentation_models_pytorch, and the names that
other code bases give to the same weights."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

State = dict[str, Tensor]
CLASSES = 5
SIZES = [(64, 96), (45, 77), (33, 63)]
"""Images: multiples of 32, and sides that leave 1, 13 and 31 over."""
CITY_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person",
    "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights that let every part be seen in the output: none is zero, norms and statistics are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.square())
            elif value.ndim < 2 and name.endswith("weight"):
                value.copy_(1 + 0.3 * noise)
            else:
                fan_in = max(1, value[0].numel()) if value.ndim > 1 else 16
                value.copy_(noise / fan_in**0.5)
    return module.eval()


def image(size: tuple[int, int], batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn((batch, channels, *size), generator=torch.Generator().manual_seed(7))


def hugging_face(classes: int = CLASSES, **config: Any) -> nn.Module:
    """transformers' SegFormer, MiT-B0 unless told otherwise."""
    transformers = pytest.importorskip("transformers", reason="needs the dev extra: transformers")
    settings = transformers.SegformerConfig(num_labels=classes, **config)
    return randomised(transformers.SegformerForSemanticSegmentation(settings))


def smp_segformer(classes: int = CLASSES, encoder: str = "mit_b0", **options: Any) -> nn.Module:
    """segmentation_models_pytorch's SegFormer."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs the dev extra: segmentation-models-pytorch")
    return randomised(smp.Segformer(encoder, encoder_weights=None, classes=classes, **options))


def smp_logits(network: Any, x_BCHW: Tensor) -> Tensor:
    """Its logits at stride 4, before it enlarges them with aligned corners."""
    logits: Tensor = network.segmentation_head[0](network.decoder(network.encoder(x_BCHW)))
    return logits


def renamed(state: Mapping[str, Tensor], pairs: Iterable[tuple[str, str]]) -> State:
    """Every key by the first pattern that fits it as a whole."""
    pairs = list(pairs)
    out: State = {}
    for key, value in state.items():
        new = next((re.sub(pattern, to, key) for pattern, to in pairs if re.fullmatch(pattern, key)), None)
        assert new is not None, key
        out[new] = value
    return out


def nvlabs(state: Mapping[str, Tensor], classes: int = CLASSES) -> State:
    """smp's SegFormer, whose encoder is the authors', under the authors' names, with the classifier that theirs never use."""
    named = renamed(
        state,
        [
            (r"encoder\.(.+)", r"backbone.\1"),
            *((rf"decoder\.mlp_stage\.{4 - stage}\.linear\.(\w+)", rf"decode_head.linear_c{stage}.proj.\1") for stage in (1, 2, 3, 4)),
            (r"decoder\.fuse_stage\.0\.(\w+)", r"decode_head.linear_fuse.conv.\1"),
            (r"decoder\.fuse_stage\.1\.(\w+)", r"decode_head.linear_fuse.bn.\1"),
            (r"segmentation_head\.0\.(\w+)", r"decode_head.linear_pred.\1"),
        ],
    )
    unused = {"decode_head.conv_seg.weight": torch.ones(classes, 128, 1, 1), "decode_head.conv_seg.bias": torch.ones(classes)}
    return unused | named


def mmseg_encoder(network: Any) -> State:
    """transformers' encoder under mmsegmentation's names: ``layers.STAGE`` holds embedding, blocks and norm; queries, keys and values are
    one matrix of ``nn.MultiheadAttention``, the feed-forward layers 1×1 convolutions."""
    state = dict(network.segformer.state_dict())
    out: State = {}
    for key in state:
        found = re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.attention\.q_proj\.(\w+)", key)
        if found:
            parts = [state[key.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            out[f"layers.{found[1]}.1.{found[2]}.attn.attn.in_proj_{found[3]}"] = torch.cat(parts)
    block = r"stages\.(\d)\.blocks\.(\d+)\."
    others = {key: value for key, value in state.items() if not re.search(r"attention\.[qkv]_proj", key)}
    out |= renamed(
        others,
        [
            (r"stages\.(\d)\.patch_embeddings\.proj\.(\w+)", r"layers.\1.0.projection.\2"),
            (r"stages\.(\d)\.patch_embeddings\.layer_norm\.(\w+)", r"layers.\1.0.norm.\2"),
            (r"stages\.(\d)\.layer_norm\.(\w+)", r"layers.\1.2.\2"),
            (block + r"layernorm_before\.(\w+)", r"layers.\1.1.\2.norm1.\3"),
            (block + r"layernorm_after\.(\w+)", r"layers.\1.1.\2.norm2.\3"),
            (block + r"attention\.o_proj\.(\w+)", r"layers.\1.1.\2.attn.attn.out_proj.\3"),
            (block + r"attention\.sequence_reduction\.sequence_reduction\.(\w+)", r"layers.\1.1.\2.attn.sr.\3"),
            (block + r"attention\.sequence_reduction\.layer_norm\.(\w+)", r"layers.\1.1.\2.attn.norm.\3"),
            (block + r"mlp\.fc1\.(\w+)", r"layers.\1.1.\2.ffn.layers.0.\3"),
            (block + r"mlp\.dwconv\.dwconv\.(\w+)", r"layers.\1.1.\2.ffn.layers.1.\3"),
            (block + r"mlp\.fc2\.(\w+)", r"layers.\1.1.\2.ffn.layers.4.\3"),
        ],
    )
    for key, value in out.items():
        if re.search(r"ffn\.layers\.[04]\.weight", key):
            out[key] = value[:, :, None, None]
    return {f"backbone.{key}": value for key, value in out.items()}


class MmsegSegFormer(nn.Module):
    """mmsegmentation's SegFormer-B0 in our words: transformers' encoder with 1e-6 in every norm; per map a 1×1 convolution, BatchNorm and
    ReLU; the maps of shape (H/4, W/4), shallow to deep, through the same again; a 1×1 convolution to the classes."""

    def __init__(self, width: int = 64, classes: int = CLASSES) -> None:
        super().__init__()
        self.encoder: Any = hugging_face()
        for module in self.encoder.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
        self.head = nn.ModuleDict(
            {f"convs_{i}": self.unit(channels, width) for i, channels in enumerate((32, 64, 160, 256))}
            | {"fusion_conv": self.unit(4 * width, width), "conv_seg": nn.Conv2d(width, classes, 1)}
        )
        randomised(self.head, seed=3)

    @staticmethod
    def unit(channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, width, 1, bias=False), bn=nn.BatchNorm2d(width), activate=nn.ReLU()))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        maps = self.encoder.segformer(x_BCHW, output_hidden_states=True).hidden_states
        size = maps[0].shape[2:]
        even = [
            nn.functional.interpolate(self.head[f"convs_{i}"](one), size=size, mode="bilinear", align_corners=False)
            for i, one in enumerate(maps)
        ]
        logits: Tensor = self.head["conv_seg"](self.head["fusion_conv"](torch.cat(even, dim=1)))
        return logits

    def published(self) -> State:
        """Its state dict as mmsegmentation's, with the auxiliary head of some configurations."""
        head = {f"decode_head.{key.replace('convs_', 'convs.')}": value for key, value in self.head.state_dict().items()}
        return mmseg_encoder(self.encoder) | head | {"auxiliary_head.conv_seg.weight": torch.zeros(CLASSES, 8, 1, 1)}


def same_logits(expected_BKhw: Tensor, logits_BKhw: Tensor) -> None:
    """To 1e-4, and the same class in every cell; the logits must not be small, or the comparison would show nothing."""
    assert expected_BKhw.shape == logits_BKhw.shape
    assert expected_BKhw.std() > 0.1
    torch.testing.assert_close(logits_BKhw, expected_BKhw, rtol=0, atol=1e-4)
    assert torch.equal(logits_BKhw.argmax(1), expected_BKhw.argmax(1))
