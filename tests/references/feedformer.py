"""FeedFormer (AAAI 2023), its ADE20K head and its Cityscapes head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from references.parts import (
    apply_mix_ffn,
    as_map,
    enlarged,
    flat,
    fuse,
    fused_names,
    group,
    mix_ffn,
    over_channels,
    renamed,
    softmax_attention,
)

HEADS = {4: 8, 3: 5, 2: 2}
RATIOS = {4: 8, 3: 4, 2: 2}
"""F1 is pooled so much for the keys of a stage; twice as much in the Cityscapes head."""


class FeedFormer(nn.Module):
    """Stages 4, 3, 2 ask F1; F1 itself goes into the fusion as it is.

    A block: ``x + attention(norm1(x), norm2(F1))``, then ``x + ffn(norm3(x))``. Keys and values: pooled, 1×1 convolution with bias,
    LayerNorm, GELU, one linear layer without bias for both. In the Cityscapes head the queries go the same way, pooled by 2, and the
    attention's output is enlarged by 2.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int, *, city: bool) -> None:
        super().__init__()
        self.channels, self.city = tuple(channels), city
        first = channels[0]
        for stage in HEADS:
            c = channels[stage - 1]
            layers: dict[str, nn.Module] = {
                "q": nn.Linear(c, c, bias=False), "kv": nn.Linear(first, 2 * c, bias=False), "proj": nn.Linear(c, c)
            }  # fmt: skip
            if city:
                layers |= {
                    "sr1": nn.Conv2d(c, c, 1),
                    "norm1": nn.LayerNorm(c),
                    "sr2": nn.Conv2d(first, first, 1),
                    "norm2": nn.LayerNorm(first),
                }
            else:
                layers |= {"sr": nn.Conv2d(first, first, 1), "norm": nn.LayerNorm(first)}
            block = group(norm1=nn.LayerNorm(c), norm2=nn.LayerNorm(first), norm3=nn.LayerNorm(c), attn=group(**layers), mlp=mix_ffn(c))
            self.add_module(f"attn_c{stage}_c1", block)
        self.linear_fuse = group(conv=nn.Conv2d(sum(channels), width, 1, bias=False), bn=nn.BatchNorm2d(width))
        self.linear_pred = nn.Conv2d(width, classes, 1)
        self.conv_seg = nn.Conv2d(128, classes, 1)  # never used

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        done = [self.block(stage, maps[stage - 1], maps[0]) for stage in HEADS]
        grid = (maps[0].shape[2], maps[0].shape[3])
        return fuse(self.linear_fuse.conv, self.linear_fuse.bn, self.linear_pred, [*done, maps[0]], grid)

    def block(self, stage: int, x: Tensor, shallow: Tensor) -> Tensor:
        layers = getattr(self, f"attn_c{stage}_c1")
        attention = layers.attn
        convolution, norm = (attention.sr2, attention.norm2) if self.city else (attention.sr, attention.norm)
        pooled = F.avg_pool2d(over_channels(layers.norm2, shallow), RATIOS[stage] * (2 if self.city else 1))
        y = F.gelu(over_channels(norm, convolution(pooled)))
        asks = over_channels(layers.norm1, x)
        if self.city:
            asks = F.gelu(over_channels(attention.norm1, attention.sr1(F.avg_pool2d(asks, 2))))
        k, v = attention.kv(flat(y)).chunk(2, 2)
        out = attention.proj(softmax_attention(attention.q(flat(asks)), k, v, HEADS[stage]))
        x = x + enlarged(as_map(out, *asks.shape[2:]), *x.shape[2:])
        return x + apply_mix_ffn(layers.mlp, over_channels(layers.norm3, x))

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours = fused_names(state, self.channels[::-1])
        for stage in HEADS:
            theirs, at, ffn = f"attn_c{stage}_c1", f"stage{stage}.attention", f"stage{stage}.ffn"
            ours[f"{at}.key.weight"], ours[f"{at}.value.weight"] = torch.chunk(state[f"{theirs}.attn.kv.weight"], 2)
            of_keys = ("sr2", "norm2") if self.city else ("sr", "norm")
            ours |= renamed(
                state,
                {
                    f"{theirs}.norm1": f"{at}.norm",
                    f"{theirs}.norm2": f"{at}.mixing.input_norm.stage1",
                    f"{theirs}.norm3": f"{ffn}.norm",
                    f"{theirs}.attn.q": f"{at}.query",
                    f"{theirs}.attn.proj": f"{at}.out",
                    f"{theirs}.attn.{of_keys[0]}": f"{at}.mixing.convs.stage1",
                    f"{theirs}.attn.{of_keys[1]}": f"{at}.mixing.norm",
                    f"{theirs}.attn.sr1": f"{at}.query_conv",
                    f"{theirs}.attn.norm1": f"{at}.query_norm",
                    f"{theirs}.mlp.fc1": f"{ffn}.branch.expand",
                    f"{theirs}.mlp.dwconv.dwconv": f"{ffn}.branch.depthwise",
                    f"{theirs}.mlp.fc2": f"{ffn}.branch.reduce",
                },
            )
        return ours
