"""MiT-B0 … B5, the encoder of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203, §3.1 and Table 6).

A stage: overlapping patch embedding, then blocks on its tokens, then a layer norm whose output is both the stage's map and the next
stage's input.
Shapes: B images, C channels, N = H·W tokens of a stage, M tokens after spatial reduction, h heads of d = C/h channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates, trunc_normal_
from torch import Tensor, nn

from nasseg.models.backbones.checkpoint_names import Rule, rename
from nasseg.models.backbones.contract import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneSpec, channel_statistics
from nasseg.models.ops import merge_heads, split_heads, to_map, to_tokens

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
FFN_RATIO = 4
EPS = 1e-6
"""Added to the variance in the layer norms of blocks and stages; those of patch embeddings and reductions keep PyTorch's 1e-5."""


@dataclass(frozen=True)
class MiTShape:
    """Blocks and widths of the four stages."""

    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]


MIT_SHAPES: dict[str, MiTShape] = {
    "mit_b0": MiTShape((2, 2, 2, 2), (32, 64, 160, 256)),
    "mit_b1": MiTShape((2, 2, 2, 2), (64, 128, 320, 512)),
    "mit_b2": MiTShape((3, 4, 6, 3), (64, 128, 320, 512)),
    "mit_b3": MiTShape((3, 4, 18, 3), (64, 128, 320, 512)),
    "mit_b4": MiTShape((3, 8, 27, 3), (64, 128, 320, 512)),
    "mit_b5": MiTShape((3, 6, 40, 3), (64, 128, 320, 512)),
}


class PatchEmbedding(nn.Module):
    """Overlapping patches: a convolution of stride s whose kernel (2s − 1) reaches into the neighbours, then a layer norm over channels."""

    def __init__(self, in_chans: int, channels: int, stride: int) -> None:
        super().__init__()
        kernel = 2 * stride - 1
        self.proj = nn.Conv2d(in_chans, channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C', H, W) → tokens (B, H/s · W/s, C) and their grid (H/s, W/s)."""
        x_BCHW = self.proj(x_BCHW)
        return self.norm(to_tokens(x_BCHW)), (x_BCHW.shape[2], x_BCHW.shape[3])


class ReducedAttention(nn.Module):
    """Softmax(Q Kᵀ / √d) V with keys and values of a map reduced by R in both directions (paper, Eq. 1 and 2).

    The reduction is a convolution of kernel and stride R followed by a layer norm, as in the authors' code; the paper's Eq. 2 writes the
    same linear map as a reshape and a linear layer. R = 1 has neither.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels) if reduction > 1 else None

    def forward(self, x_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        q_BhNd = split_heads(self.q(x_BNC), self.heads)
        x_BMC = x_BNC
        if self.reduce is not None and self.norm is not None:
            x_BMC = self.norm(to_tokens(self.reduce(to_map(x_BNC, grid))))
        k_BMC, v_BMC = self.kv(x_BMC).chunk(2, dim=2)
        k_BhMd, v_BhMd = split_heads(k_BMC, self.heads), split_heads(v_BMC, self.heads)
        out_BhNd = F.scaled_dot_product_attention(q_BhNd, k_BhMd, v_BhMd)
        return self.proj(merge_heads(out_BhNd))  # type: ignore[no-any-return]


class MixFFN(nn.Module):
    """W₂ GELU(DW₃ₓ₃(W₁ x)): the depthwise convolution's zero padding is the only thing that tells positions apart (paper, Eq. 3)."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        hidden = self.depthwise(to_map(self.fc1(x_BNC), grid))
        return self.fc2(F.gelu(to_tokens(hidden)))  # type: ignore[no-any-return]


class MiTBlock(nn.Module):
    """x ← x + Attention(LN x); x ← x + MixFFN(LN x), each branch dropped with the block's drop-path probability."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = ReducedAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.ffn = MixFFN(channels, FFN_RATIO)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), grid))
        return x_BNC + self.drop_path(self.ffn(self.norm2(x_BNC), grid))  # type: ignore[no-any-return]


class MiTStage(nn.Module):
    """Patch embedding, blocks, layer norm: (B, C', H, W) → (B, C, H/s, W/s)."""

    def __init__(self, in_chans: int, channels: int, stride: int, heads: int, reduction: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.embed = PatchEmbedding(in_chans, channels, stride)
        self.blocks = nn.ModuleList(MiTBlock(channels, heads, reduction, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The stage's map, normalised."""
        x_BNC, grid = self.embed(x_BCHW)
        for block in self.blocks:
            x_BNC = block(x_BNC, grid)
        return to_map(self.norm(x_BNC), grid)


class MiT(Backbone):
    """Mix Transformer. Drop path grows linearly from 0 at the first block to ``drop_path`` at the last (the authors train with 0.1).

    Differences from the authors' code: none in the function computed. Attention runs through ``scaled_dot_product_attention``; there is no
    dropout. ``norm_eps`` is added to the variance in every layer norm: mmsegmentation's MiT has 1e-6, Hugging Face's 1e-5. None is the
    authors' code, :data:`EPS`.
    """

    def __init__(self, name: str, *, in_chans: int = 3, drop_path: float = 0.0, norm_eps: float | None = None) -> None:
        shape = MIT_SHAPES[name]
        mean, std = channel_statistics(IMAGENET_MEAN, in_chans), channel_statistics(IMAGENET_STD, in_chans)
        super().__init__(BackboneSpec(name=name, channels=shape.channels, mean=mean, std=std, in_chans=in_chans))
        rates = calculate_drop_path_rates(drop_path, list(shape.depths), stagewise=True)
        inputs = (in_chans, *shape.channels[:3])
        self.stages = nn.ModuleList(
            MiTStage(inputs[i], shape.channels[i], 4 if i == 0 else 2, HEADS[i], REDUCTIONS[i], rates[i]) for i in range(4)
        )
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm) and norm_eps is not None:
                module.eps = norm_eps

    def maps(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four maps, each after its stage's layer norm."""
        out = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            out.append(x_BCHW)
        return out[0], out[1], out[2], out[3]

    def rename(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
        """Reads own names, the authors' (``block1.0.attn.sr``), mmsegmentation's (``layers.0.1.0.ffn``) and Hugging Face's
        (``encoder.block.0.0``, and since transformers 5 ``stages.0.blocks.0``)."""
        return rename(joined(tensors), RULES, self.state_dict(), top=("head.", "classifier."))

    @property
    def input_convs(self) -> tuple[str, ...]:
        """The first patch embedding."""
        return ("stages.0.embed.proj.weight",)


def init_weights(module: nn.Module) -> None:
    """The authors' initialisation: linear layers truncated normal of deviation 0.02, convolutions normal of variance 2 / fan-out (of one
    group), biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


_BLOCK = r"stages.{stage}.blocks.{block}."
_HF = r"(?:segformer\.)?encoder\."
_HF5 = r"(?:segformer\.)?stages\.(?P<stage>\d)\."
_HF5_BLOCK = _HF5 + r"blocks\.(?P<block>\d+)\."
RULES: tuple[Rule, ...] = (
    # The authors' checkpoints: stages counted from 1, split over patch_embed1, block1, norm1.
    Rule(r"patch_embed(?P<stage1>\d)\.(?P<rest>proj|norm)\.(?P<leaf>\w+)", "stages.{stage}.embed.{rest}.{leaf}"),
    Rule(r"norm(?P<stage1>\d)\.(?P<leaf>\w+)", "stages.{stage}.norm.{leaf}"),
    Rule(r"block(?P<stage1>\d)\.(?P<block>\d+)\.attn\.sr\.(?P<leaf>\w+)", _BLOCK + "attn.reduce.{leaf}"),
    Rule(r"block(?P<stage1>\d)\.(?P<block>\d+)\.mlp\.dwconv\.dwconv\.(?P<leaf>\w+)", _BLOCK + "ffn.depthwise.{leaf}"),
    Rule(r"block(?P<stage1>\d)\.(?P<block>\d+)\.mlp\.(?P<rest>fc[12])\.(?P<leaf>\w+)", _BLOCK + "ffn.{rest}.{leaf}"),
    Rule(r"block(?P<stage1>\d)\.(?P<block>\d+)\.(?P<rest>attn\.\w+|norm[12])\.(?P<leaf>\w+)", _BLOCK + "{rest}.{leaf}"),
    # mmsegmentation: layers.STAGE holds (embedding, blocks, norm); attention is nn.MultiheadAttention, the FFN made of 1×1 convolutions.
    Rule(r"layers\.(?P<stage>\d)\.0\.projection\.(?P<leaf>\w+)", "stages.{stage}.embed.proj.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.0\.norm\.(?P<leaf>\w+)", "stages.{stage}.embed.norm.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.2\.(?P<leaf>\w+)", "stages.{stage}.norm.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.(?P<rest>norm[12])\.(?P<leaf>\w+)", _BLOCK + "{rest}.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.attn\.sr\.(?P<leaf>\w+)", _BLOCK + "attn.reduce.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.attn\.norm\.(?P<leaf>\w+)", _BLOCK + "attn.norm.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.attn\.(?P<rest>q|kv)\.(?P<leaf>\w+)", _BLOCK + "attn.{rest}.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.attn\.attn\.out_proj\.(?P<leaf>\w+)", _BLOCK + "attn.proj.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.ffn\.layers\.0\.(?P<leaf>\w+)", _BLOCK + "ffn.fc1.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.ffn\.layers\.1\.(?P<leaf>\w+)", _BLOCK + "ffn.depthwise.{leaf}"),
    Rule(r"layers\.(?P<stage>\d)\.1\.(?P<block>\d+)\.ffn\.layers\.4\.(?P<leaf>\w+)", _BLOCK + "ffn.fc2.{leaf}"),
    # Hugging Face transformers.
    Rule(_HF + r"patch_embeddings\.(?P<stage>\d)\.proj\.(?P<leaf>\w+)", "stages.{stage}.embed.proj.{leaf}"),
    Rule(_HF + r"patch_embeddings\.(?P<stage>\d)\.layer_norm\.(?P<leaf>\w+)", "stages.{stage}.embed.norm.{leaf}"),
    Rule(_HF + r"layer_norm\.(?P<stage>\d)\.(?P<leaf>\w+)", "stages.{stage}.norm.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.layer_norm_(?P<rest>[12])\.(?P<leaf>\w+)", _BLOCK + "norm{rest}.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.attention\.self\.query\.(?P<leaf>\w+)", _BLOCK + "attn.q.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.attention\.self\.kv\.(?P<leaf>\w+)", _BLOCK + "attn.kv.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.attention\.self\.sr\.(?P<leaf>\w+)", _BLOCK + "attn.reduce.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.attention\.self\.layer_norm\.(?P<leaf>\w+)", _BLOCK + "attn.norm.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.attention\.output\.dense\.(?P<leaf>\w+)", _BLOCK + "attn.proj.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.mlp\.dense(?P<rest>[12])\.(?P<leaf>\w+)", _BLOCK + "ffn.fc{rest}.{leaf}"),
    Rule(_HF + r"block\.(?P<stage>\d)\.(?P<block>\d+)\.mlp\.dwconv\.dwconv\.(?P<leaf>\w+)", _BLOCK + "ffn.depthwise.{leaf}"),
    # transformers 5, as its modules are called; its files have the names above unless they are saved otherwise.
    Rule(_HF5 + r"patch_embeddings\.proj\.(?P<leaf>\w+)", "stages.{stage}.embed.proj.{leaf}"),
    Rule(_HF5 + r"patch_embeddings\.layer_norm\.(?P<leaf>\w+)", "stages.{stage}.embed.norm.{leaf}"),
    Rule(_HF5 + r"layer_norm\.(?P<leaf>\w+)", "stages.{stage}.norm.{leaf}"),
    Rule(_HF5_BLOCK + r"layernorm_before\.(?P<leaf>\w+)", _BLOCK + "norm1.{leaf}"),
    Rule(_HF5_BLOCK + r"layernorm_after\.(?P<leaf>\w+)", _BLOCK + "norm2.{leaf}"),
    Rule(_HF5_BLOCK + r"attention\.q_proj\.(?P<leaf>\w+)", _BLOCK + "attn.q.{leaf}"),
    Rule(_HF5_BLOCK + r"attention\.kv_proj\.(?P<leaf>\w+)", _BLOCK + "attn.kv.{leaf}"),
    Rule(_HF5_BLOCK + r"attention\.o_proj\.(?P<leaf>\w+)", _BLOCK + "attn.proj.{leaf}"),
    Rule(_HF5_BLOCK + r"attention\.sequence_reduction\.sequence_reduction\.(?P<leaf>\w+)", _BLOCK + "attn.reduce.{leaf}"),
    Rule(_HF5_BLOCK + r"attention\.sequence_reduction\.layer_norm\.(?P<leaf>\w+)", _BLOCK + "attn.norm.{leaf}"),
    Rule(_HF5_BLOCK + r"mlp\.(?P<rest>fc[12])\.(?P<leaf>\w+)", _BLOCK + "ffn.{rest}.{leaf}"),
    Rule(_HF5_BLOCK + r"mlp\.dwconv\.dwconv\.(?P<leaf>\w+)", _BLOCK + "ffn.depthwise.{leaf}"),
)
_KEYS_AND_VALUES = (
    (".attention.self.key.", ".attention.self.value.", ".attention.self.kv."),
    (".attention.k_proj.", ".attention.v_proj.", ".attention.kv_proj."),
)
"""Hugging Face's names of two matrices, and the name under which the rules know both as one."""


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the projections of attention into the authors' split: a query, and one matrix for key and value."""
    out: dict[str, Tensor] = {}
    for key, value in tensors.items():
        head, mark, leaf = key.rpartition(".attn.attn.in_proj_")
        if mark:
            channels = value.shape[0] // 3
            out[f"{head}.attn.q.{leaf}"], out[f"{head}.attn.kv.{leaf}"] = value[:channels], value[channels:]
            continue
        for keys, values, both in _KEYS_AND_VALUES:
            if keys in key and (partner := key.replace(keys, values)) in tensors:
                out[key.replace(keys, both)] = torch.cat([value, tensors[partner]])
                break
            if values in key and key.replace(values, keys) in tensors:
                break
        else:
            out[key] = value
    return out
