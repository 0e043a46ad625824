"""The feed-forward branch of a stage."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.models.ops import bands, in_bands


class Ffn(nn.Module):
    """``W2 GELU(DW3x3(W1 x))``: Mix-FFN of SegFormer (2105.15203, Eq. 3); without ``depthwise`` a plain MLP, as MetaSeg uses.

    W1: c → e·c, DW: 3×3 depthwise, padding 1, W2: e·c → c, all with bias. BCHW → BCHW; norm and residual stand outside.
    """

    def __init__(self, channels: int, ratio: int, depthwise: bool) -> None:
        super().__init__()
        hidden = channels * ratio
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else nn.Identity()
        self.reduce = nn.Conv2d(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The branch's output, same shape."""
        rows = bands(x_BCHW, self.expand.out_channels)
        return (
            self.of_rows(x_BCHW, *rows[0]) if len(rows) == 1 else in_bands((self.of_rows(x_BCHW, *r) for r in rows), rows, x_BCHW.shape[2])
        )

    def of_rows(self, x_BCHW: Tensor, top: int, bottom: int) -> Tensor:
        """Rows ``top`` … ``bottom - 1`` of the output, from those and one more on either side."""
        first, last = max(top - 1, 0), min(bottom + 1, x_BCHW.shape[2])
        if last - first < x_BCHW.shape[2]:
            x_BCHW = x_BCHW[:, :, first:last]
        hidden_BCRW = self.depthwise(self.expand(x_BCHW))
        if last - first > bottom - top:
            hidden_BCRW = hidden_BCRW[:, :, top - first : bottom - first]
        out: Tensor = self.reduce(F.gelu(hidden_BCRW))
        return out
