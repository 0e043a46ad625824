"""U-MixFormer (arXiv 2312.06272): the head of its ADE20K configs and that of its Cityscapes configs."""

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
    turned,
)

HEADS = {4: 8, 3: 5, 2: 2, 1: 1}
DEEP_FIRST = (4, 3, 2, 1)


class UMixFormer(nn.Module):
    """Stages from deep to shallow; each asks all four maps, those decoded already in place of the encoder's.

    The four maps are pooled to stride 32 (Cityscapes: 64; windows at the border take what there is), each that was pooled goes through a
    1×1 convolution, and all are joined, the deepest first. A block: ``x = norm1(x)``, ``x + attention(x, norm2(joined))``,
    ``x = norm3(x)``, ``x + ffn(x)``: both sums start from the normalised map. Behind ``norm2`` the ADE20K head has GELU alone (its
    ``attn.norm`` is computed and dropped), the Cityscapes head another LayerNorm and GELU. There queries are pooled by 2, convolved,
    normalised, GELU, and the attention's output is enlarged by 2.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int, *, city: bool) -> None:
        super().__init__()
        self.channels, self.city = tuple(channels), city
        self.grid_stride = 64 if city else 32
        total = sum(channels)
        for stage in DEEP_FIRST:
            c = channels[stage - 1]
            layers: dict[str, nn.Module] = {
                "q": nn.Linear(c, c, bias=False), "kv": nn.Linear(total, 2 * c, bias=False), "proj": nn.Linear(c, c)
            }  # fmt: skip
            if city:
                layers |= {"sr1": nn.Conv2d(c, c, 1), "norm1": nn.LayerNorm(c), "norm2": nn.LayerNorm(total)}
                layers["sr2"] = nn.Conv2d(total, total, 1)  # never used
            else:
                layers |= {"sr": nn.Conv2d(total, total, 1), "norm": nn.LayerNorm(total)}  # never used
            block = group(norm1=nn.LayerNorm(c), norm2=nn.LayerNorm(total), norm3=nn.LayerNorm(c), attn=group(**layers), mlp=mix_ffn(c))
            self.add_module(f"attn_c{stage}", block)
            pooled = [j for j in DEEP_FIRST if self.ratio(j) > 1]
            convolutions = nn.ModuleList(nn.Conv2d(channels[j - 1], channels[j - 1], 1) for j in pooled)
            self.add_module(f"cat_key{5 - stage}", group(sr_list=convolutions))
        self.linear_fuse = group(conv=nn.Conv2d(total, width, 1, bias=False), bn=nn.BatchNorm2d(width))
        self.linear_pred = nn.Conv2d(width, classes, 1)
        self.conv_seg = nn.Conv2d(128, classes, 1)  # never used

    def ratio(self, stage: int) -> int:
        return self.grid_stride // 2 ** (stage + 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        now = dict(enumerate(maps, 1))
        for stage in DEEP_FIRST:
            now[stage] = self.block(stage, now)
        grid = (maps[0].shape[2], maps[0].shape[3])
        return fuse(self.linear_fuse.conv, self.linear_fuse.bn, self.linear_pred, [now[j] for j in DEEP_FIRST], grid)

    def joined(self, stage: int, now: Mapping[int, Tensor]) -> Tensor:
        convolutions = iter(getattr(self, f"cat_key{5 - stage}").sr_list)
        parts = []
        for j in DEEP_FIRST:
            ratio = self.ratio(j)
            parts.append(next(convolutions)(F.avg_pool2d(now[j], ratio, ceil_mode=True)) if ratio > 1 else now[j])
        return torch.cat(parts, 1)

    def block(self, stage: int, now: Mapping[int, Tensor]) -> Tensor:
        layers = getattr(self, f"attn_c{stage}")
        attention = layers.attn
        y = over_channels(layers.norm2, self.joined(stage, now))
        x = over_channels(layers.norm1, now[stage])
        asks = x
        if self.city:
            y = over_channels(attention.norm2, y)
            asks = F.gelu(over_channels(attention.norm1, attention.sr1(F.avg_pool2d(x, 2))))
        k, v = attention.kv(flat(F.gelu(y))).chunk(2, 2)
        out = attention.proj(softmax_attention(attention.q(flat(asks)), k, v, HEADS[stage]))
        x = x + enlarged(as_map(out, *asks.shape[2:]), *x.shape[2:])
        x = over_channels(layers.norm3, x)
        return x + apply_mix_ffn(layers.mlp, x)

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        widths = self.channels[::-1]
        ours = fused_names(state, widths)
        for stage in DEEP_FIRST:
            theirs, at, ffn = f"attn_c{stage}", f"stage{stage}.attention", f"stage{stage}.ffn"
            halves = torch.chunk(turned(state[f"{theirs}.attn.kv.weight"], widths), 2)
            ours[f"{at}.key.weight"], ours[f"{at}.value.weight"] = halves
            for leaf in ("weight", "bias"):
                ours[f"{at}.mixing.norm.{leaf}"] = turned(state[f"{theirs}.norm2.{leaf}"], widths)
                if self.city:
                    ours[f"{at}.mixing.second_norm.{leaf}"] = turned(state[f"{theirs}.attn.norm2.{leaf}"], widths)
            pooled = [j for j in DEEP_FIRST if self.ratio(j) > 1]
            layers = {f"cat_key{5 - stage}.sr_list.{k}": f"{at}.mixing.convs.stage{j}" for k, j in enumerate(pooled)}
            if self.city:
                layers |= {f"{theirs}.attn.sr1": f"{at}.query_conv", f"{theirs}.attn.norm1": f"{at}.query_norm"}
            ours |= renamed(
                state,
                layers
                | {
                    f"{theirs}.norm1": f"{at}.norm",
                    f"{theirs}.norm3": f"{ffn}.norm",
                    f"{theirs}.attn.q": f"{at}.query",
                    f"{theirs}.attn.proj": f"{at}.out",
                    f"{theirs}.mlp.fc1": f"{ffn}.branch.expand",
                    f"{theirs}.mlp.dwconv.dwconv": f"{ffn}.branch.depthwise",
                    f"{theirs}.mlp.fc2": f"{ffn}.branch.reduce",
                },
            )
        return ours
