"""MSCAN-T/S/B/L, the encoder of SegNeXt (Guo et al., NeurIPS 2022, arXiv 2209.08575, §3.1 and Table 2).

A stage: convolutional embedding, then blocks of multi-scale convolutional attention, then a layer norm whose output is both the stage's
map and the next stage's input. Shapes: B images, C channels, H × W positions of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn

from nasseg.models.backbones.checkpoint_names import Rule, rename
from nasseg.models.backbones.contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneSpec, channel_statistics
from nasseg.models.backbones.mit import init_weights
from nasseg.models.ops import ChannelNorm

STRIPS = (7, 11, 21)
FFN_RATIOS = (8, 8, 4, 4)
LAYER_SCALE = 1e-2


@dataclass(frozen=True)
class MSCANShape:
    """Blocks and widths of the four stages."""

    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]


MSCAN_SHAPES: dict[str, MSCANShape] = {
    "mscan_t": MSCANShape((3, 3, 5, 2), (32, 64, 160, 256)),
    "mscan_s": MSCANShape((2, 2, 4, 2), (64, 128, 320, 512)),
    "mscan_b": MSCANShape((3, 3, 12, 3), (64, 128, 320, 512)),
    "mscan_l": MSCANShape((3, 5, 27, 3), (64, 128, 320, 512)),
}


def embedding(in_chans: int, channels: int, *, stem: bool) -> nn.Sequential:
    """Between stages: a 3×3 convolution of stride 2 and a batch norm. At the image: two of them, by way of C/2 channels, GELU between."""
    if not stem:
        return nn.Sequential(nn.Conv2d(in_chans, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels))
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(in_chans, half, 3, stride=2, padding=1),
        nn.BatchNorm2d(half),
        nn.GELU(),
        nn.Conv2d(half, channels, 3, stride=2, padding=1),
        nn.BatchNorm2d(channels),
    )


class MultiScaleAttention(nn.Module):
    """u ⊙ P(a + Σₖ DWₖₓ₁(DW₁ₓₖ a)) with a = DW₅ₓ₅ u and k = 7, 11, 21 (paper, Eq. 1 and 2): convolutions' output weighs their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strips = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, (1, k), padding=(0, k // 2), groups=channels),
                nn.Conv2d(channels, channels, (k, 1), padding=(k // 2, 0), groups=channels),
            )
            for k in STRIPS
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, u_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        a_BCHW = self.local(u_BCHW)
        total = a_BCHW
        for strip in self.strips:
            total = total + strip(a_BCHW)
        return u_BCHW * self.mix(total)  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """P₂(MSCA(GELU(P₁ x))) + x: the block's attention branch has a residual of its own around it, as in the authors' code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.gate = MultiScaleAttention(channels)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.project_out(self.gate(F.gelu(self.project_in(x_BCHW)))) + x_BCHW  # type: ignore[no-any-return]


class ConvFFN(nn.Module):
    """W₂ GELU(DW₃ₓ₃(W₁ x)) with 1×1 convolutions W₁ and W₂."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.fc2(F.gelu(self.depthwise(self.fc1(x_BCHW))))  # type: ignore[no-any-return]


class MSCANBlock(nn.Module):
    """x ← x + s₁ SA(BN x); x ← x + s₂ FFN(BN x), with per-channel scales s that start at 0.01."""

    def __init__(self, channels: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = SpatialAttention(channels)
        self.scale1 = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.norm2 = nn.BatchNorm2d(channels)
        self.ffn = ConvFFN(channels, ratio)
        self.scale2 = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        x_BCHW = x_BCHW + self.drop_path(self.scale1 * self.attn(self.norm1(x_BCHW)))
        return x_BCHW + self.drop_path(self.scale2 * self.ffn(self.norm2(x_BCHW)))  # type: ignore[no-any-return]


class MSCANStage(nn.Module):
    """Embedding, blocks, layer norm over channels: (B, C', H, W) → (B, C, H/s, W/s)."""

    def __init__(self, in_chans: int, channels: int, ratio: int, drop_paths: list[float], *, stem: bool) -> None:
        super().__init__()
        self.embed = embedding(in_chans, channels, stem=stem)
        self.blocks = nn.Sequential(*(MSCANBlock(channels, ratio, rate) for rate in drop_paths))
        # PyTorch's epsilon, 1e-5, as SegNeXt's code and mmsegmentation's have it (MiT's stage norms have 1e-6).
        self.norm = ChannelNorm(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The stage's map, normalised."""
        return self.norm(self.blocks(self.embed(x_BCHW)))  # type: ignore[no-any-return]


class MSCAN(Backbone):
    """Multi-Scale Convolutional Attention Network. Drop path grows linearly from 0 at the first block to ``drop_path`` at the last (the
    authors train T, S and B with 0.1, L with 0.3).

    Differences from the authors' code: none in the function computed. Maps stay maps (theirs become tokens and maps again around each
    block), and batch norms are PyTorch's plain ones.
    """

    def __init__(self, name: str, *, in_chans: int = 3, drop_path: float = 0.0) -> None:
        shape = MSCAN_SHAPES[name]
        mean, std = channel_statistics(IMAGENET_MEAN, in_chans), channel_statistics(IMAGENET_STD, in_chans)
        super().__init__(BackboneSpec(name=name, channels=shape.channels, mean=mean, std=std, in_chans=in_chans))
        rates = calculate_drop_path_rates(drop_path, list(shape.depths), stagewise=True)
        inputs = (in_chans, *shape.channels[:3])
        self.stages = nn.ModuleList(MSCANStage(inputs[i], shape.channels[i], FFN_RATIOS[i], rates[i], stem=i == 0) for i in range(4))
        self.apply(init_weights)

    def maps(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four maps, each after its stage's layer norm."""
        out = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            out.append(x_BCHW)
        return out[0], out[1], out[2], out[3]

    def rename(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
        """Own names and the authors' (``block1.0.attn.spatial_gating_unit.conv0_1``), which are also mmsegmentation's but for the FFN."""
        return rename(tensors, RULES, self.state_dict(), top=("head.",))

    @property
    def input_convs(self) -> tuple[str, ...]:
        """The stem's first convolution."""
        return ("stages.0.embed.0.weight",)


_KEY, _BLOCK = r"block(?P<stage1>\d)\.(?P<block>\d+)\.", "stages.{stage}.blocks.{block}."
_GATE = _KEY + r"attn\.spatial_gating_unit\."
RULES: tuple[Rule, ...] = (
    Rule(r"patch_embed1\.proj\.(?P<rest>\d)\.(?P<leaf>\w+)", "stages.0.embed.{rest}.{leaf}"),
    Rule(r"patch_embed(?P<stage1>[2-4])\.proj\.(?P<leaf>\w+)", "stages.{stage}.embed.0.{leaf}"),
    Rule(r"patch_embed(?P<stage1>[2-4])\.norm\.(?P<leaf>\w+)", "stages.{stage}.embed.1.{leaf}"),
    Rule(r"norm(?P<stage1>\d)\.(?P<leaf>\w+)", "stages.{stage}.norm.{leaf}"),
    Rule(_KEY + r"(?P<rest>norm[12])\.(?P<leaf>\w+)", _BLOCK + "{rest}.{leaf}"),
    Rule(_KEY + r"layer_scale_(?P<rest>[12])", _BLOCK + "scale{rest}"),
    Rule(_KEY + r"attn\.proj_1\.(?P<leaf>\w+)", _BLOCK + "attn.project_in.{leaf}"),
    Rule(_KEY + r"attn\.proj_2\.(?P<leaf>\w+)", _BLOCK + "attn.project_out.{leaf}"),
    Rule(_GATE + r"conv0\.(?P<leaf>\w+)", _BLOCK + "attn.gate.local.{leaf}"),
    Rule(_GATE + r"conv3\.(?P<leaf>\w+)", _BLOCK + "attn.gate.mix.{leaf}"),
    Rule(_GATE + r"conv(?P<strip>[0-2])_(?P<pass1>[12])\.(?P<leaf>\w+)", _BLOCK + "attn.gate.strips.{strip}.{pass}.{leaf}"),
    Rule(_KEY + r"mlp\.(?P<rest>fc[12])\.(?P<leaf>\w+)", _BLOCK + "ffn.{rest}.{leaf}"),
    Rule(_KEY + r"mlp\.dwconv(?:\.dwconv)?\.(?P<leaf>\w+)", _BLOCK + "ffn.depthwise.{leaf}"),
)
