"""MetaSeg (arXiv 2408.07576), channel reduction attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from references.parts import as_map, flat, fuse, fused_names, group, over_channels, renamed, softmax_attention

HEADS = {4: 8, 3: 4, 2: 2}
RATIOS = {4: 2, 3: 4, 2: 8}


class MetaSeg(nn.Module):
    """Stages 4, 3, 2, each on itself, fused at stride 8; F1 is not read.

    A block: ``x + attention(norm1(x))``, then ``x + mlp(norm3(x))``, the MLP of two 1×1 convolutions with GELU between, ratio 2. Queries
    and keys have one channel a head; keys and values come from ``norm1(x)``, pooled, 1×1 convolution with bias, LayerNorm, GELU. Scores
    are divided by the root of the channels per head of the values.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        for stage, heads in HEADS.items():
            c = channels[stage - 1]
            attention = group(
                q=nn.Linear(c, heads, bias=False),
                k=nn.Linear(c, heads, bias=False),
                v=nn.Linear(c, c, bias=False),
                proj=nn.Linear(c, c),
                sr=nn.Conv2d(c, c, 1),
                norm=nn.LayerNorm(c),
            )
            mlp = group(fc1=nn.Conv2d(c, 2 * c, 1), fc2=nn.Conv2d(2 * c, c, 1))
            self.add_module(f"attn{stage}", group(norm1=nn.LayerNorm(c), norm3=nn.LayerNorm(c), attn=attention, mlp=mlp))
        self.linear_fuse = group(conv=nn.Conv2d(sum(channels[1:]), width, 1, bias=False), bn=nn.BatchNorm2d(width))
        self.linear_pred = nn.Conv2d(width, classes, 1)
        self.conv_seg = nn.Conv2d(128, classes, 1)  # never used

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        done = [self.block(stage, maps[stage - 1]) for stage in HEADS]
        grid = (maps[1].shape[2], maps[1].shape[3])
        return fuse(self.linear_fuse.conv, self.linear_fuse.bn, self.linear_pred, done, grid)

    def block(self, stage: int, x: Tensor) -> Tensor:
        layers = getattr(self, f"attn{stage}")
        attention = layers.attn
        normed = over_channels(layers.norm1, x)
        y = flat(F.gelu(over_channels(attention.norm, attention.sr(F.avg_pool2d(normed, RATIOS[stage])))))
        out = softmax_attention(attention.q(flat(normed)), attention.k(y), attention.v(y), HEADS[stage])
        x = x + as_map(attention.proj(out), *x.shape[2:])
        return x + layers.mlp.fc2(F.gelu(layers.mlp.fc1(over_channels(layers.norm3, x))))

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours = fused_names(state, self.channels[:0:-1])
        for stage in HEADS:
            theirs, at, ffn = f"attn{stage}", f"stage{stage}.attention", f"stage{stage}.ffn"
            ours |= renamed(
                state,
                {
                    f"{theirs}.norm1": f"{at}.norm",
                    f"{theirs}.norm3": f"{ffn}.norm",
                    f"{theirs}.attn.q": f"{at}.query",
                    f"{theirs}.attn.k": f"{at}.key",
                    f"{theirs}.attn.v": f"{at}.value",
                    f"{theirs}.attn.proj": f"{at}.out",
                    f"{theirs}.attn.sr": f"{at}.mixing.convs.stage{stage}",
                    f"{theirs}.attn.norm": f"{at}.mixing.norm",
                    f"{theirs}.mlp.fc1": f"{ffn}.branch.expand",
                    f"{theirs}.mlp.fc2": f"{ffn}.branch.reduce",
                },
            )
        return ours
