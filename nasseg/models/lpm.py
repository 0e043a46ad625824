"""The local perception module of SCASeg (arXiv 2411.17061, Eqs. 17-19 and Table VI) and its five gates.

Each gate maps BCHW to BCHW: the input weighted by a factor in (0, 1). c is the width, m the gate's hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """``x · sigmoid(Lb ReLU(La mean_HW x))``, La: c → m, Lb: m → c with bias, m = max(1, c//16) (SENet, 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input, each channel weighted."""
        return x_BCHW * torch.sigmoid(self.expand(F.relu(self.reduce(self.pool(x_BCHW)))))


class EfficientChannel(nn.Module):
    """``x · sigmoid(Conv1d_3(mean_HW x))``, the convolution along the channels, without bias (ECA-Net, 1910.03151)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input, each channel weighted."""
        mean_B1C = self.pool(x_BCHW).flatten(1).unsqueeze(1)
        return x_BCHW * torch.sigmoid(self.conv(mean_B1C)).transpose(1, 2).unsqueeze(3)


class Cbam(nn.Module):
    """Channel gate, then spatial gate (CBAM, 1807.06521).

    ``y = x · sigmoid(MLP(mean_HW x) + MLP(max_HW x))`` with one shared MLP c → m → c, ReLU between, no bias, m = max(1, c//16); then
    ``y · sigmoid(Conv7x7([mean_C y, max_C y]))``, 2 → 1 channels without bias. The original's BatchNorm after the 7×7 is left out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input, weighted by channel and then by pixel."""
        mean_BC11, max_BC11 = self.pool(x_BCHW), x_BCHW.amax(dim=(2, 3), keepdim=True)
        channel_BC11 = self.expand(F.relu(self.reduce(mean_BC11))) + self.expand(F.relu(self.reduce(max_BC11)))
        y_BCHW = x_BCHW * torch.sigmoid(channel_BC11)
        strips_B2HW = torch.cat((y_BCHW.mean(dim=1, keepdim=True), y_BCHW.amax(dim=1, keepdim=True)), dim=1)
        return y_BCHW * torch.sigmoid(self.spatial(strips_B2HW))


class Coordinate(nn.Module):
    """``x[h,w] · a[h] · b[w]`` (Coordinate Attention, 2103.02907).

    Means over W and over H are laid end to end (H+W long), go through a shared 1×1 convolution c → m, BatchNorm and hard swish, are split
    again, and each goes through its own 1×1 convolution m → c with bias and a sigmoid. m = max(8, c//32). The published code gives the
    first convolution a bias; BatchNorm takes it off again, so it would never get a gradient and is not built.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 32)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The input, each row and each column weighted, per channel."""
        height, width = x_BCHW.shape[2], x_BCHW.shape[3]
        strips_BCL1 = torch.cat((x_BCHW.mean(dim=3, keepdim=True), x_BCHW.mean(dim=2, keepdim=True).transpose(2, 3)), dim=2)
        rows_BmH1, columns_BmW1 = torch.split(F.hardswish(self.norm(self.reduce(strips_BCL1))), [height, width], dim=2)
        return x_BCHW * torch.sigmoid(self.rows(rows_BmH1)) * torch.sigmoid(self.columns(columns_BmW1.transpose(2, 3)))


GATES: dict[str, type[nn.Module]] = {
    "plain": nn.Identity,
    "se": SqueezeExcite,
    "eca": EfficientChannel,
    "cbam": Cbam,
    "coord": Coordinate,
}


class Lpm(nn.Module):
    """``PW2(gate(DW3x3(ReLU(PW1 x))))``: PW 1×1 convolutions c → c, DW 3×3 depthwise, all with bias. BCHW → BCHW.

    SCASeg's Eq. 19 adds the input inside the module and Eq. 6 outside; here it is added once, outside (same cost).
    """

    def __init__(self, channels: int, gate: str) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.gate = GATES[gate](channels)
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The branch's output, same shape."""
        out: Tensor = self.leave(self.gate(self.depthwise(F.relu(self.enter(x_BCHW)))))
        return out
