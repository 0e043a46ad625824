"""SegFormer's all-MLP head (arXiv 2105.15203): the authors' (NVlabs; Hugging Face computes the same) and mmsegmentation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from references.parts import enlarged, fuse, fused_names, group, over_channels, renamed


class SegFormer(nn.Module):
    """A linear layer with bias per map, all enlarged to stride 4 and joined, the deepest first; 1×1 convolution, BatchNorm, ReLU;
    classifier."""

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.width = width
        for stage, c in enumerate(channels, 1):
            self.add_module(f"linear_c{stage}", group(proj=nn.Linear(c, width)))
        self.linear_fuse = group(conv=nn.Conv2d(4 * width, width, 1, bias=False), bn=nn.BatchNorm2d(width))
        self.linear_pred = nn.Conv2d(width, classes, 1)
        self.conv_seg = nn.Conv2d(128, classes, 1)  # never used

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        grid = (maps[0].shape[2], maps[0].shape[3])
        projected = [over_channels(getattr(self, f"linear_c{stage}").proj, maps[stage - 1]) for stage in (4, 3, 2, 1)]
        return fuse(self.linear_fuse.conv, self.linear_fuse.bn, self.linear_pred, projected, grid)

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        projections = renamed(state, {f"linear_c{stage}.proj": f"fusion.project.stage{stage}" for stage in (1, 2, 3, 4)})
        return projections | fused_names(state, [self.width] * 4)


class SegFormerMmseg(nn.Module):
    """Each projection a 1×1 convolution without bias, BatchNorm and ReLU; joined the shallowest first; the classifier is ``conv_seg``."""

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(group(conv=nn.Conv2d(c, width, 1, bias=False), bn=nn.BatchNorm2d(width)) for c in channels)
        self.fusion_conv = group(conv=nn.Conv2d(4 * width, width, 1, bias=False), bn=nn.BatchNorm2d(width))
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        height, width = maps[0].shape[2:]
        projected = [enlarged(F.relu(p.bn(p.conv(x))), height, width) for p, x in zip(self.convs, maps, strict=True)]
        return fuse(self.fusion_conv.conv, self.fusion_conv.bn, self.conv_seg, projected, (height, width))

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours = {}
        for key, value in state.items():
            head, _, rest = key.partition(".")
            if head == "convs":
                number, kind, leaf = rest.split(".")
                ours[f"fusion.project.stage{int(number) + 1}.{'conv' if kind == 'conv' else 'norm'}.{leaf}"] = value
            elif head == "fusion_conv":
                kind, leaf = rest.split(".")
                ours[f"fusion.mix.{'conv' if kind == 'conv' else 'norm'}.{leaf}"] = value
            else:
                ours[f"fusion.classifier.{rest}"] = value
        return ours
