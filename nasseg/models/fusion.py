"""From the decoded maps of the kept stages to logits.

Maps come shallow to deep; the first one's grid is the fusion grid. T is the sum of their widths (after the projection), E the fusion width,
K the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.models.ops import init_head, resize


class ConcatMix(nn.Module):
    """``ReLU(BN(Conv1x1_{T→E}(concat)))``, the convolution without bias: SegFormer, U-MixFormer, SCASeg."""

    def __init__(self, widths: Sequence[int], fusion_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(sum(widths), fusion_width, 1, bias=False)
        self.norm = nn.BatchNorm2d(fusion_width)

    def forward(self, aligned: Sequence[Tensor]) -> Tensor:
        """Maps on one grid, shallow to deep → (B, E, H, W)."""
        return F.relu(self.norm(self.conv(torch.cat(tuple(aligned), dim=1))))


class FcaMix(nn.Module):
    """CANet's feature cross attention (arXiv 1907.10958), 1×1 form: a spatial gate from the shallow map, a channel gate from the deep ones.

    With s the shallowest map and d the others, concatenated::

        f   = ReLU(BN(Conv1x1_{T→E}([s, d])))
        a_s = sigmoid(BN(Conv1x1_{→1}(s)))                   (B, 1, H, W)
        a_c = sigmoid(FC(mean_HW d) + FC(max_HW d))          (B, E, 1, 1), one shared linear with bias
        out = ReLU(BN(Conv1x1_{E→E}(f·a_s·a_c + f)))

    Convolutions without bias. CANet uses 3×3 kernels; those are far outside the cost of this lineage.
    """

    def __init__(self, widths: Sequence[int], fusion_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(sum(widths), fusion_width, 1, bias=False)
        self.norm = nn.BatchNorm2d(fusion_width)
        self.spatial = nn.Conv2d(widths[0], 1, 1, bias=False)
        self.spatial_norm = nn.BatchNorm2d(1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.channel = nn.Conv2d(sum(widths[1:]), fusion_width, 1)
        self.out = nn.Conv2d(fusion_width, fusion_width, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(fusion_width)

    def forward(self, aligned: Sequence[Tensor]) -> Tensor:
        """Maps on one grid, shallow to deep → (B, E, H, W)."""
        shallow_BCHW, deep_BCHW = aligned[0], torch.cat(tuple(aligned[1:]), dim=1)
        f_BEHW = F.relu(self.norm(self.conv(torch.cat((shallow_BCHW, deep_BCHW), dim=1))))
        spatial_B1HW = torch.sigmoid(self.spatial_norm(self.spatial(shallow_BCHW)))
        channel_BE11 = torch.sigmoid(self.channel(self.pool(deep_BCHW)) + self.channel(deep_BCHW.amax(dim=(2, 3), keepdim=True)))
        return F.relu(self.out_norm(self.out(torch.addcmul(f_BEHW, f_BEHW * spatial_B1HW, channel_BE11))))


MIXES: dict[str, type[ConcatMix] | type[FcaMix]] = {"concat": ConcatMix, "fca": FcaMix}


class Fusion(nn.Module):
    """Projection per stage, resize to the fusion grid, one of :data:`MIXES`, dropout, classifier.

    ``widths`` are the channels of the kept stages by number, shallow to deep. ``project`` puts a 1×1 convolution c_i → P with bias on every
    map at its own grid, before the upsample (SegFormer's head). The classifier is a 1×1 convolution E → K with bias, behind channel
    dropout. Initialisation: :func:`nasseg.models.ops.init_head`.
    """

    def __init__(
        self, kind: str, widths: Mapping[int, int], fusion_width: int, num_classes: int, *, project: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.project = nn.ModuleDict({f"stage{i}": nn.Conv2d(c, project, 1) if project else nn.Identity() for i, c in widths.items()})
        self.mix = MIXES[kind]([project or c for c in widths.values()], fusion_width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(fusion_width, num_classes, 1)
        init_head(self.modules(), self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, c_i, H_i, W_i) of the kept stages, shallow to deep → logits (B, K, H, W) on the first map's grid."""
        grid = (maps[0].shape[2], maps[0].shape[3])
        aligned = [resize(project(x_BCHW), grid) for project, x_BCHW in zip(self.project.values(), maps, strict=True)]
        logits_BKHW: Tensor = self.classifier(self.dropout(self.mix(aligned)))
        return logits_BKHW
