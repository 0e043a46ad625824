"""What the heads of this lineage share: named groups of layers, attention, feed-forward branches, the fusion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group(**layers: nn.Module) -> nn.Module:
    """Layers under a common name and nothing else; what is done with them stands in the head's ``forward``."""
    made = nn.Module()
    for name, layer in layers.items():
        made.add_module(name, layer)
    return made


def flat(x_BCHW: Tensor) -> Tensor:
    """Positions in rows: B, H·W, C."""
    return x_BCHW.movedim(1, 3).flatten(1, 2)


def over_channels(layer: nn.Module, x_BCHW: Tensor) -> Tensor:
    """A layer norm or a linear layer at every position of a map."""
    return layer(x_BCHW.movedim(1, 3)).movedim(3, 1)


def softmax_attention(q_BNR: Tensor, k_BMR: Tensor, v_BMC: Tensor, heads: int) -> Tensor:
    """Head by head: softmax(q kᵀ / sqrt(C / heads)) v, side by side again."""
    divisor = math.sqrt(v_BMC.shape[2] / heads)
    per_head = []
    for q, k, v in zip(q_BNR.chunk(heads, 2), k_BMR.chunk(heads, 2), v_BMC.chunk(heads, 2), strict=True):
        weights_BNM = (torch.matmul(q, k.mT) / divisor).softmax(2)
        per_head.append(torch.matmul(weights_BNM, v))
    return torch.cat(per_head, 2)


def as_map(x_BNC: Tensor, height: int, width: int) -> Tensor:
    return x_BNC.mT.reshape(x_BNC.shape[0], -1, height, width)


def enlarged(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, corners not aligned."""
    if x_BCHW.shape[2:] == (height, width):
        return x_BCHW
    return F.interpolate(x_BCHW, (height, width), mode="bilinear", align_corners=False)


def mix_ffn(channels: int) -> nn.Module:
    """fc1 to four times the channels, a 3×3 depthwise convolution, fc2."""
    hidden = 4 * channels
    depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    return group(fc1=nn.Linear(channels, hidden), dwconv=group(dwconv=depthwise), fc2=nn.Linear(hidden, channels))


def apply_mix_ffn(ffn: nn.Module, x_BCHW: Tensor) -> Tensor:
    hidden = ffn.dwconv.dwconv(over_channels(ffn.fc1, x_BCHW))
    return over_channels(ffn.fc2, F.gelu(hidden))


def fuse(conv: nn.Module, norm: nn.Module, classifier: nn.Module, maps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Maps in the order of the convolution's inputs → logits."""
    joined = torch.cat([enlarged(x, *grid) for x in maps], 1)
    return classifier(F.relu(norm(conv(joined))))


def turned(weight: Tensor, widths: Sequence[int]) -> Tensor:
    """The last-but-spatial axis, which runs over maps of ``widths``, with the maps in the opposite order. A vector's only axis counts."""
    axis = min(weight.dim() - 1, 1)
    return torch.cat(list(weight.split(list(widths), axis))[::-1], axis)


def fused_names(state: Mapping[str, Tensor], deep_first: Sequence[int]) -> dict[str, Tensor]:
    """``linear_fuse`` and ``linear_pred`` under our names; ours join shallow maps first."""
    ours = {f"fusion.mix.norm.{leaf}": state[f"linear_fuse.bn.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")}
    ours["fusion.mix.norm.num_batches_tracked"] = state["linear_fuse.bn.num_batches_tracked"]
    ours["fusion.mix.conv.weight"] = turned(state["linear_fuse.conv.weight"], deep_first)
    return ours | {f"fusion.classifier.{leaf}": state[f"linear_pred.{leaf}"] for leaf in ("weight", "bias")}


def renamed(state: Mapping[str, Tensor], pairs: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of whole layers: their name → ours. A linear layer of theirs that is a 1×1 convolution of ours gets two axes."""
    out = {}
    for theirs, ours in pairs.items():
        for leaf in ("weight", "bias"):
            value = state.get(f"{theirs}.{leaf}")
            if value is not None:
                spatial = leaf == "weight" and value.dim() == 2 and (".ffn.branch." in ours or ".project." in ours)
                out[f"{ours}.{leaf}"] = value[:, :, None, None] if spatial else value
    return out
