"""The feed-forward branch of a stage."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
        out: Tensor = self.reduce(F.gelu(self.depthwise(self.expand(x_BCHW))))
        return out
