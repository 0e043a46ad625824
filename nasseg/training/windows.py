"""Windows that slide over an image: for measuring as mmsegmentation does, and for predicting images of any size in bounded memory.

Everything here counts in *cells*: one cell is one logit, ``stride`` × ``stride`` pixels of what the network sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
"""Normalised images (B, C, H, W) float32 to logits (B, K, ceil(H/stride), ceil(W/stride)), both on one device."""
Weigh = Callable[[int, int], Tensor]
"""Weights of a window's cells along one side, from the window's length and the cells it shares with its neighbours."""

STRIP_BYTES = 64 * 2**20
"""Logits at the size of the picture are held for so many bytes of rows at a time."""
AT_ONCE = 4
"""Windows in one batch."""


def positions(length: int, window: int, step: int) -> list[int]:
    """Where windows begin so that they cover ``length`` cells: every ``step``, the last one flush with the end."""
    if length <= window:
        return [0]
    return [*range(0, length - window, step), length - window]


def taper(window: int, overlap: int) -> Tensor:
    """Weights of a window's cells: 1 inside, falling linearly to its borders over the cells it shares with its neighbours.

    A cell near a window's border has seen less of its surroundings than the same cell of the next window, and counts for less.
    """
    ramp = max(1, overlap)
    distance = torch.arange(1, window + 1, dtype=torch.float32)
    return torch.minimum(torch.minimum(distance, distance.flip(0)) / ramp, torch.ones(window))


def flat(window: int, overlap: int) -> Tensor:
    """The same weight for every cell: a plain mean where windows overlap, as mmsegmentation's ``slide_inference`` takes it."""
    return torch.ones(window)


def slide(
    forward: Forward,
    cut: Callable[[int, int], Tensor],
    grid: tuple[int, int],
    window: tuple[int, int],
    step: tuple[int, int],
    *,
    weigh: Weigh = taper,
    at_once: int = AT_ONCE,
) -> Iterator[Tensor]:
    """Logits (K, rows, grid width) of an image of ``grid`` cells, from the top down, as soon as no further window touches them.

    ``cut(top, left)``, in cells, gives the network's input (C, h, w) that begins there; its first ``window`` cells count (fewer where the
    image ends). Where windows overlap, their logits are averaged with the weights ``weigh`` gives. ``at_once`` windows form a batch.
    Held at a time: one row of windows.
    """
    grid_h, grid_w = grid
    window_h, window_w = min(window[0], grid_h), min(window[1], grid_w)
    step_h, step_w = min(step[0], window_h), min(step[1], window_w)
    tops, lefts = positions(grid_h, window_h, step_h), positions(grid_w, window_w, step_w)
    weight_y, weight_x = weigh(window_h, window_h - step_h), weigh(window_w, window_w - step_w)
    total_y, total_x = torch.zeros(grid_h), torch.zeros(grid_w)
    for top in tops:
        total_y[top : top + window_h] += weight_y
    for left in lefts:
        total_x[left : left + window_w] += weight_x
    weight_hw, total_hW = weight_y[:, None] * weight_x, total_y[:, None] * total_x
    band_KhW = torch.zeros(0, window_h, grid_w)
    for row, top in enumerate(tops):
        for start in range(0, len(lefts), at_once):
            columns = lefts[start : start + at_once]
            logits_BKhw = forward(torch.stack([cut(top, left) for left in columns]))[:, :, :window_h, :window_w]
            if not len(band_KhW):
                band_KhW = logits_BKhw.new_zeros(logits_BKhw.shape[1], window_h, grid_w)
                weight_hw, total_hW = weight_hw.to(band_KhW), total_hW.to(band_KhW)
            for left, logits_Khw in zip(columns, logits_BKhw, strict=True):
                band_KhW[:, :, left : left + window_w] += logits_Khw * weight_hw
        done = (tops[row + 1] if row + 1 < len(tops) else grid_h) - top
        yield band_KhW[:, :done] / total_hW[top : top + done]
        band_KhW = torch.cat([band_KhW[:, done:], band_KhW.new_zeros(len(band_KhW), done, grid_w)], dim=1)


def label_rows(rows: Iterable[Tensor], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The class of every pixel, uint8 (H, W): logits resized bilinearly (``align_corners=False``), then the largest.

    ``rows`` are logits (K, some rows, w) from the top down, ``grid`` = (h, w) cells in all, ``size`` = (H, W) of the picture. Equal to
    resizing all at once, but holds :data:`STRIP_BYTES` of resized logits.
    """
    height, width = size
    centre = np.clip((np.arange(height) + 0.5) * (grid[0] / height) - 0.5, 0, grid[0] - 1)
    above = np.floor(centre).astype(np.int64)
    below = np.minimum(above + 1, grid[0] - 1)
    share = (centre - above).astype(np.float32)
    mask_HW = np.empty(size, dtype=np.uint8)
    held_Krw: Tensor | None = None
    first = y = 0
    for chunk in rows:
        held_Krw = chunk if held_Krw is None else torch.cat([held_Krw, chunk], dim=1)
        ready = int(np.searchsorted(below, first + held_Krw.shape[1]))
        strip = max(1, STRIP_BYTES // (4 * len(held_Krw) * max(width, grid[1])))
        while y < ready:
            stop = min(ready, y + strip)
            upper = held_Krw[:, torch.from_numpy(above[y:stop] - first)]
            lower = held_Krw[:, torch.from_numpy(below[y:stop] - first)]
            strip_Krw = torch.lerp(upper, lower, torch.from_numpy(share[y:stop])[:, None])
            strip_KrW = F.interpolate(strip_Krw, size=width, mode="linear", align_corners=False)
            mask_HW[y:stop] = strip_KrW.argmax(dim=0).numpy().astype(np.uint8)
            y = stop
        if y < height:
            gone = min(int(above[y]) - first, held_Krw.shape[1])
            held_Krw, first = held_Krw[:, gone:], first + gone
    return mask_HW


def whole_cells(length: float, stride: int) -> int:
    """Cells that come closest to ``length`` pixels, at least one."""
    return max(1, math.floor(length / stride + 0.5))
