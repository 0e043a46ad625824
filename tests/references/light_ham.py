"""SegNeXt's decoder, written once more from its papers and configs (2209.08575 figure 3c, 2109.04553), with the names of its weights files.

Plain torch, maps as (B, C, H, W), the factorisation on matrices of channels by positions; nothing of nasseg is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """mmcv's way to name a 1×1 convolution (``conv``) and the GroupNorm of 32 groups behind it (``gn``); with it, no bias."""

    def __init__(self, channels: int, out: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1, bias=not norm)
        self.gn = nn.GroupNorm(32, out, eps=1e-5) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.gn is None else self.gn(x)


class Ham(nn.Module):
    """``ham_in``, the factorisation, ``ham_out``, the residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ham_in = ConvNorm(channels, channels, norm=False)
        self.ham_out = ConvNorm(channels, channels, norm=True)

    def forward(self, x: Tensor, bases: Tensor, steps: int) -> Tensor:
        matrix = F.relu(self.ham_in(x)).flatten(2)
        product = factorised(matrix, bases.expand(len(x), -1, -1), steps)
        return F.relu(self.ham_out(product.reshape(x.shape)) + x)


class LightHam(nn.Module):
    """``widths``: channels of the maps, shallow to deep. ``steps``: 7 in evaluation, 6 in training."""

    def __init__(self, widths: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        self.squeeze = ConvNorm(sum(widths), channels, norm=True)
        self.hamburger = Ham(channels)
        self.align = ConvNorm(channels, channels, norm=True)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[Tensor], bases: Tensor, steps: int = 7) -> Tensor:
        """Maps, and bases (1 or B, C, R) to start from → logits on the first map's grid."""
        size = maps[0].shape[-2:]
        joined = torch.cat([F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps], 1)
        context = self.hamburger(F.relu(self.squeeze(joined)), bases, steps)
        return self.conv_seg(F.relu(self.align(context)))


def factorised(matrix: Tensor, bases: Tensor, steps: int) -> Tensor:
    """``bases · codes``, near a non-negative (B, C, N) ``matrix``; ``codes`` are (B, R, N)."""
    codes = torch.softmax(torch.einsum("bcr,bcn->brn", bases, matrix), dim=1)

    def better_codes() -> Tensor:
        gram = torch.einsum("bcr,bcs->brs", bases, bases)
        return codes * torch.einsum("bcr,bcn->brn", bases, matrix) / (torch.einsum("brs,bsn->brn", gram, codes) + 1e-6)

    for _ in range(steps):
        codes = better_codes()
        gram = torch.einsum("brn,bsn->brs", codes, codes)
        bases = bases * torch.einsum("bcn,brn->bcr", matrix, codes) / (torch.einsum("bcs,bsr->bcr", bases, gram) + 1e-6)
    return torch.einsum("bcr,brn->bcn", bases, better_codes())
